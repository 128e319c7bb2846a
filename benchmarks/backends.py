"""JAX against TensorFlow: the time of a training step of R1's network, in `fit`.

    python -m benchmarks.backends

Each backend has a process of its own, in which examples.mnist builds its arms `backprop` and `sg` as it
always does, with batches of 256. The processes take turns: in every round each times so many steps of each
arm on one batch, while the other waits. Prints medians and spreads in milliseconds, ratios last; writes them
to --output.
"""

import argparse
import contextlib
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys

BACKENDS = ("tensorflow", "jax")
ARMS = ("backprop", "sg")
WORKER = "from benchmarks import backends; backends.work()"


def work():
    """In a process of its own: for every line `<arm> <steps>` that comes in, milliseconds go out."""
    import numpy as np

    from benchmarks import steps
    from examples import mnist

    rng = np.random.default_rng(0)
    batch = rng.random((256, 784), "float32"), rng.integers(0, 10, 256)
    models = {arm: mnist.build(arm) for arm in ARMS}
    for line in sys.stdin:
        arm, count = line.split()
        (milliseconds,) = steps.milliseconds(models[arm], batch, int(count), epochs=1)
        print(milliseconds, flush=True)


def start(backend):
    environment = os.environ | {"KERAS_BACKEND": backend}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    root = pathlib.Path(__file__).parent.parent
    return subprocess.Popen([sys.executable, "-c", WORKER], cwd=root, env=environment, **pipes)


def ask(process, arm, steps):
    """Milliseconds a step, from a process."""
    print(arm, steps, file=process.stdin, flush=True)
    return float(process.stdout.readline())


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.backends",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=10, help="at least 2")
    parser.add_argument(
        "--steps", type=int, default=104, help="of each arm in a round, and as many before them"
    )
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/backends.json"))
    args = parser.parse_args(argv)
    if args.rounds < 2 or args.steps < 1:
        parser.error(f"there must be 2 rounds and 1 step at least. Received: {args.rounds} and {args.steps}")

    times = {f"{arm}, {backend}": [] for arm, backend in itertools.product(ARMS, BACKENDS)}
    with contextlib.ExitStack() as stack:
        processes = {backend: stack.enter_context(start(backend)) for backend in BACKENDS}
        for arm, backend in itertools.product(ARMS, BACKENDS):
            ask(processes[backend], arm, args.steps)  # traced and compiled
        for _, arm, backend in itertools.product(range(args.rounds), ARMS, BACKENDS):
            times[f"{arm}, {backend}"].append(ask(processes[backend], arm, args.steps))

    medians = {name: statistics.median(series) for name, series in times.items()}
    for name, series in times.items():
        print(f"{name}: {medians[name]:.2f} ms a step ({min(series):.2f} to {max(series):.2f})")
    ratios = {
        f"{arm}, jax / tensorflow": medians[f"{arm}, jax"] / medians[f"{arm}, tensorflow"] for arm in ARMS
    } | {
        f"{backend}, sg / backprop": medians[f"sg, {backend}"] / medians[f"backprop, {backend}"]
        for backend in BACKENDS
    }
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f}")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    found = {"medians_ms": medians, "rounds_ms": times, "ratios": ratios}
    args.output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
