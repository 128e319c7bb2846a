"""Several processes train one network: real ones, on loopback, that are killed and frozen, too."""

import contextlib
import importlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="keras.distribution trains over several processes on JAX only"
)
ROOT = pathlib.Path(__file__).parent.parent
EPOCHS, BATCH = 3, 128
LIMIT = 600  # seconds that anything may take, on a machine that has other things to do

# The example, as one process runs it: without TensorFlow, whose import takes longer than all the rest. It
# says when it begins an epoch, stays at the beginning of one if told so, and leaves its weights behind.
PROCESS = """
import sys, time
sys.modules["tensorflow"] = None
import numpy as np
from examples import multi_process

weights, stay_at, *arguments = sys.argv[1:]
order_of = multi_process.order_of

def announced(epoch, *rest):
    print(f"begins epoch {epoch}.", flush=True)
    time.sleep(3600 if epoch == int(stay_at) else 0)
    return order_of(epoch, *rest)

multi_process.order_of = announced
np.savez(weights, *multi_process.main(arguments).get_weights())
"""


@pytest.fixture(scope="module")
def example():
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(str(ROOT))
        yield importlib.import_module("examples.multi_process")


def addresses(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return ",".join(f"127.0.0.1:{one.getsockname()[1]}" for one in sockets)


class Pair:
    """Two processes of the example; `stay_at` says in which epoch which of them stays."""

    def __init__(self, folder, stay_at=(-1, -1)):
        self.folder = folder
        environment = os.environ | {
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=1",
            "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        options = ["--addresses", addresses(2), "--epochs", EPOCHS, "--batch-size", BATCH, "--timeout", 8]
        self.processes = []
        for process, epoch in enumerate(stay_at):
            arguments = [self.weights(process), epoch, *options, "--process", process, "--output", folder]
            command = [sys.executable, "-c", PROCESS, *map(str, arguments)]
            with self.log(process).open("w") as log:
                self.processes.append(
                    subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
                )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for process in self.processes:
            process.kill()
            process.wait()

    def log(self, process):
        return self.folder / f"log{process}"

    def weights(self, process):
        return self.folder / f"weights{process}.npz"

    def said(self, text):
        """Wait until both have said something."""
        deadline = time.monotonic() + LIMIT
        while not all(text in self.log(process).read_text() for process in (0, 1)):
            assert time.monotonic() < deadline, text
            for process in (0, 1):
                assert self.processes[process].poll() is None, self.log(process).read_text()
            time.sleep(0.05)

    def ended(self):
        """Wait until both have ended well; the weights of each."""
        for process in (0, 1):
            assert self.processes[process].wait(LIMIT) == 0, self.log(process).read_text()
        return [list(np.load(self.weights(process)).values()) for process in (0, 1)]

    def record(self):
        return json.loads((self.folder / "results.json").read_text())["sg-conditional"]


@pytest.fixture(scope="module")
def alone(example):
    """The weights that one process ends with, without anything of all that, and its loss on the test data."""
    (x, y), (test_x, test_y) = example.load(0)
    keras.utils.set_random_seed(0)
    model = example.build(1e-3)
    for epoch in range(EPOCHS):
        order = np.random.default_rng((0, epoch)).permutation(len(x))
        for begin in range(0, len(x) - BATCH + 1, BATCH):
            batch = order[begin : begin + BATCH]
            model.train_on_batch(x[batch], y[batch])
    whole = len(test_x) // BATCH * BATCH
    logits = keras.ops.convert_to_numpy(model(test_x[:whole])).astype("float64")
    likelihood = np.exp(logits)[np.arange(whole), test_y[:whole]] / np.exp(logits).sum(axis=1)
    return model.get_weights(), -np.mean(np.log(likelihood))


def assert_close(weights, others, tolerance=1e-5):
    assert len(weights) == len(others) == 10  # of three layers and two synthesizers
    for one, other in zip(weights, others):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)


def test_two_processes_end_with_the_weights_of_one(example, alone, tmp_path):
    weights, test_loss = alone
    with Pair(tmp_path) as pair:
        first, second = pair.ended()
        assert_close(first, second, tolerance=0)
        assert_close(first, weights)
        assert len(pair.record()["test_accuracy"]) == EPOCHS
        np.testing.assert_allclose(pair.record()["test_loss"][-1], test_loss, rtol=1e-4)
    keras.utils.set_random_seed(0)
    model = example.build(1e-3)
    assert abs(model.get_weights()[0] - first[0]).max() > 1e-3, "nothing was trained"
    # What they leave behind is read by one process, as any weights.
    model.load_weights(tmp_path / "checkpoint.weights.h5")
    assert_close(model.get_weights(), first, tolerance=0)
    assert int(model.optimizer.iterations) == EPOCHS * (1347 // BATCH)


def test_a_process_is_lost_and_all_go_on(alone, tmp_path):
    """Process 1 is killed in the second epoch; in the third, process 0, which the others go by, is frozen."""
    with Pair(tmp_path, stay_at=(-1, 1)) as pair:
        pair.said("begins epoch 1.")
        pair.processes[1].kill()
        assert pair.processes[0].wait(60) != 0
        assert re.search("Gloo .* failed: .* by peer", pair.log(0).read_text())
        killed = pair.record()
        assert len(killed["test_loss"]) == 1

    with Pair(tmp_path, stay_at=(2, -1)) as pair:
        pair.said("begins epoch 2.")
        pair.processes[0].send_signal(signal.SIGSTOP)
        assert pair.processes[1].wait(60) != 0
        log = pair.log(1).read_text()
        assert "process 1 of 2: 1 epochs are done" in log and "another task died" in log

    with Pair(tmp_path) as pair:
        first, second = pair.ended()
        assert "2 epochs are done" in pair.log(0).read_text() and "epoch 1." not in pair.log(0).read_text()
        assert_close(first, second, tolerance=0)
        assert_close(first, alone[0])
        finished = pair.record()
        assert len(finished["test_loss"]) == EPOCHS and finished["test_loss"][:1] == killed["test_loss"]


def test_shares_are_the_batches(example):
    """Put together in the order of the processes, what they read at each step is the batch of that step."""
    x, y = np.arange(44.0).reshape(22, 2), np.arange(22)
    shares = [example.share((x, y), 6, process, 3) for process in range(3)]
    for part, whole in enumerate((x, y)):
        for step in range(3):
            read = [share[part][2 * step : 2 * step + 2] for share in shares]
            np.testing.assert_array_equal(np.concatenate(read), whole[6 * step : 6 * step + 6])
        assert {len(share[part]) for share in shares} == {6}  # 22 % 6 examples are left out


TWO = ["--addresses", "127.0.0.1:2,127.0.0.1:3"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "either --launch, or both --addresses and --process, must be given"),
        (TWO, "either --launch, or both --addresses and --process, must be given"),
        ([*TWO, "--process", "0", "--processes", "3"], "--processes is 3, but there are addresses of 2"),
        (["--launch", "2", "--processes", "3"], "--processes is 3, but there are addresses of 2"),
        ([*TWO, "--process", "2"], "--process is one of 0 to 1, its place in --addresses. Received: 2"),
        ([*TWO, "--process", "-1"], "its place in --addresses. Received: -1"),
        ([*TWO, "--process", "0", "--batch-size", "31"], "must be a multiple of the number of processes"),
        (["--addresses", "one,two:3", "--process", "0"], "expected HOST:PORT for every process, received"),
    ],
)
def test_what_cannot_be_started(example, arguments, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        example.main([*arguments, "--output", str(tmp_path / "output")])
    assert stop.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "output").exists()


