"""The image experiments in full, on an accelerator: what each arm reaches, and what its step costs.

    python -m benchmarks.gpu --mnist mnist.npz --cifar10 cifar10.npz
    python -m benchmarks.gpu --mnist mnist.npz --arms backprop sg --seeds 0 --minutes 9

Runs the arms of examples.mnist and examples.cifar10, one part after the other:

    step     an arm's time a step in `fit` on one batch that lies on the device already, next to the floor:
             what the device would take for the step's operations and bytes (see benchmarks.floor)
    train    an arm from one seed, for all iterations: accuracies and seconds (of training alone). For
             CIFAR-10's sg also how its synthetic gradients align with the true ones, after every epoch

Needs Keras and one of its backends, and data as examples.mnist --data takes them; no TensorFlow besides.

What is done is written at once, and not repeated when the same command is given again; a part that was
stopped goes on where it was, one that was killed some seconds before that. With --minutes the command stops
by itself, between epochs. Into --output:

    <experiment>/steps/results.json     the parts of the first kind, by arm
    <experiment>/seed<n>/results.json   those of the second, as the examples write them
    summary.json                        the rows of both tables, which are also printed

Seconds in the table are the epochs times the median epoch, without what the first one took to compile.
"""

import argparse
import functools
import json
import math
import pathlib
import time

import keras
import numpy as np

import keras_sg
from benchmarks import floor, steps, tables
from examples import cifar10, data, images, mnist, runs

EXPERIMENTS = {"mnist": (mnist, (784,)), "cifar10": (cifar10, (32, 32, 3))}
ARMS = list(dict.fromkeys([*mnist.INTERFACES, *cifar10.INTERFACES]))
ALIGNED = ("cifar10", "sg")
ALIGNMENT = [f"{name}_alignment_{of}" for name in ("block1", "block2") for of in ("cosine", "error", "sign")]
PROBE = 128
BACKUP_SECONDS = 20


class OutOfTime(Exception):
    """The minutes are over."""


def check_time(until):
    if time.monotonic() >= until:
        raise OutOfTime("The time is up. The same command goes on from here.")


class Backup(runs.Backup):
    """Backs up now and then; and when the time is up, to stop there."""

    def __init__(self, backup_dir, batches, until):
        super().__init__(backup_dir, batches)
        self.until, self.last = until, time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        now = time.monotonic()
        over = now >= self.until and epoch + 1 < self.params["epochs"]
        if over or now >= self.last + BACKUP_SECONDS:
            super().on_epoch_end(epoch, logs)
            self.last = now
        if over:
            check_time(self.until)


