"""Keras's own callbacks: they see the metrics of the synthesizers, and act on both optimizers."""

import csv

import keras
import numpy as np
import pytest
from table import ROWS, rows


@rows("callbacks")
def test_keras_callbacks(name, tmp_path):
    row = ROWS[name]
    model = row.compiled(run_eagerly=True)
    rates = []
    optimizers = model.optimizer.optimizers
    rate_of = lambda optimizer: float(np.asarray(optimizer.learning_rate))
    observers = [
        keras.callbacks.LambdaCallback(on_epoch_begin=lambda *_: rates.append([*map(rate_of, optimizers)])),
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2 if epoch == 1 else rate),
        keras.callbacks.ReduceLROnPlateau("sg_loss", 0.1, patience=1, min_delta=1e9, mode="min"),
        keras.callbacks.EarlyStopping("val_loss", patience=2, min_delta=1e9),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.TensorBoard(tmp_path / "board", histogram_freq=0, write_graph=False),
    ]
    history = row.fit(model, 9, callbacks=observers, validation_data=row.data())

    # Nothing improves by 1e9: stopped in the third epoch; before it, halved once and cut to a tenth once.
    assert len(rates) == 3
    np.testing.assert_allclose(rates[2], np.array(rates[0]) / 20, rtol=1e-5)
    assert rates[0] == pytest.approx([0.01, 0.1])

    reported = {f"{who}sg_{what}" for who in ("", "module1_", "module2_") for what in ("loss", "cosine")}
    assert reported <= set(history) and all(len(history[key]) == 3 for key in reported)
    with (tmp_path / "log.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {"epoch", "loss", "val_loss"} | reported <= set(lines[0])
    assert [float(line["sg_loss"]) for line in lines] == pytest.approx(history["sg_loss"], rel=1e-5)
    assert {f"epoch_{key}" for key in reported | {"loss"}} <= tags(tmp_path / "board" / "train")


def tags(folder):
    """The names of all that was written to a folder for TensorBoard."""
    import tensorflow as tf
    from tensorflow.core.util.event_pb2 import Event

    records = [r for path in folder.iterdir() for r in tf.data.TFRecordDataset(str(path))]
    return {value.tag for record in records for value in Event.FromString(record.numpy()).summary.value}
