"""JAX against TensorFlow: the time of a training step of R1's network, in `fit`.

    python -m benchmarks.backends

Each backend has a process of its own, in which examples.mnist builds its arms `backprop` and `sg` as it
always does, with batches of 256. The processes take turns: in every round each times so many steps of each
arm on one batch, while the other waits. Prints medians and spreads in milliseconds, ratios last; writes them
to --output.
"""

import contextlib
import itertools
import os
import pathlib
import subprocess
import sys

from benchmarks import timing

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
    parser = timing.parser("backends", __doc__)
    timing.add_options(parser, "backends", steps=104, rounds=10)
    args = parser.parse_args(argv)

    times = {f"{arm}, {backend}": [] for arm, backend in itertools.product(ARMS, BACKENDS)}
    with contextlib.ExitStack() as stack:
        processes = {backend: stack.enter_context(start(backend)) for backend in BACKENDS}
        for arm, backend in itertools.product(ARMS, BACKENDS):
            ask(processes[backend], arm, args.steps)  # traced and compiled
        for _, arm, backend in itertools.product(range(args.rounds), ARMS, BACKENDS):
            times[f"{arm}, {backend}"].append(ask(processes[backend], arm, args.steps))

    pairs = [(f"{arm}, jax", f"{arm}, tensorflow") for arm in ARMS]
    pairs += [(f"sg, {backend}", f"backprop, {backend}") for backend in BACKENDS]
    timing.write(args.output, timing.report(times, pairs) | {"rounds_ms": times})


if __name__ == "__main__":
    main()
