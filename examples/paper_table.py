"""Table 1 of the paper behind synthetic gradients: networks of 3 to 21 layers, cut behind each hidden one.

    KERAS_BACKEND=jax python -m examples.paper_table --network fcn --layers 6 --arm sg-conditional --seed 1
    KERAS_BACKEND=jax python -m examples.paper_table --all --budget-minutes 60
    python -m examples.paper_table --table runs/paper_table

A network of n layers has n - 1 hidden ones and a classifier, and an interface behind every hidden one:

    fcn    dense layers of 256 (CIFAR-10: 1000) units, each with BatchNormalization and ReLU
    cnn    5 x 5 convolutions to 64 (CIFAR-10: 128) channels, each with BatchNormalization, ReLU and pooling
           (3 x 3, stride 3; by the maximum behind the first, by the mean behind the others)

    no-backprop      no interfaces, and only the classifier learns
    backprop         no interfaces
    sg               the gradient is predicted from what the module puts out alone
    sg-conditional   and from the label, too; in an fcn by a linear layer
    local            nothing comes from above: each module descends the loss of a small head of its own
    feedback         nothing learns at interfaces: a fixed random matrix of the error at the output
    sg-input         as sg, and the synthesizer sees the network's input, too
    sg-error         the error of a label that is predicted behind the module, carried back by a matrix
                     (there is none in a cnn)

A cell of the table is a network, an arm and a seed. Those that --data, --network, --layers, --arm and --seed
pick are trained one after the other, the most telling first. Each goes into results.json epoch by epoch. One
that is there is not trained again; one that was stopped goes on after its last whole epoch. With
--budget-minutes, training stops at the end of the epoch in which that time is over. Prints the table: test
error in per cent, mean and range over the seeds, and the paper's number.

--recipe paper is what the paper did: 500,000 iterations of Adam at 3e-5. --recipe fast is meant for a small
machine. Its numbers were chosen on the fully connected networks for MNIST as --validation measures: trained
on five sixths of the training images, measured on the other sixth of them (10,000), never on the test images.
What was chosen there is used for the convolutional networks and for CIFAR-10 as it is.

Source: Jaderberg et al. 2016, https://arxiv.org/abs/1608.05343, table 1, section 3.1 and appendix A.
"""

import argparse
import itertools
import pathlib
import time

import keras
import numpy as np

from examples import data, images, runs
from examples.paper_cells import ARMS, LAYERS, NONE, PAPER, RECIPES, SHAPES, build, cells, recipe


class OutOfTime(Exception):
    """The budget is spent."""


def in_time(moment):
    """Raise `OutOfTime` after a moment of `time.monotonic`."""
    if time.monotonic() > moment:
        raise OutOfTime("the minutes of the budget are spent")


class Deadline(keras.callbacks.Callback):
    """Raises `OutOfTime` where an epoch would begin after a moment of `time.monotonic`."""

    def __init__(self, moment):
        super().__init__()
        self.moment = moment

    def on_epoch_begin(self, epoch, logs=None):
        in_time(self.moment)


