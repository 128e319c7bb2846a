"""Modules in two processes of one core each, against other ways to train over the same two.

    python -m benchmarks.parallel
    python -m benchmarks.parallel --accuracy

Two modules of 4 dense layers of 1,024, batch 256, on JAX, over Ray:

    decoupled         keras_sg.schedules.OnRay under fit, with a linear synthesizer that sees the label
    low rank          the same, with a synthesizer of --rank
    predicted error   the same, with one that carries the error of a predicted label back
    local             the same, with a local loss of a linear head: nothing comes from above
    backprop          forward below, forward and back above, back below
    GPipe             the same, with four micro-batches
    data parallel     each has the whole network and half of the batch; gradients are averaged
    stale             PipeDream's pipeline: true gradients that are late, weights stashed, no synthesizer
    undivided         backpropagation in one process with both cores

Every message between workers is held back for each of the --delays; with a delay, "slack" is the
schedule with --slack, and the pipeline of stale gradients with as many batches more on their way. The
arms of a delay take turns. A step is timed within an epoch, from when the modules are full; what an
epoch costs besides is said apart. Prints medians and spreads in milliseconds, ratios (backprop / arm)
last; writes them to --output.

With --accuracy every arm instead trains for --seconds on MNIST, from the same weights, and its accuracy on
the test images is printed. Compiling is not counted.
"""

import collections
import functools
import itertools
import os
import pathlib
import time

# Before Keras and Ray are imported; Ray gives workers nice 15, which what else runs would win against.
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("RAY_worker_niceness", "0")

import keras
import numpy as np

import keras_sg
from benchmarks import machine, timing
from benchmarks.peers import two_workers
from examples import data, runs

CORES = [[0], [1]]
WARM_UP = 8  # batches of a burst that are not timed
AHEAD = 4  # so many batches of a peer are asked for before the oldest must be done


def options():
    parser = timing.parser("parallel", __doc__)
    timing.add_options(parser, "parallel", steps=24, rounds=3)
    parser.add_argument("--batch-size", type=runs.positive, default=256)
    parser.add_argument("--width", type=runs.positive, default=1024)
    parser.add_argument("--layers", type=runs.positive, default=4, help="of a module")
    parser.add_argument("--rank", type=runs.positive, default=64)
    parser.add_argument("--optimizer", choices=two_workers.OPTIMIZERS, default="adam")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--delays", type=float, nargs="+", default=[0, 10, 50], help="ms a message")
    parser.add_argument("--slack", type=runs.positive, default=1)
    parser.add_argument("--accuracy", action="store_true", help="train on MNIST for --seconds an arm")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--data", type=pathlib.Path, help="an .npz file in the place of TFDS's MNIST")
    parser.add_argument("--data-dir", help="of TFDS")
    return parser


def build(args, features, schedule="together", interface=keras_sg.SyntheticGradient, **options):
    """The network: decoupled in its middle by an interface, or undivided if that is None."""
    keras.utils.set_random_seed(0)
    names = [f"dense{at}" for at in range(2 * args.layers)]
    layers = [keras.layers.Dense(args.width, activation="relu", name=name) for name in names]
    model = keras.Sequential([keras.Input((features,)), *layers, keras.layers.Dense(10, name="logits")])
    optimizer = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}[args.optimizer]
    compilation = {
        "optimizer": optimizer(args.learning_rate),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    }
    if interface is None:
        model.compile(**compilation, metrics=["accuracy"])
        return model
    model = keras_sg.decouple(model, [names[args.layers - 1]], interface, num_classes=10, **options)
    model.compile(**compilation, schedule=schedule)
    return model


def halves(model, layers):
    """A network's weights, as its two halves."""
    weights = [weight for layer in model.layers for weight in layer.get_weights()]
    return weights[: 2 * layers], weights[2 * layers :]


class Clock(keras.callbacks.Callback):
    """When each batch was done; after so many seconds, training ends."""

    def __init__(self, seconds=float("inf")):
        super().__init__()
        self.times, self.seconds = [], seconds

    def on_train_batch_end(self, batch, logs=None):
        self.times.append(time.perf_counter())
        if self.times[-1] - self.times[0] > self.seconds:
            self.model.stop_training = True


