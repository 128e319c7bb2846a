"""Adam in one kernel for each weight, on TensorFlow, held to Keras's own; and where that is left alone.

The kernel takes 1 - beta_2 of a beta_2 in float32, Keras rounds the difference: their steps differ by 1e-5.
"""

import contextlib

import keras
import numpy as np
import pytest
from keras import layers

import keras_sg

pytestmark = pytest.mark.tensorflow

RNG = np.random.default_rng(0)
X = RNG.integers(0, 5, (64, 6))
LABELS = RNG.integers(0, 3, 64)
MODELS = (keras_sg.DecoupledModel, keras.Model)


class Slower(keras.optimizers.Adam):
    """Half as far as Adam."""

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient, variable, learning_rate / 2)


@pytest.fixture
def kernels(monkeypatch):
    """The shapes of the weights that kernels were made for."""
    import tensorflow as tf

    made, kernel = [], tf.raw_ops.ResourceApplyAdam

    def noted(**arguments):
        made.append(tuple(arguments["grad"].shape))
        return kernel(**arguments)

    monkeypatch.setattr(tf.raw_ops, "ResourceApplyAdam", noted)
    return made


def trained(model_class, optimizer, lookup=False, dtype=None, cut=True, **options):
    """A network of two layers after six steps; with an interface at which the true gradient passes."""
    keras.utils.set_random_seed(0)
    inputs = hidden = keras.Input((6,))
    if lookup:
        hidden = layers.Flatten()(layers.Embedding(5, 4)(hidden))
    module = layers.Dense(8, activation="tanh", dtype=dtype)
    hidden = (keras_sg.SyntheticGradient(module, mix=0.0) if cut else module)(hidden)
    model = model_class(inputs, layers.Dense(3, dtype=dtype)(hidden))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, **options)
    model.fit(X, LABELS, batch_size=32, epochs=3, shuffle=False, verbose=0)
    return model


def plain():
    return keras.optimizers.Adam(1e-2, beta_1=0.8, beta_2=0.9, epsilon=1e-3)


@pytest.mark.parametrize(
    "make, options",
    [
        (plain, {}),
        (plain, {"jit_compile": True}),
        (plain, {"run_eagerly": True}),
        (lambda: keras.optimizers.AdamW(1e-2, weight_decay=0.1, clipnorm=0.1, epsilon=1e-3), {}),
        (lambda: keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(1e-2, 2, 0.5)), {}),
        (lambda: keras.optimizers.Adam(1e-2, use_ema=True, ema_overwrite_frequency=2), {}),
        (lambda: keras.optimizers.Adam(1e-2, gradient_accumulation_steps=2), {}),
        (lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-2), initial_scale=8.0), {}),
        (lambda: keras_sg.decoupled_optimizer(keras.optimizers.Adam(1e-2)), {}),
    ],
    ids=["graph", "XLA", "eager", "AdamW", "schedule", "average", "accumulation", "loss scale", "two"],
)
def test_it_is_keras_adam(make, options, kernels):
    ours, theirs = (trained(model_class, make(), **options) for model_class in MODELS)
    assert set(kernels) == {(6, 8), (8,), (8, 8), (8, 3), (3,)}
    assert len(kernels) == 6 * (6 if "run_eagerly" in options else 1)  # steps, or the graph of one
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for a, b in zip(ours.optimizer.variables, theirs.optimizer.variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "make, options",
    [
        (lambda: keras.optimizers.Adam(1e-2, amsgrad=True), {}),
        (lambda: Slower(1e-2), {}),
        (lambda: keras.optimizers.Adam(1e-2), {"dtype": "float64"}),
    ],
    ids=["amsgrad", "one's own", "float64"],
)
def test_all_else_is_left_to_keras(make, options, kernels):
    ours, theirs = (trained(model_class, make(), **options) for model_class in MODELS)
    assert not kernels
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("options", [{}, {"jit_compile": True}, {"run_eagerly": True}], ids=str)
def test_a_model_without_interfaces_is_a_plain_one_to_the_bit(options, kernels):
    ours = trained(keras_sg.DecoupledModel, plain(), cut=False, **options)
    theirs = trained(keras.Model, plain(), cut=False, **options)
    assert not kernels
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_sparse_gradients_are_left_to_keras(kernels):
    ours, theirs = (trained(model_class, keras.optimizers.Adam(1e-2), lookup=True) for model_class in MODELS)
    assert set(kernels) == {(24, 8), (8,), (8, 8), (8, 3), (3,)}
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_under_a_strategy_it_is_left_to_keras(two_devices, kernels):
    def make(model_class):
        with two_devices.scope():
            return trained(model_class, keras.optimizers.Adam(1e-2))

    ours, theirs = map(make, MODELS)
    assert not kernels
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_optimizer_is_as_before_when_a_step_fails():
    from keras_sg._trainers.tensorflow import adam

    optimizer = keras.optimizers.Adam()
    optimizer.build([keras.Variable(0.0)])
    attributes = set(vars(optimizer))
    with contextlib.suppress(ZeroDivisionError), adam.fused(optimizer):
        assert set(vars(optimizer)) == attributes | {"update_step"}
        raise ZeroDivisionError
    assert set(vars(optimizer)) == attributes
