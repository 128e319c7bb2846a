"""What SECURITY.md says of files and of the network, tried."""

import ast
import json
import pathlib
import sys
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import layers

import keras_sg
from examples import data

pytestmark = pytest.mark.tensorflow
ROOT = pathlib.Path(__file__).parent.parent
UNITS, CLASSES = 5, 3
ROLES = ["synthesizer", "head", "synthetic_input", "labels_from"]


@keras.saving.register_keras_serializable(package="tests")
def registered_labels(y):
    return y


@keras.saving.register_keras_serializable(package="tests")
class Registered(layers.Dense):
    pass


def unregistered(*args):
    print("an unregistered function ran")


class Unregistered(layers.Dense):
    def __init__(self, *args, **kwargs):
        print("an unregistered class ran")
        super().__init__(*args, **kwargs)


def model_with(role):
    inputs = keras.Input((UNITS,))
    kind = keras_sg.LocalLoss if role == "head" else keras_sg.SyntheticGradient
    # A layer of Keras, in whose place the file will have something else.
    options = {
        "synthesizer": {"synthesizer": layers.Dense(UNITS)},
        "head": {"head": layers.Dense(1)},
        "synthetic_input": {"synthetic_input": layers.Dense(UNITS)},
        "labels_from": {"labels_from": registered_labels},
    }[role]
    h = kind(layers.Dense(UNITS, "tanh", name="block"), num_classes=CLASSES, **options)(inputs)
    return keras_sg.DecoupledModel(inputs, layers.Dense(CLASSES, name="last")(h))


def file_with(path, role, config):
    """The `.keras` file of a model in which `config` stands in the place of what has that role.

    Args:
        path: where it is written.
        role: argument of an interface.
        config: configuration of a layer, or of a function; a layer is put where the file has one.
    """
    model_with(role).save(path)
    with zipfile.ZipFile(path) as file:
        contents = {name: file.read(name) for name in file.namelist()}
    model = json.loads(contents["config.json"])
    (interface,) = (each for each in model["config"]["layers"] if role in each["config"])
    if role == "labels_from":
        interface["config"][role] = config
    else:
        interface["config"][role]["config"]["layer"] = config
    contents["config.json"] = json.dumps(model)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in contents.items():
            file.writestr(name, content)
    return path


def code_for(role):
    """The configuration of a lambda, code in a file, that says when it runs."""
    if role == "labels_from":
        return keras.saving.serialize_keras_object(lambda y: (print("code ran"), y)[1])
    size = 1 if role == "head" else UNITS
    function = lambda x: (print("code ran"), x[:, :size])[1]
    return keras.saving.serialize_keras_object(layers.Lambda(function, output_shape=(size,)))


FOREIGN = {
    "a function of another module": ("os", "system", None),
    "a class of another module": ("subprocess", "Popen", {"args": ["true"]}),
    "a function of one's own": (__name__, "unregistered", None),
    "a class of one's own": (__name__, "Unregistered", {"units": 1}),
    "a function of Keras that is no part of models": ("keras.utils", "get_file", None),
}


def foreign(module, name, config):
    """The configuration of a class, or, where that has none, of a function; by its name in a module."""
    kind, config = ("function", name) if config is None else (name, config)
    return {"module": module, "class_name": kind, "registered_name": name, "config": config}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_code_in_a_file_is_refused_and_runs_only_without_safe_mode(role, tmp_path, capsys):
    path = file_with(tmp_path / "model.keras", role, code_for(role))
    with pytest.raises(ValueError, match=r"[Ll]ambda.*safe_mode=False"):
        keras.models.load_model(path)
    assert "code ran" not in capsys.readouterr().out
    train(keras.models.load_model(path, safe_mode=False))
    assert "code ran" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:Keras's legacy HDF5 files", "ignore:The object being serialized")
def test_code_in_a_legacy_file_is_refused(tmp_path, capsys):
    inputs = keras.Input((UNITS,))
    synthesizer = layers.Lambda(lambda x: (print("code ran"), 0 * x)[1])
    h = keras_sg.SyntheticGradient(layers.Dense(UNITS, name="block"), synthesizer)(inputs)
    keras_sg.DecoupledModel(inputs, layers.Dense(CLASSES)(h)).save(tmp_path / "model.h5")
    capsys.readouterr()
    known = {kind.__name__: kind for kind in (keras_sg.DecoupledModel, keras_sg.SyntheticGradient)}
    load = lambda **options: keras.models.load_model(tmp_path / "model.h5", known, compile=False, **options)
    with pytest.raises(ValueError, match=r"Lambda.*safe_mode=False"):
        load()
    assert "code ran" not in capsys.readouterr().out
    load(safe_mode=False)
    assert "code ran" in capsys.readouterr().out


