"""The examples, run as a user runs them: real data, real files."""

import importlib
import json

import numpy as np
import pytest

pytestmark = pytest.mark.tensorflow
ROOT = __import__("pathlib").Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture
def runs():
    return importlib.import_module("examples.runs")


@pytest.fixture
def mnist():
    tfds = pytest.importorskip("tensorflow_datasets")
    if not tfds.builder("mnist").is_prepared():
        pytest.skip("MNIST is not in TFDS's data folder; the tests do not download it")
    return importlib.import_module("examples.mnist")


def records(folder):
    return json.loads((folder / "results.json").read_text())


def test_quickstart(tmp_path, capsys):
    importlib.import_module("examples.quickstart").main(["--epochs", "12", "--output", str(tmp_path)])
    found = records(tmp_path)
    assert list(found) == ["backprop", "no-backprop", "sg", "sg-conditional"]
    final = {arm: record["test_accuracy"][-1] for arm, record in found.items()}
    assert min(final["backprop"], final["sg"], final["sg-conditional"]) > 0.85
    assert final["no-backprop"] < min(final["backprop"], final["sg"], final["sg-conditional"])
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert "| sg-conditional | 12 |" in capsys.readouterr().out


def test_mnist_learns(mnist, tmp_path):
    """Real MNIST: with conditional synthetic gradients, one epoch at a higher rate is enough for 90 %."""
    mnist.main(
        [
            "--arm",
            "sg-conditional",
            "--iterations",
            "234",
            "--learning-rate",
            "1e-3",
            "--output",
            str(tmp_path),
        ]
    )
    record = records(tmp_path)["sg-conditional"]
    assert record["settings"] == {"iterations": 234, "batch_size": 256, "learning_rate": 1e-3, "seed": 0}
    assert len(record["test_accuracy"]) == 1 and record["test_accuracy"][-1] > 0.9
    assert set(record["versions"]) >= {"keras", "tensorflow", "keras_sg", "python"}


def test_mnist_every_arm(mnist, tmp_path, capsys):
    mnist.main(["--arm", "all", "--iterations", "2", "--output", str(tmp_path)])
    found = records(tmp_path)
    assert list(found) == list(mnist.INTERFACES)
    for record in found.values():
        assert len(record["test_accuracy"]) == 1 and record["seconds"] > 0
    figure = tmp_path / "accuracy.png"
    figure.unlink()
    mnist.main(["--plot", str(tmp_path)])
    assert figure.stat().st_size > 1000


def test_no_backprop_trains_the_last_layer_only(mnist):
    model = mnist.build("no-backprop")
    before = [v.numpy() for v in model.variables]
    model.fit(np.random.default_rng(0).random((256, 784)), np.zeros(256, "int64"), batch_size=256, verbose=0)
    moved = {v.path for v, old in zip(model.variables, before) if not np.array_equal(v.numpy(), old)}
    statistics = {path for path in moved if "moving_" in path}
    assert moved - statistics == {"logits/kernel", "logits/bias"} and len(statistics) == 4


def test_a_stopped_run_goes_on(mnist, tmp_path, runs, monkeypatch):
    """Interrupted in its third epoch, the run keeps two epochs and repeats only the third."""
    command = ["--arm", "backprop", "--iterations", "30", "--batch-size", "6000", "--output", str(tmp_path)]
    write = runs.Results.write

    def interrupt(self, record):
        if len(record["test_accuracy"]) == 3:
            raise KeyboardInterrupt
        write(self, record)

    monkeypatch.setattr(runs.Results, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        mnist.main(command)
    stopped = records(tmp_path)["backprop"]
    assert len(stopped["test_accuracy"]) == 2

    monkeypatch.setattr(runs.Results, "write", write)
    mnist.main(command)
    finished = records(tmp_path)["backprop"]
    assert len(finished["test_accuracy"]) == 3
    assert finished["test_accuracy"][:2] == stopped["test_accuracy"]
    # It went on from what it had learned, not from the start.
    assert finished["test_loss"][2] < stopped["test_loss"][1]
    mnist.main(command)
    assert records(tmp_path)["backprop"] == finished


def test_arms_in_one_file_do_not_overwrite_each_other(runs, tmp_path):
    first, second = runs.Results(tmp_path), runs.Results(tmp_path)
    records_of = [r.begin(arm, {}, resume=True) for r, arm in ((first, "a"), (second, "b"))]
    first.write(records_of[0])
    second.write(records_of[1])
    assert set(records(tmp_path)) == {"a", "b"}
    # Other settings start a new record, the same ones go on with the old.
    records_of[0]["test_accuracy"].append(0.5)
    first.write(records_of[0])
    assert first.begin("a", {}, resume=True)["test_accuracy"] == [0.5]
    assert first.begin("a", {"seed": 1}, resume=True)["test_accuracy"] == []


def test_no_data_and_no_network(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")

    def no_network(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(tfds, "load", no_network)
    mnist = importlib.import_module("examples.mnist")
    with pytest.raises(SystemExit, match=r"'mnist' could be neither.*--data-dir.*mnist/<version>.*no route"):
        mnist.main(["--data-dir", str(tmp_path / "empty"), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_plot_without_results(runs, tmp_path):
    with pytest.raises(SystemExit, match="No results to draw"):
        runs.plot(tmp_path, "nothing")


@pytest.mark.parametrize("option", ["--iterations", "--batch-size"])
def test_numbers_must_be_positive(option, capsys):
    with pytest.raises(SystemExit):
        importlib.import_module("examples.mnist").main([option, "0"])
    assert f"argument {option}: expected an integer of at least 1, received 0" in capsys.readouterr().err


def test_help(capsys):
    for name in ("quickstart", "mnist"):
        with pytest.raises(SystemExit) as stop:
            importlib.import_module(f"examples.{name}").main(["--help"])
        assert stop.value.code == 0 and f"examples.{name}" in capsys.readouterr().out
