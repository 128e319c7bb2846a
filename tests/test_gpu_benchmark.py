"""benchmarks.gpu, small and on a CPU: what it writes, and how it goes on; not how fast anything is."""

import importlib
import json
import types

import keras
import numpy as np
import pytest

import keras_sg

pytestmark = pytest.mark.usefixtures("from_the_root")


def tiny(arm, args):
    """In the place of CIFAR-10's network, one that compiles quickly."""
    layers = keras.layers
    block1 = keras.Sequential([layers.AveragePooling2D(8), layers.Flatten(), layers.Dense(5)], name="block1")
    inputs = keras.Input((32, 32, 3))
    hidden = keras_sg.SyntheticGradient(block1)(inputs)
    hidden = keras_sg.SyntheticGradient(layers.Dense(4, activation="tanh", name="block2"))(hidden)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(10, name="logits")(hidden))
    return importlib.import_module("examples.images").compile(model, arm, args)


def test_it_stops_and_goes_on(tmp_path, monkeypatch, capsys):
    """Stopped in its last part, after one of three epochs, it ends where the example itself ends."""
    if keras.backend.backend() != "jax":
        pytest.skip("trains on JAX")
    names = ("benchmarks.gpu", "examples.runs", "examples.cifar10")
    gpu, runs, cifar10 = (importlib.import_module(name) for name in names)
    rng, path, output = np.random.default_rng(0), tmp_path / "cifar10.npz", tmp_path / "gpu"
    images = lambda count: rng.integers(0, 256, (count, 32, 32, 3)).astype("uint8")
    labels = lambda count: rng.integers(0, 10, count)
    np.savez(path, x_train=images(30), y_train=labels(30), x_test=images(20), y_test=labels(20))
    hours, write = [0], runs.Results.write

    def slow_write(self, record):
        write(self, record)
        hours[0] += len(record.get("test_accuracy", ())) == 1

    monkeypatch.setattr(cifar10, "build", tiny)
    monkeypatch.setattr(gpu, "time", types.SimpleNamespace(monotonic=lambda: 3600 * hours[0]))
    monkeypatch.setattr(runs.Results, "write", slow_write)
    small = ["--iterations", "9", "--batch-size", "8"]
    command = ["--cifar10", str(path), *small, "--arms", "sg", "--seeds", "3", "--minutes", "30"]
    command += ["--steps", "2", "--matrix-size", "8", "--array-mib", "1", "--output", str(output)]
    gpu.main(command)
    timed = (output / "cifar10" / "steps" / "results.json").read_text()
    out = capsys.readouterr().out
    assert "The time is up. The same command goes on from here." in out
    assert "| cifar10 | sg | (1 of 3 epochs) |" in out

    gpu.main(command)
    out = capsys.readouterr().out
    assert "cifar10, sg, seed 3" in out and ", step\n" not in out and "| cifar10 | sg | 3 |" in out
    assert (output / "cifar10" / "steps" / "results.json").read_text() == timed
    record = json.loads(timed)["sg"]
    assert len(record["step_ms"]) == 5 and min(*record["step_ms"], *record["ceilings"].values()) > 0
    trained = json.loads((output / "cifar10" / "seed3" / "results.json").read_text())["sg"]
    for block in ("block1", "block2"):
        for measure in ("cosine", "error", "sign"):
            assert np.isfinite(trained[f"{block}_alignment_{measure}"]).all()
            assert len(trained[f"{block}_alignment_{measure}"]) == 3
    gpu.main(command)
    assert "seed 3" not in capsys.readouterr().out

    keras.utils.clear_session()
    monkeypatch.setattr(runs, "plot", lambda *args: None)
    example = tmp_path / "example"
    cifar10.main(["--arm", "sg", "--data", str(path), *small, "--seed", "3", "--output", str(example)])
    expected = json.loads((example / "results.json").read_text())["sg"]
    for series in ("train_accuracy", "test_accuracy", "test_loss"):
        assert trained[series] == expected[series]


