"""What `update_period` saves: the time of a step, against steps in which synthesizers always learn.

    python -m benchmarks.update_period

R2rt's MNIST network with its two large synthesizers, batch 256, on random pictures. Three models
take turns: update_period 1; an update_period so long that no step measured is due; and plain
backpropagation. Prints medians and spreads in milliseconds, ratios last; writes them to --output.
"""

import argparse
import json
import pathlib
import statistics
import time

import keras
import numpy as np

import keras_sg


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
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.update_period",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=100, help="at least 2")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/update_period.json"))
    args = parser.parse_args(argv)
    if args.steps < 2:
        parser.error(f"--steps must be at least 2. Received: {args.steps}")

    rng = np.random.default_rng(0)
    x, y = rng.random((256, 784)).astype("float32"), rng.integers(0, 10, 256)
    models = {"learning": build(1), "resting": build(1_000_000), "backprop": build(None)}
    times = {name: [] for name in models}
    for step in range(args.steps + 3):
        for name, model in models.items():
            began = time.perf_counter()
            model.train_on_batch(x, y)
            if step >= 3:  # traced, compiled, and past the step 0 that is always due
                times[name].append(1e3 * (time.perf_counter() - began))

    medians = {name: statistics.median(series) for name, series in times.items()}
    for name, series in times.items():
        low, *_, high = statistics.quantiles(series, n=10)
        print(f"{name}: {medians[name]:.1f} ms a step (10 % to 90 %: {low:.1f} to {high:.1f})")
    ratios = {
        "resting / learning": medians["resting"] / medians["learning"],
        "resting / backprop": medians["resting"] / medians["backprop"],
        "learning / backprop": medians["learning"] / medians["backprop"],
    }
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f}")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps({"medians_ms": medians, "ratios": ratios}, indent=1))


if __name__ == "__main__":
    main()
