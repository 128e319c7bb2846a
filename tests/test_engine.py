"""Compiling on JAX: functions that are alike share a program, and those that differ in anything do not."""

import types

import keras
import numpy as np
import pytest
from in_turn import assert_same, crossentropy, numbers, seeded
from keras import layers

import keras_sg
from keras_sg._modules.engine import compiled

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="programs are shared on JAX only")
MODEL = types.SimpleNamespace(run_eagerly=False, jit_compile=True)
X = keras.ops.convert_to_tensor(np.random.default_rng(0).normal(size=(8, 6)), "float32")


def made(*functions):
    """The functions, compiled, and the programs that they share."""
    programs = {}
    return [compiled(function, MODEL, programs=programs) for function in functions], programs


def scaled(by):
    return lambda x: keras.ops.matmul(x, keras.ops.ones((6, 6)) * by)


def test_what_is_alike_is_compiled_once():
    (first, second), programs = made(scaled(2.0), scaled(2.0))
    np.testing.assert_array_equal(first(X), second(X))
    assert len(programs) == 1
    second(X[:4])  # another shape
    np.testing.assert_array_equal(first(X[:4]), second(X[:4]))
    assert len(programs) == 2


@pytest.mark.parametrize(
    "other",
    [
        scaled(2.000001),
        lambda x: scaled(2.0)(x) + 0.0001,
        lambda x: keras.ops.matmul(x, np.full((6, 6), 2.0, "float32") + np.eye(6, dtype="float32") * 1e-5),
        lambda x: [scaled(2.0)(x)],
    ],
    ids=["number", "operation", "array", "structure"],
)
def test_what_differs_is_not_shared(other):
    (first, second), programs = made(scaled(2.0), other)
    first(X)
    np.testing.assert_allclose(np.asarray(second(X)), np.asarray(other(X)), rtol=1e-6)
    assert len(programs) == 2


def test_what_calls_python_back_is_not_shared():
    """The text of such a program does not say what is called."""
    import jax

    def calling(by):
        return lambda x: jax.pure_callback(lambda x: np.asarray(x) * np.float32(by), x, x)

    (first, second), programs = made(calling(2), calling(3))
    np.testing.assert_allclose(first(X), 2 * X)
    np.testing.assert_allclose(second(X), 3 * X)
    assert programs == {}


def network(slopes):
    """Equal blocks behind a first one, but for the slope of each; a number, not a weight."""

    def make():
        inputs = h = keras.Input((6,))
        for i, slope in enumerate(slopes):
            block = keras.Sequential([layers.Dense(6), layers.LeakyReLU(slope)], name=f"block{i}")
            h = keras_sg.SyntheticGradient(block, num_classes=3)(h)
        return keras_sg.DecoupledModel(inputs, layers.Dense(3, name="last")(h))

    return seeded(make)


@pytest.mark.parametrize(("slopes", "programs"), [((0.1, 0.1, 0.1, 0.1), 2), ((0.1, 0.1, 0.3, 0.1), 3)])
def test_modules_that_are_alike(slopes, programs):
    found = []
    for schedule in ("together", "in_turn"):
        model = network(slopes)
        model.compile(keras.optimizers.SGD(0.1), crossentropy(), schedule=schedule)
        model.fit(X, np.arange(8) % 3, epochs=2, shuffle=False, verbose=0)
        found.append(numbers(model))
    assert_same(*found)
    chosen = [run._chosen for run in model.runner._run[:-1]]
    assert len({id(program) for by_kind in chosen for program in by_kind.values()}) == programs
