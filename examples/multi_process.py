"""Several processes, on one machine or on many, train one network together. On JAX:

    KERAS_BACKEND=jax python -m examples.multi_process --launch 2

starts two processes here, on the CPU, to try it. On several machines, start one process on each, all with the
same options (the addresses of all, in one order) but for its own place in that list, counted from 0:

    KERAS_BACKEND=jax python -m examples.multi_process --addresses 10.0.0.1:4321,10.0.0.2:4321 --process 0
    KERAS_BACKEND=jax python -m examples.multi_process --addresses 10.0.0.1:4321,10.0.0.2:4321 --process 1

Every process holds the whole network, three modules with conditional interfaces between them, and reads its
share of each batch of scikit-learn's digits. All end with the weights that one process alone would have.

Process 0 alone writes into --output: results.json and, after every epoch, a checkpoint. When a process is
lost, the others end with an error. Started once more, all go on after the last checkpoint, which process 0
sends around.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
import zlib

import h5py
import keras
import numpy as np

import keras_sg
from examples import runs
from examples.needs import needs

with needs("jax,examples"):
    import jax
    from jax.experimental import multihost_utils
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

ARM = "sg-conditional"


def connect(addresses, process, timeout):
    """Join the other processes, and spread batches over the devices of all.

    `keras.distribution.initialize` would do, but it passes no timeouts on, and JAX's own are minutes: that
    long the others would wait for a process that went silent. (It also agrees on a seed; ours is an option.)
    """
    jax.distributed.initialize(
        coordinator_address=addresses[0],
        num_processes=len(addresses),
        process_id=process,
        heartbeat_timeout_seconds=timeout,
        shutdown_timeout_seconds=timeout,
    )
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))


def check_agreement(settings, arrays):
    """All processes train one network on one data set; what else they did would look like training, too."""
    content = json.dumps(settings).encode() + b"".join(array.tobytes() for array in arrays)
    checksums = multihost_utils.process_allgather(np.uint32(zlib.crc32(content)))
    if len(set(checksums.tolist())) > 1:
        raise SystemExit(
            "All processes must be started with the same settings and read the same data; they differ. "
            f"Received here: {settings}. Compare it with what the other processes say."
        )


def from_process_0(content):
    """The bytes that process 0 passes, in every process."""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    everywhere_as_long = np.frombuffer(content.ljust(size, b"\0")[:size], "uint8")
    return multihost_utils.broadcast_one_to_all(everywhere_as_long).tobytes()


def load(seed=0):
    """Training and test data: pairs of pixels in [0, 1] and labels."""
    digits = load_digits()
    train_x, test_x, train_y, test_y = train_test_split(
        digits.data.astype("float32") / 16, digits.target, test_size=0.25, random_state=seed
    )
    return (train_x, train_y), (test_x, test_y)


def order_of(epoch, examples, seed):
    """The order of the examples in an epoch: the same in every process, and when the epoch is done again."""
    return np.random.default_rng((seed, epoch)).permutation(examples)


def share(arrays, batch_size, process, processes):
    """What one process reads: its part of the first batch, of the second, and so on.

    An unfinished last batch is left out: everyone must have the same number of examples in every step.
    """
    batches = len(arrays[0]) // batch_size
    return [
        array[: batches * batch_size]
        .reshape(batches, processes, batch_size // processes, *array.shape[1:])[:, process]
        .reshape(-1, *array.shape[1:])
        for array in arrays
    ]


def build(learning_rate):
    """The network, compiled."""
    inputs = hidden = keras.Input((64,))
    for name in ("block1", "block2"):
        module = keras.layers.Dense(64, activation="relu", name=name)
        hidden = keras_sg.SyntheticGradient(module, "linear", num_classes=10)(hidden)
    model = keras_sg.DecoupledModel(inputs, keras.layers.Dense(10, name="logits")(hidden))
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.optimizer.build(model.trainable_variables)  # so that there is something to restore
    return model


def save(model, path):
    """Write weights and optimizer, in one piece, from one process.

    Keras makes variables of its own in order to save. Spread over the devices of all, they would need all.
    """
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        draft = path.with_name(f"draft.{path.name}")
        model.save_weights(draft)
        draft.replace(path)
    finally:
        keras.distribution.set_distribution(distribution)


def read(checkpoint):
    """The bytes of a checkpoint.

    Raises:
        SystemExit: it cannot be read, or was cut short.
    """
    try:
        with h5py.File(checkpoint):
            return checkpoint.read_bytes()
    except OSError as error:
        raise SystemExit(
            f"{checkpoint} is no checkpoint to go on from, and was left as it is. Choose another --output, "
            f"or give --overwrite to begin anew. Received: {type(error).__name__}: {error}"
        ) from error


def restore(model, content):
    """Put the content of a checkpoint into the model; all processes do so together, none needs the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "copy.weights.h5"
        path.write_bytes(content)
        model.load_weights(path)


