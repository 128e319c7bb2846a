"""What tf.data's autotuning costs at the end of an epoch.

    python -m benchmarks.pipeline

r2rt's network without interfaces, in epochs of `fit` over prepared batches that take turns: arrays, as Keras
feeds them; a tf.data pipeline as one writes it; and that with autotuning turned off, as all other benchmarks
and examples have it. Prints medians and spreads in milliseconds a step, ratios last; writes them to --output.
"""

import numpy as np
import tensorflow as tf

from benchmarks import arms, timing
from examples import mnist, runs

PAIRS = [("arrays", "pipeline, not tuned"), ("pipeline", "pipeline, not tuned")]


def main(argv=None):
    parser = timing.parser("pipeline", __doc__)
    timing.add_options(parser, "pipeline", steps=104, rounds=40)
    parser.add_argument("--batch-size", type=runs.positive, default=256)
    args = parser.parse_args(argv)

    model = mnist.build("backprop")
    data = arms.batches(args.batch_size)
    pictures, labels = (np.concatenate([part[at % len(part)] for at in range(args.steps)]) for part in data)
    pipeline = tf.data.Dataset.from_tensor_slices(data).repeat().take(args.steps).prefetch(tf.data.AUTOTUNE)
    bursts = {
        "arrays": lambda: model.fit(pictures, labels, batch_size=args.batch_size, shuffle=False, verbose=0),
        "pipeline": lambda: model.fit(pipeline, shuffle=False, verbose=0),
        "pipeline, not tuned": arms.fitting(model, data, args.steps),
    }
    times = timing.alternate(bursts, args.rounds, args.steps)
    found = timing.report(times, PAIRS)
    timing.write(args.output, found | {"rounds_ms": times})


if __name__ == "__main__":
    main()