class Decoupled:
    """An arm that trains by `fit`."""

    def __init__(self, args, features, slack=0, delay=0.0, **options):
        self._schedule = keras_sg.schedules.OnRay(slack=slack, cores=CORES, delay=delay)
        self.model = build(args, features, self._schedule, **options)
        self.model.optimizer.build(self.model.trainable_variables)
        self._variables = [*self.model.variables, *self.model.optimizer.variables]
        self._initial = [keras.ops.convert_to_numpy(variable) for variable in self._variables]

    def reset(self):
        for variable, value in zip(self._variables, self._initial):
            variable.assign(value)

    def train(self, batches, seconds=float("inf")):
        """Train on the batches, again and again if there are `seconds`; when each was done."""
        clock, epochs = Clock(seconds), 1 if seconds == float("inf") else 1_000_000
        self.model.fit(batches, epochs=epochs, callbacks=[clock], shuffle=False, verbose=0)
        return clock.times

    def weights(self):
        return keras_sg.strip(self.model).get_weights()

    def close(self):
        """End its processes, which take half a gigabyte each."""
        for actor in self._schedule.actors:
            _ray().kill(actor)


class Peer:
    """An arm that trains by one of the ways of `two_workers`."""

    def __init__(self, way, workers, send, load):
        self._way, self._workers, self._send, self._load = way, workers, send, load
        self.reset()

    def reset(self):
        name = _name_of(self._way)
        parts = self._load[name]
        _ray().get([worker.load.remote(name, *part) for worker, part in zip(self._workers, parts)])

    def train(self, batches, seconds=float("inf")):
        """As `Decoupled.train`."""
        get, waiting, times = _ray().get, collections.deque(), []
        for loss in self._way(self._workers, self._send, _again(batches, seconds)):
            waiting.append(loss)
            if len(waiting) > AHEAD:
                get(waiting.popleft())
                times.append(time.perf_counter())
                if times[-1] - times[0] > seconds:
                    break
        for loss in waiting:
            get(loss)
            times.append(time.perf_counter())
        return times

    def weights(self):
        name = _name_of(self._way)
        found = _ray().get([worker.weights.remote(name) for worker in self._workers])
        return found[0] if name == "whole" else [*found[0], *found[1]]

    def close(self):
        """Nothing: its processes are those of all peers."""


def _name_of(way):
    """Which parts a way trains, as it says itself."""
    function = way.func if isinstance(way, functools.partial) else way
    return function.__defaults__[0]


def _again(batches, seconds):
    """The batches of one epoch, or of as many as are asked for."""
    while True:
        for at in range(len(batches)):
            yield batches[at]
        if seconds == float("inf"):
            return
        batches.on_epoch_end()


def _ray():
    import ray

    return ray


class Random(keras.utils.PyDataset):
    """Batches of random numbers, the same few over and over."""

    def __init__(self, args):
        super().__init__()
        rng = np.random.default_rng(0)
        self._x = rng.random((4, args.batch_size, args.width)).astype("float32")
        self._y = rng.integers(0, 10, (4, args.batch_size))
        self._steps = WARM_UP + args.steps

    def __len__(self):
        return self._steps

    def __getitem__(self, index):
        return self._x[index % 4], self._y[index % 4]


def arms_of(args, delay, peers, features):
    """The arms with messages that are held back for `delay` ms, by name.

    Args:
        args: the command line's.
        delay: milliseconds.
        peers: the workers and the wire of the peers, those of the undivided network, and what they load.
        features: of the inputs.
    """
    (workers, wire), (alone, _), load = peers
    seconds = delay / 1e3
    low_rank = {"synthesizer": keras_sg.synthesizers.Linear(args.rank)}
    local = {"interface": keras_sg.LocalLoss, "head": keras_sg.synthesizers.Critic(())}
    send = (lambda message: wire.hold.remote(message, seconds)) if delay else (lambda message: message)
    found = {}
    for slack in [0, args.slack] if delay else [0]:
        said = ", slack" if slack else ""
        late = functools.partial(two_workers.stale, delay=1 + 2 * slack)
        found[f"decoupled{said}"] = Decoupled(args, features, slack, seconds)
        found[f"low rank{said}"] = Decoupled(args, features, slack, seconds, **low_rank)
        found[f"predicted error{said}"] = Decoupled(args, features, slack, seconds, synthesizer="error")
        found[f"local{said}"] = Decoupled(args, features, slack, seconds, **local)
        found[f"stale{said}"] = Peer(late, workers, send, load)
    found |= {
        "backprop": Peer(two_workers.backprop, workers, send, load),
        "GPipe": Peer(two_workers.gpipe, workers, send, load),
        "data parallel": Peer(two_workers.data_parallel, workers, send, load),
    }
    if not delay:
        found["undivided"] = Peer(two_workers.undivided, alone, send, load)
    return found


