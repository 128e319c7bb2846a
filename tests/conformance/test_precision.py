"""In every precision: what is trained in float32 trains in others, and comes to the same numbers."""

import functools

import keras
import numpy as np
import pytest
from keras import layers
from table import (
    CLASSES,
    CONV,
    CUT,
    FEATURES,
    MLP,
    ROWS,
    VALUE,
    Row,
    assert_same,
    dense,
    numbers,
    one_optimizer,
    predicted,
)

import keras_sg
from keras_sg import DecoupledModel, SyntheticGradient, SyntheticLoss, callbacks, synthesizers
from keras_sg._interfaces.interface import interfaces_in

BACKEND = keras.backend.backend()
STEPS = 4  # positions of a sequence
SOBOLEV = dict(sobolev=True, mix=0.3)

# floatx, the policy, and the dtype of the modules and their interfaces where it is another.
KINDS = {
    "float64": ("float64", "float64", None),
    "modules in float64": ("float32", "float32", "float64"),
    "modules in float32": ("float64", "float64", "float32"),
    "modules in float16": ("float32", "float32", "float16"),
    "mixed_bfloat16": ("float32", "mixed_bfloat16", None),
    "mixed_float16": ("float32", "mixed_float16", None),
    "bfloat16": ("float32", "bfloat16", None),
    "float16": ("float32", "float16", None),
}
TOLERANCE = {"float64": 1e-5, "float32": 1e-5, "float16": 2e-2, "bfloat16": 5e-2}


class Sequences(Row):
    """Trained on sequences with a label for each position, of which some are masked."""

    def data(self):
        x = np.random.default_rng(1).normal(size=(16, STEPS, FEATURES)).astype("float32")
        x[1, 2:] = x[5, 3:] = 0.0
        return x, np.random.default_rng(2).integers(0, CLASSES, (16, STEPS))


def masked(interface, *args, **options):
    def make():
        inputs = keras.Input((STEPS, FEATURES))
        block = layers.Dense(5, "tanh", name="module1")
        h = interface(block, *args, **options)(layers.Masking()(inputs))
        return DecoupledModel(inputs, layers.Dense(CLASSES, name="last")(h))

    return make


PER_POSITION = synthesizers.Critic((4,), per_position=True)
CLIPPED = functools.partial(one_optimizer, global_clipnorm=0.1)
ALL = ROWS | {
    "mae, mix, label vectors": Row(dense(loss="mae", mix=0.3, label_size=CLASSES), bits=True),
    "clipped": Row(dense(count=2, **CUT), optimizer=CLIPPED),
    "clipped, update period": Row(dense(update_period=2, **CUT), optimizer=CLIPPED),
    "value, sobolev": Row(dense(SyntheticLoss, VALUE, **SOBOLEV)),
    "plain model, low rank, mix": Row(
        dense(SyntheticGradient, synthesizers.Linear(rank=2), mix=0.3, model_class=keras.Model)
    ),
    "masked": Sequences(masked(SyntheticGradient, MLP, **CUT)),
    "masked, error": Sequences(masked(SyntheticGradient, synthesizers.PredictedError((4,)), **CUT)),
    "masked, conv": Sequences(masked(SyntheticGradient, CONV)),
    "masked, critic per position": Sequences(masked(SyntheticLoss, PER_POSITION, **SOBOLEV, **CUT)),
}


GIVEN = {"a layer"}  # its synthesizer was made before, in float32, and keeps that


def tried():
    """The rows and kinds that are tried together."""
    for name, row in ALL.items():
        for kind, (_, policy, of_modules) in KINDS.items():
            mixed = policy.startswith("mixed")
            if row.optimizer is CLIPPED and of_modules:
                continue  # Keras on TensorFlow cannot clip gradients of several dtypes by one norm
            if name == "inside a layer" and of_modules:
                continue  # its modules are not in the model's configuration
            half = "half" in row.tried.split()
            if (mixed and half) or (kind in SELDOM and not half):
                continue  # mixed precision is tried in test_running.py, for longer
            if BACKEND == "jax" and (name, kind) not in ON_JAX:
                continue
            yield name, kind


SELDOM = ("modules in float16", "mixed_bfloat16")
# JAX compiles each operation for each dtype, which takes seconds.
ON_JAX = [("critic, sobolev", "float64"), ("critic, sobolev", "modules in float64")]


@pytest.fixture(autouse=True)
def double_precision():
    """JAX computes in float32 unless told otherwise."""
    if BACKEND != "jax":
        yield
        return
    import jax

    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(autouse=True)
def clean_floatx():
    yield
    keras.config.set_floatx("float32")


def built(name, kind=None, values=None):
    """The model of a row in precision of a kind, with the weights `values`; by default in float32."""
    floatx, policy, of_modules = KINDS.get(kind, ("float32", "float32", None))
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)
    model = ALL[name].build()
    if of_modules:
        model = type(model).from_config(with_modules_in(of_modules, model.get_config()))
    model.set_weights(starting_weights(name) if values is None else values)
    return model


