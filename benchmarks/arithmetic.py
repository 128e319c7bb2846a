"""Less arithmetic: what accuracy each synthesizer reaches on MNIST, and what its step costs.

    python -m benchmarks.arithmetic
    python -m benchmarks.arithmetic --seed 1 --output runs/arithmetic-1

R2rt's network, with one kind of interface after the other, each from the same number of iterations
(Adam 1e-3 for modules and synthesizers). Then the models are made anew, and the time of their steps is
measured in bursts of `fit` that take turns. A run that was stopped goes on after its last whole epoch when
the same command is given again. Writes results.json (after every epoch), accuracy.png and
arithmetic.json into --output; prints the table, the ratios of step times last.
"""

import pathlib

import keras_sg
from benchmarks import arms, timing
from examples import images, runs
from keras_sg.synthesizers import MLP, Linear

# Arguments of `keras_sg.decouple`. Widths are those of the hidden layers; r2rt's are 1024, 1024.
ROWS = {
    "backprop": {},
    "mlp 1024-1024": {"synthesizer": "mlp"},
    "mlp 1024-1024, update_period 2": {"synthesizer": "mlp", "update_period": 2},
    "mlp 1024-1024, update_period 4": {"synthesizer": "mlp", "update_period": 4},
    "mlp 1024-1024, update_period 8": {"synthesizer": "mlp", "update_period": 8},
    "mlp 256-64": {"synthesizer": MLP(widths=(256, 64))},
    "mlp 64": {"synthesizer": MLP(widths=(64,))},
    "mlp 64, conditional": {"synthesizer": MLP(widths=(64,)), "num_classes": 10},
    "linear": {"synthesizer": "linear"},
    "linear, conditional": {"synthesizer": "linear", "num_classes": 10},
    "linear of rank 32, conditional": {"synthesizer": Linear(rank=32), "num_classes": 10},
    "linear of rank 8, conditional": {"synthesizer": Linear(rank=8), "num_classes": 10},
    "predicted error": {"synthesizer": "error", "num_classes": 10},
    "critic 128": {"interface": keras_sg.SyntheticLoss, "synthesizer": "critic", "num_classes": 10},
}


def build(row, args):
    return arms.cut(args, **ROWS[row])


def table(records, medians):
    """A Markdown table: accuracy against the time of a step."""
    lines = ["| synthesizer | test accuracy | ms a step |", "|---|---|---|"]
    for row, record in records.items():
        lines.append(f"| {row} | {record['test_accuracy'][-1]:.4f} | {medians[row]:.2f} |")
    return "\n".join(lines)


def main(argv=None):
    parser = images.parser("arithmetic", __doc__, ROWS)
    parser.prog = "python -m benchmarks.arithmetic"
    parser.set_defaults(iterations=2340, learning_rate=1e-3, output=pathlib.Path("runs/arithmetic"))
    parser.add_argument("--steps", type=runs.positive, default=104, help="of a burst; a multiple of 8")
    parser.add_argument("--rounds", type=timing.several, default=6, help="bursts of each, at least 2")
    args = parser.parse_args(argv)
    # What follows is measured apart, and no setting of a run.
    steps, rounds = vars(args).pop("steps"), vars(args).pop("rounds")
    images.main(args, "mnist", (784,), ROWS, build, "MNIST, 784 - 256 - 256 - 10")
    if args.plot:
        return

    records = runs.Results(args.output).records
    data = arms.batches(args.batch_size)
    bursts = {row: arms.fitting(build(row, args), data, steps) for row in records}
    times = timing.alternate(bursts, rounds, steps)
    print("\n" + table(records, timing.medians(times)) + "\n")
    found = timing.report(times, [(row, "backprop") for row in records if row != "backprop"])
    accuracy = {row: record["test_accuracy"][-1] for row, record in records.items()}
    timing.write(args.output / "arithmetic.json", found | {"test_accuracy": accuracy})


if __name__ == "__main__":
    main()
