"""What many small interfaces cost in a step without XLA, and what their reports cost.

    python -m benchmarks.interfaces

Thirty dense layers of 32 behind one another, batch 32, Adam 1e-3, TensorFlow without XLA: there is hardly any
arithmetic, so that what is measured is the number of operations in a step and the Python around it.

    plain               keras.Model, no interfaces
    no interfaces       DecoupledModel without interfaces: Adam in one operation for each weight
    interfaces          a linear synthesizer that sees the label behind every layer; two metrics over all
    each reported       the same with report_interfaces=True: two metrics more for each

The arms take turns in bursts of `fit`. Prints medians and spreads in milliseconds, ratios last; writes them
to --output.
"""

import keras

import keras_sg
from benchmarks import arms, timing
from examples import runs

ARMS = {
    "plain": None,
    "no interfaces": {},
    "interfaces": {"report_interfaces": False},
    "each reported": {"report_interfaces": True},
}
PAIRS = [(name, "plain") for name in list(ARMS)[1:]] + [
    ("interfaces", "no interfaces"),
    ("each reported", "interfaces"),
]


def build(arm, args):
    """The network of an arm, compiled without XLA."""
    inputs = hidden = keras.Input((args.width,))
    names = [f"block{index}" for index in range(args.layers)]
    for name in names:
        hidden = keras.layers.Dense(args.width, "relu", kernel_initializer="he_normal", name=name)(hidden)
    outputs, options = keras.layers.Dense(10)(hidden), ARMS[arm]
    if options:
        plain = keras.Model(inputs, outputs)
        model = keras_sg.decouple(plain, names, synthesizer=args.synthesizer, num_classes=10, **options)
    else:
        model = (keras.Model if options is None else keras_sg.DecoupledModel)(inputs, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=False)
    return model


def main(argv=None):
    parser = timing.parser("interfaces", __doc__)
    timing.add_options(parser, "interfaces", steps=100, rounds=12)
    parser.add_argument("--layers", type=runs.positive, default=30)
    parser.add_argument("--width", type=runs.positive, default=32)
    parser.add_argument("--batch-size", type=runs.positive, default=32)
    parser.add_argument("--synthesizer", choices=["linear", "mlp"], default="linear")
    args = parser.parse_args(argv)

    data = arms.batches(args.batch_size, args.width)
    bursts = {arm: arms.fitting(build(arm, args), data, args.steps) for arm in ARMS}
    timing.write(args.output, timing.report(timing.alternate(bursts, args.rounds, args.steps), PAIRS))


if __name__ == "__main__":
    main()