def test_the_tables(tmp_path):
    """From results as they lie in the files: means over seeds, a median epoch, ratios to backprop."""
    tables = importlib.import_module("benchmarks.tables")

    def write(folder, **records):
        (tmp_path / "mnist" / folder).mkdir(parents=True)
        (tmp_path / "mnist" / folder / "results.json").write_text(json.dumps(records))

    def trained(seed, seconds, accuracy):
        series = {"train_accuracy": [0.5, 1.0, 1.0], "test_accuracy": [0.1, 0.2, accuracy]}
        series["test_loss"] = [2.0, 1.0, 0.5]
        return {"settings": {"seed": seed}, "epochs": 3, "epoch_seconds": seconds} | series

    def timed(step_ms, operations):
        ceilings = {"operations": 2e12, "bytes": 5e9}
        work = {"operations": operations, "bytes": 1e6}
        return {"settings": {}, "step_ms": step_ms, "work": work, "ceilings": ceilings}

    write("seed0", backprop=trained(0, [9.0, 1.0, 2.0], 0.9), sg=trained(0, [9.0, 4.0, 4.0], 0.8))
    stopped = trained(10, [9.0], 0.1)
    stopped["test_accuracy"] = stopped["test_accuracy"][:1]
    write("seed10", sg=stopped)
    write("seed2", backprop=trained(2, [9.0, 3.0, 3.0], 0.7))
    write("steps", backprop=timed([4.0, 1.0, 2.0], 1e9), sg=timed([6.0, 6.0, 6.0], 4e8))
    found = tables.summary(tmp_path, ["mnist", "cifar10"])
    assert tables.training(found["training"]).splitlines()[2:] == [
        "| mnist | backprop | 0, 2 | 1.0000 | 1.0000 | 0.8000 | 0.9801 | 7.5 | 54.6 | 1.00 | 1.00 |",
        "| mnist | sg | 0 (1 of 3 epochs) | 1.0000 | 0.9972 | 0.8000 | 0.9777 | 12.0 | 115.9 | 1.60 | 2.12 |",
    ]
    assert tables.steps(found["steps"]).splitlines()[2:] == [
        "| mnist | backprop | 2.000 | 1.000 | 4.000 | 1.00 | 0.500 | 0.200 | 4.0 |",
        "| mnist | sg | 6.000 | 6.000 | 6.000 | 3.00 | 0.200 | 0.200 | 30.0 |",
        "",
        "Ceilings: 2.00 TFLOP/s in a matrix product, 5 GB/s, read and written, in a pass over an array.",
    ]


MNIST = [200_704, 65_536, 2_560]  # numbers in the kernels of 784 - 256 - 256 - 10
WIDE = [262_144, 1_048_576, 262_144]  # 256 - 1024 - 1024 - 256
WITH_LABEL = [272_384, 1_048_576, 262_144]
VALUE = [262_144, 1_048_576, 1_024]
CRITIC = [32_768, 1_280]
CIFAR10 = [1024 * 9_600, 100 * 409_600, 11_520]  # times positions: 32 x 32, 10 x 10, 1


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "example, arm, modules, synthesizers",
    [
        ("mnist", "backprop", ([2, 3, 3], MNIST), []),
        ("mnist", "no-backprop", ([1, 1, 2], MNIST), []),
        ("mnist", "sg", ([2, 3, 3], MNIST), [([2, 3, 3], WIDE)] * 2),
        ("mnist", "sg-conditional", ([2, 3, 3], MNIST), [([2, 3, 3], WITH_LABEL)] * 2),
        ("mnist", "synthetic-loss", ([2, 3, 3], MNIST), [([3, 4, 4], VALUE)] * 2),
        ("mnist", "critic-sobolev", ([2, 3, 3], MNIST), [([5, 6], CRITIC)] * 2),
        ("cifar10", "backprop", ([2, 3, 3], CIFAR10), []),
    ],
)
def test_the_operations_of_a_step(example, arm, modules, synthesizers):
    """A product of (256, n) and (n, m) is 2 * 256 * n * m operations; rows say how many there are of it."""
    floor = importlib.import_module("benchmarks.floor")
    model = importlib.import_module(f"examples.{example}").build(arm)
    products = sum(times * size for chain in [modules, *synthesizers] for times, size in zip(*chain))
    assert floor.of_step(model, 256)["operations"] == 512 * products


@pytest.mark.tensorflow
def test_the_bytes_of_a_step():
    floor = importlib.import_module("benchmarks.floor")
    model = importlib.import_module("examples.mnist").build("backprop")
    # By layer: products, numbers in and out, in the kernel. Adam's are those of BatchNormalization, too.
    products = 2 * (256 * (784 + 256) + 200_704) + 3 * (256 * 512 + 65_536) + 3 * (256 * 266 + 2_560)
    learning = 200_704 + 256 + 65_536 + 256 + 2_560 + 10 + 4 * 256
    assert floor.of_step(model, 256)["bytes"] == 4 * products + 28 * learning
    # At 1 TFLOP/s and 1 GB/s:
    work = {"operations": 5e9, "bytes": 3e6}
    assert floor.milliseconds(work, {"operations": 1e12, "bytes": 1e9}) == {"operations": 5.0, "bytes": 3.0}


@pytest.mark.parametrize("options", [[], ["--mnist", "a.npz", "--experiments", "mnist", "cifar10"]])
def test_data_must_be_given(options, capsys):
    with pytest.raises(SystemExit):
        importlib.import_module("benchmarks.gpu").main(options)
    said = capsys.readouterr().err
    assert "there are no data for the experiments asked for" in said and "--cifar10 FILE.npz" in said