def test_another_backend(example, monkeypatch, capsys):
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    with pytest.raises(SystemExit):
        example.main([*TWO, "--process", "0"])
    expected = "over several processes on JAX only. Set KERAS_BACKEND=jax. Received: the tensorflow backend"
    assert expected in capsys.readouterr().err


def test_processes_that_disagree(example, monkeypatch):
    monkeypatch.setattr(example.multihost_utils, "process_allgather", lambda mine: np.stack([mine, mine + 1]))
    with pytest.raises(SystemExit, match=r"with the same settings and read the same data.*'seed': 3"):
        example.check_agreement({"seed": 3}, [np.zeros(2)])


@pytest.mark.parametrize("content", [b"", b"no HDF5", "cut", None])
def test_a_checkpoint_that_is_damaged(example, tmp_path, content):
    """Refused before the processes meet, and before a run from the start could write over it."""
    checkpoint = tmp_path / "checkpoint.weights.h5"
    results = importlib.import_module("examples.results").Results(tmp_path)
    settings = {"batch_size": 32, "learning_rate": 1e-3, "seed": 0}
    record = results.begin(example.ARM, settings, resume=True)
    results.write(record | {"test_accuracy": [0.5]})
    if content == "cut":
        example.build(1e-3).save_weights(checkpoint)
        content = checkpoint.read_bytes()[:-100]
    checkpoint.mkdir() if content is None else checkpoint.write_bytes(content)
    with pytest.raises(
        SystemExit, match=r"weights.h5 is no checkpoint to go on from.*left as it is.*--overwrite"
    ):
        example.main([*TWO, "--process", "0", "--output", str(tmp_path)])
    assert checkpoint.is_dir() if content is None else checkpoint.read_bytes() == content


def test_results_that_are_damaged(example, tmp_path):
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(SystemExit, match=r"results.json is of no use here.*JSONDecodeError"):
        example.main([*TWO, "--process", "0", "--output", str(tmp_path), "--overwrite"])


@pytest.mark.parametrize("code", ["", "import sys, time; time.sleep(3600 * int(sys.argv[-1])); sys.exit(3)"])
def test_launch(example, monkeypatch, code):
    """All end well, or the first of them fails: then the other, which would take an hour, is ended."""
    started, popen = [], subprocess.Popen

    def start(command, env):
        assert command[:3] == [sys.executable, "-m", "examples.multi_process"]
        started.append(popen([sys.executable, "-c", code, *command[3:]]))
        return started[-1]

    monkeypatch.setattr(example.subprocess, "Popen", start)
    expected = pytest.raises(SystemExit, match=r"so all were ended. Exit codes, by process: \{0: 3\}")
    with expected if code else contextlib.nullcontext():
        example.main(["--launch", "2", "--epochs", "5"])
    assert [one.returncode for one in started] == ([3, -signal.SIGKILL] if code else [0, 0])
    for process, one in enumerate(started):
        assert one.args[3:5] == ["--launch", "2"] and one.args[-2:] == ["--process", str(process)]
        assert one.args[-3].count("127.0.0.1:") == 2 and one.args[-6:-4] == ["--launch", "0"]
