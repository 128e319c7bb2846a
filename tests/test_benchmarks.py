"""The benchmarks run and write what they measured; how fast anything is, is not tested."""

import importlib
import io
import json
import pathlib

import keras
import pytest

pytestmark = pytest.mark.tensorflow


def test_update_period(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parent.parent))
    module = importlib.import_module("benchmarks.update_period")
    module.main(["--steps", "2", "--output", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["medians_ms"]) == {"learning", "resting", "backprop"}
    ratio = found["medians_ms"]["resting"] / found["medians_ms"]["learning"]
    assert found["ratios"]["resting / learning"] == pytest.approx(ratio)
    with pytest.raises(SystemExit):
        module.main(["--steps", "1"])
    assert "--steps must be at least 2. Received: 1" in capsys.readouterr().err


def test_backends(tmp_path, monkeypatch, capsys):
    """Two processes that answer what this test tells them to: who is asked, and the ratios of that."""
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parent.parent))
    module = importlib.import_module("benchmarks.backends")
    worker = """
import os, sys
for line in sys.stdin:
    print({"tensorflow": 2, "jax": 1}[os.environ["KERAS_BACKEND"]] * len(line.split()[0]), flush=True)
"""
    monkeypatch.setattr(module, "WORKER", worker)
    module.main(["--rounds", "2", "--output", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["rounds_ms"]["sg, jax"] == [2.0, 2.0] and found["medians_ms"]["backprop, tensorflow"] == 16.0
    assert found["ratios"] == {
        "backprop, jax / tensorflow": 0.5,
        "sg, jax / tensorflow": 0.5,
        "tensorflow, sg / backprop": 0.25,
        "jax, sg / backprop": 0.25,
    }
    assert capsys.readouterr().out.splitlines()[-1] == "jax, sg / backprop: 0.25"
    with pytest.raises(SystemExit):
        module.main(["--rounds", "1"])
    assert "there must be 2 rounds and 1 step at least. Received: 1 and 104" in capsys.readouterr().err


def test_what_a_backend_does_in_its_process(tmp_path, monkeypatch, capsys):
    """Milliseconds of the steps that it is asked for, of a real model."""
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parent.parent))
    module, mnist = (importlib.import_module(name) for name in ("benchmarks.backends", "examples.mnist"))
    built = []

    def build(arm):
        built.append(arm)
        model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(10)])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
        return model

    monkeypatch.setattr(mnist, "build", build)
    monkeypatch.setattr("sys.stdin", io.StringIO("sg 2\nbackprop 1\n"))
    module.work()
    milliseconds = [float(line) for line in capsys.readouterr().out.splitlines()]
    assert built == ["backprop", "sg"] and len(milliseconds) == 2 and min(milliseconds) > 0
