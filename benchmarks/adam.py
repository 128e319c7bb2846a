"""Adam in one kernel for each weight, as `DecoupledModel` has it on TensorFlow, against Keras's own.

    python -m benchmarks.adam

r2rt's MNIST network with synthetic gradients, with XLA and without, made anew in every round. Its first burst
of `fit` holds what it takes to trace and to compile a step; a second one is timed by the step. The arms take
turns. Prints medians and spreads in milliseconds, ratios last; writes them to --output.
"""

import time

import keras

from benchmarks import arms, timing
from examples import mnist, runs

PAIRS = [("one kernel", "Keras's"), ("one kernel, XLA", "Keras's, XLA")]


class KerasAdam(keras.optimizers.Adam):
    """Keras's Adam, which `keras_sg` leaves alone for having an update of its own."""

    def update_step(self, *args):
        super().update_step(*args)


ARMS = {
    "one kernel": (keras.optimizers.Adam, False),
    "Keras's": (KerasAdam, False),
    "one kernel, XLA": (keras.optimizers.Adam, True),
    "Keras's, XLA": (KerasAdam, True),
}


def build(adam, jit_compile):
    """The arm `sg` of `examples.mnist` with an Adam."""
    model = mnist.build("sg")
    model.compile(
        adam(float(model.optimizer.learning_rate)),
        model.loss,
        metrics=["accuracy"],
        jit_compile=jit_compile,
        steps_per_execution=model.steps_per_execution,
    )
    return model


def main(argv=None):
    parser = timing.parser("adam", __doc__)
    timing.add_options(parser, "adam", steps=52, rounds=5)
    parser.add_argument("--batch-size", type=runs.positive, default=256)
    args = parser.parse_args(argv)

    data = arms.batches(args.batch_size)
    firsts, steps = {name: [] for name in ARMS}, {name: [] for name in ARMS}
    for _ in range(args.rounds):
        for name, arm in ARMS.items():
            keras.backend.clear_session()
            burst = arms.fitting(build(*arm), data, args.steps)
            firsts[name].append(_milliseconds(burst))
            steps[name].append(_milliseconds(burst) / args.steps)
    first = timing.report(
        firsts, PAIRS, unit=f"ms for the first {args.steps} steps, with tracing and compiling"
    )
    later = timing.report(steps, PAIRS)
    timing.write(args.output, {"first": first, "later": later})


def _milliseconds(burst):
    began = time.perf_counter()
    burst()
    return 1e3 * (time.perf_counter() - began)


if __name__ == "__main__":
    main()
