"""Deep networks of equal blocks, and the ways to train them whose memory `benchmarks.memory` compares."""

import contextlib

import keras
import numpy as np
from keras import layers

import keras_sg

BLOCKS, CLASSES = 8, 10
# How each arm runs: its schedule, or None for backpropagation.
ARMS = {"in turn": "in_turn", "together": "together", "backprop": None, "rematerialized": None}


def dense(i):
    """Four layers of 256."""
    options = {"activation": "relu", "kernel_initializer": "he_normal"}
    return [layers.Dense(256, **options, name=f"dense{i}_{j}") for j in range(4)]


def convolutional(i):
    """Two convolutions of 32 channels, each with normalization and ReLU."""
    options = {"use_bias": False, "kernel_initializer": "he_normal", "padding": "same"}
    return [
        layer
        for j in range(2)
        for layer in (
            layers.Conv2D(32, 3, **options, name=f"conv{i}_{j}"),
            layers.BatchNormalization(name=f"norm{i}_{j}"),
            layers.ReLU(name=f"relu{i}_{j}"),
        )
    ]


# By network: the shape of an example, what makes a block, what stands behind them, and the batch.
NETWORKS = {
    "dense": ((256,), dense, list, 8192),
    "convolutional": ((32, 32, 3), convolutional, lambda: [layers.GlobalAveragePooling2D()], 256),
}


def arms():
    """The arms that the backend has: it is on JAX that Keras can rematerialize a block."""
    return [arm for arm in ARMS if arm != "rematerialized" or keras.backend.backend() == "jax"]


def build(network, arm):
    """The network of an arm, compiled: with interfaces of linear synthesizers between its blocks, or none."""
    shape, make, top, _ = NETWORKS[network]
    keras.utils.set_random_seed(0)
    remat = keras.RematScope(mode="full") if arm == "rematerialized" else contextlib.nullcontext()
    with remat:
        blocks = [keras.Sequential(make(i), name=f"block{i}") for i in range(BLOCKS)]
    model = keras.Sequential([keras.Input(shape), *blocks, *top(), layers.Dense(CLASSES, name="logits")])
    options = {}
    if ARMS[arm]:
        model = keras_sg.decouple(model, [block.name for block in blocks[:-1]], synthesizer="linear")
        options["schedule"] = ARMS[arm]
    # XLA's convolutions are slow on a CPU without JAX.
    compiled = keras.backend.backend() != "torch" and (keras.backend.backend() == "jax" or network == "dense")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3), loss, jit_compile=compiled, **options)
    return model


def burst(network, arm, steps, batch_size=None):
    """A burst of steps of the arm, made anew, on one batch of random numbers."""
    shape, *_, size = NETWORKS[network]
    size = batch_size or size
    rng = np.random.default_rng(0)
    x = rng.normal(size=(size, *shape)).astype("float32")
    y = rng.integers(0, CLASSES, size)
    model = build(network, arm)
    return lambda: model.fit(x, y, batch_size=size, epochs=steps, shuffle=False, verbose=0)
