"""Saved, loaded, copied, exported: what was, is again."""

import os
import pathlib
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from killed import KILLED, train
from table import EPOCHS, ROWS, assert_same, numbers, predicted, rows, state

import keras_sg
from keras_sg._interfaces.interface import interfaces_in

HERE = pathlib.Path(__file__).parent


@rows()
def test_loaded_it_predicts_the_same(name, reference):
    """From the whole file, with no `custom_objects`; and from the file of weights."""
    row, run = ROWS[name], reference(name)
    x, _ = row.data()
    loaded = keras.models.load_model(run.folder / f"{EPOCHS}.keras")
    made = row.build()
    assert type(loaded) is type(made)
    np.testing.assert_array_equal(predicted(loaded, x), run.predictions)
    assert_same(state(loaded), run.state)
    assert not np.allclose(predicted(made, x), run.predictions, atol=1e-3)
    made.load_weights(run.folder / f"{EPOCHS}.weights.h5")
    np.testing.assert_array_equal(predicted(made, x), run.predictions)
    assert_same(numbers(made.weights), run.weights)


@rows()
def test_loaded_in_mid_training_it_goes_on(name, reference):
    """To the weights and the state of the optimizers of the run that never stopped; here, as a graph."""
    row, run = ROWS[name], reference(name)
    loaded = keras.models.load_model(run.folder / "1.keras")
    loaded.run_eagerly = False
    history = row.fit(loaded, EPOCHS, initial_epoch=1)
    assert_same(state(loaded), run.state, 1e-5)
    assert set(history) == set(run.history)
    for key, values in history.items():
        assert values == pytest.approx(run.history[key][1:], rel=1e-4, abs=1e-6), key


@rows()
def test_configured_and_cloned(name):
    row = ROWS[name]
    x, _ = row.data()
    model = row.build()
    again = type(model).from_config(model.get_config())
    assert again.get_config() == model.get_config()
    for copy in (again, keras.models.clone_model(model)):
        assert type(copy) is type(model)
        for ours, theirs in zip(interfaces_in(copy), interfaces_in(model), strict=True):
            assert ours is not theirs and ours.get_config() == theirs.get_config()
        assert not np.allclose(predicted(copy, x), predicted(model, x), atol=1e-3)
        copy.set_weights(model.get_weights())
        np.testing.assert_array_equal(predicted(copy, x), predicted(model, x))


@rows("export")
def test_exported_it_serves_predictions_and_holds_no_synthesizer(name, tmp_path, capsys):
    import tensorflow as tf

    row = ROWS[name]
    x, _ = row.data()
    model = row.build()
    plain = keras_sg.strip(model)
    # Keras itself writes all weights of a plain model; a DecoupledModel leaves the synthesizers out.
    for network in (plain, model) if isinstance(model, keras_sg.DecoupledModel) else (plain,):
        folder = tmp_path / type(network).__name__
        network.export(folder, verbose=False)
        served = tf.saved_model.load(folder)
        np.testing.assert_allclose(served.serve(x), model(x), rtol=0, atol=1e-6)
        assert [v.shape for v in served.variables] == [v.shape for v in plain.variables]
        written = tf.train.load_checkpoint(folder / "variables" / "variables")
        sizes = written.get_variable_to_shape_map()
        assert len([key for key in sizes if key.startswith("variables/")]) == len(plain.variables)


def test_what_cannot_be_taken_out_is_exported_as_it_is(tmp_path, capsys):
    import tensorflow as tf

    row = ROWS["inside a layer"]
    model = row.build()
    model.export(tmp_path / "model", verbose=False)
    served = tf.saved_model.load(tmp_path / "model")
    np.testing.assert_allclose(served.serve(row.data()[0]), model(row.data()[0]), rtol=0, atol=1e-6)


def test_killed_it_goes_on_when_it_is_started_again(tmp_path, reference):
    """BackupAndRestore in a process that is killed in the middle of an epoch; this one goes on."""
    paths = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]
    command = [sys.executable, str(HERE / "killed.py"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert any(line.startswith("waiting") for line in process.stdout)
        finally:
            os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    train(tmp_path, KILLED, wait=False)
    for name in KILLED:
        with np.load(tmp_path / f"{name}.npz") as found:
            assert_same([found[key] for key in found.files], reference(name).state, 1e-6)
            assert found.files
        assert (tmp_path / f"{name}.epochs").read_text().split() == ["0", "1", "1"]
