"""Federated and split learning, by the bytes that cross the link: where predicted gradients pay.

    KERAS_BACKEND=jax python -m examples.federated_split --all
    KERAS_BACKEND=jax python -m examples.federated_split --arm sage --data mnist --rounds 20
    python -m examples.federated_split --plot runs/federated_split

Clients hold the examples, unevenly by class (a Dirichlet distribution, --alpha), and a server may not see
them. In a round each client trains on --batches batches of its own. The arms differ in who trains what:

    fedavg     the client the whole network
    splitfed   the client the lower half, on the gradient that the server sends for every batch (SplitFed; one
               server half for all clients, as in its second version)
    local      the client the lower half, on a local loss; the server sees one batch in --send-every
               (CSE-FSL)
    sage       the client the lower half, on what a critic of the server predicts; the server sees one batch
               in --send-every, and in the first of every --refit-every rounds it sends targets back, from
               which the critics learn (FSL-SAGE)
    sage-server    the same, but it is the server that has one critic learn, after every round, from what all
               clients sent: no target crosses, and the critic comes down with the other weights

The server trains on what came, mixed over the clients; after each round all that clients trained is averaged.
Every message that would cross the link is counted, in bytes: tensors at the cut, labels, targets and weights,
both ways, in float32. Accuracies by round are of --validation examples of the training set, kept from the
clients, that on the test set comes at the end. Writes results.json and accuracy.png into --output, prints a
table of the bytes to equal accuracies. A run that was stopped goes on after its last whole round, and with
more --rounds a run that has ended goes on, too. --ray has every client be an actor.

References: McMahan et al. 2017, FedAvg, https://arxiv.org/abs/1602.05629; Thapa et al. 2022, SplitFed,
https://arxiv.org/abs/2004.12088; Mu and Shen 2025, CSE-FSL, https://arxiv.org/abs/2507.15816; Nair et al.
2025, FSL-SAGE, https://arxiv.org/abs/2505.23182.
"""

import argparse
import json
import os
import pathlib
import time
import warnings

import keras
import numpy as np

import keras_sg
from examples import data, runs
from examples.federated_clients import ARMS, Bench, Client, part
from examples.federated_report import KINDS, SERIES, plot, table
from examples.needs import CLONE, needs

SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
# What the command line says that does not change a result.
NOT_SETTINGS = ("arm", "all", "rounds", "budget_minutes", "ray", "output", "overwrite", "plot")


def load(args):
    """Examples of the clients, for validation and for the test, each `(images, labels)`; and their name."""
    if args.data in SHAPES:
        shape, name = SHAPES[args.data], args.data
        splits = data.fetch(args.data, args.data_dir)
    else:
        shape = _shape_in(args.data)
        splits, name = data.read(args.data, shape), data.digest(args.data)
        shape = shape if len(shape) == 3 else (*shape, 1)
    (x, y), test = ((s["image"].reshape(-1, *shape), s["label"].astype("int32")) for s in splits)
    if args.validation >= len(y):
        raise SystemExit(
            f"--validation must leave examples to train on, of which there are {len(y)}. "
            f"Received: {args.validation}"
        )
    pixels = lambda images: images.astype("float32") / (255 if images.dtype == "uint8" else 1)
    order = np.random.default_rng(args.seed).permutation(len(y))
    kept, rest = np.split(order, [args.validation])
    parts = [(pixels(x[rows]), y[rows]) for rows in (rest, kept)]
    return [*parts, (pixels(test[0]), test[1])], name


def _shape_in(path):
    """The shape of the images in a file; where there are none, one that `data.read` will miss there."""
    try:
        with np.load(path) as file:
            shape = file["x_train"].shape[1:]
    except Exception:  # which `data.read` explains
        return SHAPES["cifar10"]
    return shape if len(shape) in (2, 3) else SHAPES["cifar10"]


class Here:
    """Clients in this process, at work one after the other."""

    def __init__(self, arm, parts, args, bench):
        self.clients = [Client(i, *own, arm, args, bench) for i, own in enumerate(parts)]

    def ask(self, name, arguments):
        """Have each client do something; returns what each returned."""
        return [getattr(client, name)(*own) for client, own in zip(self.clients, arguments, strict=True)]


