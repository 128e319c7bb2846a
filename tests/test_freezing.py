"""Frozen modules: who stands still, who learns on, and that files and copies keep it."""

import keras
import numpy as np
import pytest
from keras import layers
from models import CLASSES, FEATURES, data

import keras_sg

EAGERLY = keras.backend.backend() != "jax"
PARTS = ("below", "its synthesizer", "frozen", "frozen's synthesizer", "last")


@keras.saving.register_keras_serializable(package="freezing")
class Own(layers.Layer):
    """A layer of one's own around an interface."""

    def __init__(self, inner, **options):
        super().__init__(**options)
        self.inner = inner

    def build(self, shape):
        if not self.inner.built:  # a loaded one is
            self.inner.build(shape)

    def call(self, x):
        return self.inner(x)

    def get_config(self):
        return {**super().get_config(), "inner": keras.saving.serialize_keras_object(self.inner)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "inner": keras.saving.deserialize_keras_object(config["inner"])})


def dense(units, name):
    return layers.Dense(units, "tanh", name=name)


def stack(middle):
    """The plain network: `below`, the layer or model that is to be frozen, `last`."""
    parts = [keras.Input((FEATURES,)), dense(5, "below"), middle, layers.Dense(CLASSES, name="last")]
    return keras.Sequential(parts)


def inside(kind):
    if kind == "sequential":
        return keras.Sequential([keras.Input((5,)), dense(4, "middle"), dense(4, "end")], name="nest")
    inputs = keras.Input((5,))
    return keras.Model(inputs, dense(4, "end")(dense(4, "middle")(inputs)), name="nest")


def cut_by_hand(middle, **options):
    inputs = keras.Input((FEATURES,))
    h = keras_sg.SyntheticGradient(dense(5, "below"), **options)(inputs)
    return keras_sg.DecoupledModel(inputs, layers.Dense(CLASSES, name="last")(middle(h)))


def frozen_layer(layer):
    layer.trainable = False
    return layer


def frozen_after(model, name):
    frozen_layer(model.get_layer(name))
    return model


def own(**options):
    return cut_by_hand(Own(keras_sg.SyntheticGradient(dense(4, "middle"), **options), name="own"), **options)


AFTER = ["below", "nest/middle"]
GESTURES = {
    "the interface": lambda **options: frozen_after(
        keras_sg.decouple(stack(dense(4, "middle")), ["below", "middle"], **options), "middle"
    ),
    "the interface, constructed so": lambda **options: cut_by_hand(
        keras_sg.SyntheticGradient(dense(4, "middle"), trainable=False, **options), **options
    ),
    "the layer, beforehand": lambda **options: keras_sg.decouple(
        stack(frozen_layer(dense(4, "middle"))), ["below", "middle"], **options
    ),
    "a model around it": lambda **options: frozen_after(
        keras_sg.decouple(stack(inside("functional")), AFTER, **options), "nest"
    ),
    "a Sequential around it": lambda **options: frozen_after(
        keras_sg.decouple(stack(inside("sequential")), AFTER, **options), "nest"
    ),
    "a model around it, beforehand": lambda **options: keras_sg.decouple(
        stack(frozen_layer(inside("functional"))), AFTER, **options
    ),
    "a layer of one's own around it": lambda **options: frozen_after(own(**options), "own"),
    "a synthetic loss": lambda **options: frozen_after(
        keras_sg.decouple(
            stack(dense(4, "middle")),
            ["below", "middle"],
            keras_sg.SyntheticLoss,
            synthesizer=keras_sg.synthesizers.Value((4,)),
            **options,
        ),
        "middle",
    ),
}


def compiled(model, single):
    adam = [keras.optimizers.Adam(1e-2, epsilon=1e-3) for _ in range(2)]
    model.compile(adam[0] if single else keras_sg.decoupled_optimizer(*adam), "mse", run_eagerly=EAGERLY)
    return model


def fit(model, **options):
    x, y, _ = data()
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0, **options)


def parts(model):
    """The trainable weights of each part, as lists of numbers."""
    first, second = model.interfaces
    owners = first.layer, first.synthesizer, second.layer, second.synthesizer, model.get_layer("last")
    return {
        part: [np.array(keras.ops.convert_to_numpy(v)) for v in owner.weights]
        for part, owner in zip(PARTS, owners)
    }


def moved(model, **options):
    before = parts(model)
    fit(model, **options)
    after = parts(model)
    return {name for name in PARTS if any(map(np.any, map(np.subtract, after[name], before[name])))}


LEARN = {"below", "its synthesizer", "frozen's synthesizer", "last"}