class Benchmark:
    """The parts that the command line asks for."""

    def __init__(self, args):
        self.args = args
        self.until = time.monotonic() + 60 * args.minutes
        self.splits = {
            name: data.read(getattr(args, name), EXPERIMENTS[name][1]) for name in args.experiments
        }
        self.pairs = [
            (name, arm)
            for name in args.experiments
            for arm in EXPERIMENTS[name][0].INTERFACES
            if arm in args.arms
        ]
        self.where = {"backend": keras.backend.backend(), "device": steps.device()}

    @functools.cached_property
    def ceilings(self):
        return floor.ceilings(self.args.matrix_size, self.args.array_mib)

    def run(self):
        """Do what is not done yet; raise `OutOfTime` when there is no time left for it."""
        for pair in self.pairs:
            self.time_step(*pair)
        for seed in self.args.seeds:
            for pair in self.pairs:
                self.train(*pair, seed)

    def begin(self, *names):
        """Announce a part, and start from a clean Keras, whose names do not depend on the parts before."""
        check_time(self.until)
        print("\n" + ", ".join(names), flush=True)
        keras.utils.clear_session()

    def time_step(self, experiment, arm):
        """The part `step` of an arm."""
        module, shape = EXPERIMENTS[experiment]
        args = self.arguments(experiment, "steps")
        results = tables.steps_of(args.output)
        settings = {
            "batch_size": args.batch_size,
            "dtype_policy": args.dtype_policy,
            "steps": self.args.steps,
        }
        record = results.begin(arm, settings | self.where, resume=True)
        if record["step_ms"]:
            return
        self.begin(experiment, arm, "step")
        rng = np.random.default_rng(0)
        x, y = rng.random((args.batch_size, *shape), "float32"), rng.integers(0, 10, args.batch_size)
        model = module.build(arm, args)
        record |= {"work": floor.of_step(model, len(y)), "ceilings": self.ceilings}
        record["step_ms"] = steps.milliseconds(model, (x, y), self.args.steps, epochs=5)
        results.write(record)

    def train(self, experiment, arm, seed):
        """The part `train` of an arm and a seed."""
        module, shape = EXPERIMENTS[experiment]
        args = self.arguments(experiment, f"seed{seed}", seed)
        record = runs.Results(args.output).begin(arm, images.settings_of(args) | self.where, resume=True)
        if len(record["test_accuracy"]) == record.get("epochs"):
            return
        self.begin(experiment, arm, f"seed {seed}")
        options = {}
        if (experiment, arm) == ALIGNED:
            probe = data.Batches(self.splits[experiment][1], shape, PROBE)[0]
            options = {"callbacks": [keras_sg.callbacks.GradientAlignment(*probe)], "series": ALIGNMENT}
        backup = functools.partial(Backup, until=self.until)
        images.train(
            arm,
            args,
            self.splits[experiment],
            shape,
            module.build,
            settings=self.where,
            backup=backup,
            **options,
        )

    def arguments(self, experiment, folder, seed=0):
        """What an example would have parsed from its own command line."""
        given = {
            "data": getattr(self.args, experiment),
            "output": self.args.output / experiment / folder,
            "seed": seed,
            "iterations": self.args.iterations,
            "batch-size": self.args.batch_size,
            "dtype-policy": self.args.dtype_policy,
        }
        return EXPERIMENTS[experiment][0].PARSER.parse_args(
            [f"--{key}={value}" for key, value in given.items()]
        )


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name in EXPERIMENTS:
        parser.add_argument(f"--{name}", type=pathlib.Path, metavar="FILE.npz", help=f"the data of {name}")
    parser.add_argument(
        "--experiments", nargs="+", choices=EXPERIMENTS, help="by default those whose data are given"
    )
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--seeds", nargs="+", type=runs.whole, default=[0, 1, 2])
    parser.add_argument("--iterations", type=runs.positive, default=25_000)
    parser.add_argument("--batch-size", type=runs.positive, default=256)
    parser.add_argument("--dtype-policy", default="float32")
    parser.add_argument("--steps", type=runs.positive, default=208, help="that are timed, five times over")
    parser.add_argument(
        "--matrix-size", type=runs.positive, default=8192, help="of the product for the ceiling"
    )
    parser.add_argument("--array-mib", type=runs.positive, default=1024, help="of the array for the ceiling")
    parser.add_argument("--minutes", type=float, default=math.inf, help="to stop after")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/gpu"))
    args = parser.parse_args(argv)
    args.experiments = args.experiments or [name for name in EXPERIMENTS if getattr(args, name)]
    missing = [f"--{name}" for name in args.experiments or EXPERIMENTS if not getattr(args, name)]
    if missing:
        parser.error(f"there are no data for the experiments asked for: give {' or '.join(missing)} FILE.npz")

    tables.summary(args.output, EXPERIMENTS)  # what is there can be read, then, and added to
    keras.config.set_dtype_policy(args.dtype_policy)
    try:
        Benchmark(args).run()
    except OutOfTime as error:
        print(f"\n{error}")
    args.output.mkdir(parents=True, exist_ok=True)
    summary = tables.summary(args.output, EXPERIMENTS)
    draft = args.output / "summary.tmp"
    draft.write_text(json.dumps(summary, indent=1))
    draft.replace(args.output / "summary.json")
    print("\n" + tables.training(summary["training"]) + "\n\n" + tables.steps(summary["steps"]))


if __name__ == "__main__":
    main()
