"""Modules side by side train as the NumPy oracle of delayed targets says."""

import os
import pathlib
import re
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
from delayed import Adam, Delayed, Descent
from models import BATCH, CLASSES, FEATURES, assert_same, mlp, weights_of
from side_by_side import EPOCHS, EXAMPLES, RAY, data, fit
from unlocked import RECIPE, assert_exact, batches, oracle_of

import keras_sg
from keras_sg._modules import given
from keras_sg.schedules import OnRay, SideBySide
from keras_sg.schedules.on_ray import _Remote
from keras_sg.schedules.worker import Feed

BACKEND = keras.backend.backend()
on_jax = pytest.mark.skipif(BACKEND != "jax", reason="several devices of a process need JAX")
# Of Ray itself, which leaves files and processes to the end of its own.
pytestmark = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning", "ignore::ResourceWarning")


def delayed(model, descent, slack=0, update_period=1, conditional=True, epochs=EPOCHS):
    """The oracle, trained as `fit` trains the model."""
    oracle = Delayed(*weights_of(model), descent, 0.02, 0.05, slack, update_period)
    x, y, weight = data()
    parts = [slice(start, start + BATCH) for start in range(0, EXAMPLES, BATCH)]
    for _ in range(epochs):
        oracle.epoch([(x[at], y[at], y[at] if conditional else None, weight[at]) for at in parts])
    return oracle


@on_jax
@pytest.mark.parametrize("slack", [0, 1])
@pytest.mark.parametrize("descent", [Descent, Adam])
@pytest.mark.parametrize("num_classes", [None, CLASSES], ids=["unconditional", "conditional"])
@pytest.mark.parametrize("interfaces", [1, 2, 3])
def test_several_devices(interfaces, num_classes, descent, slack):
    model = mlp(interfaces, num_classes)
    oracle = delayed(model, descent, slack, conditional=num_classes is not None)
    fit(model, SideBySide(slack=slack), descent)
    assert_same(model, oracle, 1e-5)


@on_jax
def test_rests():
    model = mlp(2, CLASSES, update_period=2)
    oracle = delayed(model, Adam, update_period=2, epochs=3)
    fit(model, SideBySide(), Adam, epochs=3)
    assert_same(model, oracle, 1e-5)
    assert int(model.optimizer.iterations) == 3 * EXAMPLES // BATCH


@pytest.fixture(scope="module")
def cluster():
    """Ray, on this machine's loopback; shut down behind the module's tests."""
    found = pytest.importorskip("ray")
    found.init("local", **RAY)
    yield found
    found.shutdown()


def test_actors(cluster):
    """On this backend, in processes: the oracle, the logs of the epoch, validation and a second `fit`."""
    model = mlp(2, CLASSES)
    oracle = delayed(model, Adam, slack=1, epochs=3)
    x, y, weight = data()
    history = fit(model, OnRay(slack=1), Adam, validation_data=(x, y, weight)).history
    model.fit(x, y, BATCH, sample_weight=weight, verbose=0, shuffle=False)
    assert_same(model, oracle, 1e-5)
    assert {"loss", "mae", "sg_loss", "sg_cosine", "module1_sg_loss", "val_loss", "val_mae"} <= set(history)
    expected = model.evaluate(x, y, BATCH, sample_weight=weight, verbose=0, return_dict=True)
    assert expected["loss"] < history["val_loss"][-1] < history["val_loss"][0]


@pytest.mark.skipif(BACKEND == "torch", reason="once more will do")
def test_actors_that_predict_their_inputs(cluster):
    model = mlp(2, CLASSES, synthetic_input=RECIPE)
    oracle = oracle_of(model, Adam)
    fit(model, OnRay(), Adam, epochs=3)
    for _ in range(3):
        oracle.epoch(batches(True))
    assert_exact(model, oracle)


@pytest.mark.skipif(BACKEND == "torch", reason="once more will do")
def test_actors_whose_synthesizers_see_the_input(cluster):
    """As one more label, behind the labels, is how the oracle sees it."""
    model = mlp(2, CLASSES, synthesizer=keras_sg.synthesizers.WithInput("linear", (FEATURES,)))
    oracle = Delayed(*weights_of(model), Adam, 0.02, 0.05)
    fit(model, OnRay(), Adam, epochs=3)
    for _ in range(3):
        oracle.epoch([(x, y, np.concatenate([y, x], axis=1), weight) for x, y, _, weight in batches(True)])
    assert_same(model, oracle, 1e-5)


@pytest.mark.parametrize("update_period", [1, 1000])
def test_actors_a_synthesizer_that_rests_keeps_its_statistics(cluster, update_period):
    """On this backend, in processes; with the long period, it learns in the first step only."""
    inputs = keras.Input((FEATURES,))
    recipe = keras_sg.synthesizers.MLP((4,), batch_normalization=True)
    block = keras.layers.Dense(5, name="module1")
    h = keras_sg.SyntheticGradient(block, recipe, update_period=update_period)(inputs)
    model = keras_sg.DecoupledModel(inputs, keras.layers.Dense(CLASSES)(h))
    fit(model, OnRay(), epochs=1)
    synthesizer = model.get_layer("module1").synthesizer
    statistics, kernel = synthesizer.non_trainable_variables[0], block.kernel
    before = [np.array(keras.ops.convert_to_numpy(variable)) for variable in (statistics, kernel)]
    x, y, weight = data()
    model.fit(x, y, BATCH, sample_weight=weight, shuffle=False, verbose=0)
    after = [keras.ops.convert_to_numpy(variable) for variable in (statistics, kernel)]
    moved = [bool(np.any(old != new)) for old, new in zip(before, after)]
    assert moved == [update_period == 1, True]