@pytest.mark.parametrize("single", [True, False], ids=["one optimizer", "two optimizers"])
@pytest.mark.parametrize("gesture", GESTURES)
def test_below_what_is_frozen_the_network_learns_on(gesture, single, tmp_path):
    """Loaded in between, too: to the weights and the state of the optimizers of the run that went on."""
    keras.utils.set_random_seed(0)
    model = compiled(GESTURES[gesture](update_period=1), single)
    assert moved(model, epochs=2) == LEARN
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert moved(loaded) == LEARN
    fit(model)
    for ours, theirs in zip(parts(loaded).values(), parts(model).values()):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    assert len(loaded.trainable_variables) == len(model.trainable_variables)


@pytest.mark.parametrize("gesture", ["the interface", "a Sequential around it", "a synthetic loss"])
def test_with_an_update_period(gesture):
    keras.utils.set_random_seed(0)
    model = compiled(GESTURES[gesture](update_period=2), single=False)
    assert moved(model, epochs=2) == LEARN


def test_a_frozen_interface_is_a_frozen_module():
    """The numbers are those of freezing the wrapped layer alone."""
    made = []
    for freeze in (lambda interface: interface, lambda interface: interface.layer):
        keras.utils.set_random_seed(0)
        model = keras_sg.decouple(stack(dense(4, "middle")), ["below", "middle"])
        freeze(model.get_layer("middle")).trainable = False
        assert not model.get_layer("middle").trainable
        fit(compiled(model, single=False), epochs=2)
        made.append(model.get_weights())
    for a, b in zip(*made, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_synthesizer_is_held_by_its_own_switch(tmp_path):
    """Whatever is frozen and unfrozen around it; whole or in part."""
    synthesizer = keras_sg.synthesizers.MLP((4,))
    model = keras_sg.decouple(stack(dense(4, "middle")), ["below", "middle"], synthesizer=synthesizer)
    first, second = model.interfaces
    first.synthesizer.trainable = False
    second.synthesizer.layers[0].trainable = False
    wanted = [v.trainable for v in model.weights]
    assert wanted.count(False) == 8 + 2 + 2  # the whole of one; of the other a layer, and the statistics
    for switched in (model, first, second):
        switched.trainable = False
        switched.trainable = True
        assert [v.trainable for v in model.weights] == wanted
    model.compile("sgd", "mse")
    model.save(tmp_path / "model.keras")
    for again in (
        keras.models.load_model(tmp_path / "model.keras"),
        keras.models.clone_model(model),
        keras_sg.DecoupledModel.from_config(model.get_config()),
    ):
        assert [v.trainable for v in again.weights] == wanted
        assert not again.interfaces[0].synthesizer.trainable and again.interfaces[1].synthesizer.trainable


def test_a_configuration_that_no_interface_was_built_from_keeps_it():
    interface = keras_sg.SyntheticGradient(dense(4, "middle"))
    interface.build((None, 5))
    interface.synthesizer.trainable = False
    again = keras_sg.SyntheticGradient.from_config(interface.get_config())
    again = keras_sg.SyntheticGradient.from_config(again.get_config())
    again.build((None, 5))
    assert not again.synthesizer.trainable and again.trainable


def test_a_frozen_model_trains_nothing(tmp_path):
    model = keras_sg.decouple(stack(dense(4, "middle")), ["below", "middle"])
    model.trainable = False
    model.compile("sgd", "mse")
    model.save(tmp_path / "model.keras")
    given = stack(dense(4, "middle"))
    given.trainable = False
    for each in (
        model,
        keras.models.load_model(tmp_path / "model.keras"),
        keras_sg.decouple(given, ["below", "middle"]),
    ):
        assert each.trainable_variables == []
        each.trainable = True
        assert len(each.trainable_variables) == len(each.weights) == 10


def test_what_is_unfrozen_inside_stays_so():
    """In a frozen block, one layer that learns: neither a cut nor a configuration takes that back."""
    block = frozen_layer(keras.Sequential([dense(5, "a"), dense(4, "b")], name="block"))
    block.layers[1].trainable = True
    model = keras_sg.decouple(stack(block), ["below", "block"])
    for each in (model, keras_sg.DecoupledModel.from_config(model.get_config())):
        found = [layer.trainable for layer in each.get_layer("block").layer.layers]
        assert found == [False, True]


def test_stripped_it_is_frozen_still():
    model = GESTURES["the interface"]()
    plain = keras_sg.strip(model)
    assert [plain.get_layer(name).trainable for name in ("below", "middle", "last")] == [True, False, True]