def start(args, features):
    """What the peers of all delays share: see `arms_of`."""
    ray = _ray()
    if not ray.is_initialized():
        root = str(machine.ROOT)
        ray.init(
            address="local",  # whatever else runs here
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={
                "env_vars": {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
            },
        )
    network = halves(build(args, features, interface=None), args.layers)
    load = two_workers.loads(network, args.optimizer, args.learning_rate)
    return two_workers.start(ray, CORES), two_workers.start(ray, [[*CORES[0], *CORES[1]]]), load


def timed(args):
    """Milliseconds a step, and what an epoch costs besides: two dictionaries by delay and by arm."""
    peers, batches = start(args, args.width), Random(args)
    steps, epochs = {}, {}
    for delay in args.delays:
        arms = arms_of(args, delay, peers, args.width)
        steps[delay] = {name: [] for name in arms}
        epochs[delay] = {name: [] for name in arms}
        for turn, (name, arm) in itertools.product(range(-1, args.rounds), arms.items()):
            began = time.perf_counter()
            times = arm.train(batches)
            whole = time.perf_counter() - began
            if turn >= 0:
                step = (times[-1] - times[WARM_UP - 1]) / (len(times) - WARM_UP)
                steps[delay][name].append(1e3 * step)
                epochs[delay][name].append(1e3 * (whole - len(times) * step))
        for arm in arms.values():
            arm.close()
    return steps, epochs


def trained(args):
    """Test accuracy and number of steps after so many seconds, by delay and by arm."""
    splits = data.read(args.data, (784,)) if args.data else data.fetch("mnist", args.data_dir)
    peers, judge, found = start(args, 784), build(args, 784, interface=None), {}
    for delay in args.delays:
        found[delay] = {}
        for name, arm in arms_of(args, delay, peers, 784).items():
            train, _ = (data.Batches(split, (784,), args.batch_size, seed=0) for split in splits)
            test = data.Batches(splits[1], (784,), data.TEST_BATCH)
            arm.train(train.take(WARM_UP))  # compiled
            arm.reset()
            times = arm.train(train, args.seconds)
            judge.set_weights(arm.weights())
            arm.close()
            accuracy = judge.evaluate(test, verbose=0, return_dict=True)["accuracy"]
            found[delay][name] = {"accuracy": accuracy, "steps": len(times)}
            print(f"{delay:g} ms, {name}: {accuracy:.4f} after {len(times)} steps", flush=True)
    return found


def main(argv=None):
    args = options().parse_args(argv)
    if keras.backend.backend() != "jax":
        raise SystemExit("This benchmark is about JAX: set KERAS_BACKEND=jax.")
    if (os.cpu_count() or 1) < 2:
        raise SystemExit("Two workers of one core each need two cores.")
    settings = {name: value for name, value in vars(args).items() if not isinstance(value, pathlib.Path)}
    if args.accuracy:
        found = {"accuracy": trained(args)}
    else:
        steps, epochs = timed(args)
        found = {"epochs_ms": epochs, "delays": {}}
        for delay, times in steps.items():
            print(f"\n{delay:g} ms a message")
            found["delays"][delay] = timing.report(times, [("backprop", name) for name in times])
            besides = ", ".join(
                f"{name} {value:.0f}" for name, value in timing.medians(epochs[delay]).items()
            )
            print(f"an epoch besides, ms: {besides}")
    timing.write(args.output, found | {"settings": settings, "machine": machine.describe()})


if __name__ == "__main__":
    main()
