"""Files that cannot be written or read: what the error says, and that nothing is lost by it."""

import json
import re
import zipfile

import keras
import numpy as np
import pytest
from keras import layers
from models import BATCH, CLASSES, FEATURES, data

import keras_sg
from keras_sg import SyntheticGradient, SyntheticLoss

pytestmark = pytest.mark.tensorflow


class Unwritable(layers.Layer):
    """Takes a function and has no `get_config`."""

    def __init__(self, function, units=None):
        super().__init__(name="unwritable")
        self.function, self.units = function, units

    def call(self, x):
        return self.function(x)


class Recipe(keras_sg.synthesizers.Synthesizer):
    def __init__(self, function=None):
        self.function = function

    def __call__(self, shape, label=None):
        return layers.Dense(shape[-1])

    def get_config(self):
        raise NotImplementedError("a recipe with a function in it")


def model_with(synthesizer, interface=SyntheticGradient, units=5, **options):
    inputs = keras.Input((FEATURES,))
    h = interface(layers.Dense(units, "tanh", name="block"), synthesizer, **options)(inputs)
    return keras_sg.DecoupledModel(inputs, layers.Dense(CLASSES, name="last")(h))


UNWRITABLE = {
    "a layer": (lambda: Unwritable(lambda x: 0 * x), "of type Unwritable .<Unwritable name=unwritable"),
    "a function that makes a layer": (
        lambda: lambda shape: Unwritable(lambda x: 0 * x),
        "of type Unwritable .<Unwritable name=unwritable",
    ),
    "a layer in a model": (
        lambda: keras.Sequential([layers.Dense(5), Unwritable(lambda x: x)], name="stack"),
        "of type Sequential .<Sequential name=stack",
    ),
    "a recipe": (lambda: Recipe(max), "of type Recipe .<Dense"),
}


@pytest.mark.parametrize("case", UNWRITABLE)
def test_a_synthesizer_that_cannot_be_written(case, tmp_path):
    make, received = UNWRITABLE[case]
    model = model_with(make())
    path = tmp_path / "model.keras"
    message = f"interface 'block' cannot be written.*register_keras_serializable.*Received: .*({received})"
    with pytest.raises(ValueError, match=re.compile(message)):
        model.save(path)
    assert list(tmp_path.iterdir()) == []

    model_with("linear").save(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="cannot be written"):
        model.save(path)
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="cannot be written"):
        model.compile("sgd", "mse")
        x, y, _ = data()
        model.fit(x, y, verbose=0, callbacks=[keras.callbacks.ModelCheckpoint(path)])
    assert path.read_bytes() == before


def test_a_registered_layer_in_a_function_is_written(tmp_path):
    @keras.saving.register_keras_serializable(package="tests")
    class Scaled(layers.Layer):
        def __init__(self, scale, **options):
            super().__init__(**options)
            self.scale = scale

        def call(self, x):
            return self.scale * x

        def get_config(self):
            return {**super().get_config(), "scale": self.scale}

    model_with(lambda shape: Scaled(0.5)).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.interfaces[0].synthesizer.scale == 0.5


def test_code_in_a_file_is_only_run_when_asked_to(tmp_path):
    """Keras's safe mode holds inside an interface."""
    path = tmp_path / "model.keras"
    model = model_with(layers.Lambda(lambda x: 0.5 * x))
    model.save(path)
    with pytest.raises(ValueError, match=r"Lambda.*safe_mode=False"):
        keras.models.load_model(path)
    loaded = keras.models.load_model(path, safe_mode=False)
    assert float(loaded.interfaces[0].synthesizer.function(1.0)) == 0.5


OTHERS = {
    "another width": lambda: model_with("linear", units=4),
    "another synthesizer": lambda: model_with(keras_sg.synthesizers.MLP((4,))),
    "a conditional one": lambda: model_with("linear", num_classes=CLASSES),
    "another kind": lambda: model_with("critic", SyntheticLoss, num_classes=CLASSES),
    "none": lambda: keras.Sequential(
        [keras.Input((FEATURES,)), layers.Dense(5, name="block"), layers.Dense(CLASSES, name="last")]
    ),
}


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.filterwarnings("ignore:Skipping")
def test_weights_of_another_architecture(case, tmp_path):
    """Keras's own error, in both directions; nothing is skipped in silence."""
    path = tmp_path / "model.weights.h5"
    models = model_with("linear"), OTHERS[case]()
    for saved, loaded in (models, models[::-1]):
        saved.save_weights(path)
        with pytest.raises(ValueError, match=r"could not be loaded|must match|layers? ") as raised:
            loaded.load_weights(path)
        if isinstance(loaded, keras_sg.DecoupledModel):
            message = r"are not those of a model with the interfaces of .*\['block'\].*strip\(model\)\.load"
            assert re.search(message, str(raised.value))


