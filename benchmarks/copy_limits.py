"""What limits synthetic gradients on Copy: what a trained synthesizer says, against what is true.

    KERAS_BACKEND=jax python -m examples.copy_task --batch-size 64 --seed 1 --arm sg
    KERAS_BACKEND=jax python -m benchmarks.copy_limits --batch-size 64 --seed 1

Takes the network that `examples.copy_task` has left in --results, with sequences of the level that it is
at. At the states that enter each window it computes the true gradient of the rest of the sequence, going back
through all of it, and prints its cosine with the synthetic one, and how long that is. Then the cosines, over
all windows and on sequences that nothing was fitted to, of the best that there could be: a linear map of the
states and one of the outputs alone, by least squares, and two hidden layers of 256. On JAX.
"""

import argparse
import json
import pathlib

import keras
import numpy as np

from examples import copy_task, runs


def network(args, seed):
    """The trained network of a seed, and the level that it is at."""
    name = f"sg, T={args.steps}, {args.units} units"
    folder = args.results / args.task / f"seed{seed}"
    record = runs.Results(folder, copy_task.SERIES).to_draw()[name]
    model = copy_task.build("sg", args.steps, args.units, args.batch_size, 1e-3)
    model.optimizer.build(model.trainable_variables)
    model.load_weights(folder / "backup" / name.replace(", ", "-") / "latest.weights.h5")
    return model, copy_task.Curriculum(args.task == "repeat", record["bits"])


def gradients(model, level, steps, count):
    """At the states that enter each window but the first: they, synthetic and true gradients per example."""
    import jax

    (interface,) = model.interfaces
    cell, read_out, units = interface.layer.cell, model.layers[-1], interface.layer.units
    sequences = level.sequences(np.random.default_rng(99), count)
    missing = -sequences[0].shape[1] % steps
    padded = [np.pad(a, [(0, 0), (0, missing)] + [(0, 0)] * (a.ndim - 2)) for a in sequences]
    windows = list(zip(*(np.split(a, a.shape[1] // steps, axis=1) for a in padded)))

    def play(state, window):
        """The leaving state, and the loss of a window, summed over the examples."""
        states, loss = [state[:, :units], state[:, units:]], 0.0
        for x, y, weight in zip(*(np.moveaxis(part, 1, 0) for part in window)):
            output, states = cell(x, states)
            errors = keras.losses.binary_crossentropy(y, read_out(output), from_logits=True)
            loss = loss + keras.ops.sum(weight * errors) / steps
        return keras.ops.concatenate(states, axis=1), loss

    states = [np.zeros((count, 2 * units), "float32")]
    for window in windows[:-1]:
        states.append(play(states[-1], window)[0])
    true, arrived = [], np.zeros((count, 2 * units), "float32")
    for state, window in zip(states[::-1], windows[::-1]):
        (arrived,) = jax.vjp(lambda state, window=window: play(state, window), state)[1]((arrived, 1.0))
        true.insert(0, np.asarray(arrived))
    said = [np.asarray(interface.synthesizer(state)) for state in states]
    return [np.stack(list(map(np.asarray, part))[1:]) for part in (states, said, true)]


def cosine(a, b):
    # Rounding may carry it past one.
    return float(np.clip(np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b), -1.0, 1.0))


def linear(inputs, targets, others):
    """What the best linear map from inputs to targets makes of others."""
    with_one = lambda a: np.concatenate([a, np.ones((len(a), 1))], axis=1).astype("float64")
    x = with_one(inputs)
    weights = np.linalg.solve(x.T @ x + 1e-3 * np.eye(x.shape[1]), x.T @ targets.astype("float64"))
    return with_one(others) @ weights


def hidden(inputs, targets, others):
    """What a network of two hidden layers makes of others."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(256, "relu"), keras.layers.Dense(256, "relu")]
    model = keras.Sequential([keras.Input(inputs.shape[1:]), *layers, keras.layers.Dense(targets.shape[1])])
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    model.fit(inputs, targets / targets.std(), batch_size=256, epochs=15, verbose=0)
    return model.predict(others, batch_size=1024, verbose=0)


def measure(args, seed):
    """What is printed of a seed, as a dictionary."""
    model, level = network(args, seed)
    states, said, true = gradients(model, level, args.steps, args.count)
    # Half of the sequences to fit, the others to test.
    half = args.count // 2
    rows = lambda part: part.reshape(-1, part.shape[-1])
    x, y, others, wanted = (rows(a[:, at]) for at in (slice(half), slice(half, None)) for a in (states, true))
    units = x.shape[1] // 2
    return {
        "level": [level.n, level.repeats],
        "cosine, by window": [cosine(a, b) for a, b in zip(said, true)],
        "length / true, by window": [
            float(np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(said, true)
        ],
        "cosine": cosine(rows(said[:, half:]), wanted),
        "best linear": cosine(linear(x, y, others), wanted),
        "best linear, of outputs": cosine(linear(x[:, :units], y, others[:, :units]), wanted),
        "two hidden layers": cosine(hidden(x, y, others), wanted),
    }


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.copy_limits",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("runs/copy_task"))
    parser.add_argument("--task", choices=["copy", "repeat"], default="copy")
    parser.add_argument("--steps", type=runs.positive, default=3)
    parser.add_argument("--units", type=runs.positive, default=64)
    parser.add_argument("--batch-size", type=runs.positive, default=256, help="of the training")
    parser.add_argument("--seed", type=runs.whole, nargs="+", default=[1])
    parser.add_argument("--count", type=runs.positive, default=8192, help="sequences, half of them to fit")
    args = parser.parse_args(argv)
    for seed in args.seed:
        found = measure(args, seed)
        print(json.dumps({"seed": seed} | found, default=float))


if __name__ == "__main__":
    main()
