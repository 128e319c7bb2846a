"""The sweep, run as a user runs it: stopped, killed, resumed, and shared by several processes."""

import dataclasses
import importlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

import keras
import keras_tuner
import numpy as np
import pytest

pytestmark = pytest.mark.tensorflow
ROOT = pathlib.Path(__file__).parent.parent
FAST = ["--epochs", "1", "--arm", "backprop"]


# Two batches of the real digits, a step at a time (for tracing takes longer); here and in processes.
FEW = """
import dataclasses
from examples import sweep

digits = sweep.TASKS["digits"]

def few(args):
    train, test = digits.load(args)
    return train.take(2), test

sweep.TASKS["digits"] = dataclasses.replace(digits, load=few, compile={"run_eagerly": True})
"""


@pytest.fixture(autouse=True)
def sweep(from_the_root, monkeypatch):
    module = importlib.import_module("examples.sweep")
    monkeypatch.setattr(module, "TASKS", dict(module.TASKS))
    exec(FEW, {})
    return module


def records(folder):
    return json.loads((folder / "results.json").read_text())


def trials(folder, arm="backprop"):
    return records(folder)[arm]["trials"]


def kept(folder, arm="backprop"):
    """What keras-tuner wrote of each trial, by its number."""
    paths = (folder / "tuner" / arm).glob("trial_*/trial.json")
    return {path.parent.name: path.read_bytes() for path in paths}


def ended(folder, arm="backprop"):
    return {
        name: text
        for name, text in kept(folder, arm).items()
        if json.loads(text)["status"] in ("COMPLETED", "FAILED")
    }


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """The folder of a sweep of two rates in all arms."""
    return tmp_path_factory.mktemp("grid")


GRID = ["--tuner", "grid", "--trials", "2", "--epochs", "2", "--learning-rates", "1e-2", "1e38"]


def test_every_arm(sweep, grid, capsys):
    """The upper rate is one at which everything diverges."""
    sweep.main([*GRID, "--output", str(grid)])
    out = capsys.readouterr().out
    assert list(records(grid)) == ["backprop", "sg", "sg-conditional"]
    for arm in records(grid):
        good, bad = trials(grid, arm)
        assert (good["learning_rate"], bad["learning_rate"]) == (1e-2, 1e38)
        assert 0.1 < good["test_accuracy"] < 1 and not good["diverged"] and good["epochs"] == 2
        assert bad["diverged"] and bad["test_accuracy"] is None
        row = f"| {arm} | 2 | 1 | {good['test_accuracy']:.4f} | 0.01 | 0.01 to 0.01 |"
        assert row in out and f"{arm}, learning rate 1e+38: diverged" in out
    # The arms are three different ones.
    assert len({trials(grid, arm)[0]["test_loss"] for arm in records(grid)}) == 3
    assert (grid / "accuracy-by-learning-rate.png").read_bytes().startswith(b"\x89PNG")


def test_a_trial_is_what_one_would_train_by_hand(sweep, grid):
    """The network of the quickstart, with the same batches."""
    quickstart = importlib.import_module("examples.quickstart")
    keras.utils.set_random_seed(0)
    model = quickstart.build("sg-conditional")
    model.compile(
        keras.optimizers.Adam(1e-2, epsilon=1e-8),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        run_eagerly=True,
    )
    train, test = quickstart.load()
    model.fit(train.take(2), epochs=2, shuffle=False, verbose=0)
    loss, accuracy = model.evaluate(test, verbose=0)
    found = trials(grid, "sg-conditional")[0]
    np.testing.assert_allclose([found["test_loss"], found["test_accuracy"]], [loss, accuracy], rtol=1e-5)


def test_again_there_is_nothing_to_do(sweep, grid, capsys):
    before = {arm: kept(grid, arm) for arm in records(grid)}
    (grid / "accuracy-by-learning-rate.png").unlink()
    sweep.main([*GRID, "--output", str(grid)])
    assert {arm: kept(grid, arm) for arm in records(grid)} == before
    assert "learning rate 0.01" not in capsys.readouterr().out
    assert (grid / "accuracy-by-learning-rate.png").exists()


def test_plot_reads_what_keras_tuner_keeps(sweep, grid, tmp_path, capsys):
    """Of a sweep that was killed, results.json has not all trials yet."""
    shutil.copytree(grid, tmp_path / "killed")
    found = records(grid)
    emptied = {arm: record | {"trials": []} for arm, record in found.items()}
    (tmp_path / "killed" / "results.json").write_text(json.dumps(emptied))
    sweep.main(["--plot", str(tmp_path / "killed")])
    assert records(tmp_path / "killed") == found
    with pytest.raises(SystemExit, match="No results to draw"):
        sweep.main(["--plot", str(tmp_path / "nothing")])