def with_modules_in(dtype, config, inside=False):
    """A configuration in which all interfaces, and the layers in them, have another dtype."""
    if isinstance(config, dict):
        kinds = ("keras_sg>Synthetic", "keras_sg>RecurrentSynthetic", "keras_sg>Local")
        inside = inside or str(config.get("registered_name")).startswith(kinds)
        return {
            key: dtype if inside and key == "dtype" else with_modules_in(dtype, value, inside)
            for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return type(config)(with_modules_in(dtype, value, inside) for value in config)
    return config


def train(name, model, **options):
    """Two steps, the first with sample weights; returns what each reports."""
    row = ALL[name]
    optimizer = row.optimizer()
    if model.dtype_policy.name == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, 2.0**8)
    loss = keras.losses.BinaryCrossentropy if row.bits else keras.losses.SparseCategoricalCrossentropy
    model.compile(optimizer, loss(from_logits=True), **options)
    x, y = row.one_batch()
    weight = np.ones(y.shape if isinstance(row, Sequences) else len(y))
    # A synthetic loss and a mask without sample weights do not go together on PyTorch.
    again = np.ones_like(weight) if isinstance(row, Sequences) else None
    weight[3], weight[len(y) // 2 - 1] = 2.0, 0.0
    return [model.train_on_batch(x, y, w, return_dict=True) for w in (weight, again)]


@functools.cache
def starting_weights(name):
    """Those of the row in float32, which every other precision can hold or round."""
    found = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    values = numbers(ALL[name].build().weights)
    keras.config.set_floatx(found[0])
    keras.config.set_dtype_policy(found[1])
    return values


@functools.cache
def in_single_precision(name):
    model = built(name)
    reports = train(name, model, run_eagerly=True)
    return wide(model.weights), reports


def wide(variables):
    return [number.astype("float64") for number in numbers(variables)]


@pytest.mark.parametrize("name, kind", list(tried()))
def test_two_steps(name, kind):
    expected, expected_reports = in_single_precision(name)
    model = built(name, kind)
    reports = train(name, model, run_eagerly=True)
    _, policy, of_modules = KINDS[kind]
    tolerance = TOLERANCE[(of_modules or policy).removeprefix("mixed_")]
    assert_same(wide(model.weights), expected, tolerance)
    for report, one in zip(reports, expected_reports):
        assert report == pytest.approx(one, rel=10 * tolerance, abs=10 * tolerance)

    stored = "float32" if policy.startswith("mixed") else policy
    for interface in interfaces_in(model):
        own = interface.layer.weights if name in GIVEN else interface.weights
        assert {variable.dtype for variable in own} == {of_modules or stored}
    assert {variable.dtype for variable in keras_sg_free(model)} <= {stored}
    if isinstance(model, DecoupledModel):
        for pair in model.interface_gradients(*ALL[name].one_batch()).values():
            if (
                BACKEND == "tensorflow" and name not in GIVEN
            ):  # elsewhere, Keras's operations turn float64 into float32
                wanted = "float64" if "64" in (of_modules or policy) else "float32"
                assert {array.dtype.name for array in pair} == {wanted}
            assert all(np.isfinite(array).all() for array in pair)


def keras_sg_free(model):
    """The variables of a model that are in no interface."""
    inside = {id(variable) for interface in interfaces_in(model) for variable in interface.weights}
    return [variable for variable in model.weights if id(variable) not in inside]


@pytest.mark.parametrize("name", list(dict.fromkeys(name for name, _ in tried() if name not in GIVEN)))
def test_in_double_precision_nothing_is_rounded_to_single(name):
    """From weights at equal distances on a line, two steps lead to weights almost on a line.

    Numbers that were rounded to float32 on their way would jump by some 1e-9.
    """
    rng, found = np.random.default_rng(3), []
    start = [number.astype("float64") for number in starting_weights(name)]
    direction = [rng.uniform(size=number.shape) for number in start]
    for distance in (0.0, 1e-7, 2e-7):  # small: where a ReLU bends, they turn
        model = built(name, "float64", [a + distance * b for a, b in zip(start, direction)])
        train(name, model, run_eagerly=True)
        found.append(wide(model.weights))
    for first, second, third in zip(*found):
        np.testing.assert_allclose(first - 2 * second + third, 0.0, atol=2e-10)


@pytest.mark.parametrize("kind", ["float64", "modules in float64", "float16"])
def test_watched_saved_and_loaded(kind, tmp_path):
    """Compiled, but on PyTorch."""
    x, y = ALL["both kinds"].data()
    model = built("both kinds", kind)
    train("both kinds", model)
    watching = [
        callbacks.GradientAlignment(x, y),
        callbacks.UpdateSize(),
        callbacks.MixSchedule(lambda epoch: 0.3),
    ]
    history = model.fit(x, y, batch_size=8, epochs=1, verbose=0, callbacks=watching).history
    assert {"module1_alignment_cosine", "module1_update_size", "mix"} <= set(history)
    assert all(np.isfinite(values).all() for values in history.values()), history
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [v.dtype for v in loaded.weights] == [v.dtype for v in model.weights]
    assert_same(numbers(loaded.weights), numbers(model.weights))
    assert np.isfinite(loaded.train_on_batch(x, y, return_dict=True)["loss"])
    plain = keras_sg.strip(model)
    np.testing.assert_array_equal(predicted(plain, x), predicted(model, x))
