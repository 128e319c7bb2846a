"""What the callbacks observe arrives where Keras's own loggers write it."""

import csv
import re
import sys

import keras
import numpy as np
import pytest
from models import BATCH, data, mlp, optimizer

from keras_sg import callbacks

pytestmark = pytest.mark.tensorflow

KEYS = {f"module{i}_alignment_{measure}" for i in (1, 2) for measure in ("cosine", "error", "sign")} | {
    "module1_update_size",
    "module1_synthesizer_update_size",
    "module2_update_size",
    "module2_synthesizer_update_size",
    "output_update_size",
    "mix",
    "sg_loss",
    "sg_cosine",
    "module1_sg_loss",
    "module1_sg_cosine",
    "module2_sg_loss",
    "module2_sg_cosine",
}


def fit(*loggers, first=()):
    x, y, _ = data()
    model = mlp(2)
    model.compile(optimizer(), "mse")
    observers = [
        callbacks.GradientAlignment(x, y),
        callbacks.UpdateSize(),
        callbacks.MixSchedule(lambda epoch: [0.5, 1.0][epoch]),
    ]
    return model.fit(
        x,
        y,
        BATCH,
        epochs=2,
        validation_data=(x, y),
        verbose=0,
        callbacks=[*first, *observers, *loggers],
    ).history


def scalars(folder):
    """The scalars in a folder of event files: by tag, a list of values."""
    import tensorflow as tf
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    return {
        tag: [tf.make_ndarray(event.tensor_proto).item() for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
        if tag.startswith("epoch_")
    }


def test_tensorboard_shows_them(tmp_path):
    board = keras.callbacks.TensorBoard(tmp_path, histogram_freq=1)
    history = fit(board)
    assert KEYS < set(history) and history["mix"] == [0.5, 1.0]
    assert all(re.fullmatch("[a-z0-9_]+", key) for key in history)
    found = scalars(tmp_path / "train")
    for key in KEYS | {"loss"}:
        np.testing.assert_allclose(found[f"epoch_{key}"], history[key], rtol=1e-6)
    # Nothing of it is reported of the validation data, where nothing is learned.
    assert set(scalars(tmp_path / "validation")) == {"epoch_loss"}


def test_csv_logger_writes_them(tmp_path):
    history = fit(keras.callbacks.CSVLogger(tmp_path / "log.csv"))
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) == set(history) | {"epoch"} and set(history) > KEYS
    for key, values in history.items():
        assert [float(row[key]) for row in rows] == pytest.approx(values)


def test_a_logger_that_comes_first_misses_what_is_observed_after_it(tmp_path):
    """Keras hands one dictionary from callback to callback: hence the rule in `keras_sg.callbacks`."""
    fit(first=[keras.callbacks.CSVLogger(tmp_path / "log.csv")])
    header = (tmp_path / "log.csv").read_text().splitlines()[0].split(",")
    assert "sg_cosine" in header and "mix" not in header
    assert "observers, then loggers" in " ".join(callbacks.__doc__.split())


def test_without_tensorboard_the_error_names_it(tmp_path, monkeypatch):
    for module in ("tensorboard", *(name for name in sys.modules if name.startswith("tensorboard."))):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(Exception, match="TensorBoard is not installed"):
        fit(keras.callbacks.TensorBoard(tmp_path))
