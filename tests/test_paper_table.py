"""The paper's table: its networks and cells, the validation split, runs that go on, bad input."""

import importlib
import itertools
import json
import types

import numpy as np
import pytest

import keras_sg

pytestmark = pytest.mark.usefixtures("from_the_root")
RNG = np.random.default_rng(0)


@pytest.fixture
def paper():
    return importlib.import_module("examples.paper_table")


def cell_of(*values, **more):
    return importlib.import_module("examples.paper_cells").Cell(*values, **more)


@pytest.fixture
def few(tmp_path):
    """A file of 60 training and 20 test images, the command to train on them, and the folder of results."""
    arrays = {}
    for part, count in (("train", 60), ("test", 20)):
        arrays[f"x_{part}"] = RNG.integers(0, 256, (count, 28, 28), "uint8")
        arrays[f"y_{part}"] = RNG.integers(0, 10, count)
    np.savez(tmp_path / "few.npz", **arrays)
    output = tmp_path / "out"
    return ["--npz", str(tmp_path / "few.npz"), "--output", str(output), "--batch-size", "20"], output


def records(folder):
    return json.loads((folder / "results.json").read_text())


def settings(paper, cell, *options):
    args = paper.parser().parse_args(list(options))
    return importlib.import_module("argparse").Namespace(**paper.settings_of(cell, args, 60_000))


def built(paper, *cell, options=()):
    cell = cell_of(*cell, seed=1)
    return importlib.import_module("examples.paper_cells").build(cell, settings(paper, cell, *options))


def count(variables):
    return sum(int(np.prod(v.shape)) for v in variables)


@pytest.mark.parametrize("layers", [3, 6, 21])
def test_dense_network(paper, layers):
    """n - 1 hidden layers and a classifier; parameters by hand: weights and offsets, scale and offset."""
    model = built(paper, "mnist", "fcn", layers, "sg-conditional")
    assert len(model.interfaces) == layers - 1
    plain = keras_sg.strip(model)
    hidden = (784 * 256 + 256 + 2 * 256) + (layers - 2) * (256 * 256 + 256 + 2 * 256)
    assert count(plain.trainable_variables) == hidden + 256 * 10 + 10
    first = model.interfaces[0].layer.layers
    assert [type(layer).__name__ for layer in first] == ["Dense", "BatchNormalization", "ReLU"]
    # Linear: 256 numbers and ten of the label to 256.
    assert {count(cut.synthesizer.trainable_variables) for cut in model.interfaces} == {266 * 256 + 256}


@pytest.mark.parametrize("dataset, filters, channels, last", [("mnist", 64, 1, 3), ("cifar10", 128, 3, 3)])
def test_convolutional_network(paper, dataset, filters, channels, last):
    model = built(paper, dataset, "cnn", 3, "sg")
    assert [tuple(cut.output.shape[1:]) for cut in model.interfaces] == [
        (10 if dataset == "cifar10" else 9,) * 2 + (filters,),
        (last, last, filters),
    ]
    pools = [type(cut.layer.layers[-1]).__name__ for cut in model.interfaces]
    assert pools == ["MaxPooling2D", "AveragePooling2D"]
    conv = lambda inputs: 25 * inputs * filters + filters
    hidden = conv(channels) + conv(filters) + 2 * 2 * filters
    plain = keras_sg.strip(model)
    assert count(plain.trainable_variables) == hidden + last * last * filters * 10 + 10
    # Two hidden convolutions with BatchNormalization, and one more to predict.
    assert count(model.interfaces[0].synthesizer.trainable_variables) == 3 * conv(filters) + 2 * 2 * filters


def test_synthesizers_of_the_paper(paper):
    """Two hidden layers of 1024 for MNIST, one of 4000 for CIFAR-10; linear where the label is seen."""
    for dataset, width, expected in (("mnist", 256, (1024, 1024)), ("cifar10", 1000, (4000,))):
        model = built(paper, dataset, "fcn", 3, "sg", options=["--recipe", "paper"])
        sizes = [width, *expected]
        hidden = sum(a * b + 3 * b for a, b in itertools.pairwise(sizes))
        parameters = hidden + sizes[-1] * width + width
        assert {count(cut.synthesizer.trainable_variables) for cut in model.interfaces} == {parameters}
        conditional = cell_of(dataset, "fcn", 3, "sg-conditional", 1)
        assert paper.recipe("paper", conditional)["synthesizer"] == []


