"""The examples, run as a user runs them: real data, real files."""

import importlib
import json
import os
import shlex
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

import keras_sg

pytestmark = [pytest.mark.tensorflow, pytest.mark.usefixtures("from_the_root")]
ROOT = __import__("pathlib").Path(__file__).parent.parent


@pytest.fixture
def runs():
    return importlib.import_module("examples.runs")


@pytest.fixture
def mnist():
    tfds = pytest.importorskip("tensorflow_datasets")
    if not tfds.builder("mnist").is_prepared():
        pytest.skip("MNIST is not in TFDS's data folder; the tests do not download it")
    return importlib.import_module("examples.mnist")


def cut_fetch(monkeypatch, train, test):
    """Let the examples have so many pictures of each split, and no more."""
    import tensorflow_datasets as tfds

    data, load = importlib.import_module("examples.data"), tfds.load

    def load_few(name, split, **options):
        few = [f"{part}[:{count}]" for part, count in zip(split, (train, test), strict=True)]
        return load(name, split=few, **options)

    monkeypatch.setattr(tfds, "load", load_few)
    monkeypatch.setattr(data, "fetch", data.fetch.__wrapped__)  # without the cache of whole splits


@pytest.fixture
def few_mnist(mnist, monkeypatch):
    """MNIST, 2,000 pictures to train on and 500 to test on."""
    cut_fetch(monkeypatch, 2000, 500)
    return mnist


def records(folder):
    return json.loads((folder / "results.json").read_text())


def test_mnist_learns(mnist, tmp_path):
    """Real MNIST: the fast recipe, cut to one epoch, gets beyond 90 %."""
    mnist.main(["--recipe", "fast", "--iterations", "468", "--output", str(tmp_path)])
    record = records(tmp_path)["sg-linear"]
    expected = {"iterations": 468, "batch_size": 128, "learning_rate": 2e-3, "decay": "cosine", "seed": 0}
    assert expected.items() <= record["settings"].items()
    assert len(record["test_accuracy"]) == 1 and record["test_accuracy"][-1] > 0.9
    assert set(record["versions"]) >= {"keras", "tensorflow", "keras_sg", "python"}


def test_rates_decay(mnist):
    """Both, to zero over all iterations."""
    options = ["--synthesizer-learning-rate", "1e-2", "--decay", "cosine", "--iterations", "100"]
    synthesizer, modules = mnist.build("sg-linear", mnist.PARSER.parse_args(options)).optimizer.optimizers
    for optimizer, rate in ((synthesizer, 1e-2), (modules, 3e-5)):
        assert float(optimizer.learning_rate) == pytest.approx(rate)
        optimizer.iterations.assign(50)
        assert float(optimizer.learning_rate) == pytest.approx(rate / 2)
        optimizer.iterations.assign(100)
        assert float(optimizer.learning_rate) == pytest.approx(0, abs=1e-9)


def test_mnist_every_arm(few_mnist, tmp_path, eager):
    few_mnist.main(["--arm", "all", "--iterations", "2", "--output", str(tmp_path)])
    found = records(tmp_path)
    assert list(found) == list(few_mnist.INTERFACES)
    for record in found.values():
        assert len(record["test_accuracy"]) == 1 and record["seconds"] > 0
    figure = tmp_path / "accuracy.png"
    figure.unlink()
    few_mnist.main(["--plot", str(tmp_path)])
    assert figure.stat().st_size > 1000


def test_no_backprop_trains_the_last_layer_only(mnist):
    model = mnist.build("no-backprop")
    before = [v.numpy() for v in model.variables]
    model.fit(np.random.default_rng(0).random((256, 784)), np.zeros(256, "int64"), batch_size=256, verbose=0)
    moved = {v.path for v, old in zip(model.variables, before) if not np.array_equal(v.numpy(), old)}
    statistics = {path for path in moved if "moving_" in path}
    assert moved - statistics == {"logits/kernel", "logits/bias"} and len(statistics) == 4


