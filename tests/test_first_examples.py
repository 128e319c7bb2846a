"""The examples that a newcomer runs first: on every backend, and without TensorFlow."""

import ast
import importlib
import json
import os
import pathlib
import re
import runpy
import subprocess
import sys

import keras
import pytest

ROOT = pathlib.Path(__file__).parent.parent
WHOLE = ROOT / "examples" / "whole.py"
GUIDE = ROOT / "examples" / "README.md"
pytestmark = pytest.mark.usefixtures("from_the_root")


def records(folder):
    return json.loads((folder / "results.json").read_text())


def test_quickstart(tmp_path, capsys):
    importlib.import_module("examples.quickstart").main(["--epochs", "6", "--output", str(tmp_path)])
    found = records(tmp_path)
    assert list(found) == ["backprop", "no-backprop", "sg", "sg-conditional"]
    final = {arm: record["test_accuracy"][-1] for arm, record in found.items()}
    assert min(final["backprop"], final["sg"], final["sg-conditional"]) > 0.85
    assert final["no-backprop"] < min(final["backprop"], final["sg"], final["sg-conditional"])
    assert found["sg"]["versions"]["backend"] == keras.backend.backend()
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert "| sg-conditional | 6 |" in capsys.readouterr().out


WITHOUT_TENSORFLOW = """
import sys

sys.modules.update(dict.fromkeys(["tensorflow", "tensorflow_datasets"]))  # to import them is an error
from examples import quickstart

quickstart.main(sys.argv[1:])
"""


def test_quickstart_without_tensorflow(tmp_path):
    pytest.importorskip("jax")
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW, "--epochs", "1", "--output", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "KERAS_BACKEND": "jax"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = records(tmp_path)
    assert [len(record["test_accuracy"]) for record in found.values()] == [1, 1, 1, 1]
    assert {record["versions"]["backend"] for record in found.values()} == {"jax"}


def test_whole(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(WHOLE), run_name="__main__")
    out = capsys.readouterr().out
    rows = [[float(number) for number in re.findall(r"-?[\d.]+", row)] for row in out.splitlines()[2:-1]]
    assert [row[0] for row in rows] == list(range(1, 11))
    _, by_backpropagation, decoupled, *cosines = rows[-1]
    assert by_backpropagation > 0.9 and decoupled > 0.9 and min(cosines) > 0.1
    # What was stripped and loaded is what was trained.
    assert out.splitlines()[-1].endswith(f"test accuracy {decoupled:.4f}")
    assert {path.name for path in (tmp_path / "runs" / "whole").iterdir()} == {
        "decoupled.keras",
        "plain.keras",
    }


def test_whole_is_whole():
    """One can read it without opening another file of ours."""
    names = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(WHOLE.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    assert names == {"pathlib", "keras", "sklearn", "keras_sg"}


def test_the_guide_names_every_example():
    """Each module that can be run, in a command, and none that is not there."""
    runnable = {
        path.stem
        for path in (ROOT / "examples").glob("*.py")
        if re.search(r"^    (\w+=\w+ )*python -m examples\.", path.read_text(), re.MULTILINE)
    }
    named = set(re.findall(r"python -m examples\.(\w+)", GUIDE.read_text()))
    assert len(runnable) > 10 and named == runnable
