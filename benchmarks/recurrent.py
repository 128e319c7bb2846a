"""What gradients from the future cost in a step: a recurrent interface, against the same network without.

    python -m benchmarks.recurrent
    KERAS_BACKEND=jax python -m benchmarks.recurrent

An LSTM of 256 units on windows of five steps, batch 64, with a dense layer of 65 classes behind every step,
Adam 1e-3, compiled; random numbers in, random classes out. Bursts of `fit` take turns:

    plain               keras.Model, no interface: every window begins with zeros
    interface           a linear synthesizer that sees all states, in a keras.Model
    reported            the same in a DecoupledModel, which says how well it does
    auxiliary           a hidden layer as wide as the LSTM, and the second read-out
    twenty steps        plain, on windows of 20 steps: what truncation at T = 20 costs

Prints medians and spreads in milliseconds, ratios last; writes them to --output.
"""

import keras
import numpy as np

import keras_sg
from benchmarks import timing
from examples import runs

FEATURES, CLASSES = 64, 65
PAIRS = [(name, "plain") for name in ("interface", "reported", "auxiliary", "twenty steps")]


def build(arm, args):
    """The network of an arm, compiled."""
    steps = 20 if arm == "twenty steps" else args.length
    x, ends = keras.Input((steps, FEATURES)), keras.Input(())
    # Keras takes layers that could use cuDNN for ones that XLA cannot compile.
    lstm = keras.layers.LSTM(args.units, return_sequences=True, use_cudnn=False)
    if arm in ("plain", "twenty steps"):
        h = lstm(x)
    else:
        hidden = keras_sg.synthesizers.MLP((args.units,), batch_normalization=False)
        options = {"synthesizer": hidden, "auxiliary": True} if arm == "auxiliary" else {}
        h = keras_sg.RecurrentSyntheticGradient(lstm, batch_size=args.batch_size, **options)(x, ends=ends)
    model_class = keras_sg.DecoupledModel if arm == "reported" else keras.Model
    model = model_class([x, ends], keras.layers.Dense(CLASSES)(h))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    compiled = keras.backend.backend() != "torch"
    at_once = runs.at_once(10)
    model.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=compiled, steps_per_execution=at_once)
    return model


def fitting(model, args):
    """A burst of so many windows of `fit`."""
    steps = model.inputs[0].shape[1]
    rng = np.random.default_rng(0)
    rows = args.steps * args.batch_size
    x = rng.normal(size=(rows, steps, FEATURES)).astype("float32")
    ends = np.zeros(rows, "float32")
    ends[-args.batch_size :] = 1.0
    y = rng.integers(0, CLASSES, (rows, steps))
    return lambda: model.fit([x, ends], y, batch_size=args.batch_size, shuffle=False, verbose=0)


def main(argv=None):
    parser = timing.parser("recurrent", __doc__)
    timing.add_options(parser, "recurrent", steps=100, rounds=10)
    parser.add_argument("--length", type=runs.positive, default=5, help="steps of a window")
    parser.add_argument("--units", type=runs.positive, default=256)
    parser.add_argument("--batch-size", type=runs.positive, default=64)
    args = parser.parse_args(argv)

    arms = ("plain", "interface", "reported", "auxiliary", "twenty steps")
    bursts = {arm: fitting(build(arm, args), args) for arm in arms}
    timing.write(args.output, timing.report(timing.alternate(bursts, args.rounds, args.steps), PAIRS))


if __name__ == "__main__":
    main()