def test_a_stopped_run_goes_on(few_mnist, tmp_path, runs, monkeypatch):
    """Interrupted in its third epoch, the run keeps two epochs and repeats only the third."""
    command = ["--arm", "backprop", "--iterations", "30", "--batch-size", "200", "--output", str(tmp_path)]
    write = runs.Results.write

    def interrupt(self, record):
        if len(record["test_accuracy"]) == 3:
            raise KeyboardInterrupt
        write(self, record)

    monkeypatch.setattr(runs.Results, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        few_mnist.main(command)
    stopped = records(tmp_path)["backprop"]
    assert len(stopped["test_accuracy"]) == 2

    monkeypatch.setattr(runs.Results, "write", write)
    few_mnist.main(command)
    finished = records(tmp_path)["backprop"]
    assert len(finished["test_accuracy"]) == 3
    assert finished["test_accuracy"][:2] == stopped["test_accuracy"]
    # It went on from what it had learned, not from the start.
    assert finished["test_loss"][2] < stopped["test_loss"][1]
    few_mnist.main(command)
    assert records(tmp_path)["backprop"] == finished


def test_arms_in_one_file_do_not_overwrite_each_other(runs, tmp_path):
    first, second = runs.Results(tmp_path), runs.Results(tmp_path)
    records_of = [r.begin(arm, {}, resume=True) for r, arm in ((first, "a"), (second, "b"))]
    first.write(records_of[0])
    second.write(records_of[1])
    assert set(records(tmp_path)) == {"a", "b"}
    # The same settings go on with the record, or drop it where that is asked for.
    records_of[0]["test_accuracy"].append(0.5)
    first.write(records_of[0])
    assert first.begin("a", {}, resume=True)["test_accuracy"] == [0.5]
    assert first.begin("a", {"seed": 1}, resume=False)["test_accuracy"] == []


def test_a_run_with_other_settings_is_not_resumed(few_mnist, tmp_path):
    """It names what differs, and leaves everything as it is."""
    command = ["--arm", "no-backprop", "--iterations", "2", "--output", str(tmp_path)]
    few_mnist.main(command)
    before = (tmp_path / "results.json").read_bytes()
    with pytest.raises(SystemExit, match=r"other settings: learning_rate=3e-05 there, 0.1 now; seed=0 there"):
        few_mnist.main([*command, "--learning-rate", "0.1", "--seed", "4"])
    assert (tmp_path / "results.json").read_bytes() == before
    few_mnist.main([*command, "--seed", "4", "--overwrite"])
    assert records(tmp_path)["no-backprop"]["settings"]["seed"] == 4


def test_a_killed_process_goes_on(few_mnist, tmp_path):
    """A real process, killed without warning in the middle of its work; this one goes on."""
    train, test = importlib.import_module("examples.data").fetch("mnist", None)
    arrays = {"x_train": train["image"], "y_train": train["label"]}
    arrays |= {"x_test": test["image"], "y_test": test["label"]}
    np.savez(tmp_path / "few.npz", **arrays)
    arguments = ["--arm", "backprop", "--data", str(tmp_path / "few.npz"), "--output", str(tmp_path)]
    arguments += ["--iterations", "200", "--batch-size", "200"]  # twenty epochs
    command = [sys.executable, "-m", "examples.mnist", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        results, deadline = tmp_path / "results.json", time.monotonic() + 300
        while not results.exists() or len(records(tmp_path)["backprop"]["test_accuracy"]) < 2:
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.01)
        process.kill()
        process.wait()
    killed = records(tmp_path)["backprop"]
    assert 2 <= len(killed["test_accuracy"]) < 20
    few_mnist.main(arguments)
    finished = records(tmp_path)["backprop"]
    assert len(finished["test_accuracy"]) == 20
    # The epoch after the last backup may have been done twice; those before were not.
    kept = len(killed["test_accuracy"]) - 1
    assert finished["test_loss"][:kept] == killed["test_loss"][:kept]
    assert finished["test_loss"][-1] < killed["test_loss"][0]


@pytest.mark.parametrize("damage", ["epoch is old", "epoch is not finished"])
def test_weights_and_epoch_of_a_backup_belong_together(runs, tmp_path, damage):
    """Killed between the two files of a backup, or in the second, a run knows what it has done."""
    x, y = np.ones((8, 3), "float32"), np.ones((8, 1), "float32")

    def fit(epochs):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        backup = runs.Backup(tmp_path / "backup", batches=range(2))
        backup.delete_checkpoint = False
        model.fit(x, y, batch_size=4, epochs=epochs, verbose=0, callbacks=[backup])
        return int(model.optimizer.iterations.numpy())

    assert fit(3) == 6
    metadata = tmp_path / "backup" / "training_metadata.json"
    metadata.write_text('{"epoch": 2, "batch": 0}' if damage == "epoch is old" else '{"epo')
    assert fit(4) == 8


@pytest.fixture
def cifar10(monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    if not tfds.builder("cifar10").is_prepared():
        pytest.skip("CIFAR-10 is not in TFDS's data folder; the tests do not download it")
    cut_fetch(monkeypatch, 40, 40)
    return importlib.import_module("examples.cifar10")


SMALL = ["--filters", "4", "--batch-size", "8", "--iterations", "2"]


def train_cifar10(cifar10, folder, arm, policy, *options):
    """Train on real CIFAR-10, forty pictures of it; the names of the arms in the results."""
    cifar10.main(["--arm", arm, *SMALL, "--dtype-policy", policy, *options, "--output", str(folder)])
    found = records(folder)
    for record in found.values():
        assert len(record["test_accuracy"]) == 1 and record["settings"]["dtype_policy"] == policy
        assert np.isfinite(record["test_loss"]).all()
    assert (folder / "accuracy.png").stat().st_size > 1000
    return list(found)


def test_cifar10_every_arm(cifar10, tmp_path, eager):
    assert train_cifar10(cifar10, tmp_path, "all", "float32") == list(cifar10.INTERFACES)


def test_cifar10_in_bfloat16(cifar10, tmp_path):
    assert train_cifar10(cifar10, tmp_path, "critic-sobolev", "mixed_bfloat16") == ["critic-sobolev"]


def test_cifar10_deep_every_arm(cifar10, tmp_path, eager):
    """Measured on training pictures; what was trained is not taken for another network's."""
    deep = ["--network", "deep", "--validation"]
    assert train_cifar10(cifar10, tmp_path, "all", "float32", *deep) == list(cifar10.INTERFACES)
    command = ["--arm", "sg", *SMALL, "--output", str(tmp_path)]
    with pytest.raises(SystemExit, match=r"network='deep' there, 'r2rt' now; validation=True there, False"):
        cifar10.main(command)
    with pytest.raises(SystemExit, match="filters=4 there, 5 now"):
        cifar10.main([*command, *deep, "--filters", "5"])


def test_cifar10_deep():
    """Eight convolutions to 16, 32, 64 and 64 channels, and three interfaces; parameters by hand."""
    module = importlib.import_module("examples.cifar10")
    model = module.build("local", module.PARSER.parse_args(["--network", "deep"]))
    shapes = [tuple(cut.output.shape[1:]) for cut in model.interfaces]
    assert shapes == [(16, 16, 16), (8, 8, 32), (4, 4, 64)]
    weights = 9 * (3 * 16 + 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 3 * 64 * 64)
    weights += 3 * 2 * (16 + 32 + 64 + 64) + 64 * 10 + 10  # offset of the convolution, scale and offset
    plain = keras_sg.strip(model)
    assert sum(int(np.prod(variable.shape)) for variable in plain.trainable_variables) == weights


def test_cifar10_synthesizers(tmp_path, capsys):
    """Their arguments reach them; what they do not know is said before anything is trained."""
    module = importlib.import_module("examples.cifar10")
    args = module.PARSER.parse_args(["--synthesizer", '{"kernel_size": 3, "batch_normalization": false}'])
    (first, _) = module.build("sg", args).interfaces
    kinds = [type(layer).__name__ for layer in first.synthesizer.layers]
    assert kinds == ["Conv2D", "ReLU", "Conv2D", "ReLU", "Conv2D"]
    assert {layer.kernel_size for layer in first.synthesizer.layers[::2]} == {(3, 3)}
    output = ["--output", str(tmp_path / "out")]
    with pytest.raises(
        SystemExit, match=r"must have arguments of keras_sg\.synthesizers\.Conv for arm 'sg'.*unexpected"
    ):
        module.main(["--arm", "sg", "--synthesizer", '{"widths": 3}', *output])
    with pytest.raises(SystemExit):
        module.main(["--synthesizer", "3", *output])
    each = module.PARSER.parse_args(["--synthesizer", '[{"widths": 4}, {"widths": []}]'])
    assert [recipe.widths for recipe in module.recipes("critic", each, 2)] == [[4], []]
    with pytest.raises(
        SystemExit, match=r"an entry for each interface, 3, or be one for all\. Received: 2 ent"
    ):
        module.main(["--network", "deep", "--synthesizer", '[{"widths": 4}, {"widths": []}]', *output])
    wrong = """expected a JSON object, such as '{"kernel_size": 3}', or a list of them, received 3"""
    assert wrong in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_recipes_are_options_that_others_overrule(name):
    module = importlib.import_module(f"examples.{name}")
    for recipe, options in module.RECIPES.items():
        args = module.PARSER.parse_args(["--recipe", recipe, "--iterations", "3"])
        typed = module.PARSER.parse_args([*shlex.split(options), "--iterations", "3"])
        assert vars(args) == vars(typed) and args.iterations == 3
        assert module.build(args.arm, args).interfaces


def test_a_batch_larger_than_the_data(monkeypatch, tmp_path):
    data = {"image": np.zeros((5, 28, 28, 1), "uint8"), "label": np.zeros(5, "int64")}
    monkeypatch.setattr(importlib.import_module("examples.data"), "fetch", lambda *args: (data, data))
    with pytest.raises(SystemExit, match=r"--batch-size is at most 5\. Received: 6"):
        importlib.import_module("examples.mnist").main(["--batch-size", "6", "--output", str(tmp_path)])


def test_a_warm_up_of_true_gradients(few_mnist, tmp_path, eager):
    options = ["--arm", "critic", "--iterations", "20", "--batch-size", "200", "--output", str(tmp_path)]
    few_mnist.main(
        [*options, "--warm-up", "1", "--synthesizer-learning-rate", "1e-3", "--regression", "huber"]
    )
    settings = records(tmp_path)["critic"]["settings"]
    assert (settings["warm_up"], settings["regression"]) == (1, "huber")


def test_a_schedule(few_mnist, tmp_path, eager):
    """In turn, what is learned is what is learned together."""
    found = []
    for schedule in ("together", "in_turn"):
        folder = tmp_path / schedule
        few_mnist.main(
            ["--arm", "sg-linear", "--iterations", "4", "--schedule", schedule, "--output", str(folder)]
        )
        found.append(records(folder)["sg-linear"])
    for key in ("train_accuracy", "test_accuracy"):
        assert found[0][key] == pytest.approx(found[1][key], rel=1e-4), key


def test_unlocked(few_mnist, tmp_path, eager):
    module = importlib.import_module("examples.unlocked")
    folder = tmp_path / "out"
    options = ["--iterations", "6", "--batch-size", "100", "--layers", "3", "--output", str(folder)]
    module.main(options)
    results = records(folder)
    assert list(results) == list(module.ARMS) == ["p=1", "p=0.5", "p=0.2", "p=0.1", "p=0.05", "complete"]
    losses = {arm: record["test_loss"] for arm, record in results.items()}
    assert losses["p=1"] != losses["complete"] != losses["p=0.05"] != losses["p=1"]
    assert all(record["settings"]["synthetic_input_width"] == 256 for record in results.values())
    assert (folder / "accuracy.png").exists()
    for arm, p in module.UPDATES.items():
        schedule = module.build(arm).schedule
        assert getattr(schedule, "module_update", 1) == p
    assert [cut.synthetic_input.recipe.widths for cut in module.build("complete").interfaces] == [[256]] * 3
    for wrong, said in (
        (["--schedule", "in_turn"], "Which schedule trains it is part of an arm"),
        (["--layers", "1"], "A network to cut has two layers at least"),
    ):
        with pytest.raises(SystemExit, match=said):
            module.main([*options, *wrong])


def test_sparse_updates(few_mnist, tmp_path, capsys):
    module = importlib.import_module("examples.sparse_updates")
    module.main(["--iterations", "40", "--output", str(tmp_path)])
    results = records(tmp_path)
    assert list(results) == list(module.ARMS)
    for arm, record in results.items():
        assert record["settings"]["update_period"] == 10
        assert len(record["loss"]) == 40 and len(record["sg_loss"]) == (0 if arm == "backprop" else 40)
        assert list(record["test_accuracy"]) == ["40"]
    found = keras_sg.histories.read(tmp_path / "results.json")
    assert {arm: list(series) for arm, series in found.items()} == {
        "backprop": ["loss", "test_accuracy"],
        "sg-conditional": ["loss", "sg_loss", "test_accuracy"],
        "critic-sobolev": ["loss", "sg_loss", "test_accuracy"],
    }
    for name in ("loss", "gradients", "digits"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "| critic-sobolev |" in capsys.readouterr().out


def test_the_two_weight_gradients_are_two(mnist):
    """The true one is what automatic differentiation makes of the weights, the other is not."""
    tf = pytest.importorskip("tensorflow")
    module = importlib.import_module("examples.sparse_updates")
    keras.utils.set_random_seed(0)
    model = module.build("critic-sobolev")
    x, y = np.random.default_rng(0).random((20, 784)).astype("float32"), np.arange(20) % 10
    synthetic, true = module.weight_gradients(model, x, y)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, model(x)))
    kernel = model.get_layer("logits").layer.kernel
    np.testing.assert_allclose(true, tape.gradient(loss, kernel.value), rtol=0, atol=1e-6)
    assert synthetic.shape == true.shape == (100, 10) and not np.allclose(synthetic, true, atol=1e-3)


def test_smoothing():
    smooth = importlib.import_module("examples.sparse_updates").smooth
    np.testing.assert_allclose(smooth([1.0, 0.0, 0.0], 0.5), [1.0, 0.5, 0.25])


def test_binary_addition(tmp_path, capsys):
    module = importlib.import_module("examples.binary_addition")
    module.main(["--passes", "150", "--output", str(tmp_path)])
    found = records(tmp_path)
    assert list(found) == list(module.ARMS)
    for record in found.values():
        assert record["passes"] == [100, 200] and record["mean_error"][1] < 0.5
        assert record["mean_error"][1] < record["mean_error"][0]
    out = capsys.readouterr().out
    assert "On the 100 sums that the networks are trained on:" in out
    assert "| sg-conditional | 200 |" in out and (tmp_path / "error.png").stat().st_size > 1000
    # One arm more leaves the others' records as they are.
    module.main(["--arm", "backprop", "--passes", "100", "--output", str(tmp_path)])
    again = records(tmp_path)
    assert len(again["backprop"]["passes"]) == 1 and again["sg"] == found["sg"]


def test_binary_addition_adds():
    x, y = importlib.import_module("examples.binary_addition").load()
    value = lambda bits: bits @ 2 ** np.arange(8)[::-1]
    np.testing.assert_array_equal(value(x[:, :8]) + value(x[:, 8:]), value(y))
    assert x.shape == (100, 16) and x[:, [0, 8]].max() == 0


def test_no_data_and_no_network(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")

    def no_network(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(tfds, "load", no_network)
    mnist = importlib.import_module("examples.mnist")
    with pytest.raises(SystemExit, match=r"'mnist' could be neither.*--data-dir.*mnist/<version>.*no route"):
        mnist.main(["--data-dir", str(tmp_path / "empty"), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_plot_without_results(runs, tmp_path):
    with pytest.raises(SystemExit, match="No results to draw"):
        runs.plot(tmp_path, "nothing")


@pytest.mark.parametrize("option", ["--iterations", "--batch-size"])
def test_numbers_must_be_positive(option, capsys):
    with pytest.raises(SystemExit):
        importlib.import_module("examples.mnist").main([option, "0"])
    assert f"argument {option}: expected an integer of at least 1, received 0" in capsys.readouterr().err


def test_momentum(capsys):
    """It is that of the modules' BatchNormalization, in both networks."""
    cifar10 = importlib.import_module("examples.cifar10")
    for network in cifar10.NETWORKS:
        model = cifar10.build("sg", cifar10.PARSER.parse_args(["--network", network, "--momentum", "0.8"]))
        for cut in model.interfaces:
            layers = cut.layer.layers
            assert {layer.momentum for layer in layers if hasattr(layer, "momentum")} == {0.8}
    with pytest.raises(SystemExit):
        cifar10.main(["--momentum", "1"])
    assert "argument --momentum: expected a number of at least 0, below 1" in capsys.readouterr().err


def test_help(capsys):
    for name in ("quickstart", "mnist", "cifar10", "sparse_updates", "binary_addition"):
        with pytest.raises(SystemExit) as stop:
            importlib.import_module(f"examples.{name}").main(["--help"])
        assert stop.value.code == 0 and f"examples.{name}" in capsys.readouterr().out
