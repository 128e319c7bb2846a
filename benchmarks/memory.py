"""Peak resident memory of training with synthetic gradients: r2rt's MNIST network, or a deep one.

    python -m benchmarks.memory
    python -m benchmarks.memory --network dense
    python -m benchmarks.memory --network convolutional

Each arm trains for some steps in a process of its own, and the arms take turns:

    sg            of `examples.mnist`, through `DecoupledModel.fit`
    backprop      the same without interfaces
    r2rt graph    sg as a graph in the style of TensorFlow 1

Of a deep network of eight blocks (32 dense layers of 256, or 16 convolutions; `benchmarks.deep`):

    in turn           interfaces between the blocks, one block after the other
    together          the same in one program
    backprop          no interfaces
    rematerialized    no interfaces, each block made in a `keras.RematScope` (on JAX)

--blocks makes other blocks of the same layers, for all arms; --rank narrows the interfaces'
linear synthesizers; --synthesizer error has others in their place, which see the label.

All processes import the same. In those of a deep network the C library is told to map large blocks by
themselves (MALLOC_MMAP_THRESHOLD_), so that memory that is freed goes back to the system and is not counted,
and in huge pages (glibc.malloc.hugetlb), so that getting it anew takes little time; and to keep all small
ones in one place (MALLOC_ARENA_MAX). On a CPU, XLA by itself computes once what it was told to compute twice,
and nothing is rematerialized: it is told to leave out the two passes by which that comes about.

Prints, in MiB, the resident memory before: before the model is made, and of a deep network before it is
trained; its peak from there on, tracing and compiling included; and the peak of a second burst, when that is
over. Ratios last: of the peaks, of what they add to the memory before, and of the time of the second burst.
Writes them to --output.
"""

import json
import os
import statistics
import time

from benchmarks import arms, deep, machine, timing
from benchmarks.peers.r2rt_graph import R2rtGraph
from examples import mnist, runs

ARMS = ("sg", "backprop", "r2rt graph")
PAIRS = [("sg", "r2rt graph"), ("sg", "backprop")]
DEEP_PAIRS = [("in turn", "backprop"), ("in turn", "together"), ("in turn", "rematerialized")]
# What the C library reads when a process begins, and XLA.
ALLOCATION = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 20),
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
RECOMPUTED = "--xla_disable_hlo_passes=cse_barrier_expander,optimization-barrier-expander"


def child(make_burst, timed=False, made=False):
    """The memory of one arm, in MiB, `{what: number}`.

    Args:
        make_burst: makes the model, and what trains it for a burst of steps.
        timed: whether the seconds of the second burst are told, too.
        made: whether "before" is when the model is made.
    """
    first = None if made else machine.Peak()
    burst = make_burst()
    first = first or machine.Peak()
    burst()
    found = {"before": first.before, "peak": first.peak}
    second, began = machine.Peak(), time.perf_counter()
    burst()
    seconds = time.perf_counter() - began
    found |= {"later": second.peak, "added": found["peak"] - found["before"]}
    return found | {"seconds": seconds} if timed else found


def burst(arm, steps, batch_size):
    """A burst of steps of the arm, made anew, of r2rt's network."""
    data = arms.batches(batch_size)
    if arm == "r2rt graph":
        return arms.stepping(R2rtGraph(), data, steps)
    return arms.fitting(mnist.build(arm), data, steps)


def _burst(args):
    if args.network == "r2rt":
        return burst(args.child, args.steps, args.batch_size or 256)
    options = {name: getattr(args, name) for name in ("blocks", "rank", "synthesizer")}
    return deep.burst(args.network, args.child, args.steps, args.batch_size, **options)


def middle(samples):
    """The median of each number in a list of what `child` returned."""
    return {what: statistics.median(sample[what] for sample in samples) for what in samples[0]}


def line(name, found):
    time_of = f", {found['seconds']:.1f} s" if "seconds" in found else ""
    return (
        f"{name}: peak {found['peak']:.0f} MiB, {found['added']:.0f} more than the {found['before']:.0f} "
        f"before; in a later burst {found['later']:.0f}{time_of}"
    )


def main(argv=None):
    parser = timing.parser("memory", __doc__)
    timing.add_options(parser, "memory", steps=52, rounds=3)
    parser.add_argument("--network", choices=("r2rt", *deep.NETWORKS), default="r2rt")
    parser.add_argument("--batch-size", type=runs.positive, help="by default, what suits the network")
    parser.add_argument("--blocks", type=runs.positive, default=8, help="of a deep network")
    parser.add_argument("--rank", type=runs.positive, help="of a deep network's linear synthesizers")
    parser.add_argument("--synthesizer", choices=("linear", "error"), default="linear", help="likewise")
    parser.add_argument("--child", choices=(*ARMS, *deep.ARMS), help="measure this process; print JSON")
    args = parser.parse_args(argv)
    if args.network != "r2rt" and deep.NETWORKS[args.network].count % args.blocks:
        parser.error(
            f"--blocks must divide the number of layers, {deep.NETWORKS[args.network].count}. Received: "
            f"{args.blocks}"
        )
    if args.rank and args.synthesizer != "linear":
        parser.error(f"--rank is for linear synthesizers. Received: --synthesizer {args.synthesizer}")
    if args.network == "r2rt" and (args.rank or args.synthesizer != "linear"):
        parser.error(
            "--rank and --synthesizer are for deep networks. Received: --network r2rt with "
            f"--rank {args.rank} --synthesizer {args.synthesizer}"
        )
    if args.child:
        print(json.dumps(child(lambda: _burst(args), timed=True, made=args.network != "r2rt")))
        return

    chosen, pairs = (ARMS, PAIRS) if args.network == "r2rt" else (deep.arms(), DEEP_PAIRS)
    options = ["--steps", args.steps, "--network", args.network, "--blocks", args.blocks]
    options += ["--synthesizer", args.synthesizer]
    options += [] if args.rank is None else ["--rank", args.rank]
    options += [] if args.batch_size is None else ["--batch-size", args.batch_size]
    samples = {arm: [] for arm in chosen}
    if args.network != "r2rt":
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ.update(ALLOCATION | {"XLA_FLAGS": f"{flags} {RECOMPUTED}".strip()})
    for _ in range(args.rounds):
        for arm in chosen:
            samples[arm].append(machine.in_child("benchmarks.memory", "--child", arm, *options))
    medians = {arm: middle(found) for arm, found in samples.items()}
    for arm, found in medians.items():
        print(line(arm, found))
    ratios = {
        f"{what}: {a} / {b}": medians[a][what] / medians[b][what]
        for what in ("peak", "added", "seconds")
        for a, b in pairs
        if b in medians
    }
    timing.print_ratios(ratios)
    settings = {
        name: getattr(args, name) for name in ("network", "batch_size", "blocks", "rank", "synthesizer")
    }
    found = {"settings": settings, "medians_mib": medians, "samples_mib": samples, "ratios": ratios}
    found["machine"] = machine.describe()
    timing.write(args.output, found)


if __name__ == "__main__":
    main()
