"""Copy and Repeat Copy: how far back a recurrent network learns to remember from windows of a few steps.

    KERAS_BACKEND=jax python -m examples.copy_task
    KERAS_BACKEND=jax python -m examples.copy_task --task repeat --synthesizer-learning-rate 1e-4 --seed 1 2 3

A network reads a start, N bits and a stop, and says the bits; in Repeat Copy the stop says how often. The
curriculum is that of the paper: whenever the error of an epoch (120 windows) is below 0.15 bits, N grows by
one; in Repeat Copy, N and the number of repeats R grow in turn. Sequences are trained on in windows of
--steps steps. T_task is N + 3, or N R + 3, of the hardest level that was solved.

    truncated      truncated backpropagation: the state is handed on, nothing comes back
    sg             what comes after a window is predicted by a linear synthesizer that sees all states
    sg-mlp         by one hidden layer
    sg-auxiliary   by one hidden layer, from which a second read-out predicts what will be said a window later
    no-time        no gradient through time at all: windows of one step, and RMSprop

All arms of a seed begin with the same weights and see the same sequences of a level. Writes results.json and
level.png into --output, a folder a seed; a run that was stopped goes on where it was, and with more
--windows a run that has ended goes on, too. Prints a table.
"""

import argparse
import json
import math
import pathlib
import time

import keras
import numpy as np

import keras_sg
from examples import runs
from examples.needs import needs

THRESHOLD = 0.15  # bits
EPOCH = 120  # windows
SERIES = ("bits", "solved", "cosine", "epoch_seconds")
FEATURES = 5  # bit 0, bit 1, start, stop, and how often to repeat
HIDDEN = keras_sg.synthesizers.MLP((128,), batch_normalization=False)
ARMS = {
    "truncated": dict(mix=0.0),
    "sg": dict(mix=0.3),
    "sg-mlp": dict(mix=0.3, synthesizer=HIDDEN),
    "sg-auxiliary": dict(mix=0.3, synthesizer=HIDDEN, auxiliary=True),
    "no-time": dict(mix=0.0),
}


class Curriculum:
    """How hard the sequences are: N bits, to be said R times.

    Args:
        repeat: whether R grows, too.
        bits: errors of the epochs so far.
    """

    def __init__(self, repeat, bits=()):
        self.repeat, self.n, self.repeats, self.solved = repeat, 1, 1, 0
        for error in bits:
            self.advance(error)

    def advance(self, error):
        if error < THRESHOLD:
            self.solved = self.n * self.repeats
            if self.repeat and self.n > self.repeats:
                self.repeats += 1
            else:
                self.n += 1

    def sequences(self, rng, count):
        """So many sequences: inputs, targets and weights, `(count, length, ...)`."""
        recalled = self.n * self.repeats
        begin = self.n + 2  # of what is to be said
        bits = rng.integers(0, 2, (count, self.n))
        x = np.zeros((count, begin + recalled, FEATURES), "float32")
        x[:, 1 : begin - 1, :2] = np.eye(2)[bits]
        x[:, 0, 2] = x[:, begin - 1, 3] = 1.0
        x[:, begin - 1, 4] = self.repeats / 10 if self.repeat else 0.0
        y, weight = np.zeros((count, begin + recalled, 1), "float32"), np.zeros(x.shape[:2], "float32")
        y[:, begin:, 0], weight[:, begin:] = np.tile(bits, self.repeats), 1.0
        return x, y, weight


