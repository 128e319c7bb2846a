"""Copy, Repeat Copy and the character model: what they teach, that they go on, and what they write."""

import importlib
import json

import keras
import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("from_the_root")


def load(name):
    return importlib.import_module(name)


def records(path):
    return json.loads((path / "results.json").read_text())


@pytest.mark.parametrize("repeat", [False, True])
def test_sequences_say_the_bits_again(repeat):
    level = load("examples.copy_task").Curriculum(repeat, [0.1] * 4)
    assert (level.n, level.repeats) == ((3, 3) if repeat else (5, 1))
    x, y, weight = level.sequences(np.random.default_rng(0), 6)
    bits = x[:, 1 : level.n + 1, 1]
    assert set(np.unique(bits)) == {0.0, 1.0}
    said = y[weight == 1].reshape(6, level.repeats, level.n)
    for i in range(level.repeats):
        np.testing.assert_array_equal(said[:, i], bits)
    assert x.shape[1] == level.n + 2 + level.n * level.repeats
    assert (x[:, 0, 2] == 1).all() and (x[:, level.n + 1, 3] == 1).all() and x[:, :, 2:4].sum() == 12
    assert not weight[:, : level.n + 2].any() and not x[:, level.n + 2 :].any()
    assert (x[:, level.n + 1, 4] > 0).all() == repeat


def test_the_curriculum_is_that_of_the_paper():
    curriculum = load("examples.copy_task").Curriculum
    level, products = curriculum(True), []
    for _ in range(7):
        level.advance(0.2)
        level.advance(0.14)
        products.append(level.solved)
    assert products == [1, 2, 4, 6, 9, 12, 16]
    assert curriculum(False, [0.1, 0.1, 0.5]).solved == 2


def small(*options, output):
    options = ["--units", "4", "--batch-size", "4", "--output", str(output), *options]
    load("examples.copy_task").main(options)


def test_copy_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    module = load("examples.copy_task")
    monkeypatch.setattr(module, "EPOCH", 6)
    monkeypatch.setattr(module, "THRESHOLD", 2.0)  # all levels are solved at once
    arms = ["--arm", "truncated", "sg", "--seed", "3"]
    small(*arms, "--windows", "24", output=tmp_path / "whole")
    small(*arms, "--windows", "12", output=tmp_path / "parts")
    small(*arms, "--windows", "24", output=tmp_path / "parts")
    whole, parts = (records(tmp_path / name / "copy/seed3") for name in ("whole", "parts"))
    assert list(whole) == list(parts) == ["truncated, T=3, 4 units", "sg, T=3, 4 units"]
    for name, record in whole.items():
        assert record["solved"] == parts[name]["solved"] == [1, 2, 3, 4]
        np.testing.assert_allclose(record["bits"], parts[name]["bits"], rtol=1e-5)
    assert whole["sg, T=3, 4 units"]["bits"] != whole["truncated, T=3, 4 units"]["bits"]
    assert "| sg, T=3, 4 units | 24 | 3 | 4 | 7.0 |" in capsys.readouterr().out
    assert (tmp_path / "whole/copy/level.png").stat().st_size > 1000


def test_every_arm_of_repeat_copy_trains(tmp_path, monkeypatch):
    module = load("examples.copy_task")
    monkeypatch.setattr(module, "EPOCH", 6)
    small("--arm", *module.ARMS, "--windows", "6", "--task", "repeat", output=tmp_path)
    found = records(tmp_path / "repeat/seed1")
    assert len(found) == len(module.ARMS) and "no-time, T=1, 4 units" in found
    assert all(np.isfinite(record["bits"]).all() for record in found.values())


def test_characters(tmp_path, monkeypatch, capsys):
    module = load("examples.characters")
    monkeypatch.setattr(module, "PIECE", 20)
    text = tmp_path / "text.txt"
    text.write_text("\nso it goes, and so it goes" * 30)
    options = ["--text", str(text), "--units", "6", "--batch-size", "8", "--output", str(tmp_path / "out")]
    module.main([*options, "--arm", *module.ARMS, "--passes", "1"])
    module.main([*options, "--arm", "sg", "--passes", "2", "--learning-rate", "0.001", "--generate", "12"])
    found = records(tmp_path / "out/seed1")
    assert len(found) == len(module.ARMS) and len(found["sg, T=5, 6 units"]["test_bits"]) == 2
    assert found["sg, T=5, 6 units"]["updates"] == [18, 36]
    assert found["sg, T=5, 6 units"]["test_bits"][1] < found["sg, T=5, 6 units"]["test_bits"][0] < 5
    written = capsys.readouterr().out.rsplit("\n\n", 1)[1]
    assert len(written.rstrip("\n")) <= 12 and set(written) <= set(text.read_text())
    assert (tmp_path / "out/bits.png").stat().st_size > 1000


def test_what_is_generated_is_what_the_network_says(tmp_path):
    """The network that steps, character by character, agrees with the one that read the text at once."""
    module = load("examples.characters")
    model = module.build("sg", 5, 6, 2, 1e-3)
    model.save(tmp_path / "model.keras")

    class Drawing:
        """Draws what is given, and keeps what it was told of."""

        told = []

        def choice(self, count, p):
            self.told.append(p)
            return len(self.told) % count

    drawn = module.generate(tmp_path / "model.keras", ["\n", *"abcd"], 6, rng=Drawing())
    assert drawn == "abcd\na"
    said = model.predict([np.array([[0, 1, 2, 3, 4, 0]]), np.zeros(1)], verbose=0)
    expected = keras.ops.convert_to_numpy(keras.ops.softmax(said[0]))
    np.testing.assert_allclose(np.stack(Drawing.told), expected, rtol=0, atol=1e-5)


def test_no_text(tmp_path):
    with pytest.raises(
        SystemExit, match=r"There is no text to read at .*FileNotFoundError.*Give --text a file"
    ):
        load("examples.characters").main(["--text", str(tmp_path / "none.txt")])


def test_help(capsys):
    for name in ("copy_task", "characters"):
        with pytest.raises(SystemExit) as stop:
            load(f"examples.{name}").main(["--help"])
        assert stop.value.code == 0 and f"examples.{name}" in capsys.readouterr().out


def test_benchmark(tmp_path):
    options = ["--steps", "10", "--rounds", "2", "--units", "4", "--batch-size", "2"]
    load("benchmarks.recurrent").main([*options, "--output", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["ratios"]) == {
        f"{name} / plain" for name in ("interface", "reported", "auxiliary", "twenty steps")
    }


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="is about a network trained on JAX")
def test_what_limits_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(load("examples.copy_task"), "EPOCH", 6)
    small("--windows", "12", "--arm", "sg", output=tmp_path)
    module = load("benchmarks.copy_limits")
    options = ["--results", str(tmp_path), "--units", "4", "--batch-size", "4"]
    module.main([*options, "--count", "64"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["level"] == [1, 1] and len(found["cosine, by window"]) == 1
    assert -1 <= found["cosine"] <= found["best linear"] + 0.2 <= 1.2
