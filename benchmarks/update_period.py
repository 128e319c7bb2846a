"""What `update_period` saves: the time of a step, against steps in which synthesizers always learn.

    python -m benchmarks.update_period

R2rt's MNIST network with its two large synthesizers, batch 256, on random pictures. Three models
take turns: update_period 1; an update_period so long that no step measured is due; and plain
backpropagation. Prints medians and spreads in milliseconds, ratios last; writes them to --output.
"""

import pathlib

import keras

import keras_sg
from benchmarks import arms, timing


def build(period):
    """The network with two MLP synthesizers of a period; with none for None."""
    inputs = hidden = keras.Input((784,))
    for _ in range(2):
        module = keras.Sequential(
            [keras.layers.Dense(256), keras.layers.BatchNormalization(), keras.layers.ReLU()]
        )
        if period is not None:
            module = keras_sg.SyntheticGradient(module, "mlp", update_period=period)
        hidden = module(hidden)
    model = keras_sg.DecoupledModel(inputs, keras.layers.Dense(10)(hidden))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-5), loss, jit_compile=True)
    return model


def main(argv=None):
    parser = timing.parser("update_period", __doc__)
    parser.add_argument("--steps", type=timing.several, default=100, help="at least 2")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/update_period.json"))
    args = parser.parse_args(argv)

    (x,), (y,) = arms.batches(count=1)
    models = {"learning": build(1), "resting": build(1_000_000), "backprop": build(None)}
    steps = {name: lambda model=model: model.train_on_batch(x, y) for name, model in models.items()}
    # Past tracing and compiling, and past step 0, which is always due.
    times = timing.alternate(steps, args.steps, warm_up=3)
    pairs = [("resting", "learning"), ("resting", "backprop"), ("learning", "backprop")]
    timing.write(args.output, timing.report(times, pairs))


if __name__ == "__main__":
    main()