@pytest.mark.parametrize("case", FOREIGN)
@pytest.mark.parametrize("role", ROLES)
def test_what_is_not_registered_is_not_made(role, case, tmp_path, capsys):
    """Whether or not it could be imported, in safe mode or not."""
    path = file_with(tmp_path / "model.keras", role, foreign(*FOREIGN[case]))
    module, name, _ = FOREIGN[case]
    refused = rf"Could not locate (class|function) '{name}'|Cannot deserialize `{module}\.{name}`"
    for options in ({}, {"safe_mode": False}):
        with pytest.raises((TypeError, ValueError), match=refused):
            keras.models.load_model(path, **options)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("role", ROLES)
def test_what_is_registered_is_made(role, tmp_path):
    if role == "labels_from":
        config = keras.saving.serialize_keras_object(registered_labels)
    else:
        config = keras.saving.serialize_keras_object(Registered(1 if role == "head" else UNITS))
        config["module"] = "not.there"  # the name decides
    path = file_with(tmp_path / "model.keras", role, config)
    # The weights in the file are those of the layer that was there, and are no concern here.
    with zipfile.ZipFile(path) as file:
        model = keras.models.model_from_json(file.read("config.json"))
    made = model.interfaces[0].get_config()[role]
    assert ("registered_labels" if role == "labels_from" else "tests>Registered") in json.dumps(made)
    train(model)


def test_custom_objects_are_let_do_what_they_do(tmp_path, capsys):
    path = file_with(tmp_path / "model.keras", "head", foreign(*FOREIGN["a class of one's own"]))
    keras.models.load_model(path, custom_objects={"Unregistered": Unregistered})
    assert "an unregistered class ran" in capsys.readouterr().out


def train(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=True, jit_compile=False)
    model.fit(np.ones((3, UNITS)), np.arange(3), verbose=0)


def datasets(group):
    """What an HDF5 file holds, at any depth."""
    for item in group.values():
        yield from datasets(item) if isinstance(item, h5py.Group) else [item]


def test_weights_and_backups_hold_numbers(tmp_path):
    model = model_with("synthesizer")
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
    train(model)
    model.fit(np.ones((3, UNITS)), np.arange(3), callbacks=[backup], verbose=0)
    model.save_weights(tmp_path / "model.weights.h5")
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    weights = [path for path in written if path.name.endswith(".weights.h5")]
    assert len(weights) == 2
    for path in weights:
        with h5py.File(path) as file:
            kinds = {item.dtype.kind for item in datasets(file)}
        assert kinds and kinds <= set("biuf")
    for path in set(written) - set(weights):
        json.loads(path.read_text())


class Trap:
    """Says when it is unpickled."""

    def __reduce__(self):
        return print, ("unpickled",)


def test_arrays_for_examples_are_not_unpickled(tmp_path, capsys):
    arrays = dict.fromkeys(("x_train", "y_train", "x_test", "y_test"), np.array([Trap()], dtype=object))
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(SystemExit, match=r"must be an .npz file that NumPy can read.*allow_pickle=False"):
        data.read(tmp_path / "data.npz", (784,))
    assert capsys.readouterr().out == ""
    with np.load(tmp_path / "data.npz", allow_pickle=True) as file:
        file["x_train"]
    assert capsys.readouterr().out == "unpickled\n"


CONNECTS = {"ftplib", "http", "multiprocessing", "smtplib", "socket", "socketserver", "ssl", "urllib"}
RUNS_CODE = {"code", "ctypes", "marshal", "pickle", "runpy", "shelve", "subprocess"}


def test_the_package_imports_nothing_that_connects_or_runs_code():
    """But Ray, for the schedule that is Ray's; and it calls nothing that does."""
    imported, called = {}, set()
    for path in (ROOT / "keras_sg").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                called.add(node.func.id)
            aliases = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            module = [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in aliases + module:
                imported.setdefault(name.partition(".")[0], set()).add(path.stem)
    ours = {"keras_sg", "keras", "numpy", "tensorflow", "jax", "torch", "keras_tuner", "matplotlib", "ray"}
    assert imported.keys() - sys.stdlib_module_names <= ours
    assert not imported.keys() & (CONNECTS | RUNS_CODE)
    assert all("ray" in module for module in imported["ray"])
    assert not called & {"eval", "exec", "compile", "__import__"}
