"""Deep networks of equal blocks, and the ways to train them whose memory `benchmarks.memory` compares."""

import contextlib
import itertools
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
from keras import layers

import keras_sg

CLASSES = 10
# How each arm runs: its schedule, or None for backpropagation.
ARMS = {"in turn": "in_turn", "together": "together", "backprop": None, "rematerialized": None}


def dense(i):
    """A layer of 256."""
    return [layers.Dense(256, activation="relu", kernel_initializer="he_normal", name=f"dense{i}")]


def convolutional(i):
    """A convolution of 32 channels, with normalization and ReLU."""
    options = {"use_bias": False, "kernel_initializer": "he_normal", "padding": "same"}
    return [
        layers.Conv2D(32, 3, **options, name=f"conv{i}"),
        layers.BatchNormalization(name=f"norm{i}"),
        layers.ReLU(name=f"relu{i}"),
    ]


class Network(NamedTuple):
    """A deep network: the shape of an example, what makes a layer, how many there are, and a batch's size."""

    shape: tuple[int, ...]
    layer: Callable[[int], list[keras.Layer]]
    count: int
    batch: int


NETWORKS = {
    "dense": Network((256,), dense, 32, 8192),
    "convolutional": Network((32, 32, 3), convolutional, 16, 256),
}


def arms():
    """The arms that the backend has: it is on JAX that Keras can rematerialize a block."""
    return [arm for arm in ARMS if arm != "rematerialized" or keras.backend.backend() == "jax"]


def build(network, arm, blocks=8, rank=None, synthesizer="linear"):
    """The network of an arm, compiled, in equal blocks.

    Args:
        network: a key of `NETWORKS`.
        arm: a key of `ARMS`; where it has a schedule, an interface stands between two blocks.
        blocks: how many there are, a divisor of the number of layers.
        rank: of the interfaces' linear synthesizers; None for the full one.
        synthesizer: `"linear"` or `"error"`, which sees the label.
    """
    shape, layer, count, _ = NETWORKS[network]
    keras.utils.set_random_seed(0)
    each = count // blocks
    parts = [[*map(layer, range(at, at + each))] for at in range(0, count, each)]
    with keras.RematScope(mode="full") if arm == "rematerialized" else contextlib.nullcontext():
        made = [keras.Sequential(itertools.chain(*part), name=f"block{at}") for at, part in enumerate(parts)]
    top = [layers.GlobalAveragePooling2D()] if network == "convolutional" else []
    model = keras.Sequential([keras.Input(shape), *made, *top, layers.Dense(CLASSES, name="logits")])
    options = {}
    if ARMS[arm]:
        linear = synthesizer == "linear"
        recipe = keras_sg.synthesizers.Linear(rank) if linear else synthesizer
        labels = {} if linear else {"num_classes": CLASSES}
        names = [block.name for block in made[:-1]]
        model = keras_sg.decouple(model, names, synthesizer=recipe, **labels)
        options["schedule"] = ARMS[arm]
    # XLA's convolutions are slow on a CPU without JAX.
    compiled = keras.backend.backend() != "torch" and (keras.backend.backend() == "jax" or network == "dense")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3), loss, jit_compile=compiled, **options)
    return model


def burst(network, arm, steps, batch_size=None, **options):
    """A burst of steps of the arm, made anew by `build`, on one batch of random numbers."""
    shape, *_, size = NETWORKS[network]
    size = batch_size or size
    rng = np.random.default_rng(0)
    x = rng.normal(size=(size, *shape)).astype("float32")
    y = rng.integers(0, CLASSES, size)
    model = build(network, arm, **options)
    return lambda: model.fit(x, y, batch_size=size, epochs=steps, shuffle=False, verbose=0)
