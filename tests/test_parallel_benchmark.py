"""benchmarks.parallel, small: its peers train as Keras does, and it says what it measured; not how fast."""

import collections
import functools
import importlib
import json
import types

import keras
import numpy as np
import pytest

import keras_sg

BATCHES, RATE = 5, 1e-2

pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "jax", reason="is about JAX"),
    pytest.mark.usefixtures("from_the_root"),
]


@pytest.fixture(autouse=True)
def with_ray():
    pytest.importorskip("ray", reason="Ray is not installed")


def load(name):
    return importlib.import_module(f"benchmarks.{name}")


class Here:
    """An actor that is none: what is asked for is done at once, and promises are values."""

    def __init__(self):
        self._worker = load("peers.two_workers").Worker()

    def __getattr__(self, name):
        method = getattr(self._worker, name)
        fetched = types.SimpleNamespace(remote=method)
        return types.SimpleNamespace(remote=method, options=lambda num_returns: fetched)


@pytest.fixture
def options():
    parallel = load("parallel")
    small = ["--width", "6", "--layers", "2", "--batch-size", "8", "--rank", "2"]
    return lambda *more: parallel.options().parse_args([*small, "--learning-rate", str(RATE), *more])


@pytest.fixture
def batches():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCHES, 8, 6)).astype("float32")
    return list(zip(x, rng.integers(0, 10, (BATCHES, 8))))


def train(way, network, batches, optimizer="adam"):
    """The losses, and the weights afterwards."""
    two_workers, parallel = load("peers.two_workers"), load("parallel")
    name = parallel._name_of(way)
    workers = [Here()] if way is two_workers.undivided else [Here(), Here()]
    for worker, part in zip(workers, two_workers.loads(network, optimizer, RATE)[name]):
        worker.load.remote(name, *part)
    losses = list(way(workers, lambda message: message, batches))
    found = [worker.weights.remote(name) for worker in workers]
    return losses, found[0] if name == "whole" else [*found[0], *found[1]]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("way", ["backprop", "gpipe", "data_parallel", "undivided"])
def test_peers_train_as_keras_does(way, optimizer, options, batches):
    parallel = load("parallel")
    model = parallel.build(options("--optimizer", optimizer), 6, interface=None)
    network = parallel.halves(model, layers=2)
    before = model.get_weights()
    expected = []
    for batch in batches:
        model.reset_metrics()
        expected.append(model.train_on_batch(*batch, return_dict=True)["loss"])
    losses, found = train(getattr(load("peers.two_workers"), way), network, batches, optimizer)
    if way in ("backprop", "undivided"):  # others report a part of a batch
        np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for value, after, old in zip(found, model.get_weights(), before, strict=True):
        assert np.abs(after - old).max() > 1e-4
        np.testing.assert_allclose(value, after, rtol=0, atol=1e-5)


@pytest.mark.parametrize("delay", [1, 3])
def test_stale_gradients_come_late_and_from_stashed_weights(delay, options, batches):
    import jax

    two_workers, parallel = load("peers.two_workers"), load("parallel")
    lower, upper = parallel.halves(parallel.build(options(), 6, interface=None), layers=2)
    late = functools.partial(two_workers.stale, delay=delay)
    _, found = train(late, (lower, upper), batches, "sgd")

    loss = lambda lower, upper, x, y: two_workers.mean_loss(upper, two_workers.dense(lower, x, False), y)
    waiting = collections.deque()
    descend = lambda weights, slopes: [w - RATE * g for w, g in zip(weights, slopes)]
    for x, y in batches:
        slopes, above = jax.grad(loss, argnums=(0, 1))(lower, upper, x, y)
        upper = descend(upper, above)
        waiting.append(slopes)
        if len(waiting) > delay:
            lower = descend(lower, waiting.popleft())
    for slopes in waiting:
        lower = descend(lower, slopes)
    for value, expected in zip(found, [*lower, *upper], strict=True):
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-5)


def test_it_runs(options, tmp_path, capsys, monkeypatch):
    """Timed steps, and accuracies on a MNIST of random pictures, by arms that are not in actors."""
    parallel, two_workers = load("parallel"), load("peers.two_workers")
    rng = np.random.default_rng(0)
    split = lambda count: {
        "image": rng.integers(0, 256, (count, 28, 28), "uint8"),
        "label": rng.integers(0, 10, count),
    }
    monkeypatch.setattr("examples.data.fetch", lambda name, data_dir: (split(160), split(20)))

    class InTurn(parallel.Decoupled):
        def __init__(self, *args, **options):
            schedule = keras_sg.schedules.InTurn()
            schedule.actors = ["an actor"]
            monkeypatch.setattr("keras_sg.schedules.OnRay", lambda **options: schedule)
            super().__init__(*args, **options)

    def start(args, features):
        network = parallel.halves(parallel.build(args, features, interface=None), args.layers)
        loads = two_workers.loads(network, args.optimizer, args.learning_rate)
        wire = types.SimpleNamespace(hold=types.SimpleNamespace(remote=lambda message, seconds: message))
        return ([Here(), Here()], wire), ([Here()], wire), loads

    monkeypatch.setattr(parallel, "Decoupled", InTurn)
    monkeypatch.setattr(parallel, "start", start)
    killed = []
    ray = types.SimpleNamespace(get=lambda promise: promise, kill=killed.append)
    monkeypatch.setattr(parallel, "_ray", lambda: ray)
    small = ["--width", "6", "--layers", "2", "--batch-size", "8", "--rank", "2", "--delays", "0", "10"]
    output = tmp_path / "found.json"
    parallel.main([*small, "--steps", "3", "--rounds", "2", "--output", str(output)])
    found = json.loads(output.read_text())
    arms = {
        "decoupled",
        "low rank",
        "predicted error",
        "local",
        "stale",
        "backprop",
        "GPipe",
        "data parallel",
    }
    slack = {"decoupled, slack", "low rank, slack", "predicted error, slack", "local, slack", "stale, slack"}
    assert found["delays"]["0.0"]["medians_ms"].keys() == arms | {"undivided"}
    assert found["delays"]["10.0"]["medians_ms"].keys() == arms | slack
    assert all(len(series) == 2 for series in found["epochs_ms"]["0.0"].values())
    assert "backprop / GPipe" in capsys.readouterr().out
    parallel.main([*small, "--accuracy", "--seconds", "0.01", "--output", str(output)])
    accuracies = json.loads(output.read_text())["accuracy"]
    assert accuracies["10.0"].keys() == arms | slack
    assert all(0 <= arm["accuracy"] <= 1 and arm["steps"] > 0 for arm in accuracies["0.0"].values())
    assert len(killed) == 2 * (4 + 8)  # of each arm that has actors, at each delay, timed and trained


def test_what_it_needs(monkeypatch):
    parallel = load("parallel")
    with monkeypatch.context() as patch:
        patch.setattr(keras.backend, "backend", lambda: "torch")
        with pytest.raises(SystemExit, match="This benchmark is about JAX: set KERAS_BACKEND=jax"):
            parallel.main([])
    monkeypatch.setattr(parallel.os, "cpu_count", lambda: 1)
    with pytest.raises(SystemExit, match="Two workers of one core each need two cores"):
        parallel.main([])