@pytest.mark.parametrize("arm", ["backprop", "all"])
def test_other_settings_are_refused(sweep, grid, arm):
    """Of the same arm, and of another one in the same figure."""
    before = {path: path.read_bytes() for path in grid.rglob("*") if path.is_file()}
    other = [*GRID, "--seed", "4", "--trials", "3", "--arm", arm, "--output", str(grid)]
    with pytest.raises(SystemExit, match=r"other settings: seed=0 there, 4 now; trials=2 there, 3 now"):
        sweep.main(other)
    other = [*GRID, "--arm", arm, "--learning-rates", "1e-3", "1e-1", "--output", str(grid)]
    with pytest.raises(SystemExit, match=r"learning_rates=\[0.01, 1e\+38\] there, \[0.001, 0.1\] now"):
        sweep.main(other)
    assert {path: path.read_bytes() for path in grid.rglob("*") if path.is_file()} == before


def test_trials_of_unknown_settings_are_refused(sweep, tmp_path):
    (tmp_path / "tuner" / "backprop").mkdir(parents=True)
    (tmp_path / "tuner" / "backprop" / "oracle.json").write_text("{}")
    command = [*FAST, "--trials", "1", "--tuner", "grid", "--output", str(tmp_path)]
    with pytest.raises(SystemExit, match=r"holds trials, but .*results.json does not say.*--overwrite"):
        sweep.main(command)
    sweep.main([*command, "--overwrite"])
    assert [trial["learning_rate"] for trial in trials(tmp_path)] == [1e-5]


@pytest.mark.parametrize("tuner, count", [("random", 4), ("bayesian", 4)])
def test_stopped_and_resumed_it_finds_the_same(sweep, tmp_path, monkeypatch, tuner, count):
    """An error in the third trial stops the sweep; resumed, it ends as one that was never stopped.

    (Bayesian optimization chooses its first six at random, too.)
    """
    command = [*FAST, "--tuner", tuner, "--trials", str(count), "--seed", "3", "--output"]
    sweep.main([*command, str(tmp_path / "whole")])
    load, calls = sweep.TASKS["digits"].load, []

    def fail(args):
        calls.append(args)
        if len(calls) == 4:  # before the first trial it is called once
            raise OSError("the disk is gone")
        return load(args)

    monkeypatch.setitem(sweep.TASKS, "digits", dataclasses.replace(sweep.TASKS["digits"], load=fail))
    with pytest.raises(
        keras_tuner.errors.FatalRuntimeError, match=r"backprop, learning rate .*the disk is gone"
    ):
        sweep.main([*command, str(tmp_path / "stopped")])
    before = ended(tmp_path / "stopped")
    assert len(before) == 2 and len(kept(tmp_path / "stopped")) == 3
    sweep.main([*command, str(tmp_path / "stopped")])
    after = kept(tmp_path / "stopped")
    assert len(after) == count and {name: after[name] for name in before} == before
    found = [trials(tmp_path / folder) for folder in ("whole", "stopped")]
    rates = [trial["learning_rate"] for trial in found[0]]

    assert all(trial in found[1] for trial in found[0])
    assert len(set(rates)) == count and min(rates) < 1e-3 < max(rates)


def test_hyperband_gives_all_epochs_to_some(sweep, tmp_path, capsys):
    sweep.main(["--tuner", "hyperband", "--epochs", "3", "--arm", "sg", "--output", str(tmp_path)])
    epochs = [trial["epochs"] for trial in trials(tmp_path, "sg")]
    # Its first bracket tries three rates for one epoch and the best for two more; its second tries two.
    assert sorted(epochs) == [1, 1, 1, 3, 3, 3]
    assert "| sg | 6 | 0 |" in capsys.readouterr().out


# It never ends its third trial.
HANGS = """
import pathlib, sys, time
load, calls = sweep.TASKS["digits"].load, []

def hang(args):
    calls.append(args)
    if len(calls) == 4:  # before the first trial it is called once
        pathlib.Path(sys.argv[1]).touch()
        time.sleep(600)
    return load(args)

sweep.TASKS["digits"] = dataclasses.replace(sweep.TASKS["digits"], load=hang)
sweep.main(sys.argv[2:])
"""


def test_a_killed_process_goes_on(sweep, tmp_path):
    """A real process, killed in its third trial; what it had finished is not done again."""
    output, third = tmp_path / "sweep", tmp_path / "third"
    arguments = ["--arm", "sg-conditional", "--tuner", "grid", "--trials", "4", "--epochs", "1"]
    arguments += ["--output", str(output)]
    with open(tmp_path / "log", "w") as log:
        command = [sys.executable, "-c", FEW + HANGS, str(third), *arguments]
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 300
            while not third.exists():
                assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.01)
        finally:
            process.kill()
            process.wait()
    before = ended(output, "sg-conditional")
    assert len(before) == 2 and len(kept(output, "sg-conditional")) == 3
    sweep.main(arguments)
    after = kept(output, "sg-conditional")
    assert len(after) == 4 and {name: after[name] for name in before} == before
    rates = [trial["learning_rate"] for trial in trials(output, "sg-conditional")]
    np.testing.assert_allclose(rates, [1e-5, 10 ** (-11 / 3), 10 ** (-7 / 3), 1e-1])
    assert not any(trial["diverged"] for trial in trials(output, "sg-conditional"))


