"""The benchmarks run and write what they measured, and their peers do what they are compared for.

How fast anything is, is not tested.
"""

import argparse
import functools
import importlib
import io
import json
import sys
import time

import keras
import numpy as np
import pytest

import keras_sg
from keras_sg._model import interfaces_in

pytestmark = [pytest.mark.tensorflow, pytest.mark.usefixtures("from_the_root")]
SMALL = {"features": 12, "width": 6, "hidden": 8, "classes": 4, "learning_rate": 1e-2, "epsilon": 1e-14}


def load(name):
    return importlib.import_module(f"benchmarks.{name}")


@pytest.fixture
def few_digits(monkeypatch):
    """256 random pictures to train on, 8 to test on, in the place of MNIST."""
    rng = np.random.default_rng(0)

    def split(count):
        images = rng.integers(0, 256, (count, 28, 28, 1), "uint8")
        return {"image": images, "label": rng.integers(0, 10, count)}

    data = split(256), split(8)
    monkeypatch.setattr("examples.data.fetch", lambda name, data_dir: data)


@pytest.fixture(scope="module")
def trained():
    """Three batches, weights before and after them, and the losses, of a small `sg`."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 128, SMALL["features"])).astype("float32")
    y = rng.integers(0, SMALL["classes"], (3, 128))

    inputs = hidden = keras.Input((SMALL["features"],))
    synthesizer = keras_sg.synthesizers.MLP(widths=(SMALL["hidden"], SMALL["hidden"]))
    for _ in range(2):
        layers = [keras.layers.Dense(SMALL["width"]), keras.layers.BatchNormalization(), keras.layers.ReLU()]
        hidden = keras_sg.SyntheticGradient(keras.Sequential(layers), synthesizer)(hidden)
    model = keras_sg.DecoupledModel(inputs, keras.layers.Dense(SMALL["classes"])(hidden))
    model.compile(
        keras.optimizers.Adam(SMALL["learning_rate"], epsilon=SMALL["epsilon"]),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=True,
    )
    # No read-out is zero, so that synthetic gradients train the modules from the first step on.
    before = [rng.normal(size=v.shape).astype("float32") / 2 for v in model.trainable_variables]
    for variable, value in zip(model.trainable_variables, before):
        variable.assign(value)
    losses = []
    for batch in zip(x, y):
        model.reset_metrics()
        losses.append(model.train_on_batch(*batch, return_dict=True)["loss"])
    after = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
    return x, y, before, after, losses


@pytest.mark.parametrize("name", ["r2rt_graph.R2rtGraph", "pytorch.PyTorch"])
def test_a_peer_trains_as_sg_does(name, trained):
    if name.startswith("pytorch"):
        pytest.importorskip("torch", reason="PyTorch is not installed")
    module, peer = name.split(".")
    peer = getattr(load(f"peers.{module}"), peer)(**SMALL)
    x, y, before, after, losses = trained
    peer.weights = before
    assert [peer.step(*batch)[0] for batch in zip(x, y)] == pytest.approx(losses, abs=1e-5)
    # A bias before a normalization has no gradient but rounding errors, which Adam makes steps of.
    idle = [len(before) > i + 1 and before[i].shape == before[i + 1].shape for i in range(len(before))]
    idle = [same and not again for same, again in zip(idle, [False, *idle])]
    assert sum(idle) == 6
    compared = [at for at, skip in enumerate(idle) if not skip]
    found = peer.weights
    for at in compared:
        assert np.abs(after[at] - before[at]).max() > 2e-2
        np.testing.assert_allclose(found[at], after[at], rtol=0, atol=1e-5)


def test_the_floor_is_the_arithmetic_of_sg(trained):
    """24 products, one fused update of every weight; nothing moves."""
    *_, before, _, _ = trained
    sizes = {key: SMALL[key] for key in ("features", "width", "hidden", "classes")}
    floor = load("peers.floor").Floor(**sizes)
    assert sorted(tuple(v.shape) for v in floor.trained) == sorted(value.shape for value in before)
    x = np.ones((5, SMALL["features"]), "float32")
    kinds = [op.type for op in floor._step.get_concrete_function(x, floor._rate).graph.get_operations()]
    assert kinds.count("MatMul") == 24
    assert kinds.count("ResourceApplyAdam") == len(before)
    weights = [v.numpy() for v in floor.trained]
    floor.step(x, None)
    assert all((v.numpy() == value).all() for v, value in zip(floor.trained, weights))
    assert all(np.abs(momentum.numpy()).max() > 0 for momentum, _ in floor.moments[: len(floor.kernels)])


# What is measured, and what is said of it.


def test_arms_take_turns():
    calls = []
    arms = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = load("timing").alternate(arms, rounds=3, warm_up=2)
    assert calls == ["a", "b"] * 5
    assert {name: len(series) for name, series in times.items()} == {"a": 3, "b": 3}


def test_report(capsys, tmp_path):
    timing = load("timing")
    times = {"a": [1.0, 2.0, 9.0], "b": [4.0, 4.0, 4.0]}
    found = timing.report(times, [("a", "b"), ("a", "c")], {"c": "it is not here"})
    assert found["medians_ms"] == {"a": 2.0, "b": 4.0}
    assert found["spreads_ms"]["a"] == pytest.approx((1.2, 7.6))
    assert found["ratios"] == {"a / b": 0.5}
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a: 2.00 ms a step (10 % to 90 %: 1.20 to 7.60)"
    assert lines[-2:] == ["c: not run, it is not here", "a / b: 0.50"]
    timing.write(tmp_path / "new" / "found.json", found)
    assert json.loads((tmp_path / "new" / "found.json").read_text())["not_run"] == {"c": "it is not here"}


def test_peak_memory(monkeypatch, tmp_path):
    machine = load("machine")
    peak = machine.Peak()
    block = bytearray(64 << 20)
    block[::4096] = b"x" * len(block[::4096])
    reached = peak.peak
    assert 60 < reached - peak.before < 100
    del block
    assert machine.Peak().peak < reached - 50
    monkeypatch.setattr(machine, "STATUS", tmp_path / "status")
    with pytest.raises(SystemExit, match=r"which only Linux has\. Run this on Linux"):
        machine.Peak()


def test_matrix_unit(monkeypatch, tmp_path):
    machine = load("machine")
    monkeypatch.setattr(machine, "CPU", tmp_path / "cpuinfo")
    assert not machine.has_bfloat16_unit()
    (tmp_path / "cpuinfo").write_text("model name : One\nflags : fpu amx_bf16 avx\n")
    assert machine.has_bfloat16_unit()
    assert machine.describe()["cpu"] == "One"


# The benchmarks.


def measure(name, tmp_path, *options):
    """What the benchmark writes."""
    load(name).main([*options, "--output", str(tmp_path / "found.json")])
    return json.loads((tmp_path / "found.json").read_text())


def test_update_period(tmp_path, capsys, monkeypatch, eager):
    monkeypatch.setattr(load("arms"), "batches", functools.partial(load("arms").batches, 8))
    found = measure("update_period", tmp_path, "--steps", "2")
    assert set(found["medians_ms"]) == {"learning", "resting", "backprop"}
    ratio = found["medians_ms"]["resting"] / found["medians_ms"]["learning"]
    assert found["ratios"]["resting / learning"] == pytest.approx(ratio)
    with pytest.raises(SystemExit):
        load("update_period").main(["--steps", "1"])
    assert "expected two measurements or more, received 1" in capsys.readouterr().err


def test_module_update(tmp_path, capsys):
    found = measure("module_update", tmp_path, "--steps", "2", "--rounds", "2", "--width", "8", "--p", "0.5")
    assert set(found["medians_ms"]) == {"together", "in turn", "p=0.5"}
    assert set(found["ratios"]) == {"together / in turn", "p=0.5 / in turn"}
    with pytest.raises(SystemExit):
        load("module_update").main(["--p", "0"])
    assert "Received: module_update=0.0" in capsys.readouterr().err


def test_adam(tmp_path, monkeypatch, capsys):
    """In every arm a model is made anew, trains in two bursts, and has the Adam that its name says."""
    adam, made = load("adam"), []

    def fitting(model, data, steps):
        made.append((type(model.optimizer), model.jit_compile, float(model.optimizer.learning_rate)))
        compiled = model.get_compile_config()
        assert compiled["metrics"] == ["accuracy"] and compiled["loss_weights"] is None
        assert data[0].shape[1:] == (8, 784) and steps == 3
        return lambda: time.sleep(1e-3)

    monkeypatch.setattr(load("arms"), "fitting", fitting)
    found = measure("adam", tmp_path, "--steps", "3", "--rounds", "2", "--batch-size", "8")
    rate = pytest.approx(3e-5)
    assert made == [(*arm, rate) for arm in adam.ARMS.values()] * 2
    assert found["first"]["medians_ms"].keys() == found["later"]["medians_ms"].keys() == adam.ARMS.keys()
    assert "ms for the first 3 steps" in capsys.readouterr().out


def test_step(tmp_path, monkeypatch, capsys):
    """A processor that multiplies bfloat16, no PyTorch; every arm sleeps so many milliseconds."""
    step = load("step")

    class Arm:
        def __init__(self, milliseconds):
            self.seconds = milliseconds / 1e3

        def step(self, x, y):
            assert x.shape == (8, 784) and y.shape == (8,)
            time.sleep(self.seconds)

        def fit(self, data, shuffle, verbose):
            for x, y in data:
                self.step(x, y)

    models = {"sg": Arm(40), "sg, bfloat16": Arm(30), "sg-linear-conditional": Arm(20), "backprop": Arm(10)}
    peers = {"r2rt graph": Arm(60), "floor, TensorFlow": Arm(20), "floor, XLA": Arm(10)}
    monkeypatch.setattr(step, "candidates", lambda: (models, peers, {"PyTorch": "it is not installed"}))
    found = measure("step", tmp_path, "--steps", "3", "--rounds", "2", "--batch-size", "8")
    assert list(found["ratios"]) == [
        "sg / backprop",
        "sg-linear-conditional / backprop",
        "sg / r2rt graph",
        "sg, bfloat16 / r2rt graph",
        "sg / floor, TensorFlow",
        "sg / floor, XLA",
    ]
    assert found["ratios"]["sg / r2rt graph"] < 1 < found["ratios"]["sg / backprop"]
    assert found["medians_ms"].keys() == models.keys() | peers.keys()
    assert "PyTorch: not run, it is not installed" in capsys.readouterr().out


def test_the_arms_of_step(monkeypatch, tmp_path):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    (tmp_path / "cpuinfo").write_text("flags : amx_bf16")
    monkeypatch.setattr(load("machine"), "CPU", tmp_path / "cpuinfo")
    models, peers, not_run = load("step").candidates()
    assert not_run == {}
    sg = [tuple(v.shape) for v in models["sg"].trainable_variables]
    assert [value.shape for value in peers["r2rt graph"].weights] == sg
    assert [value.shape for value in peers["PyTorch"].weights] == sg
    assert sorted(tuple(v.shape) for v in peers["floor, XLA"].trained) == sorted(sg)
    policies = {name: model.get_layer("block1").dtype_policy.name for name, model in models.items()}
    assert policies.pop("sg, bfloat16") == "mixed_bfloat16" and set(policies.values()) == {"float32"}
    linear = models["sg-linear-conditional"]
    assert [(i.synthesizer.units, i.num_classes) for i in linear.interfaces] == [(256, 10)] * 2
    settings = [
        (model.jit_compile, model.steps_per_execution, model.optimizer.get_config()["learning_rate"])
        for model in (linear, models["sg"], models["sg, not compiled"])
    ]
    assert settings[0] == settings[1] == (True, *settings[2][1:]) and not settings[2][0]
    peers["floor, XLA"].step(np.ones((8, 784), "float32"), None)


def test_the_arms_that_are_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(load("machine"), "CPU", tmp_path / "none")
    monkeypatch.setitem(sys.modules, "benchmarks.peers.pytorch", None)
    for make in ("R2rtGraph", "Floor"):
        monkeypatch.setattr(load("step"), make, lambda **options: None)
    models, peers, not_run = load("step").candidates()
    assert (
        list(models) == ["sg", "sg, not compiled", "sg-linear-conditional", "backprop"]
        and "PyTorch" not in peers
    )
    assert "no amx_bf16" in not_run["sg, bfloat16"] and "pip install torch" in not_run["PyTorch"]


def test_memory(tmp_path, monkeypatch, capsys):
    """Children measure themselves, here in this process, and take so many MiB."""
    memory, order = load("memory"), []

    def in_child(module, *argv):
        order.append(argv[1])
        memory.main([*map(str, argv)])
        return json.loads(capsys.readouterr().out)

    def burst(arm, steps, batch_size):
        assert (steps, batch_size) == (1, 8)
        return lambda: bytearray(b"x") * (size[arm] << 20)

    size = {"sg": 96, "backprop": 48, "r2rt graph": 64}
    monkeypatch.setattr(load("machine"), "in_child", in_child)
    monkeypatch.setattr(memory, "burst", burst)
    found = measure("memory", tmp_path, "--steps", "1", "--rounds", "2", "--batch-size", "8")
    assert order == ["sg", "backprop", "r2rt graph"] * 2
    assert {arm: median["added"] for arm, median in found["medians_mib"].items()} == pytest.approx(
        size, abs=8
    )
    assert found["ratios"]["added: sg / r2rt graph"] == pytest.approx(1.5, abs=0.3)
    sg, graph = found["medians_mib"]["sg"], found["medians_mib"]["r2rt graph"]
    assert found["ratios"]["peak: sg / r2rt graph"] == pytest.approx(sg["peak"] / graph["peak"])
    assert sg["later"] == pytest.approx(sg["peak"], abs=8)


@pytest.mark.parametrize("arm", ["backprop", "r2rt graph"])
def test_the_arms_of_memory(arm, eager):
    load("memory").burst(arm, 1, 8)()


@pytest.mark.parametrize("network", ["dense", "convolutional"])
def test_the_arms_of_memory_in_deep_networks(network, eager, monkeypatch):
    deep = load("deep")
    monkeypatch.setitem(deep.NETWORKS, network, deep.NETWORKS[network]._replace(count=4))
    assert deep.arms() == ["in turn", "together", "backprop"]
    losses = [deep.burst(network, arm, 2, 4, blocks=2, rank=2)().history["loss"] for arm in deep.arms()]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(losses[2]) == 2
    cut, plain = (deep.build(network, arm, blocks=2) for arm in ("in turn", "backprop"))
    assert len(cut.interfaces) == 1 and type(plain) is keras.Sequential
    assert cut.interfaces[0].label is None
    seeing = deep.build(network, "in turn", blocks=2, synthesizer="error")
    assert seeing.interfaces[0].num_classes == deep.CLASSES
    assert len(deep.burst(network, "in turn", 1, 4, blocks=2, synthesizer="error")().history["loss"]) == 1


def test_blocks_of_memory_must_be_equal(capsys):
    with pytest.raises(SystemExit):
        load("memory").main(["--network", "dense", "--blocks", "5"])
    assert "--blocks must divide the number of layers, 32. Received: 5" in capsys.readouterr().err


def test_a_rank_is_of_linear_synthesizers(capsys):
    with pytest.raises(SystemExit):
        load("memory").main(["--network", "dense", "--rank", "8", "--synthesizer", "error"])
    assert "--rank is for linear synthesizers. Received: --synthesizer error" in capsys.readouterr().err
    for options in (["--rank", "8"], ["--synthesizer", "error"]):
        with pytest.raises(SystemExit):
            load("memory").main(options)
        assert "--rank and --synthesizer are for deep networks" in capsys.readouterr().err


def test_a_child_is_a_process_of_its_own(tmp_path):
    (tmp_path / "number.json").write_text('{\n"added": 3\n}')
    found = load("machine").in_child("json.tool", "--compact", tmp_path / "number.json")
    assert found == {"added": 3}


def test_pipeline(tmp_path, eager):
    found = measure("pipeline", tmp_path, "--steps", "9", "--rounds", "2", "--batch-size", "8")
    assert found["medians_ms"].keys() == {"arrays", "pipeline", "pipeline, not tuned"}
    assert all(len(series) == 2 for series in found["rounds_ms"].values())
    assert found["ratios"].keys() == {f"{fed} / pipeline, not tuned" for fed in ("arrays", "pipeline")}


def test_depth(tmp_path, monkeypatch, capsys, eager):
    depth, children = load("depth"), []
    small = ["--layers", "5", "--width", "8", "--batch-size", "4", "--steps", "1", "--synthesizer", "linear"]

    def in_child(module, *argv):
        children.append([module, *map(str, argv)])
        return {"before": 100, "peak": 110 + 2 * argv[1], "added": 10 + 2 * argv[1], "later": 105}

    monkeypatch.setattr(load("machine"), "in_child", in_child)
    found = measure("depth", tmp_path, *small, "--rounds", "2")
    # Each child makes the same network.
    assert children[3][:3] == ["benchmarks.depth", "--child", "3"] and sorted(children[3][3:]) == sorted(
        small
    )
    assert list(found["medians_ms"]) == [f"{number} interfaces" for number in range(5)]
    stages = found["an_interface"]["ms"]
    assert list(stages) == ["1 to 1", "2 to 2", "3 to 3", "4 to 4"]
    assert found["an_interface"]["MiB, peak"] == {stage: 2 for stage in stages}
    assert (
        found["ratios"]["MiB, peak: last / first"] == 1 and "MiB, later: last / first" not in found["ratios"]
    )
    assert "2 interfaces: peak 114 MiB, 14 more than the 100 before" in capsys.readouterr().out

    depth.main([*small, "--child", "2"])
    assert json.loads(capsys.readouterr().out).keys() == {"before", "peak", "added", "later"}
    with pytest.raises(SystemExit):
        depth.main(["--layers", "6"])
    assert "--layers must be 5, 9, 13 or so, for stages of equal size. Received: 6" in capsys.readouterr().err


def test_interfaces(tmp_path, eager):
    interfaces = load("interfaces")
    small = ["--layers", "2", "--width", "4", "--batch-size", "4", "--steps", "1", "--rounds", "2"]
    found = measure("interfaces", tmp_path, *small)
    assert list(found["medians_ms"]) == list(interfaces.ARMS)
    assert list(found["ratios"])[:2] == ["no interfaces / plain", "interfaces / plain"]


@pytest.mark.parametrize(
    "arm, cuts, metrics", [("plain", 0, 1), ("interfaces", 3, 3), ("each reported", 3, 9)]
)
def test_the_arms_of_interfaces(arm, cuts, metrics):
    args = argparse.Namespace(layers=3, width=4, synthesizer="linear")
    model = load("interfaces").build(arm, args)
    assert len(interfaces_in(model)) == cuts and len(model.metrics) == metrics
    assert model.count_params() == 20 * 3 + 50 + cuts * (20 + 40) and not model.jit_compile


def test_the_cost_of_an_interface():
    depth = load("depth")
    # Two rounds on a machine that slowed down in between; an interface costs 1, 1, 1, 2.
    series = {0: [10, 20], 8: [18, 28], 16: [26, 36], 24: [34, 44], 32: [50, 60]}
    stages = depth.by_stage(series)
    assert stages == {"1 to 8": 1, "9 to 16": 1, "17 to 24": 1, "25 to 32": 2}
    assert depth.ratios({"ms": stages, "MiB": {"a": 0.0, "b": 1.0}}) == {"ms: last / first": 2}


def test_accuracy(tmp_path, capsys, eager, few_digits):
    accuracy, output = load("accuracy"), str(tmp_path)
    options = ["--iterations", "1", "--fast-runs", "1", "--output", output]
    accuracy.main([*options, "--target", "0"])
    found = json.loads((tmp_path / "accuracy.json").read_text())
    assert found["ratios"]["r2rt / fast"] == found["seconds"]["r2rt"]["0"] / found["seconds"]["fast"]["0"]
    accuracy.main([*options, "--target", "1.1"])
    printed = capsys.readouterr().out
    assert printed.count("nothing to do") == 2  # the second time
    assert "r2rt, seed 0: not reached in 1 epochs" in printed
    assert json.loads((tmp_path / "accuracy.json").read_text())["ratios"] == {}


def test_seconds_to_a_target():
    record = {"epoch_seconds": [9.0, 2.0, 2.0], "test_accuracy": [0.5, 0.98, 0.97]}
    assert [load("accuracy").seconds_to(record, target) for target in (0.4, 0.97, 0.99)] == [9.0, 11.0, None]


def test_arithmetic(tmp_path, capsys, monkeypatch, eager, few_digits):
    arithmetic = load("arithmetic")
    rows = ["backprop", "linear, conditional"]
    monkeypatch.setattr(arithmetic, "ROWS", {row: arithmetic.ROWS[row] for row in rows})
    options = ["--iterations", "1", "--batch-size", "8", "--steps", "1", "--rounds", "2"]
    arithmetic.main([*options, "--output", str(tmp_path)])
    found = json.loads((tmp_path / "arithmetic.json").read_text())
    assert list(found["test_accuracy"]) == list(found["medians_ms"]) == rows
    assert set(found["ratios"]) == {f"{row} / backprop" for row in rows[1:]}
    settings = json.loads((tmp_path / "results.json").read_text())["linear, conditional"]["settings"]
    assert settings["learning_rate"] == 1e-3 and not {"steps", "rounds"} & settings.keys()
    median = found["medians_ms"]["backprop"]
    accuracy = found["test_accuracy"]["backprop"]
    assert f"| backprop | {accuracy:.4f} | {median:.2f} |" in capsys.readouterr().out


def test_the_rows_of_arithmetic():
    arithmetic = load("arithmetic")
    args = importlib.import_module("examples.mnist").PARSER.parse_args([])
    made = {row: arithmetic.build(row, args).interfaces for row in arithmetic.ROWS}
    assert all(len(found) == (0 if row == "backprop" else 2) for row, found in made.items())
    narrow = made["mlp 256-64"][0].synthesizer.trainable_variables
    assert [tuple(v.shape) for v in narrow if len(v.shape) == 2] == [(256, 256), (256, 64), (64, 256)]
    assert made["mlp 1024-1024, update_period 4"][1].update_period == 4
    assert [made[row][0].num_classes for row in ("linear", "linear, conditional", "critic 128")] == [
        None,
        10,
        10,
    ]


def test_backends(tmp_path, monkeypatch, capsys):
    """Two processes that answer what this test tells them to: who is asked, and the ratios of that."""
    module = load("backends")
    worker = """