class Lessons(keras.callbacks.Callback):
    """Hands out the sequences of every epoch, and records how well they were learned.

    Attributes:
        windows: `keras_sg.Windows`, the data to train on.
    """

    def __init__(self, args, seed, results, record):
        super().__init__()
        self.args, self.seed, self.results, self.record = args, seed, results, record
        self.epoch = 0
        self.windows = keras_sg.Windows.from_generator(self.make, args.steps, args.batch_size, EPOCH)

    def make(self):
        level = Curriculum(self.args.task == "repeat", self.record["bits"][: self.epoch])
        rng = np.random.default_rng((self.seed, self.epoch, level.n, level.repeats))
        length = level.sequences(rng, 1)[0].shape[1]
        for _ in range(max(1, EPOCH // math.ceil(length / self.args.steps))):
            yield from zip(*level.sequences(rng, self.args.batch_size))

    def on_epoch_begin(self, epoch, logs=None):
        # A run that resumes repeats what came after its backup.
        for series in SERIES:
            del self.record[series][epoch:]
        self.epoch, self._began = epoch, time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.record["bits"].append(logs["error"] / math.log(2))
        self.record["cosine"].append(logs["sg_cosine"])
        self.record["epoch_seconds"].append(time.perf_counter() - self._began)
        self.record["solved"].append(Curriculum(self.args.task == "repeat", self.record["bits"]).solved)
        self.epoch = epoch + 1
        if self.epoch % 10 == 0 or self.epoch == self.params["epochs"]:
            self.record["seconds"] = sum(self.record["epoch_seconds"])
            self.results.write(self.record)


class Backup(runs.Backup):
    """Every 20 epochs, and kept: a run may go on after its end."""

    def __init__(self, folder, batches):
        super().__init__(folder, batches)
        self.delete_checkpoint = False

    def on_epoch_end(self, epoch, logs=None):
        self._current_epoch = epoch + 1
        if (epoch + 1) % 20 == 0 or epoch + 1 == self.params["epochs"]:
            super().on_epoch_end(epoch, logs)


def build(arm, steps, units, batch_size, learning_rate, synthesizer_learning_rate=None):
    """The network of one arm, compiled."""
    x, ends = keras.Input((steps, FEATURES)), keras.Input(())
    lstm = keras.layers.LSTM(units, return_sequences=True)
    h = keras_sg.RecurrentSyntheticGradient(lstm, batch_size=batch_size, **ARMS[arm])(x, ends=ends)
    model = keras_sg.DecoupledModel([x, ends], keras.layers.Dense(1)(h))
    make = keras.optimizers.RMSprop if arm == "no-time" else keras.optimizers.Adam
    optimizer = make(learning_rate)
    if synthesizer_learning_rate:
        optimizer = keras_sg.decoupled_optimizer(optimizer, make(synthesizer_learning_rate))
    model.compile(
        optimizer,
        keras.losses.BinaryCrossentropy(from_logits=True),
        weighted_metrics=[keras.metrics.BinaryCrossentropy(from_logits=True, name="error")],
        steps_per_execution=runs.at_once(EPOCH),
    )
    return model


def train(arm, seed, args):
    """Train one arm on one seed, recording it."""
    args = argparse.Namespace(**vars(args) | ({"steps": 1} if arm == "no-time" else {}))
    folder = args.output / args.task / f"seed{seed}"
    results = runs.Results(folder, SERIES)
    name = f"{arm}, T={args.steps}, {args.units} units"
    rates = ("learning_rate", "synthesizer_learning_rate")
    settings = {key: getattr(args, key) for key in ("task", "steps", "units", "batch_size", *rates)}
    record = results.begin(name, settings | {"seed": seed}, resume=True)
    epochs = -(-args.windows // EPOCH)
    if len(record["bits"]) >= epochs:
        return
    keras.utils.set_random_seed(seed)
    model = build(arm, args.steps, args.units, args.batch_size, *(getattr(args, key) for key in rates))
    lessons = Lessons(args, seed, results, record)
    lessons.epoch = len(record["bits"])
    backup = Backup(folder / "backup" / name.replace(", ", "-"), lessons.windows)
    model.fit(lessons.windows, epochs=epochs, shuffle=False, verbose=0, callbacks=[backup, lessons])
    last = {key: record[key][-1] for key in ("solved", "bits", "cosine")}
    print(f"seed {seed}, {name}, {len(record['bits']) * EPOCH} windows: {json.dumps(last)}", flush=True)


def collect(output, task):
    """By the name of an arm, a dictionary from seeds to records."""
    found = {}
    folders = sorted((output / task).glob("seed*"), key=lambda folder: int(folder.name[4:]))
    for folder in folders:
        for name, record in runs.Results(folder, SERIES).records.items():
            found.setdefault(name, {})[int(folder.name[4:])] = record
    return found


def table(found):
    """The hardest level solved, by arm and seed, as a Markdown table."""
    rows = ["| arm | windows | seeds | N (or N R) solved | T_task, mean | s per 1,000 windows |"]
    rows.append("|---|---|---|---|---|---|")
    for name, records in found.items():
        solved = [record["solved"][-1] for record in records.values()]
        windows = sorted({EPOCH * len(record["bits"]) for record in records.values()})
        seconds = [1e3 / EPOCH * float(np.median(record["epoch_seconds"])) for record in records.values()]
        rows.append(
            f"| {name} | {' to '.join(map(str, windows[:: len(windows) - 1 or 1]))} "
            f"| {', '.join(map(str, records))} | {', '.join(map(str, solved))} "
            f"| {np.mean(solved) + 3:.1f} | {np.mean(seconds):.1f} |"
        )
    return "\n".join(rows)


def plot(found, path, title):
    """Draw the level solved over windows seen: a line a seed, a color an arm."""
    with needs("examples"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.subplots()
    for number, (name, records) in enumerate(found.items()):
        for i, record in enumerate(records.values()):
            windows = EPOCH * np.arange(1, len(record["solved"]) + 1)
            label = name if i == 0 else None
            axes.plot(windows, np.array(record["solved"]) + 3, color=f"C{number}", linewidth=1, label=label)
    axes.set(xlabel="windows seen", ylabel="T_task of the hardest level solved", title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=100)
    print(f"figure: {path}")


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m examples.copy_task",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--task", choices=["copy", "repeat"], default="copy")
    parser.add_argument("--arm", choices=ARMS, nargs="+", default=["truncated", "sg"])
    parser.add_argument("--steps", type=runs.positive, default=3, help="length of a window")
    parser.add_argument("--units", type=runs.positive, default=64)
    parser.add_argument("--windows", type=runs.positive, default=40_000, help="rounded up to whole epochs")
    parser.add_argument("--batch-size", type=runs.positive, default=256)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument(
        "--synthesizer-learning-rate", type=float, help="of an Adam of its own (default: none)"
    )
    parser.add_argument("--seed", type=runs.whole, nargs="+", default=[1])
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/copy_task"))
    args = parser.parse_args(argv)

    runs.can_draw()
    for seed in args.seed:
        for arm in args.arm:
            train(arm, seed, args)
    found = collect(args.output, args.task)
    plot(found, args.output / args.task / "level.png", {"copy": "Copy", "repeat": "Repeat Copy"}[args.task])
    print("\n" + table(found))


if __name__ == "__main__":
    main()
