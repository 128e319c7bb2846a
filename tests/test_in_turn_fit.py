"""In turn under everything that `fit` is told, given and watched by: the numbers of one program."""

import keras
import numpy as np
import pytest
from backends import compiled as compiles
from backends import several_steps
from in_turn import (
    BATCH,
    CLASSES,
    CRITIC,
    EPOCHS,
    EXAMPLES,
    LABELS,
    MLP,
    Fresh,
    X,
    assert_same,
    chain,
    check,
    compiled,
    gradient,
    loss,
    numbers,
    optimizer,
    train,
)

import keras_sg
from keras_sg import callbacks


def cuts():
    return chain(
        lambda layer: gradient(layer, MLP, update_period=2), lambda layer: loss(layer, CRITIC, sobolev=True)
    )


def both():
    return chain(lambda layer: gradient(layer, MLP), lambda layer: loss(layer, CRITIC, sobolev=True))


@pytest.mark.parametrize(
    "options",
    [
        {"run_eagerly": True},
        {"run_eagerly": False, "jit_compile": False},
        pytest.param({"run_eagerly": False, "jit_compile": True}, marks=compiles),
        pytest.param({"run_eagerly": False, "steps_per_execution": 2}, marks=several_steps),
    ],
    ids=["eagerly", "not compiled", "compiled", "several steps"],
)
def test_however_it_is_run(options):
    check(cuts, metrics=["accuracy"], **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda: optimizer(global_clipnorm=0.01),
        lambda: optimizer(gradient_accumulation_steps=2),
        lambda: optimizer(use_ema=True, ema_overwrite_frequency=2),
        lambda: keras.optimizers.Adam(1e-2, epsilon=1e-3),
        lambda: keras.optimizers.SGD(
            keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5), clipvalue=0.01
        ),
    ],
    ids=["global_clipnorm", "accumulation", "average", "Adam", "schedule"],
)
def test_optimizers(make):
    check(both, optimizer=Fresh(make))


@pytest.mark.parametrize("policy, tolerance", [("mixed_bfloat16", 2e-2), ("mixed_float16", 2e-3)])
def test_half_precision(policy, tolerance):
    keras.config.set_dtype_policy(policy)
    model = check(both, tolerance=tolerance)
    assert {interface.compute_dtype for interface in model.interfaces} <= {"bfloat16", "float16"}


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="Keras's operations turn float64 into float32")
def test_double_precision():
    keras.config.set_dtype_policy("float64")
    keras.config.set_floatx("float64")
    check(both, X.astype("float64"), tolerance=1e-12)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return -(-EXAMPLES // BATCH)

    def __getitem__(self, index):
        at = slice(index * BATCH, (index + 1) * BATCH)
        return X[at], LABELS[at]


@pytest.fixture(scope="module")
def on_arrays():
    """What training on the arrays themselves ends with."""
    model = compiled(both)
    train(model, X, LABELS)
    return numbers(model)


@pytest.mark.parametrize("kind", ["PyDataset", "generator", "tf.data"])
def test_data_sets(kind, on_arrays):
    if kind == "tf.data":
        import tensorflow as tf

        data = tf.data.Dataset.from_tensor_slices((X, LABELS)).batch(BATCH)
    else:
        data = Batches()
    model = compiled(both)
    options = {"epochs": EPOCHS, "shuffle": False, "verbose": 0}
    if kind == "generator":
        made = (data[i % len(data)] for i in range(EPOCHS * len(data)))
        model.fit(made, steps_per_epoch=len(data), **options)
    else:
        model.fit(data, **options)
    assert_same(numbers(model), on_arrays)


def test_batch_by_batch_with_evaluations_in_between():
    models = compiled(both, "together"), compiled(both)
    for i in range(6):
        batch = Batches()[i % 3]
        logs = [model.train_on_batch(*batch, return_dict=True) for model in models]
        assert logs[1] == pytest.approx(logs[0], rel=1e-5, abs=1e-6)
        scores = [model.evaluate(X, LABELS, verbose=0, return_dict=True) for model in models]
        assert scores[1] == pytest.approx(scores[0], rel=1e-5)
    assert_same(numbers(models[1]), numbers(models[0]))


def test_callbacks(tmp_path):
    found = []
    for schedule in ("together", "in_turn"):
        model = compiled(both, schedule)
        watching = [
            keras.callbacks.ModelCheckpoint(tmp_path / f"{schedule}.keras"),
            keras.callbacks.BackupAndRestore(tmp_path / schedule),
            keras.callbacks.EarlyStopping("val_loss", patience=1, min_delta=1e9),
            callbacks.GradientAlignment(X, LABELS),
            callbacks.UpdateSize(),
        ]
        history = train(model, X, LABELS, epochs=9, validation_data=(X, LABELS), callbacks=watching)
        found.append((history, numbers(model), keras.models.load_model(tmp_path / f"{schedule}.keras")))
    (expected, whole, _), (history, turned, loaded) = found
    assert_same(turned, whole)
    assert list(history) == list(expected) and all(len(values) == 2 for values in history.values())
    for key in expected:
        np.testing.assert_allclose(history[key], expected[key], rtol=1e-4, atol=1e-5, err_msg=key)
    assert_same(numbers(loaded), turned, 0.0)


def test_metrics_with_a_state_of_many_numbers():
    y = np.eye(CLASSES, dtype="float32")[LABELS]
    check(
        both,
        y=y,
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=Fresh(
            lambda: [keras.metrics.AUC(from_logits=True, multi_label=True, name="auc"), "accuracy"]
        ),
    )


def test_compiled_anew_it_goes_on_together():
    model, expected = compiled(both), compiled(both, "together")
    for each in (model, expected):
        train(each, X, LABELS, epochs=1)
    model.compile(model.optimizer, model.loss)
    for each in (model, expected):
        train(each, X, LABELS, epochs=1)
    assert type(model.schedule) is keras_sg.schedules.Together
    assert_same(numbers(model), numbers(expected))
