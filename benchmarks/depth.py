"""What an interface costs, in time and memory, in a network with many of them.

    python -m benchmarks.depth

33 dense layers of 256, batch 256; none to all of the 32 hidden layers have an interface behind
them, in five equal stages, from the first layer up. A stage's cost is the median, over the rounds, of
the difference between two models that took turns, divided by the interfaces that one has more:
"last / first" is that of the last stage (25 to 32) by that of the first (1 to 8). What all models have in
common, the network and a call of `fit`, is in no difference.

Memory is that of a process for each number of interfaces: the peak, tracing and compiling included,
and the peak of a second burst, when that is over. Prints milliseconds and MiB, ratios last; writes
them to --output.
"""

import itertools
import json
import statistics

import keras

import keras_sg
from benchmarks import arms, machine, memory, timing
from examples import runs

STAGES = 4


def build(interfaces, args):
    """The network, compiled with XLA, with so many interfaces from below."""
    inputs = hidden = keras.Input((args.width,))
    for index in range(args.layers - 1):
        # He's initialization keeps the activations of a deep network in their range.
        layer = keras.layers.Dense(args.width, activation="relu", kernel_initializer="he_normal")
        if index < interfaces:
            layer = keras_sg.SyntheticGradient(layer, synthesizer(args))
        hidden = layer(hidden)
    model = keras_sg.DecoupledModel(inputs, keras.layers.Dense(10)(hidden))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-5), loss, jit_compile=True, steps_per_execution=26)
    return model


def synthesizer(args):
    """What stands at an interface: a hidden layer as wide as the network's, or none."""
    return "linear" if args.synthesizer == "linear" else keras_sg.synthesizers.MLP(widths=(args.width,))


def burst(interfaces, args):
    data = arms.batches(args.batch_size, args.width)
    return arms.fitting(build(interfaces, args), data, args.steps)


def by_stage(series):
    """The cost of one interface in each stage, `{"1 to 8": cost}`.

    Args:
        series: `{number of interfaces: [one measurement a round]}`, the numbers ascending.
    """
    stages = {}
    for low, high in itertools.pairwise(series):
        difference = statistics.median(b - a for a, b in zip(series[low], series[high]))
        stages[f"{low + 1} to {high}"] = difference / (high - low)
    return stages


def ratios(costs):
    """The last stage's cost by the first's, `{"what: last / first": ratio}`, where the first is positive."""
    found = {}
    for what, stages in costs.items():
        first, *_, last = stages.values()
        if first > 0:
            found[f"{what}: last / first"] = last / first
    return found


def main(argv=None):
    parser = timing.parser("depth", __doc__)
    timing.add_options(parser, "depth", steps=26, rounds=12)
    parser.add_argument("--layers", type=runs.positive, default=33, help="a multiple of 4, and 1")
    parser.add_argument("--width", type=runs.positive, default=256)
    parser.add_argument("--batch-size", type=runs.positive, default=256)
    parser.add_argument("--synthesizer", choices=["linear", "mlp"], default="mlp")
    parser.add_argument("--child", type=runs.whole, help="measure memory with so many; print a line of JSON")
    args = parser.parse_args(argv)
    most, rest = divmod(args.layers - 1, STAGES)
    if rest or not most:
        parser.error(f"--layers must be 5, 9, 13 or so, for stages of equal size. Received: {args.layers}")
    if args.child is not None:
        print(json.dumps(memory.child(lambda: burst(args.child, args))))
        return

    numbers = [most * stage for stage in range(STAGES + 1)]
    options = [
        part
        for name in ("layers", "width", "batch_size", "synthesizer", "steps")
        for part in (f"--{name.replace('_', '-')}", getattr(args, name))
    ]
    took = {number: machine.in_child("benchmarks.depth", "--child", number, *options) for number in numbers}
    times = timing.alternate({n: burst(n, args) for n in numbers}, args.rounds, args.steps)

    named = {f"{number} interfaces": series for number, series in times.items()}
    for number, found in took.items():
        print(memory.line(f"{number} interfaces", found))
    found = timing.report(named, [])
    costs = {"ms": by_stage(times)}
    costs |= {f"MiB, {what}": by_stage({n: [took[n][what]] for n in numbers}) for what in ("peak", "later")}
    for what, stages in costs.items():
        print(f"an interface, {what}: " + ", ".join(f"{name}: {cost:.3f}" for name, cost in stages.items()))
    found["ratios"] = ratios(costs)
    timing.print_ratios(found["ratios"])
    timing.write(args.output, found | {"memory_mib": took, "an_interface": costs})


if __name__ == "__main__":
    main()