class OnRay:
    """The same clients, each an actor of Ray, at work side by side."""

    def __init__(self, arm, parts, args, bench):
        with needs("ray"):
            import ray
        if not ray.is_initialized():
            with warnings.catch_warnings():
                # JAX, of every process that is started.
                warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
                ray.init(include_dashboard=False, log_to_driver=False)
        path = os.pathsep.join([str(CLONE), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
        environment = {"KERAS_BACKEND": keras.backend.backend(), "PYTHONPATH": path}
        actor = ray.remote(Client).options(num_cpus=0, runtime_env={"env_vars": environment})
        self.clients = [actor.remote(i, *own, arm, args) for i, own in enumerate(parts)]
        self.get = ray.get

    def ask(self, name, arguments):
        return self.get(
            [getattr(client, name).remote(*own) for client, own in zip(self.clients, arguments, strict=True)]
        )


class Training:
    """An arm: the server, which asks the clients and counts what crosses the link.

    Attributes:
        weights: what the clients train, averaged.
        counted: bytes by kind, of all rounds so far.
    """

    def __init__(self, arm, args, parts):
        self.arm, self.args = arm, args
        self.bench = Bench(arm, parts[0][0].shape[1:], args)
        self.clients = (OnRay if args.ray else Here)(arm, parts, args, self.bench)
        self.weights = self.bench.client.get_weights()
        self.counted = dict.fromkeys(KINDS, 0)

    def round(self, number):
        """One round."""
        everyone = range(self.args.clients)
        self._count("weights down", *(self.weights for _ in everyone))
        self.clients.ask("begin", [(self.weights, number) for _ in everyone])
        if self.arm == "splitfed":
            for index in range(self.args.batches):
                messages = self.clients.ask("forward", [(index,) for _ in everyone])
                targets = self._teach(messages, (number, index))
                self._count("targets", *([target.gradient] for target in targets))
                self.clients.ask("backward", [(index, target) for target in targets])
        elif messages := self.clients.ask("alone", [() for _ in everyone]):
            each = len(messages[0])
            targets = self._teach([one for own in messages for one in own], (number,))
            if self.arm == "sage" and number % self.args.refit_every == 0:
                self._count("targets", *((target.gradient, target.loss) for target in targets))
                self.clients.ask("refit", [(targets[i * each : (i + 1) * each],) for i in everyone])
        found = self.clients.ask("finish", [() for _ in everyone])
        self._count("weights up", *found)
        self.weights = [np.mean(of_all, axis=0, dtype="float32") for of_all in zip(*found)]
        self.bench.restore(self.weights, [])
        if self.arm == "sage-server":
            passes = -(-self.args.refit_epochs // self.args.refit_every)
            self.bench.refit([one for own in messages for one in own], targets, passes)
            self.weights = self.bench.client.get_weights()

    def _teach(self, messages, seed):
        """Train the server's half on what was sent, mixed; returns the targets, message by message.

        A batch of one client has few classes, so the server's batches are drawn from all that came.
        """
        if not messages:
            return []
        self._count("activations", *([message.sent.h] for message in messages))
        self._count("labels", *([message.labels] for message in messages))
        h = np.concatenate([message.sent.h for message in messages])
        labels = np.concatenate([message.labels for message in messages])
        gradients, losses = np.empty_like(h), np.empty(len(h), "float32")
        order = np.random.default_rng((self.args.seed, *seed)).permutation(len(h))
        for rows in order.reshape(-1, self.args.batch_size):
            target = self.bench.upper.teach(keras_sg.Sent(h[rows]), labels[rows])
            gradients[rows] = target.gradient if target.gradient is not None else 0.0
            losses[rows] = target.loss if target.loss is not None else 0.0
        parts = zip(messages, *(np.split(found, len(messages)) for found in (gradients, losses)))
        return [keras_sg.Target(gradient, loss, message.sent.step) for message, gradient, loss in parts]

    def _count(self, kind, *messages):
        for message in messages:
            self.counted[kind] += 4 * sum(np.size(array) for array in message)

    def accuracy(self, examples):
        """Of the whole network, with the averaged weights."""
        x, y = examples
        return float(self.bench.whole.evaluate(x, y, batch_size=500, verbose=0, return_dict=True)["accuracy"])


def train(arm, args, parts, validation, test, settings):
    """Train one arm, recording it; whether it has been through all rounds."""
    results = runs.Results(args.output, SERIES)
    record = results.begin(arm, settings, resume=not args.overwrite, series=("counted",))
    training, state = Training(arm, args, parts), args.output / "backup" / f"{arm}.npz"
    if record["bytes"]:
        _restore(training, record, state)
    began = time.perf_counter()
    for number in range(len(record["bytes"]), args.rounds):
        if args.budget_minutes and time.perf_counter() - began > 60 * args.budget_minutes:
            print(f"{arm}: the budget is used up after {number} rounds; the same command goes on", flush=True)
            return False
        started = time.perf_counter()
        training.round(number)
        record["round_seconds"].append(time.perf_counter() - started)
        record["validation_accuracy"].append(training.accuracy(validation))
        record["counted"].append(dict(training.counted))
        record["bytes"].append(sum(training.counted.values()))
        record["seconds"] = sum(record["round_seconds"])
        record.pop("test_accuracy", None)
        if number + 1 == args.rounds:
            record["test_accuracy"] = training.accuracy(test)
        _save(training, record, state)
        results.write(record)
        print(
            f"{arm}, round {number + 1}: accuracy {record['validation_accuracy'][-1]:.4f}, "
            f"{record['bytes'][-1] / 1e6:.1f} MB, {record['round_seconds'][-1]:.1f} s",
            flush=True,
        )
    return True


def _save(training, record, path):
    """Weights, the server's state and the series, in one file that is whole at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft.npz")
    parts = {"client": training.weights, "server": training.bench.server_state()}
    arrays = {f"{name}{i}": array for name, found in parts.items() for i, array in enumerate(found)}
    np.savez(draft, record=json.dumps({name: record[name] for name in (*SERIES, "counted")}), **arrays)
    draft.replace(path)


def _restore(training, record, path):
    """Go on after the last round that was saved."""
    try:
        with np.load(path) as file:
            record |= json.loads(str(file["record"]))
            count = lambda name: sum(key.startswith(name) for key in file)
            client, server = (
                [file[f"{name}{i}"] for i in range(count(name))] for name in ("client", "server")
            )
        training.bench.restore(client, server)
    except Exception as error:  # NumPy's, zipfile's, JSON's
        raise SystemExit(
            f"{path} is no backup that this run can go on from. Give --overwrite to begin anew. Received: "
            f"{type(error).__name__}: {error}"
        ) from error
    training.weights, training.counted = client, dict(record["counted"][-1])


def above_zero(text):
    """An `argparse` type: a number above 0."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, received {text}")
    return number


def parse(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m examples.federated_split",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--arm", choices=ARMS, help="by default sage")
    which.add_argument("--all", action="store_true", help="all arms")
    parser.add_argument("--data", default="cifar10", metavar="cifar10, mnist or FILE.npz")
    parser.add_argument("--data-dir", help="where TFDS keeps its data (default: ~/tensorflow_datasets)")
    parser.add_argument("--clients", type=runs.positive, default=10)
    parser.add_argument("--alpha", type=above_zero, default=0.5, help="the smaller, the more uneven")
    parser.add_argument("--validation", type=runs.positive, default=5000, help="examples kept from clients")
    parser.add_argument("--rounds", type=runs.positive, default=60)
    parser.add_argument("--batches", type=runs.positive, default=20, help="of each client in a round")
    parser.add_argument("--batch-size", type=runs.positive, default=32)
    parser.add_argument("--send-every", type=runs.positive, default=5)
    parser.add_argument("--refit-every", type=runs.positive, default=5)
    parser.add_argument("--refit-epochs", type=runs.positive, default=20)
    parser.add_argument("--critic", type=runs.positive, default=16, help="channels of critic and local head")
    parser.add_argument("--learning-rate", type=above_zero, default=0.01, help="of the clients")
    parser.add_argument("--server-learning-rate", type=above_zero, default=1e-3)
    parser.add_argument("--refit-learning-rate", type=above_zero, default=3e-3)
    parser.add_argument("--seed", type=runs.whole, default=0)
    parser.add_argument("--budget-minutes", type=above_zero, help="of each arm; then it stops, and may go on")
    parser.add_argument("--ray", action="store_true", help="every client an actor of Ray")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/federated_split"))
    parser.add_argument("--overwrite", action="store_true", help="drop the results that are there")
    parser.add_argument("--plot", type=pathlib.Path, metavar="FOLDER", help="only redraw FOLDER/accuracy.png")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    if args.plot:
        plot(args.plot)
        return
    runs.can_draw()
    results = runs.Results(args.output, SERIES)
    (training, validation, test), name = load(args)
    rows = part(training[1], args.clients, args.alpha, args.seed)
    parts = [tuple(array[own] for array in training) for own in rows]
    settings = {key: value for key, value in vars(args).items() if key not in NOT_SETTINGS}
    settings |= {"data": name, "data_dir": None}
    for arm in ARMS if args.all else [args.arm or "sage"]:
        train(arm, args, parts, validation, test, settings)
    print("\n" + table(results.records))
    plot(args.output)


if __name__ == "__main__":
    main()