def test_weights_of_the_plain_network(tmp_path):
    """Loaded and saved by the plain network in a model: weights are shared."""
    path, plain, model = tmp_path / "plain.weights.h5", OTHERS["none"](), model_with("linear")
    plain.save_weights(path)
    before = model.interfaces[0].synthesizer.get_weights()
    keras_sg.strip(model).load_weights(path)
    modules = lambda: [*model.interfaces[0].layer.get_weights(), *model.get_layer("last").get_weights()]
    for a, b in zip(modules(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(before, model.interfaces[0].synthesizer.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    model.get_layer("last").bias.assign([1.0, 2.0, 3.0])
    keras_sg.strip(model).save_weights(path)
    plain.load_weights(path)
    for a, b in zip(modules(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.filterwarnings("ignore:.*HDF5 file")  # Keras's own
def test_legacy_files_say_what_they_need(tmp_path):
    path, model = tmp_path / "model.h5", model_with("linear")
    with pytest.warns(UserWarning, match=r"compile=False and custom_objects=\{'DecoupledModel'"):
        model.save(path)
    classes = {"DecoupledModel": keras_sg.DecoupledModel, "SyntheticGradient": SyntheticGradient}
    again = keras.models.load_model(path, compile=False, custom_objects=classes)
    assert isinstance(again, keras_sg.DecoupledModel)
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.filterwarnings("ignore:Skipping")
def test_a_backup_of_another_architecture(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    def fit(model, *callbacks):
        x, y, _ = data()
        model.compile(keras_sg.decoupled_optimizer(), "mse", run_eagerly=True)
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        model.fit(x, y, BATCH, epochs=2, verbose=0, callbacks=[backup, *callbacks])

    with pytest.raises(KeyboardInterrupt):
        fit(model_with("linear"), Stop())
    with pytest.raises(ValueError, match="could not be loaded"):
        fit(model_with("linear", num_classes=CLASSES, interface=WithClasses))


class WithClasses(SyntheticGradient):
    """Takes one-hot rows as labels: the targets of these tests."""


def rewritten(path, name, old, new):
    """The same `.keras` file under another name, with one text in its configuration replaced."""
    with zipfile.ZipFile(path) as given, zipfile.ZipFile(path.with_name(name), "w") as written:
        for entry in given.namelist():
            content = given.read(entry)
            written.writestr(entry, content.replace(old.encode(), new.encode()))
    return path.with_name(name)


def test_versions_of_files(tmp_path):
    """A newer major version is refused, by both names; an older one, a newer minor one and none are read."""
    path = tmp_path / "model.keras"
    model_with("linear", num_classes=CLASSES).save(path)
    own = keras_sg.__version__
    with zipfile.ZipFile(path) as file:
        config = file.read("config.json").decode()
    entry = f'"keras_sg_version": "{own}"'
    assert config.count(entry) == 1 and json.loads(config)

    major = int(own.split(".")[0])
    newer = rewritten(path, "newer.keras", entry, f'"keras_sg_version": "{major + 1}.2.0"')
    # Also where the newer version says things that this one does not know.
    unknown = rewritten(newer, "unknown.keras", '"class_name": "Linear"', '"class_name": "Cubic"')
    message = rf"saved by keras_sg {major + 1}\.2\.0, .*keras_sg {re.escape(own)} cannot read.*Install"
    for refused in (newer, unknown):
        with pytest.raises(ValueError, match=message):
            keras.models.load_model(refused)

    for readable in (f'"keras_sg_version": "{major}.99.0rc1"', '"keras_sg_version": null', '"mix": 1.0'):
        loaded = keras.models.load_model(rewritten(path, "readable.keras", entry, readable))
        assert loaded.interfaces[0].get_config()["keras_sg_version"] == own


@pytest.mark.parametrize("saved", ["abc", "", "1", "v1.2", ".1", "1.x", 3, 0.1, ["0", "1"]], ids=repr)
def test_what_is_no_version(saved):
    config = model_with("linear").interfaces[0].get_config() | {"keras_sg_version": saved}
    message = rf"is no version: the file.*take it out.*keras_sg_version={re.escape(repr(saved))} .of type"
    with pytest.raises(ValueError, match=message):
        SyntheticGradient.from_config(config)


def test_an_optimizer_given_twice():
    adam = keras.optimizers.Adam()
    with pytest.raises(ValueError, match=r"must be two optimizers.*compile\(\).*Received: .*Adam.* twice"):
        keras_sg.decoupled_optimizer(adam, adam)


def test_two_optimizers_for_a_model_without_synthesizers(tmp_path):
    """Nothing to do for the second; saved and loaded all the same."""
    x, y, _ = data()
    model = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(CLASSES)])
    model.compile(keras_sg.decoupled_optimizer("sgd", "adam"), "mse", run_eagerly=True)
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    twin.compile("sgd", "mse", run_eagerly=True)
    for each in (model, twin):
        each.fit(x, y, BATCH, epochs=2, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), twin.get_weights()):
        np.testing.assert_array_equal(a, b)
    model.save(tmp_path / "model.keras")
    keras.models.load_model(tmp_path / "model.keras").fit(x, y, verbose=0)