def test_actors_late_targets(cluster):
    """Over a slow link, targets that are older than allowed are dropped and counted; others are not."""
    model, schedule = mlp(1, CLASSES), OnRay(max_delay=2, delay=0.05)
    assert fit(model, schedule, epochs=1).history["dropped_targets"][0] > 0
    x, y, weight = data()
    schedule.max_delay = 40  # the processes are kept
    history = model.fit(x, y, BATCH, sample_weight=weight, verbose=0, shuffle=False).history
    assert history["dropped_targets"] == [0]


@on_jax
def test_actors_a_batch_does_not_wait_for_a_target(cluster):
    """In a tick that has both, the batch has been through the module while the target is still to come."""
    cluster.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors cannot import it
    model, schedule = mlp(1, CLASSES), OnRay()
    fit(model, schedule, epochs=1)
    gate = cluster.remote(Gate).options(num_cpus=0, max_concurrency=2).remote()
    below = _Remote(schedule.actors[0], None, last=False)
    x, y, _ = (rows[:BATCH] for rows in data())
    feed = Feed(0, [x], given(model, x, y, None), 1.0, None)
    below.tick((0, None, feed), None)
    target = gate.hold.remote(([np.ones((BATCH, 5), "float32")], None))
    both = below.tick((1, None, feed), (0, target))
    assert cluster.get(both.above, timeout=60)[0].tensor.shape == (BATCH, 5)
    assert not cluster.wait([both.report], timeout=0)[0]
    cluster.get(gate.open.remote())
    assert [batch for batch, *_ in cluster.get(both.report).learned] == [0]


class Gate:
    """Keeps a message until it is opened."""

    def __init__(self):
        self._opened = threading.Event()

    def hold(self, message):
        self._opened.wait()
        return message

    def open(self):
        self._opened.set()


@keras.saving.register_keras_serializable("test_side_by_side")
class Slow(keras.layers.Layer):
    """Takes its time."""

    def call(self, x):
        import time

        import jax

        jax.debug.callback(lambda: time.sleep(0.1))
        return x

    def compute_output_shape(self, shape):
        return shape


@on_jax
def test_actors_a_slow_module(cluster):
    """The modules below go on; they drop the targets that come too late, and count them."""
    cluster.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors cannot import it
    inputs = keras.Input((FEATURES,))
    h = keras_sg.SyntheticGradient(keras.layers.Dense(5, name="module1"), num_classes=CLASSES)(inputs)
    model = keras_sg.DecoupledModel(inputs, keras.layers.Dense(CLASSES)(Slow()(h)))
    before = model.get_layer("module1").synthesizer.get_weights()[0]
    history = fit(model, OnRay(max_delay=3), epochs=2).history
    assert 0 < history["dropped_targets"][0] and np.isfinite(history["loss"]).all()
    assert np.any(before != model.get_layer("module1").synthesizer.get_weights()[0])  # by those in time


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import keras
import numpy as np
import ray
from delayed import Adam
from models import CLASSES, mlp
from side_by_side import RAY, fit
from keras_sg.schedules import OnRay

backup, killing, output = sys.argv[1:]
ray.init("local", **RAY)
model = mlp(1, CLASSES)
schedule = OnRay()

class Kill(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if killing == "yes" and self.epoch == 1 and batch == 2:
            ray.kill(schedule.actors[1])

callbacks = [keras.callbacks.BackupAndRestore(backup), Kill()]
fit(model, schedule, Adam, epochs=3, callbacks=callbacks)
np.savez(output, *model.get_weights())
"""


@pytest.mark.skipif(BACKEND != "jax", reason="once will do, and JAX starts fastest")
def test_actors_killed_in_mid_epoch(cluster, tmp_path):
    """An error names the module; the same command goes on behind the last epoch, as if nothing had been."""
    script = tmp_path / "train.py"
    script.write_text(KILLED.format(tests=str(pathlib.Path(__file__).parent)))

    def run(killing):
        command = [sys.executable, script, tmp_path / "backup", killing, tmp_path / "weights.npz"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)

    died = run("yes")
    assert died.returncode == 1
    assert re.search("The process of module 1 of 2 has died", died.stderr), died.stderr[-3000:]
    gone_on = run("no")
    assert gone_on.returncode == 0, gone_on.stderr[-3000:]
    whole = mlp(1, CLASSES)
    fit(whole, OnRay(), Adam, epochs=3)
    with np.load(tmp_path / "weights.npz") as found:
        for ours, theirs in zip([found[name] for name in found.files], whole.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
