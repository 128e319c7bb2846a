"""`global_clipnorm` in one optimizer for all: modules by their norm, synthesizers by theirs."""

import keras
import numpy as np
import pytest
from keras import layers
from models import BATCH, FEATURES, data

import keras_sg

BACKEND = keras.backend.backend()
CLIP = 0.05
OPTIMIZERS = {
    "sgd": lambda **options: keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=CLIP, **options),
    "adam": lambda **options: keras.optimizers.Adam(0.1, epsilon=1e-2, global_clipnorm=CLIP, **options),
    "adamw": lambda **options: keras.optimizers.AdamW(0.1, epsilon=1e-2, global_clipnorm=CLIP, **options),
    "nadam": lambda **options: keras.optimizers.Nadam(0.1, epsilon=1e-2, global_clipnorm=CLIP, **options),
    "each weight": lambda **options: keras.optimizers.SGD(0.1, clipnorm=CLIP, **options),
}


def network():
    keras.utils.set_random_seed(0)
    blocks = [layers.Dense(units, "tanh", name=f"block{units}") for units in (5, 4)]
    last = layers.Dense(3, name="last", dtype="float32")
    return keras.Sequential([keras.Input((FEATURES,)), *blocks, last])


def cut(network, **options):
    model = keras_sg.decouple(network, ["block5", "block4"], synthesizer="linear", **options)
    rng = np.random.default_rng(0)
    for interface in model.interfaces:  # large gradients, so that one norm for all would shorten everything
        weights = interface.synthesizer.get_weights()
        interface.synthesizer.set_weights([3.0 * rng.normal(size=weight.shape) for weight in weights])
    return model


def trained(model, optimizer, eagerly=BACKEND == "torch"):
    x, y, _ = data()
    model.compile(optimizer, "mse", run_eagerly=eagerly)
    model.fit(x, y, BATCH, epochs=3, shuffle=False, verbose=0)
    return model.get_weights()


def assert_same(ours, theirs, tolerance=1e-6):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("accumulated", [None, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_at_mix_zero_the_modules_are_those_of_plain_keras(name, accumulated):
    make = OPTIMIZERS[name]
    plain, same = network(), network()
    start = plain.get_weights()
    trained(plain, make(gradient_accumulation_steps=accumulated))
    optimizer = make(gradient_accumulation_steps=accumulated)
    trained(cut(same, mix=0.0), optimizer)
    assert_same(same.get_weights(), plain.get_weights())
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(plain.get_weights(), start))
    assert "_clip_gradients" not in vars(optimizer)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize("accumulated", [None, 2])
def test_synthesizers_have_a_norm_of_their_own(accumulated, policy):
    """One optimizer for all does what two do that are like it, each with its own kind of variables."""
    keras.config.set_dtype_policy(policy)
    make = lambda: OPTIMIZERS["sgd"](gradient_accumulation_steps=accumulated)
    two = keras_sg.decoupled_optimizer(make(), make())
    assert_same(trained(cut(network()), make()), trained(cut(network()), two))


def test_the_modules_own_steps_while_synthesizers_rest():
    make = OPTIMIZERS["sgd"]
    two = keras_sg.decoupled_optimizer(make(), make())
    ours, theirs = (trained(cut(network(), update_period=2), optimizer) for optimizer in (make(), two))
    assert_same(ours, theirs)


def test_an_optimizer_in_keras_own_pair():
    """It has a module and the synthesizers, another optimizer the last module."""
    still = {"(.*/)?last/.*": keras.optimizers.SGD(0.0)}
    multi = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(OPTIMIZERS["sgd"](), still))
    frozen = network()
    frozen.get_layer("last").trainable = False
    plain = trained(frozen, OPTIMIZERS["sgd"]())
    same = network()
    trained(cut(same, mix=0.0), multi)
    assert_same(same.get_weights(), plain)


def test_on_two_devices(two_devices):
    """Keras clips before it adds up what the devices have, in both."""
    with two_devices.scope():
        make = OPTIMIZERS["sgd"]
        two = keras_sg.decoupled_optimizer(make(), make())
        ours, theirs = (trained(cut(network()), optimizer) for optimizer in (make(), two))
    assert_same(ours, theirs)