def test_arms(paper):
    kinds = {
        arm: {type(cut).__name__ for cut in built(paper, "mnist", "fcn", 4, arm).interfaces}
        for arm in paper.ARMS
    }
    assert kinds == {
        "no-backprop": set(),
        "backprop": set(),
        "sg": {"SyntheticGradient"},
        "sg-conditional": {"SyntheticGradient"},
        "local": {"LocalLoss"},
        "feedback": {"SyntheticGradient"},
        "sg-input": {"SyntheticGradient"},
        "sg-error": {"SyntheticGradient"},
    }
    seeing = {
        arm: [cut.sees_input for cut in built(paper, "mnist", "fcn", 3, arm).interfaces] for arm in kinds
    }
    assert [arm for arm, found in seeing.items() if any(found)] == ["sg-input"] and all(seeing["sg-input"])
    assert count(built(paper, "mnist", "fcn", 4, "no-backprop").trainable_variables) == 2570
    assert all(cut.label is None for cut in built(paper, "mnist", "fcn", 3, "sg").interfaces)


def test_recipe_of_the_deepest(paper):
    """In `fast`, 21 layers with the label have rates of their own."""
    deepest, other = (cell_of("mnist", "fcn", layers, "sg-conditional", 1) for layers in (21, 6))
    found = paper.recipe("fast", deepest)
    assert (found["learning_rate"], found["synthesizer_learning_rate"], found["iterations"]) == (
        1e-4,
        1e-3,
        23_400,
    )
    assert paper.recipe("fast", other)["learning_rate"] == 2e-3
    assert paper.recipe("fast", deepest._replace(arm="local")) == paper.recipe(
        "fast", other._replace(arm="local")
    )
    assert paper.recipe("paper", deepest)["learning_rate"] == 3e-5
    # A predicted error is trained at the same rates at every depth.
    errors = [paper.recipe("fast", cell._replace(arm="sg-error")) for cell in (deepest, other)]
    assert errors[0] == errors[1] == paper.recipe("fast", other)


def test_recipe_without_labels(paper):
    """In `fast`, three and four dense layers have the time for large synthesizers."""
    few, also, more = (cell_of("mnist", "fcn", layers, "sg", 1) for layers in (3, 4, 6))
    assert paper.recipe("fast", few)["synthesizer"] == [1024, 1024]
    assert paper.recipe("fast", also) == paper.recipe("fast", few)
    assert paper.recipe("fast", more)["synthesizer"] == [256]
    assert paper.recipe("fast", few._replace(network="cnn")) == paper.recipe("fast", more)


def test_rates_of_the_paper(paper):
    """Divided by ten after 300,000 and 400,000 of 500,000 iterations."""
    cell = cell_of("mnist", "fcn", 3, "backprop", 1)
    optimizer = built(paper, "mnist", "fcn", 3, "backprop", options=["--recipe", "paper"]).optimizer
    iterations = settings(paper, cell, "--recipe", "paper").iterations
    assert iterations == 500_000 // 234 * 234
    for done, rate in ((0, 3e-5), (299_000, 3e-5), (301_000, 3e-6), (401_000, 3e-7)):
        optimizer.iterations.assign(done)
        assert float(optimizer.learning_rate) == pytest.approx(rate)


def test_cells_are_run_once(paper, few, capsys, eager):
    """Two seeds, then the same again; a table in the paper's form."""
    command, output = few
    command += ["--network", "fcn", "--layers", "3", "--arm", "backprop", "--seed", "1", "2"]
    command += ["--iterations", "4"]
    paper.main(command)
    found = records(output)
    assert list(found) == ["mnist-fcn3-backprop-seed1", "mnist-fcn3-backprop-seed2"]
    for record in found.values():
        assert record["settings"]["iterations"] == 3 and len(record["test_accuracy"]) == 1
    assert np.isfinite([record["test_loss"] for record in found.values()]).all()
    first = capsys.readouterr().out
    lines = [line for line in first.splitlines() if line.startswith("|")]
    assert lines[0].split(" | ")[1:] == [
        "no-backprop",
        "backprop",
        "sg",
        "sg-conditional",
        "local",
        "feedback",
        "sg-input",
        "sg-error |",
    ]
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        *(f"| FCN {layers}" for layers in (3, 4, 5, 6, 21)),
        "| CNN 3",
        "| CNN 4",
    ]
    assert lines[-1].endswith("| none / - |") and "none" not in lines[2], "a cnn has no sg-error"
    errors = [100 * (1 - found[f"mnist-fcn3-backprop-seed{seed}"]["test_accuracy"][-1]) for seed in (1, 2)]
    ours = f"{np.mean(errors):.2f} ({min(errors):.2f} to {max(errors):.2f})"
    assert f"| FCN 3 | not yet run / 9.3 | {ours} / 2.0 | not yet run / 1.9 |" in lines[2]
    paper.main(command)
    assert records(output) == found and "nothing to do" in capsys.readouterr().out
    paper.main(["--table", str(output)])
    assert capsys.readouterr().out.strip() == "\n".join(lines)


