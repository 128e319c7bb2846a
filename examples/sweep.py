"""A sweep over the learning rate: how much does each way of training depend on it?

    python -m examples.sweep
    python -m examples.sweep --data mnist --tuner grid --trials 9 --epochs 3
    python -m examples.sweep --plot runs/sweep

Trains the network of examples.quickstart (on the digits) or of examples.mnist at many learning rates:

    backprop         no interfaces
    sg               an MLP predicts the gradient at both interfaces
    sg-conditional   the synthesizer also sees the label (digits: a linear one, MNIST: an MLP)

The rates of each arm are chosen by keras-tuner:

    random       anywhere in the range, each decade alike
    grid         at equal distances over the decades, both ends among them
    bayesian     where the trials before promise most
    hyperband    at random, and only the better ones of the trials get all epochs; ignores --trials

The trials of an arm differ in nothing else: they start from the same weights and see the same batches
in the same order. An accuracy is that after the last epoch. A trial whose loss is not finite has
diverged, and has none.

Writes into --output:

    results.json                        the trials of each arm, the settings
    accuracy-by-learning-rate.png       test accuracy against learning rate
    tuner/                              what keras-tuner keeps

A sweep that was stopped goes on when the same command is given again; finished trials are not
repeated. Several processes can share the trials of one arm: start the same command once with
KERASTUNER_TUNER_ID=chief and as often as you like with worker0, worker1, ..., all with the address of the
chief in KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT. They must see the same --output.
"""

import argparse
import dataclasses
import functools
import os
import pathlib
import shutil
import sys
from collections.abc import Callable

import keras
import numpy as np

from examples import data, images, quickstart, runs, trials
from examples.needs import needs
from keras_sg import synthesizers

with needs("tensorflow,examples,tune"):
    import keras_tuner

    from keras_sg import tuning

ARMS = ("backprop", "sg", "sg-conditional")
BLOCKS = ["block1", "block2"]


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set, the network for it, and its synthesizers."""

    load: Callable  # from the command line's arguments to training and test batches
    features: int
    width: int
    synthesizers: dict
    compile: dict = dataclasses.field(default_factory=dict)


def load_mnist(args):
    return data.batches(data.fetch("mnist", args.data_dir), (784,), batch_size=256, seed=args.seed)


TASKS = {
    "digits": Task(
        load=lambda args: quickstart.load(args.seed),
        features=64,
        width=64,
        synthesizers={"sg": synthesizers.MLP(widths=(128,)), "sg-conditional": "linear"},
    ),
    "mnist": Task(
        load=load_mnist,
        features=784,
        width=256,
        synthesizers={"sg": "mlp", "sg-conditional": "mlp"},
        compile={"jit_compile": True, "steps_per_execution": 26},
    ),
}


def network(task, seed):
    """The plain network, from the same weights every time."""
    keras.utils.set_random_seed(seed)
    blocks = [
        keras.Sequential(
            [keras.layers.Dense(task.width), keras.layers.BatchNormalization(), keras.layers.ReLU()],
            name=name,
        )
        for name in BLOCKS
    ]
    return keras.Sequential([keras.Input((task.features,)), *blocks, keras.layers.Dense(10, name="logits")])


class Arm(tuning.DecoupledHyperModel):
    """The search space of one arm, which is its learning rate, and how a trial is run."""

    def __init__(self, arm, learning_rate, args):
        task = TASKS[args.data]
        self.load = functools.partial(task.load, args)
        self.keeps_weights = args.tuner == "hyperband"  # it goes on with those of its better trials
        super().__init__(
            functools.partial(network, task, args.seed),
            after=[] if arm == "backprop" else BLOCKS,
            learning_rate=learning_rate,
            synthesizer_learning_rate=args.synthesizer_learning_rate,
            synthesizer=task.synthesizers.get(arm, "linear"),
            num_classes=10 if arm == "sg-conditional" else None,
            optimizer=functools.partial(keras.optimizers.Adam, epsilon=1e-8),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            **task.compile,
        )

    def fit(self, hp, model, *, callbacks=(), **kwargs):
        """One trial: what is logged after its last epoch (the test set would choose the best one)."""
        train, test = self.load()
        callbacks = callbacks if self.keeps_weights else ()
        history = super().fit(
            hp, model, train, validation_data=test, callbacks=callbacks, shuffle=False, **kwargs
        )
        return {name: series[-1] for name, series in history.history.items()}


class Strict:
    """Mixed into a tuner, whose trials then fail for one reason only: they diverged.

    Any other error stops the sweep. keras-tuner would take it for one more failed trial, and not repeat it.
    """

    def run_trial(self, trial, *args, **kwargs):
        name = f"{self.project_name}, learning rate {trial.hyperparameters.get('learning_rate'):.3g}"
        try:
            (measured,) = super().run_trial(trial, *args, **kwargs)
        except keras_tuner.errors.FailedTrialError:
            print(f"{name}: diverged", flush=True)
            raise
        except Exception as error:
            raise keras_tuner.errors.FatalRuntimeError(f"{name}: {error}") from error
        print(f"{name}: test accuracy {measured['val_accuracy']:.4f}", flush=True)
        return measured


class Grid(keras_tuner.Oracle):
    """Tries the given learning rates one by one.

    keras-tuner's own GridSearch forgets its place when it is stopped, and fails when it goes on. This
    one needs no place: it looks which rates have a trial.
    """

    def __init__(self, rates, **kwargs):
        super().__init__(max_trials=len(rates), **kwargs)
        self.rates = rates

    def populate_space(self, trial_id):
        tried = {trial.hyperparameters.get("learning_rate") for trial in self.trials.values()}
        rate = next(rate for rate in self.rates if rate not in tried)
        return {"status": "RUNNING", "values": self.get_space().values | {"learning_rate": rate}}


class Tuner(Strict, keras_tuner.Tuner):
    """For all oracles but Hyperband's."""


