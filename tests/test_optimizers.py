"""`decoupled_optimizer`: who moves what."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_sg
from keras_sg import _keras


def trained(optimizer, synthesizer="linear", epochs=3):
    interface = keras_sg.SyntheticGradient(layers.Dense(4), synthesizer)
    model = keras.Sequential([keras.Input((3,)), interface, layers.Dense(1)])
    before = [w.copy() for w in model.get_weights()]
    model.compile(optimizer, "mse")
    model.fit(np.ones((8, 3)), np.ones((8, 1)), epochs=epochs, verbose=0)
    moved = {
        variable.path: not np.array_equal(variable.numpy(), old)
        for variable, old in zip(model.weights, before)
    }
    return model, moved


def test_each_moves_its_own():
    for modules, synthesizers in ((0.0, 0.1), (0.1, 0.0)):
        optimizer = keras_sg.decoupled_optimizer(
            keras.optimizers.SGD(modules), keras.optimizers.SGD(synthesizers)
        )
        _, moved = trained(optimizer)
        of_synthesizers = {path for path in moved if "keras_sg_synthesizer" in path}
        assert len(of_synthesizers) == 2
        for path, has_moved in moved.items():
            in_play = synthesizers if path in of_synthesizers else modules
            # A module below a synthesizer that stays at zero has nothing to move it.
            assert has_moved == (in_play > 0 and (synthesizers > 0 or path in list(moved)[-2:])), path


def test_string_ids_and_order():
    optimizer = keras_sg.decoupled_optimizer("sgd", synthesizer="adam")
    assert [type(inner).__name__ for inner in optimizer.optimizers] == ["Adam", "SGD"]


def test_models_built_beforehand_are_synthesizers_too():
    inputs = keras.Input((4,))
    functional = keras.Model(inputs, layers.Dense(4)(inputs))
    optimizer = keras_sg.decoupled_optimizer(keras.optimizers.SGD(0.0), keras.optimizers.SGD(0.1))
    _, moved = trained(optimizer, functional)
    assert sum(moved.values()) == 2


def test_config_round_trip():
    optimizer = keras_sg.decoupled_optimizer("sgd", keras.optimizers.Adam(1e-4))
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert [float(inner.learning_rate) for inner in again.optimizers] == pytest.approx([1e-4, 0.01])


def test_learning_rate_schedules_act_on_both():
    callback = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    optimizer = keras_sg.decoupled_optimizer(keras.optimizers.SGD(0.4), keras.optimizers.SGD(0.8))
    interface = keras_sg.SyntheticGradient(layers.Dense(4))
    model = keras.Sequential([keras.Input((3,)), interface, layers.Dense(1)])
    model.compile(optimizer, "mse")
    model.fit(np.ones((8, 3)), np.ones((8, 1)), verbose=0, callbacks=[callback])
    assert [float(inner.learning_rate.numpy()) for inner in optimizer.optimizers] == pytest.approx([0.4, 0.2])


@keras.saving.register_keras_serializable(package="optimizers")
class Late(layers.Layer):
    """Makes its layers when it is made, and their variables when it is first called."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.units = units
        self.hidden, self.out = layers.Dense(2, "tanh"), layers.Dense(units, kernel_initializer="zeros")

    def call(self, x):
        return self.out(self.hidden(x))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class LateWithAShape(Late):
    """Says its shape without a call."""

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.units)


def cut_by_hand(synthesizer, name="module", model_class=keras_sg.DecoupledModel):
    inputs = keras.Input((3,))
    h = keras_sg.SyntheticGradient(layers.Dense(4, name=name), synthesizer)(inputs)
    return model_class(inputs, layers.Dense(1, name="last")(h))


def decoupled(synthesizer):
    plain = [keras.Input((3,)), layers.Dense(4, name="keras_sg_synthesizer"), layers.Dense(1)]
    return keras_sg.decouple(keras.Sequential(plain), "keras_sg_synthesizer", synthesizer=synthesizer)


MODELS = {
    "variables made by the first call": lambda: cut_by_hand(Late(4)),
    "the same, of a callable": lambda: cut_by_hand(lambda shape: Late(shape[-1])),
    "modules of the synthesizers' name": lambda: cut_by_hand("linear", "keras_sg_synthesizer"),
    "cut behind one": lambda: decoupled("linear"),
    "cut again": lambda: keras_sg.decouple(
        keras_sg.strip(decoupled(Late(4))), "keras_sg_synthesizer", synthesizer=Late(4)
    ),
    "plain": lambda: cut_by_hand(Late(4), "keras_sg_synthesizer", keras.Model),
}


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize("case", MODELS)
@pytest.mark.filterwarnings("ignore:`build.*was called on layer")  # by Keras, when it loads such a layer
def test_whose_variables_they_are(case, policy, tmp_path):
    """By what they are, not by where they were made; of what is loaded and cloned, too."""
    keras.config.set_dtype_policy(policy)
    model = MODELS[case]()
    clone = keras.models.clone_model(model)
    for each in (model, clone):
        each.compile(keras_sg.decoupled_optimizer("sgd", "adam"), "mse")
        each.optimizer.build(each.trainable_variables)
    model.save(tmp_path / "model.keras")
    for each in (model, clone, keras.models.load_model(tmp_path / "model.keras")):
        optimizer = _keras.inner_optimizer(each.optimizer)
        (interface,) = keras_sg._model.interfaces_in(each)
        adam, sgd = optimizer.optimizers
        ours = [id(v) for v in interface.synthesizer.trainable_variables]
        others = [id(v) for v in each.trainable_variables if id(v) not in ours]
        assert [id(v) for v in _keras.built_for(adam)] == ours
        assert [id(v) for v in _keras.built_for(sgd)] == others
        assert len(ours) >= 2 and len(others) == 4
    again = keras.optimizers.deserialize(keras.optimizers.serialize(_keras.inner_optimizer(model.optimizer)))
    assert _keras.optimizer_of(again, model.trainable_variables[-1]).name == "sgd"


def test_variables_are_there_and_marked_once_the_interface_is_built():
    """Also where nothing but a call makes them (Keras itself cannot load such a layer)."""
    model = cut_by_hand(LateWithAShape(4))
    optimizer = keras_sg.decoupled_optimizer("sgd", "adam")
    found = [type(_keras.optimizer_of(optimizer, variable)) for variable in model.weights]
    adam, sgd = map(type, optimizer.optimizers)
    assert found == [sgd] * 2 + [adam] * 4 + [sgd] * 2


def test_the_map_of_an_older_file_is_read():
    """It went by paths, and sent what was made by a first call to the modules' optimizer."""
    optimizer_map = keras.optimizers.OptimizerMap(
        keras.optimizers.SGD(), {"(.*/)?keras_sg_synthesizer/.*": keras.optimizers.Adam()}
    )
    config = {"optimizer_map": keras.saving.serialize_keras_object(optimizer_map), "name": "older"}
    older = keras_sg._optimizers.decoupled.DecoupledOptimizer.from_config(
        {**config, "loss_scale_factor": None}
    )
    assert [type(inner).__name__ for inner in older.optimizers] == ["Adam", "SGD"] and older.name == "older"
    model = MODELS["modules of the synthesizers' name"]()
    found = {v.path: _keras.optimizer_of(older, v).name for v in model.trainable_variables}
    assert list(found.values()) == ["sgd", "sgd", "adam", "adam", "sgd", "sgd"], found