def train(args):
    """Train as one of the processes; returns the model."""
    processes, first = len(args.addresses), args.process == 0
    settings = {key: getattr(args, key) for key in ("batch_size", "learning_rate", "seed")}
    checkpoint, saved, callbacks = args.output / "checkpoint.weights.h5", b"", []
    if first:
        results = runs.Results(args.output)
        record = results.begin(ARM, settings, resume=not args.overwrite)
        callbacks.append(runs.Recorder(results, record))
        if not record["test_accuracy"]:
            checkpoint.unlink(missing_ok=True)  # it is of a run that is dropped
        elif checkpoint.exists():
            saved = read(checkpoint)

    connect(args.addresses, args.process, args.timeout)
    training, test = load(args.seed)
    check_agreement(settings, [*training, *test])
    keras.utils.set_random_seed(args.seed)
    model = build(args.learning_rate)
    if saved := from_process_0(saved):
        restore(model, saved)
    examples = len(training[0])
    done = int(keras.ops.convert_to_numpy(model.optimizer.iterations)) // (examples // args.batch_size)
    print(f"process {args.process} of {processes}: {done} epochs are done", flush=True)

    mine = lambda arrays: share(arrays, args.batch_size, args.process, processes)
    for epoch in range(done, args.epochs):
        order = order_of(epoch, examples, args.seed)
        model.fit(
            *mine([array[order] for array in training]),
            batch_size=args.batch_size // processes,
            shuffle=False,
            validation_data=mine(test),
            initial_epoch=epoch,
            epochs=epoch + 1,
            callbacks=callbacks,
            verbose=2 if first else 0,
        )
        if first:
            save(model, checkpoint)
    if first:
        print("\n" + runs.table(args.output), flush=True)
    return model


def launch(count, argv):
    """Run so many processes on this machine; when one fails, end the others.

    Raises:
        SystemExit: a process failed.
    """
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        addresses = ",".join(f"127.0.0.1:{one.getsockname()[1]}" for one in sockets)
    command = [
        sys.executable,
        "-m",
        "examples.multi_process",
        *argv,
        "--launch",
        "0",
        "--addresses",
        addresses,
    ]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    started = []
    try:
        for process in range(count):
            started.append(subprocess.Popen([*command, "--process", str(process)], env=environment))
        while any(one.poll() is None for one in started) and not any(one.returncode for one in started):
            time.sleep(0.1)
        failed = {process: one.returncode for process, one in enumerate(started) if one.returncode}
    finally:
        for one in started:
            one.kill()
            one.wait()
    if failed:
        raise SystemExit(f"A process failed, so all were ended. Exit codes, by process: {failed}")


def addresses(text):
    """An `argparse` type: HOST:PORT, several of them."""
    found = text.split(",")
    if not all(re.fullmatch(r".+:\d+", one) for one in found):
        raise argparse.ArgumentTypeError(f"expected HOST:PORT for every process, received {text!r}")
    return found


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m examples.multi_process",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--addresses",
        type=addresses,
        help="HOST:PORT of every process, separated by commas; process 0 listens at the first",
    )
    parser.add_argument("--process", type=int, help="which of them this one is, counted from 0")
    parser.add_argument("--processes", type=runs.positive, help="how many there are: a check of --addresses")
    parser.add_argument("--launch", type=runs.whole, default=0, metavar="N", help="start N processes here")
    parser.add_argument("--epochs", type=runs.positive, default=30)
    parser.add_argument("--batch-size", type=runs.positive, default=32, help="of all processes together")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--timeout",
        type=runs.positive,
        default=60,
        metavar="SECONDS",
        help="after which a process that gives no sign of life is given up",
    )
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/multi_process"))
    parser.add_argument("--overwrite", action="store_true", help="drop the results that are there")
    args = parser.parse_args(argv)

    if keras.backend.backend() != "jax":
        parser.error(
            "keras.distribution trains over several processes on JAX only. Set KERAS_BACKEND=jax. "
            f"Received: the {keras.backend.backend()} backend"
        )
    count = args.launch or len(args.addresses or ())
    if not args.launch and (not count or args.process is None):
        parser.error("either --launch, or both --addresses and --process, must be given")
    if args.processes not in (None, count):
        parser.error(f"--processes is {args.processes}, but there are addresses of {count}: {args.addresses}")
    if not args.launch and not 0 <= args.process < count:
        parser.error(
            f"--process is one of 0 to {count - 1}, its place in --addresses. Received: {args.process}"
        )
    if args.batch_size % count:
        parser.error(
            f"--batch-size must be a multiple of the number of processes, {count}. "
            f"Received: {args.batch_size}"
        )
    if args.launch:
        return launch(args.launch, sys.argv[1:] if argv is None else argv)
    return train(args)


if __name__ == "__main__":
    main()
