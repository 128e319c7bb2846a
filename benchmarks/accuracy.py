"""How long MNIST takes to a test accuracy of 0.9777, that of r2rt's `sg` after 25,000 iterations.

    python -m benchmarks.accuracy

Two sides, each what `python -m examples.mnist` does: r2rt's settings, and the fast recipe. Seconds
are those of training up to the end of the first epoch whose test accuracy is as high, tracing and
compiling included; evaluation, imports and loading are not. A run of r2rt's settings is long, so
that there is one of it, with one of the recipe before it and the others after. The ratio is that of r2rt's
settings by the median of the recipe. A benchmark that was stopped goes on when the same command is
given again. Prints each run, the ratio last; writes them to --output.
"""

import itertools
import pathlib
import statistics

from benchmarks import machine, timing
from examples import mnist, runs

# The command line of `examples.mnist` for each side.
SIDES = {
    "r2rt": ["--arm", "sg"],
    "fast": ["--recipe", "fast"],
}


def seconds_to(record, target):
    """Seconds of training until the test accuracy was `target`; None if it never was."""
    seconds = itertools.accumulate(record["epoch_seconds"])
    reached = (at for at, accuracy in zip(seconds, record["test_accuracy"]) if accuracy >= target)
    return next(reached, None)


def run(side, seed, args):
    """Train one side, or find it trained; its record."""
    folder = args.output / f"{side}-{seed}"
    command = [*SIDES[side], "--seed", str(seed), "--output", str(folder)]
    for option in ("iterations", "data_dir"):
        if (value := getattr(args, option)) is not None:
            command += [f"--{option.replace('_', '-')}", str(value)]
    mnist.main(command)
    (record,) = runs.Results(folder).records.values()
    return record


def main(argv=None):
    parser = timing.parser("accuracy", __doc__)
    parser.add_argument("--target", type=float, default=0.9777)
    parser.add_argument("--fast-runs", type=runs.positive, default=3, help="of the recipe; seeds 0, 1, ...")
    parser.add_argument("--iterations", type=runs.positive, help="at most; by default as many as each has")
    parser.add_argument("--data-dir", help="where TFDS keeps its data")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/accuracy"))
    args = parser.parse_args(argv)

    order = [("fast", 0), ("r2rt", 0), *(("fast", seed) for seed in range(1, args.fast_runs))]
    records = {side: {} for side in SIDES}
    for side, seed in order:
        records[side][seed] = run(side, seed, args)

    seconds = {
        side: {seed: seconds_to(record, args.target) for seed, record in found.items()}
        for side, found in records.items()
    }
    for side, seed in order:
        record, took = records[side][seed], seconds[side][seed]
        best, epochs = max(record["test_accuracy"]), len(record["test_accuracy"])
        end = f"not reached in {epochs} epochs" if took is None else f"{took:.1f} s to {args.target}"
        print(f"{side}, seed {seed}: {end} (best {best:.4f}; first epoch {record['epoch_seconds'][0]:.1f} s)")
    ratios = {}
    if None in [took for found in seconds.values() for took in found.values()]:
        print("r2rt / fast: no ratio, as not all runs reached the target")
    else:
        ratios["r2rt / fast"] = seconds["r2rt"][0] / statistics.median(seconds["fast"].values())
        timing.print_ratios(ratios)
    found = {"target": args.target, "seconds": seconds, "ratios": ratios, "machine": machine.describe()}
    timing.write(args.output / "accuracy.json", found)


if __name__ == "__main__":
    main()
