"""Reading what training left behind: every kind of source, as the tools that make it make it."""

import importlib
import json

import keras
import numpy as np
import pytest

from keras_sg import histories

X, Y = np.ones((8, 3), "float32"), np.arange(8) % 2


def model():
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile("sgd", loss, metrics=["accuracy"])
    return network


def test_what_fit_returns_and_what_callbacks_wrote_are_the_same(tmp_path):
    table, dump = tmp_path / "log.csv", tmp_path / "log.json"
    history = model().fit(X, Y, epochs=3, verbose=0, callbacks=[keras.callbacks.CSVLogger(table)])
    dump.write_text(json.dumps(history.history))
    expected = {key: ([1, 2, 3], values) for key, values in history.history.items()}
    assert set(expected) == {"loss", "accuracy"} and expected["loss"][1][0] > expected["loss"][1][2]
    for source in (history, history.history, dump, str(dump)):
        assert histories.read(source) == {"": expected}
    found = histories.read(str(table))[""]
    assert found.pop("epoch") == ([1, 2, 3], [0.0, 1.0, 2.0]) and found == expected
    together = {"a": history, "b": history.history, "c": dump, "d": str(dump)}
    assert histories.read(together) == dict.fromkeys("abcd", expected)


def test_what_an_epoch_does_not_report_is_no_number(tmp_path):
    table = tmp_path / "log.csv"
    log = keras.callbacks.CSVLogger(table)
    model().fit(X, Y, epochs=2, verbose=0, validation_data=(X, Y), validation_freq=2, callbacks=[log])
    values = histories.read(table)[""]["val_loss"][1]
    assert np.isnan(values[0]) and values[1] > 0
    # Stopped while it was writing the last row.
    table.write_text("epoch,loss\n0,2.5\n1")
    assert histories.read(table)[""]["loss"][1][0] == 2.5 and np.isnan(
        histories.read(table)[""]["loss"][1][1]
    )
    table.write_text("")
    assert histories.read(table) == {"": {}}


@pytest.mark.tensorflow
def test_the_results_of_an_example(tmp_path, from_the_root):
    runs = importlib.import_module("examples.runs")
    import tensorflow as tf

    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    for arm in ("first", "second"):
        runs.train(model(), arm, batches, batches, epochs=2, settings={"seed": 0}, output=tmp_path)
    found = histories.read(tmp_path / "results.json")
    assert list(found) == ["first", "second"]
    for record in found.values():
        # Settings, versions and the sum of the seconds are no series.
        assert set(record) == {"epoch_seconds", "train_accuracy", "test_accuracy", "test_loss"}
        steps, values = record["test_loss"]
        assert steps == [1, 2] and values[1] < values[0]


def test_series_by_step_and_what_is_no_series():
    record = {
        "test_accuracy": {"500": 0.5, "1000": 0.75},
        "learning_rates": [4.0, None],
        "settings": {"seed": 0},
        "seed": 0,
        "none yet": [],
        "array": np.array([1.5]),
    }
    series = {"test_accuracy": ([500.0, 1000.0], [0.5, 0.75]), "array": ([1], [1.5])}
    assert histories.read(record) == {"": series}
    assert histories.read({"sg": record}) == {"sg": series}
    assert histories.read({}) == {"": {}}


@pytest.mark.parametrize("wrong", [3, None, [1.0, 2.0]])
def test_what_is_no_history(wrong, tmp_path):
    with pytest.raises(ValueError, match=rf"(?s)Received something else: .*of type {type(wrong).__name__}"):
        histories.read(wrong)
    path = tmp_path / "list.json"
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"list.json.*which holds list"):
        histories.read(path)


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("a.json", b"", "cannot be read as JSON.*cut short.*JSONDecodeError: Expecting value"),
        ("a.json", b'{"loss": [1.0, 0.', "cannot be read as JSON.*JSONDecodeError"),
        ("a.json", b"\x89HDF\r\n", "cannot be read as JSON.*UnicodeDecodeError"),
        ("a.csv", b"\x89HDF\r\n", "cannot be read as CSV.*UnicodeDecodeError"),
        (
            "a.csv",
            b"epoch,loss\n0,1.0,2.0\n",
            "cannot be read as CSV.*a row has more cells than the first",
        ),
    ],
)
def test_a_damaged_file(name, content, reason, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    for history in (path, str(path), {"first": path}):
        with pytest.raises(ValueError, match=rf"{name}' {reason}"):
            histories.read(history)
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", ["a.json", "a.csv"])
def test_a_file_that_cannot_be_opened(name, tmp_path):
    """The error is Python's own kind; it says what else would have been a history."""
    with pytest.raises(FileNotFoundError, match=rf"A history is what fit.*{name}"):
        histories.read(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(IsADirectoryError, match=rf"a directory\. A history is what fit.*Received: .*{name}"):
        histories.read(tmp_path / name)