class Hyperband(Strict, keras_tuner.Hyperband):
    """Hyperband's."""


def tuner(arm, args):
    """The tuner of one arm; it finds what is in its folder already."""
    low, high = args.learning_rates
    rate = tuning.LogRange(low, high)
    options = {
        "objective": tuning.objective("val_accuracy"),
        "seed": args.seed + 1,  # 0 would be none at all
        "max_consecutive_failed_trials": sys.maxsize,  # rates that are too high come in a row
    }
    place = {"directory": args.output / "tuner", "project_name": arm}
    if args.tuner == "hyperband":
        return Hyperband(Arm(arm, rate, args), max_epochs=args.epochs, **options, **place)
    if args.tuner == "grid":
        rates = np.geomspace(low, high, args.trials).tolist()
        rate, oracle = tuning.Choice(*rates) if len(rates) > 1 else low, Grid(rates, **options)
    elif args.tuner == "bayesian":
        oracle = keras_tuner.oracles.BayesianOptimizationOracle(max_trials=args.trials, **options)
    else:
        oracle = keras_tuner.oracles.RandomSearchOracle(max_trials=args.trials, **options)
    return Tuner(oracle, Arm(arm, rate, args), **place)


def prepare(arms, args):
    """Write a record for each arm that has none. They share their settings, as they share a figure."""
    results = trials.results(args.output)
    if args.overwrite:
        shutil.rmtree(args.output / "tuner", ignore_errors=True)
        results.path.unlink(missing_ok=True)
    settings = {key: value for key, value in vars(args).items() if key not in images.NOT_SETTINGS}
    for arm in dict.fromkeys([*results.records, *arms]):
        folder = args.output / "tuner" / arm
        if (folder / "oracle.json").exists() and arm not in results.records:
            raise SystemExit(
                f"{folder} holds trials, but {results.path} does not say with which settings they were made. "
                "Give another --output to keep them, or --overwrite to drop them."
            )
        results.write(results.begin(arm, settings, resume=True))


def is_worker():
    """Whether this process takes its trials from a chief."""
    return "KERASTUNER_ORACLE_IP" in os.environ and "chief" not in os.environ["KERASTUNER_TUNER_ID"]


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m examples.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", choices=TASKS, default="digits")
    parser.add_argument("--arm", choices=[*ARMS, "all"], default="all")
    parser.add_argument("--tuner", choices=["random", "grid", "bayesian", "hyperband"], default="random")
    parser.add_argument("--trials", type=runs.positive, default=9, help="of each arm")
    parser.add_argument("--epochs", type=runs.positive, default=10, help="of a trial")
    parser.add_argument(
        "--learning-rates", type=float, nargs=2, metavar=("LOW", "HIGH"), default=[1e-5, 1e-1]
    )
    parser.add_argument(
        "--synthesizer-learning-rate", type=float, help="by default that of the modules, in one optimizer"
    )
    parser.add_argument("--seed", type=runs.whole, default=0)
    parser.add_argument("--data-dir", help="where TFDS keeps its data (default: ~/tensorflow_datasets)")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/sweep"))
    parser.add_argument("--overwrite", action="store_true", help="drop the trials that are there")
    parser.add_argument(
        "--plot", type=pathlib.Path, metavar="FOLDER", help=f"only redraw FOLDER/{trials.FIGURE}"
    )
    args = parser.parse_args(argv)
    low, high = args.learning_rates
    if not 0 < low < high:
        parser.error(f"--learning-rates: expected 0 < LOW < HIGH, received {low} {high}")
    if "KERASTUNER_ORACLE_IP" in os.environ and args.arm == "all":
        parser.error("--arm: several processes share the trials of one arm at a time, received all")

    if args.plot:
        trials.collect(args.plot)
        trials.plot(args.plot)
        return
    if not is_worker():
        trials.check(args.output, of_tuner=not args.overwrite)
    TASKS[args.data].load(args)  # no data is not the fault of a trial
    arms = ARMS if args.arm == "all" else [args.arm]
    if not is_worker():
        prepare(arms, args)
    for arm in arms:
        search = tuner(arm, args)
        search.save()  # else, stopped in its first trial, it would not find its way back
        search.search(epochs=args.epochs, verbose=0)
        if not is_worker():
            trials.collect(args.output)
    if not is_worker():
        print("\n" + trials.table(args.output))
        trials.plot(args.output)


if __name__ == "__main__":
    main()
