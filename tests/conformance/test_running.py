"""However it is run, on whatever kind of data, a row ends with the same numbers.

Graph mode against eager mode, for all rows, is in `test_saving.py`.
"""

import keras
import numpy as np
import pytest
from table import BATCH, EAGERLY, EPOCHS, ROWS, assert_same, numbers, rows, state

import keras_sg


@rows("xla")
def test_compiled(name, reference):
    row = ROWS[name]
    model = row.compiled(jit_compile=True)
    row.fit(model)
    assert_same(state(model), reference(name).state, 1e-5)


@rows("steps")
def test_several_steps_per_execution(name, reference):
    row = ROWS[name]
    model = row.compiled(steps_per_execution=2)
    history = row.fit(model)
    assert_same(state(model), reference(name).state, 1e-5)
    for key, values in reference(name).history.items():
        assert history[key] == pytest.approx(values, rel=1e-4, abs=1e-6), key


# What `compile` says of the rows whose modules cannot be taken in turn.
TOGETHER_ONLY = {
    "a layer": "a share of the true gradient passes",
    "local, label vectors": "a share of the true gradient passes",
    "decoupled nested": "sits inside a layer that is neither",
    "inside a layer": "sits inside a layer that is neither",
    "recurrent": "lies between windows of time",
    "feedback": "receives the error of the model's output",
}


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.decoupled])
def test_in_turn_or_refused(name, reference):
    row = ROWS[name]
    if name in TOGETHER_ONLY:
        with pytest.raises(ValueError, match=TOGETHER_ONLY[name]):
            row.compiled(schedule="in_turn")
        return
    model = row.compiled(run_eagerly=EAGERLY, schedule="in_turn")
    history = row.fit(model)
    assert_same(state(model), reference(name).state, 1e-6)
    for key, values in reference(name).history.items():
        assert history[key] == pytest.approx(values, rel=1e-5, abs=1e-6), key


@rows("mirrored")
def test_two_devices(name, reference, two_devices):
    row = ROWS[name]
    with two_devices.scope():
        model = row.compiled()
    row.fit(model)
    assert_same(numbers(model.weights), reference(name).weights, 1e-5)


@rows("accumulation")
def test_accumulated_small_batches_are_the_large_batch(name, reference):
    row = ROWS[name]
    model = row.compiled(row.optimizer(gradient_accumulation_steps=2), run_eagerly=EAGERLY)
    row.fit(model, batch_size=BATCH // 2)
    assert_same(numbers(model.weights), reference(name).weights, 1e-5)


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x) // BATCH

    def __getitem__(self, index):
        at = slice(index * BATCH, (index + 1) * BATCH)
        return self.x[at], self.y[at]


def slices(x, y):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)


def mean(reports):
    """Of what is reported of each batch."""
    reports = list(reports)
    return {key: np.mean([report[key] for report in reports]) for key in reports[0]}


@rows("data")
@pytest.mark.parametrize("kind", ["tf.data", "PyDataset", "batches"])
def test_every_kind_of_data(name, kind, reference):
    row, run = ROWS[name], reference(name)
    x, y = row.data()
    model = row.compiled(run_eagerly=EAGERLY, metrics=["accuracy"])
    batches = Batches(x, y)
    if kind == "batches":
        batches = [batches[i] for i in range(len(batches))]
        for _ in range(EPOCHS):
            logs = mean(model.train_on_batch(*batch, return_dict=True) for batch in batches)
        scores = mean(model.test_on_batch(*batch, return_dict=True) for batch in batches)
        predictions = np.concatenate([model.predict_on_batch(x) for x, _ in batches])
    else:
        data = slices(x, y) if kind == "tf.data" else batches
        fitted = model.fit(data, epochs=EPOCHS, shuffle=False, verbose=0).history
        logs = {key: values[-1] for key, values in fitted.items()}
        scores = model.evaluate(data, return_dict=True, verbose=0)
        predictions = model.predict(data, verbose=0)
    assert_same(numbers(model.weights), run.weights, 1e-6)
    for key, values in run.history.items():
        assert logs[key] == pytest.approx(values[-1], rel=1e-4, abs=1e-6), key
    np.testing.assert_allclose(predictions, run.predictions, rtol=0, atol=1e-5)
    assert scores == pytest.approx(model.evaluate(x, y, batch_size=BATCH, return_dict=True, verbose=0))
    assert set(scores) == {"loss", "accuracy"}


@rows("half")
def test_half_precision_with_a_loss_scale_that_moves(name, reference):
    """Three rises of the loss scale in eight steps; the numbers are float32's, to half precision."""
    row, run = ROWS[name], reference(name)
    keras.config.set_dtype_policy("mixed_float16")
    optimizer = keras.optimizers.LossScaleOptimizer(row.optimizer(), 2.0**8, dynamic_growth_steps=2)
    model = row.compiled(optimizer)
    scales = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: scales.append(float(optimizer.dynamic_scale.numpy()))
    )
    history = row.fit(model, callbacks=[watch])
    assert scales == [2.0 ** (8 + step // 2) for step in range(1, 9)]
    check_half(model, history, run, 1e-2)


@rows("half")
def test_half_precision_of_the_other_kind(name, reference):
    row, run = ROWS[name], reference(name)
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = row.compiled(run_eagerly=EAGERLY)
    check_half(model, row.fit(model), run, 5e-2)


def check_half(model, history, run, tolerance):
    assert {layer.compute_dtype for layer in model.interfaces} & {"float16", "bfloat16"}
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
    assert_same(numbers(model.weights), run.weights, tolerance)
    for key, values in run.history.items():
        assert history[key] == pytest.approx(values, rel=0.1, abs=0.05), key


def test_resumed_in_half_precision(tmp_path):
    """The loss scale, and its count of steps without an overflow, are saved and go on, too."""
    row = ROWS["critic, sobolev"]
    keras.config.set_dtype_policy("mixed_float16")
    scaled = keras.optimizers.LossScaleOptimizer(row.optimizer(), 2.0**8, dynamic_growth_steps=3)
    model = row.compiled(scaled, run_eagerly=EAGERLY)
    row.fit(model, 1)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, again):
        row.fit(each, EPOCHS, initial_epoch=1)
    assert_same(state(again), state(model))
    assert float(again.optimizer.dynamic_scale.numpy()) == 2.0**10
    assert isinstance(again.optimizer.inner_optimizer, type(keras_sg.decoupled_optimizer()))
