"""`decoupled_optimizer`: who moves what."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_sg


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
