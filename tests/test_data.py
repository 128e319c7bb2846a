"""Where the image experiments get their data from: files, and batches that need no TensorFlow."""

import importlib
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def data(from_the_root):
    return importlib.import_module("examples.data")


def arrays(count=20, shape=(28, 28)):
    rng = np.random.default_rng(0)
    x = lambda n: rng.integers(0, 256, (n, *shape)).astype("uint8")
    y = lambda n: (np.arange(n) % 10).astype("uint8")
    return {"x_train": x(count), "y_train": y(count), "x_test": x(12), "y_test": y(12)}


def write(path, **changed):
    found = {name: array for name, array in (arrays() | changed).items() if array is not None}
    np.savez(path, **found)
    return path


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 1), (784,)])
def test_read(data, tmp_path, shape):
    """Images that are of the right size are of the right shape, where the experiment's is flat."""
    expected = arrays(shape=shape)
    train, test = data.read(write(tmp_path / "data.npz", **expected), (784,))
    for split, part in ((train, "train"), (test, "test")):
        np.testing.assert_array_equal(split["image"], expected[f"x_{part}"])
        np.testing.assert_array_equal(split["label"], expected[f"y_{part}"])
        assert split["label"].dtype == "int64"


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"y_test": None, "labels": np.ones(3)}, r"y_test must be there.*x_train, y_train, x_test, labels"),
        (
            {"x_test": np.zeros((12, 32, 32, 3), "uint8")},
            r"x_test must be images.*\(784,\).*\(12, 32, 32, 3",
        ),
        ({"x_train": np.zeros((0, 28, 28), "uint8")}, r"x_train must be images.*at least one.*\(0, 28, 28\)"),
        ({"x_train": np.uint8(3)}, r"x_train must be images.*Received: shape \(\)"),
        ({"x_train": np.zeros((20, 28, 28), "int64")}, "x_train must be uint8 or floats.*int64"),
        ({"x_test": np.full((12, 28, 28), 255.0)}, r"x_test must be in \[0, 1\].*from 255.0 to 255.0"),
        ({"x_test": np.full((12, 28, 28), np.nan)}, r"x_test must be in \[0, 1\].*from nan to nan"),
        ({"y_train": np.zeros(7, int)}, r"y_train must be one label for each of 20 images.*shape \(7,\)"),
        ({"y_test": np.zeros((12, 1), int)}, r"y_test must be one label for each of 12.*shape \(12, 1\)"),
        ({"y_test": np.zeros(12)}, "y_test must be of an integer type.*float64"),
        ({"y_test": np.full(12, 10)}, "y_test must be labels from 0 to 9.*from 10 to 10"),
        ({"y_train": np.full(20, -1)}, "y_train must be labels from 0 to 9.*from -1 to -1"),
    ],
)
def test_a_wrong_array_is_named_before_anything_is_written(tmp_path, changed, message):
    path = write(tmp_path / "data.npz", **changed)
    mnist = importlib.import_module("examples.mnist")
    with pytest.raises(SystemExit, match=rf"data\.npz is no data for this experiment: {message}"):
        mnist.main(["--data", str(path), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_pictures_of_another_shape(data, tmp_path):
    """As many numbers are not enough, where an experiment's inputs are pictures."""
    path = write(tmp_path / "data.npz", **arrays(shape=(3, 32, 32)))
    with pytest.raises(SystemExit, match=r"x_train must be images of shape \(32, 32, 3\).*\(20, 3, 32, 32\)"):
        data.read(path, (32, 32, 3))


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK\x03\x04 but no more", "one array", "cut"])
def test_a_file_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "data.npz"
    if content == "one array":
        np.save(tmp_path / "array.npy", np.zeros(3))
        (tmp_path / "array.npy").rename(path)
    elif content == "cut":
        whole = write(path).read_bytes()
        path.write_bytes(whole[: len(whole) // 2] + whole[len(whole) // 2 + 100 :])
    elif content is not None:
        path.write_bytes(content)
    mnist = importlib.import_module("examples.mnist")
    with pytest.raises(SystemExit, match=r"an \.npz file that NumPy can read.*x_test.*data\.npz; \w+"):
        mnist.main(["--data", str(path), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_settings_know_the_content_of_a_file(tmp_path):
    images, mnist = (importlib.import_module(f"examples.{name}") for name in ("images", "mnist"))
    settings = lambda *options: images.settings_of(mnist.PARSER.parse_args([*options]))
    first = settings("--data", str(write(tmp_path / "a.npz")))
    assert json.loads(json.dumps(first)) == first and len(first["data"]) == len("sha256 ") + 16
    # Under another name it is the same; with one label changed it is not; TFDS has none.
    assert settings("--data", str(write(tmp_path / "b.npz"))) == first
    assert settings("--data", str(write(tmp_path / "b.npz", y_test=np.zeros(12, int)))) != first
    assert "data" not in settings()


def test_validation_images_are_training_images(data):
    """A sixth of them; no test image is in either part, and no image in both."""
    train = {"image": np.arange(60).reshape(60, 1), "label": np.arange(60) % 10}
    test = {"image": np.arange(100, 120).reshape(20, 1), "label": np.arange(20) % 10}
    rest, validation = data.held_out([train, test])
    parts = [set(part["image"].ravel().tolist()) for part in (rest, validation)]
    assert list(map(len, parts)) == [50, 10]
    assert parts[0] | parts[1] == set(range(60)) and not parts[0] & parts[1]
    for part in (rest, validation):
        np.testing.assert_array_equal(part["image"].ravel() % 10, part["label"])
    again = data.held_out([train, test])
    np.testing.assert_array_equal(again[1]["image"], validation["image"])


def test_the_batches_of_an_epoch(data):
    x = np.arange(11, dtype="uint8").repeat(4).reshape(11, 2, 2)
    split = {"image": x, "label": np.arange(11)}

    def epochs(seed, first, count=3):
        batches = data.Batches(split, (4,), batch_size=3, seed=seed)
        batches.begin(first)
        orders = []
        for _ in range(count):
            orders.append([])
            for images, labels in batches:
                assert images.dtype == "float32" and images.shape == (3, 4) and labels.shape == (3,)
                np.testing.assert_array_equal(images, labels[:, None].repeat(4, 1).astype("float32") / 255)
                orders[-1] += labels.tolist()
            batches.on_epoch_end()
        return orders

    found = epochs(seed=0, first=0)
    for order in found:
        assert len(order) == len(set(order)) == 9  # of 11, the last short batch is dropped
    assert len({tuple(order) for order in found + epochs(seed=1, first=0)}) == 6
    # An epoch's order depends on its number, not on those before.
    assert epochs(seed=0, first=2, count=1) == found[2:]
    assert len(data.Batches(split, (4,), 3, seed=0).take(2)) == 2
    test = [labels.tolist() for _, labels in data.Batches(split, (4,), 6)]
    assert test == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]


def test_floats_are_used_as_they_are(data):
    x = np.random.default_rng(0).random((6, 2, 2))
    ((images, _),) = data.Batches({"image": x, "label": np.zeros(6, int)}, (2, 2), 6)
    np.testing.assert_array_equal(images, x.astype("float32"))


@pytest.mark.tensorflow
def test_the_order_of_the_published_results(data):
    """On TensorFlow, seed 0, the examples come in the order that they always came in."""
    keras.utils.set_random_seed(0)
    split = {"image": np.zeros((60_000, 1, 1), "uint8"), "label": np.arange(60_000)}
    train, test = data.batches([split, split], (1,), 256, seed=0)
    assert len(train) == 234 and len(test) == 60
    first, second = ([labels.numpy()[:3].tolist() for _, labels in train.take(2)] for _ in range(2))
    assert first == [[51034, 21945, 21465], [17355, 19664, 54047]]
    assert second == [[4590, 35708, 51844], [39899, 38225, 10382]]


WITHOUT_TENSORFLOW = """
import sys

class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tensorflow_datasets"):
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, Nowhere())
from examples import cifar10, mnist
mnist.main(sys.argv[1:])
"""


def test_a_machine_without_tensorflow(tmp_path):
    if keras.backend.backend() != "jax":
        pytest.skip("trains on JAX")
    path = write(tmp_path / "data.npz")
    options = ["--data", str(path), "--batch-size", "5", "--iterations", "8", "--learning-rate", "1e-2"]
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW, *options, "--arm", "backprop", "--output", "out"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "results.json").read_text())["backprop"]
    assert len(record["test_accuracy"]) == 2 and record["versions"]["backend"] == "jax"
    assert record["settings"]["data"].startswith("sha256 ")


def test_the_fast_recipe_on_this_backend(tmp_path):
    """The network, its compilation and its batches, on whatever backend the tests run on."""
    mnist = importlib.import_module("examples.mnist")
    options = ["--recipe", "fast", "--iterations", "2", "--batch-size", "8", "--output", str(tmp_path)]
    mnist.main([*options, "--data", str(write(tmp_path / "data.npz"))])
    (record,) = json.loads((tmp_path / "results.json").read_text()).values()
    assert record["arm"] == "sg-linear" and len(record["test_accuracy"]) == 1
    assert record["versions"]["backend"] == keras.backend.backend()


@pytest.mark.tensorflow
def test_prefetched(data):
    """The same batches, from a pipeline that tf.data does not tune."""
    import tensorflow as tf

    dataset = data.prefetched(tf.data.Dataset.range(5).batch(2))
    assert dataset.options().autotune.enabled is False
    assert [batch.tolist() for batch in dataset.as_numpy_iterator()] == [[0, 1], [2, 3], [4]]