def test_a_cell_on_validation_images(paper, few, eager, capsys):
    """Has its own settings, and no place in the table."""
    command, output = few
    command += ["--layers", "4", "--arm", "backprop", "--network", "fcn", "--seed", "1", "--iterations", "2"]
    paper.main([*command, "--validation"])
    (record,) = records(output).values()
    assert record["settings"]["measured_on"] == "validation" and len(record["test_accuracy"]) == 1
    assert "| FCN 4 | not yet run / 12.6 | not yet run / 1.8 |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="measured_on='validation' there, 'test' now"):
        paper.main(command)


def test_out_of_time(paper):
    paper.in_time(float("inf"))
    with pytest.raises(paper.OutOfTime, match="the minutes of the budget are spent"):
        paper.Deadline(-1.0).on_epoch_begin(0)


def test_a_budget(paper, few, eager, monkeypatch, capsys):
    """Training stops where an epoch would begin after it; the next call goes on with the next epoch."""
    command, output = few
    command += [
        "--layers",
        "3",
        "--network",
        "fcn",
        "--arm",
        "backprop",
        "sg-conditional",
        "--seed",
        "1",
        "--iterations",
        "6",
    ]
    clock = iter([0.0, 30.0, 40.0, 90.0])
    with monkeypatch.context() as patched:
        patched.setattr(paper, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
        paper.main([*command, "--budget-minutes", "1"])
    (stopped,) = records(output).values()
    assert (
        len(stopped["test_accuracy"]) == 1
        and stopped["epochs"] == 2
        and stopped["arm"] == "mnist-fcn3-sg-conditional-seed1"
    )
    out = capsys.readouterr().out
    assert (
        "The 1 minutes are over" in out and "| FCN 3 | not yet run / 9.3 | not yet run / 2.0 | not yet" in out
    )
    paper.main(command)
    found = records(output)
    assert [len(record["test_accuracy"]) for record in found.values()] == [2, 2]
    assert found[stopped["arm"]]["test_loss"][0] == stopped["test_loss"][0]


def test_a_cell_with_other_settings_is_not_resumed(paper, few, eager):
    command, output = few
    command += ["--layers", "3", "--network", "fcn", "--arm", "backprop", "--seed", "1"]
    paper.main([*command, "--iterations", "3"])
    before = (output / "results.json").read_bytes()
    with pytest.raises(SystemExit, match=r"with other settings: .*iterations=3 there, 6 now"):
        paper.main([*command, "--iterations", "6"])
    assert (output / "results.json").read_bytes() == before
    paper.main([*command, "--iterations", "6", "--overwrite"])
    assert len(next(iter(records(output).values()))["test_accuracy"]) == 2


BAD = {
    "seven layers": (
        ["--network", "fcn", "--layers", "7"],
        r"have 3 or 4 or 5 or 6 or 21 layers \(fcn\).*: --layers 7",
    ),
    "five convolutions": (
        ["--network", "cnn", "--layers", "3", "5"],
        r"have 3 or 4 layers \(cnn\).*: --layers 5",
    ),
    "two layers": (["--layers", "2"], r"\(fcn, cnn\), the classifier counted\. Received: --layers 2"),
    "nothing picked": ([], r"all 162 cells: say --all"),
    "predicted errors behind convolutions": (
        ["--network", "cnn", "--arm", "sg-error"],
        r"has no such cell: sg-error is for networks of dense layers.*--network cnn",
    ),
    "two data sets in a file": (
        ["--all", "--npz", "x.npz", "--data", "mnist", "cifar10"],
        "--npz is one data set",
    ),
    "no file": (["--all", "--npz", "nowhere.npz"], r"--npz must be an \.npz file.*nowhere\.npz"),
    "no time": (["--all", "--budget-minutes", "-1"], r"--budget-minutes must be positive\. Received: -1"),
    "no number": (["--all", "--budget-minutes", "nan"], r"--budget-minutes must be positive\. Received: nan"),
    "no results": (["--table", "nowhere"], "No results to draw"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(paper, case, tmp_path, monkeypatch):
    """Refused before anything is trained or written."""
    monkeypatch.chdir(tmp_path)
    options, message = BAD[case]
    with pytest.raises(SystemExit, match=message):
        paper.main(options)
    assert not list(tmp_path.iterdir())


def test_the_order_of_cells(paper):
    """The arms that the table is about come first, all depths of a seed before the next seed."""
    args = paper.parser().parse_args(["--all"])
    found = paper.cells(args)
    assert len(found) == len(set(found)) == 3 * (5 * 8 + 2 * 7)
    assert {cell.arm for cell in found[:48]} == {"sg", "sg-conditional", "sg-input", "sg-error"}
    assert [cell.seed for cell in found[:48]] == [1] * 16 + [2] * 16 + [3] * 16
    assert {cell.layers for cell in found[48:54]} == {21}


def test_help(paper, capsys):
    with pytest.raises(SystemExit) as stop:
        paper.main(["--help"])
    assert stop.value.code == 0 and "examples.paper_table" in capsys.readouterr().out
