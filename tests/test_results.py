"""What an example meets before it begins: files that are damaged, modules that are not installed."""

import importlib
import json
import pathlib
import re
import sys

import keras
import pytest

pytestmark = [pytest.mark.tensorflow, pytest.mark.usefixtures("from_the_root")]
ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def started(monkeypatch):
    """Starts an example that must get no further than to its data; of it, only what it says is left."""

    def load(*args, **options):
        raise AssertionError("data were loaded")

    def start(name, *options):
        module = importlib.import_module(name)
        for owner, attribute in ((module, "load"), (importlib.import_module("examples.data"), "fetch")):
            monkeypatch.setattr(owner, attribute, load, raising=False)
        if name == "examples.sweep":
            task = importlib.import_module("dataclasses").replace(module.TASKS["digits"], load=load)
            monkeypatch.setitem(module.TASKS, "digits", task)
        if name == "benchmarks.gpu":
            monkeypatch.setattr(module, "Benchmark", load)
            options = ["--mnist", "data.npz", *options]
        if name == "examples.paper_table" and "--table" not in options:
            options = ["--all", *options]
        return module.main([*map(str, options)])

    return start


# Where each of them keeps its results.
EXAMPLES = {
    "examples.quickstart": "results.json",
    "examples.mnist": "results.json",
    "examples.sparse_updates": "results.json",
    "examples.binary_addition": "results.json",
    "examples.sweep": "results.json",
    "examples.paper_table": "results.json",
    "benchmarks.gpu": "mnist/seed0/results.json",
}
DAMAGED = {
    "cut short": (b'{"sg": {"settings": {', "cannot be read as JSON .JSONDecodeError"),
    "empty": (b"", "cannot be read as JSON .JSONDecodeError"),
    "binary": (b"\x89HDF\r\n", "cannot be read as JSON .UnicodeDecodeError"),
    "a list": (b"[1, 2]", r"must be a dictionary, and is \[1, 2\]"),
    "a record that is none": (b'{"sg": 3}', r"record 'sg' must be a dictionary, and is 3"),
    "no settings": (b'{"sg": {"loss": []}}', r"record 'sg' has no \['settings', .*only \['loss'\]"),
    "a directory": (None, "cannot be read as JSON .IsADirectoryError"),
}


def damage(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if content is None else path.write_bytes(content)


def refused(path, reason):
    return pytest.raises(
        SystemExit, match=rf"{re.escape(str(path))} is of no use here: .*{reason}.*left as it is;"
    )


@pytest.mark.parametrize("case", DAMAGED)
@pytest.mark.parametrize("example", EXAMPLES)
def test_results_that_cannot_be_added_to(started, tmp_path, example, case):
    path, (content, reason) = tmp_path / EXAMPLES[example], DAMAGED[case]
    damage(path, content)
    with refused(path, reason):
        started(example, "--output", tmp_path)
    assert path.is_dir() if content is None else path.read_bytes() == content


@pytest.mark.parametrize("example", ["examples.mnist", "examples.sweep"])
def test_results_that_cannot_be_drawn(started, tmp_path, example):
    (tmp_path / "results.json").write_text("{")
    with refused(tmp_path / "results.json", "JSONDecodeError"):
        started(example, "--plot", tmp_path)


def test_results_that_are_damaged_while_it_runs(tmp_path):
    """What is there by then is not written over."""
    results = importlib.import_module("examples.results").Results(tmp_path)
    record = results.begin("sg", {}, resume=True)
    results.write(record)
    results.path.write_text("{")
    with refused(results.path, "JSONDecodeError"):
        results.write(record)
    assert results.path.read_text() == "{"


@pytest.mark.parametrize("name", ["oracle.json", "tuner0.json", "trial_1/trial.json"])
def test_files_of_keras_tuner(started, tmp_path, name):
    """Refused before anything else; dropped where that is asked for."""
    path = tmp_path / "tuner" / "sg" / name
    damage(path, b"{")
    with refused(path, "JSONDecodeError.*"):
        started("examples.sweep", "--output", tmp_path)
    assert path.read_text() == "{"
    with pytest.raises(AssertionError, match="data were loaded"):
        started("examples.sweep", "--output", tmp_path, "--overwrite")


def test_a_trial_of_another_shape(tmp_path):
    """Also where it is only drawn."""
    trials = importlib.import_module("examples.trials")
    trials.results(tmp_path).write({"arm": "sg", "settings": {"epochs": 1}, "trials": []})
    path = tmp_path / "tuner" / "sg" / "trial_1" / "trial.json"
    damage(path, json.dumps({"status": "COMPLETED"}).encode())
    for look in (trials.check, trials.collect):
        with refused(path, r"has no \['hyperparameters', 'metrics'\]"):
            look(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no HDF5"])
def test_a_backup_that_is_damaged(tmp_path, content):
    runs = importlib.import_module("examples.runs")
    weights = tmp_path / "backup" / "latest.weights.h5"
    damage(weights, content)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    backup = runs.Backup(tmp_path / "backup", batches=range(2))
    backup.set_model(model)
    with pytest.raises(SystemExit, match=r"backup holds no backup that this run can go on from.*OSError"):
        backup.on_train_begin()
    assert weights.read_bytes() == content


IMPORTED = [
    ("quickstart", "sklearn.datasets", "examples"),
    ("binary_addition", "tensorflow", "tensorflow,examples"),
    ("sparse_updates", "matplotlib.figure", "tensorflow,examples"),
    ("trials", "matplotlib.figure", "examples"),
    ("sweep", "keras_tuner", "tensorflow,examples,tune"),
    ("multi_process", "jax", "jax,examples"),
]


def missing(module, extras):
    message = rf"'{module}' is needed here and not installed: pip install \"{ROOT}\[{extras}\]\""
    return pytest.raises(ImportError, match=message)


@pytest.mark.parametrize("example, module, extras", IMPORTED)
def test_a_module_that_is_not_installed(monkeypatch, example, module, extras):
    name = f"examples.{example}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with missing(module, extras):
        importlib.import_module(name)


@pytest.mark.parametrize("example", ["quickstart", "mnist", "binary_addition"])
def test_a_figure_that_nothing_could_draw(started, monkeypatch, example, tmp_path):
    importlib.import_module(f"examples.{example}")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with missing("matplotlib.figure", "examples"):
        started(f"examples.{example}", "--output", tmp_path)


@pytest.mark.parametrize("module", ["tensorflow", "tensorflow_datasets"])
def test_pictures_that_nothing_could_fetch(monkeypatch, module, tmp_path):
    data = importlib.import_module("examples.data")
    monkeypatch.setitem(sys.modules, module, None)
    with missing(module, "tensorflow,examples"):
        data.fetch("mnist", str(tmp_path))