# Every worker notes the trials that it is given, and waits in its first one until both have one.
SHARED = """
import os, pathlib, sys, time

notes, me = pathlib.Path(sys.argv[1]), os.environ["KERASTUNER_TUNER_ID"]
fit = sweep.Arm.fit

def together(self, hp, model, **kwargs):
    with open(notes / f"{me}={hp.get('learning_rate')!r}", "x"):
        deadline = time.monotonic() + 240
    while len({note.name.split("=")[0] for note in notes.iterdir()}) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return fit(self, hp, model, **kwargs)

sweep.Arm.fit = together
sleep = time.sleep
time.sleep = lambda seconds: sleep(min(seconds, 1))  # the chief would look after its workers every 20 s
sweep.main(sys.argv[2:])
"""


def test_a_chief_and_two_workers(tmp_path):
    """Real processes on one machine: both workers take trials, and each trial is taken once."""
    output, notes = tmp_path / "sweep", tmp_path / "notes"
    notes.mkdir()
    # A worker that was there before the chief.
    (output / "tuner" / "sg").mkdir(parents=True)
    (output / "tuner" / "sg" / "worker0.json").write_text("{}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": str(port)}
    arguments = ["--arm", "sg", "--tuner", "grid", "--trials", "5", "--epochs", "1", "--output", str(output)]
    processes = {}
    try:
        for name in ("chief", "worker0", "worker1"):
            with open(tmp_path / f"{name}.log", "w") as log:
                processes[name] = subprocess.Popen(
                    [sys.executable, "-c", FEW + SHARED, str(notes), *arguments],
                    cwd=ROOT,
                    env=os.environ | address | {"KERASTUNER_TUNER_ID": name},
                    stdout=log,
                    stderr=log,
                )
        deadline = time.monotonic() + 300
        while any(process.poll() is None for process in processes.values()):
            failed = [name for name, process in processes.items() if process.poll()]
            logs = [(tmp_path / f"{name}.log").read_text() for name in failed or processes]
            assert not failed and time.monotonic() < deadline, logs
            time.sleep(0.2)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    assert {process.returncode for process in processes.values()} == {0}
    taken = [tuple(note.name.split("=")) for note in notes.iterdir()]
    assert {worker for worker, _ in taken} == {"worker0", "worker1"}
    rates = [trial["learning_rate"] for trial in trials(output, "sg")]
    np.testing.assert_allclose(rates, [1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
    assert sorted(float(rate) for _, rate in taken) == rates
    assert all(trial["test_accuracy"] > 0 for trial in trials(output, "sg"))
    assert (output / "accuracy-by-learning-rate.png").stat().st_size > 1000
    assert "| sg | 5 | 0 |" in (tmp_path / "chief.log").read_text()


def test_mnist(sweep, tmp_path):
    """One rate, at which it learns."""
    tfds = pytest.importorskip("tensorflow_datasets")
    if not tfds.builder("mnist").is_prepared():
        pytest.skip("MNIST is not in TFDS's data folder; the tests do not download it")
    rates = ["--learning-rates", "1e-3", "1e-1", "--tuner", "grid", "--trials", "1"]
    sweep.main(["--data", "mnist", "--arm", "backprop", "--epochs", "1", *rates, "--output", str(tmp_path)])
    (trial,) = trials(tmp_path)
    assert trial["test_accuracy"] > 0.9


@pytest.mark.parametrize(
    "arguments, message",
    {
        ("--learning-rates", "0", "1"): "expected 0 < LOW < HIGH, received 0.0 1.0",
        ("--learning-rates", "1e-1", "1e-3"): "received 0.1 0.001",
        ("--trials", "0"): "argument --trials: expected an integer of at least 1, received 0",
    }.items(),
)
def test_wrong_arguments(sweep, arguments, message, capsys):
    with pytest.raises(SystemExit):
        sweep.main([*arguments])
    assert message in capsys.readouterr().err


def test_processes_share_one_arm_at_a_time(sweep, monkeypatch, capsys):
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    with pytest.raises(SystemExit):
        sweep.main([])
    assert "share the trials of one arm at a time, received all" in capsys.readouterr().err


def test_help(sweep, capsys):
    with pytest.raises(SystemExit) as stop:
        sweep.main(["--help"])
    assert stop.value.code == 0 and "examples.sweep" in capsys.readouterr().out
