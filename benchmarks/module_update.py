"""What updates at random save: the time of a step by the probability that a module is updated.

    KERAS_BACKEND=jax python -m benchmarks.module_update

Eight dense layers of 1024 (--width), batch 256, an interface with a linear synthesizer behind each but the
last, random numbers, SGD. One model for all modules in one program, one that takes them in turn, and one for
each probability of --p; each trains in bursts of --steps steps, by turns. A module that rests runs forward:
without any update, what remains is a third of the products of a module. Prints medians and spreads in
milliseconds, ratios last; writes them to --output.
"""

import argparse

import keras
import numpy as np

import keras_sg
from benchmarks import timing
from examples import runs

MODULES, BATCH, CLASSES = 8, 256, 10


def probability(text):
    """An `argparse` type: a number that `InTurn` takes for one."""
    try:
        return keras_sg.schedules.InTurn(module_update=float(text)).module_update
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def build(width, schedule):
    """The network, compiled with a schedule."""
    keras.utils.set_random_seed(0)
    blocks = [keras.layers.Dense(width, "relu", name=f"block{k}") for k in range(MODULES)]
    network = keras.Sequential([keras.Input((width,)), *blocks, keras.layers.Dense(CLASSES, name="logits")])
    model = keras_sg.decouple(network, [block.name for block in blocks[:-1]], synthesizer="linear")
    optimizer = keras_sg.decoupled_optimizer(keras.optimizers.SGD(1e-3), keras.optimizers.SGD(1e-3))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, schedule=schedule)
    return model


def main(argv=None):
    parser = timing.parser("module_update", __doc__)
    timing.add_options(parser, "module_update", steps=40, rounds=9)
    parser.add_argument("--width", type=runs.positive, default=1024)
    parser.add_argument("--p", type=probability, nargs="+", default=[0.5, 0.2, 0.05])
    args = parser.parse_args(argv)

    rng = np.random.default_rng(0)
    x = rng.normal(size=(args.steps * BATCH, args.width)).astype("float32")
    y = rng.integers(0, CLASSES, len(x))
    schedules = {"together": "together", "in turn": "in_turn"}
    schedules |= {f"p={p:g}": keras_sg.schedules.InTurn(module_update=p) for p in args.p}
    models = {name: build(args.width, schedule) for name, schedule in schedules.items()}
    bursts = {
        name: lambda model=model: model.fit(x, y, BATCH, shuffle=False, verbose=0)
        for name, model in models.items()
    }
    times = timing.alternate(bursts, args.rounds, steps=args.steps)
    pairs = [(name, "in turn") for name in schedules if name != "in turn"]
    timing.write(args.output, timing.report(times, pairs))


if __name__ == "__main__":
    main()