def settings_of(cell, args, count):
    """What the result of a cell depends on, beside the data.

    Args:
        cell: `Cell`.
        args: the command line.
        count: of training images.
    """
    found = recipe(args.recipe, cell)
    found |= {key: getattr(args, key) for key in ("iterations", "batch_size") if getattr(args, key)}
    epoch = max(1, min(count // found["batch_size"], found["iterations"]))
    # To whole epochs, at whose end the rate is zero.
    found["iterations"] = found["iterations"] // epoch * epoch
    found |= {"file": data.digest(args.npz)} if args.npz else {}
    return cell._asdict() | found | {"measured_on": "validation" if args.validation else "test"}


def train(cell, args, deadline):
    """Train a cell; its record goes into results.json."""
    shape = SHAPES[cell.data, cell.network]
    splits = data.read(args.npz, shape, "--npz") if args.npz else data.fetch(cell.data, args.data_dir)
    if args.validation:
        splits = data.held_out(splits)
    settings = settings_of(cell, args, len(splits[0]["label"]))
    # `images.train` knows one file as data and no other name of an arm.
    options = settings | {"arm": cell.name, "data": args.npz, "warm_up": 0}
    options |= {"output": args.output, "overwrite": args.overwrite}
    images.train(
        cell.name,
        argparse.Namespace(**options),
        splits,
        shape,
        lambda _, options: build(cell, options),
        settings=settings,
        callbacks=[Deadline(deadline)],
    )


def errors(records):
    """Test errors, in per cent, of what has ended: by data, network, layers and arm, a dictionary by seed."""
    found = {}
    for record in records.values():
        settings, accuracy = record["settings"], record["test_accuracy"]
        if settings.get("measured_on") == "test" and accuracy and len(accuracy) >= record["epochs"]:
            key = tuple(settings[name] for name in ("data", "network", "layers", "arm"))
            found.setdefault(key, {})[settings["seed"]] = 100.0 * (1.0 - accuracy[-1])
    return found


def table(records, datasets):
    """Our errors and the paper's, as Markdown: rows the networks, columns the arms."""
    found, rows = errors(records), []
    for dataset in datasets:
        rows += [
            f"| {dataset}, ours / the paper's | " + " | ".join(ARMS) + " |",
            "|---" * (1 + len(ARMS)) + "|",
        ]
        for key in (key for key in PAPER if key[0] == dataset):
            row = f"| {key[1].upper()} {key[2]} "
            for arm, paper in itertools.zip_longest(ARMS, PAPER[key]):
                ours = "none" if (key[1], arm) in NONE else _summary(found.get((*key, arm)))
                row += f"| {ours} / {'-' if paper is None else paper} "
            rows.append(row + "|")
        rows.append("")
    return "\n".join(rows)


def _summary(by_seed):
    if not by_seed:
        return "not yet run"
    values = list(by_seed.values())
    mean = f"{np.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.2f} to {max(values):.2f})"


def parser():
    parser = argparse.ArgumentParser(
        prog="python -m examples.paper_table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", choices=["mnist", "cifar10"], nargs="+", default=["mnist"])
    parser.add_argument("--network", choices=LAYERS, nargs="+", help="by default both")
    parser.add_argument("--layers", type=runs.positive, nargs="+", help="by default all of the paper's")
    parser.add_argument("--arm", choices=ARMS, nargs="+", help="by default all")
    parser.add_argument("--seed", type=runs.whole, nargs="+", default=[1, 2, 3])
    parser.add_argument("--all", action="store_true", help="train what is picked, even if that is everything")
    parser.add_argument("--recipe", choices=RECIPES, default="fast")
    parser.add_argument(
        "--iterations", type=runs.positive, help="by default the recipe's; rounded down to whole epochs"
    )
    parser.add_argument("--batch-size", type=runs.positive, help="by default the recipe's")
    parser.add_argument("--budget-minutes", type=float, help="by default none")
    parser.add_argument(
        "--validation", action="store_true", help="measure on a sixth of the training images, held out"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data-dir", help="where TFDS keeps its data (default: ~/tensorflow_datasets)")
    source.add_argument(
        "--npz",
        type=pathlib.Path,
        metavar="FILE.npz",
        help="arrays x_train, y_train, x_test and y_test, instead of TFDS (which needs TensorFlow)",
    )
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/paper_table"))
    parser.add_argument("--overwrite", action="store_true", help="drop what is there of these cells")
    parser.add_argument("--table", type=pathlib.Path, metavar="FOLDER", help="only print the table of FOLDER")
    return parser


def main(argv=None):
    args = parser().parse_args(argv)
    if args.table:
        print(table(runs.Results(args.table).to_draw(), args.data))
        return
    picked = cells(args)
    if not (args.all or args.network or args.layers or args.arm):
        raise SystemExit(
            f"That would be all {len(picked)} cells: say --all to train them, or pick some with --network, "
            "--layers and --arm."
        )
    if args.npz and len(args.data) > 1:
        raise SystemExit(f"--npz is one data set. Received: --data {' '.join(args.data)}")
    if args.budget_minutes is not None and not args.budget_minutes > 0:
        raise SystemExit(f"--budget-minutes must be positive. Received: {args.budget_minutes}")
    runs.Results(args.output)
    deadline = time.monotonic() + 60 * (float("inf") if args.budget_minutes is None else args.budget_minutes)
    try:
        for cell in picked:
            in_time(deadline)
            train(cell, args, deadline)
    except OutOfTime:
        print(f"\nThe {args.budget_minutes:g} minutes are over; the same command goes on from here.")
    print("\n" + table(runs.Results(args.output).records, args.data))


if __name__ == "__main__":
    main()
