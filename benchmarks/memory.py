"""Peak resident memory of training r2rt's MNIST network with synthetic gradients.

    python -m benchmarks.memory

Each arm trains for some steps in a process of its own, and the arms take turns:

    sg            of `examples.mnist`, through `DecoupledModel.fit`
    backprop      the same without interfaces
    r2rt graph    sg as a graph in the style of TensorFlow 1

All processes import the same. Prints, in MiB, the resident memory before the model is made; its peak
from there on, tracing and compiling included; and the peak of a second burst, when that is over.
Ratios last: of the peaks, and of what they add to the memory before. Writes them to --output.
"""

import json
import statistics

from benchmarks import arms, machine, timing
from benchmarks.peers.r2rt_graph import R2rtGraph
from examples import mnist, runs

ARMS = ("sg", "backprop", "r2rt graph")
PAIRS = [("sg", "r2rt graph"), ("sg", "backprop")]


def child(make_burst):
    """The memory of one arm, in MiB, `{what: number}`."""
    first = machine.Peak()
    burst = make_burst()
    burst()
    found = {"before": first.before, "peak": first.peak}
    second = machine.Peak()
    burst()
    return found | {"later": second.peak, "added": found["peak"] - found["before"]}


def burst(arm, steps, batch_size):
    """A burst of steps of the arm, made anew."""
    data = arms.batches(batch_size)
    if arm == "r2rt graph":
        return arms.stepping(R2rtGraph(), data, steps)
    return arms.fitting(mnist.build(arm), data, steps)


def middle(samples):
    """The median of each number in a list of what `child` returned."""
    return {what: statistics.median(sample[what] for sample in samples) for what in samples[0]}


def line(name, found):
    return (
        f"{name}: peak {found['peak']:.0f} MiB, {found['added']:.0f} more than the {found['before']:.0f} "
        f"before; in a later burst {found['later']:.0f}"
    )


def main(argv=None):
    parser = timing.parser("memory", __doc__)
    timing.add_options(parser, "memory", steps=52, rounds=3)
    parser.add_argument("--batch-size", type=runs.positive, default=256)
    parser.add_argument("--child", choices=ARMS, help="measure this process; print a line of JSON")
    args = parser.parse_args(argv)
    if args.child:
        print(json.dumps(child(lambda: burst(args.child, args.steps, args.batch_size))))
        return

    options = ("--steps", args.steps, "--batch-size", args.batch_size)
    samples = {arm: [] for arm in ARMS}
    for _ in range(args.rounds):
        for arm in ARMS:
            samples[arm].append(machine.in_child("benchmarks.memory", "--child", arm, *options))
    medians = {arm: middle(found) for arm, found in samples.items()}
    for arm, found in medians.items():
        print(line(arm, found))
    ratios = {
        f"{what}: {a} / {b}": medians[a][what] / medians[b][what]
        for what in ("peak", "added")
        for a, b in PAIRS
    }
    timing.print_ratios(ratios)
    found = {"medians_mib": medians, "samples_mib": samples, "ratios": ratios, "machine": machine.describe()}
    timing.write(args.output, found)


if __name__ == "__main__":
    main()