import os, sys
for line in sys.stdin:
    print({"tensorflow": 2, "jax": 1}[os.environ["KERAS_BACKEND"]] * len(line.split()[0]), flush=True)
"""
    monkeypatch.setattr(module, "WORKER", worker)
    module.main(["--rounds", "2", "--output", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["rounds_ms"]["sg, jax"] == [2.0, 2.0] and found["medians_ms"]["backprop, tensorflow"] == 16.0
    assert found["ratios"] == {
        "backprop, jax / backprop, tensorflow": 0.5,
        "sg, jax / sg, tensorflow": 0.5,
        "sg, tensorflow / backprop, tensorflow": 0.25,
        "sg, jax / backprop, jax": 0.25,
    }
    assert capsys.readouterr().out.splitlines()[-1] == "sg, jax / backprop, jax: 0.25"
    with pytest.raises(SystemExit):
        module.main(["--rounds", "1"])
    assert "expected two measurements or more, received 1" in capsys.readouterr().err


def test_what_a_backend_does_in_its_process(tmp_path, monkeypatch, capsys):
    """Milliseconds of the steps that it is asked for, of a real model."""
    module, mnist = load("backends"), importlib.import_module("examples.mnist")
    built = []

    def build(arm):
        built.append(arm)
        model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(10)])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
        return model

    monkeypatch.setattr(mnist, "build", build)
    monkeypatch.setattr("sys.stdin", io.StringIO("sg 2\nbackprop 1\n"))
    module.work()
    milliseconds = [float(line) for line in capsys.readouterr().out.splitlines()]
    assert built == ["backprop", "sg"] and len(milliseconds) == 2 and min(milliseconds) > 0
