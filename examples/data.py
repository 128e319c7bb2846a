"""The pictures of the image experiments: where they come from, and the batches they come in.

There are two sources. TFDS downloads a data set once and needs TensorFlow to read it; an `.npz` file needs
NumPy alone. Both end as arrays, the splits

    {"image": (n, height, width[, channels]), "label": (n,)}

of training and test. The batches are made of the arrays by tf.data on the TensorFlow backend, where it
is the fastest, and by `Batches` on the others, which then train without TensorFlow.
"""

import copy
import functools
import hashlib
import importlib
import math
import zipfile
import zlib

import keras
import numpy as np

from examples.needs import needs

CLASSES = 10
TEST_BATCH = 1000


@functools.lru_cache(maxsize=1)
def fetch(name, data_dir):
    """The training and the test split of a TFDS data set."""
    with needs("tensorflow,examples"):
        importlib.import_module("tensorflow")  # without which TFDS can be imported, and not used
        import tensorflow_datasets as tfds

    folder = data_dir or "~/tensorflow_datasets"
    if not tfds.builder(name, data_dir=data_dir).is_prepared():
        print(f"{name} is not in {folder}; downloading it (without a network, that fails in some minutes)")
    try:
        return tfds.as_numpy(tfds.load(name, split=["train", "test"], data_dir=data_dir, batch_size=-1))
    except Exception as error:  # TFDS raises whatever its download met.
        raise SystemExit(
            f"The data set {name!r} could be neither found in {folder} nor downloaded. With a network, run "
            f"python -c \"import tensorflow_datasets as tfds; tfds.load('{name}')\" once. Without one, copy "
            f"from a machine that has it the folder that TFDS made there, and pass as --data-dir the folder "
            f"with {name}/<version>/ in it. Received: --data-dir {data_dir}; {type(error).__name__}: {error}"
        ) from error


def read(path, shape, option="--data"):
    """The training and the test split in an `.npz` file.

    Args:
        path: of the file, with the arrays `x_train`, `y_train`, `x_test` and `y_test`: images (uint8, or
            floats in [0, 1]) and integer labels.
        shape: shape of an input of the experiment; images for `(784,)` have so many numbers in any shape.
        option: of the command line, that gave the path.

    Raises:
        SystemExit: the file cannot be read, or an array is not as described.
    """
    names = ("x_train", "y_train", "x_test", "y_test")
    try:
        with open(path, "rb") as opened, np.load(opened) as file:
            arrays = {name: file[name] for name in names if name in file}
            others = sorted(set(file) - set(names))
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise SystemExit(
            f"{option} must be an .npz file that NumPy can read, with the arrays {', '.join(names)}. "
            f"Received: {path}; {type(error).__name__}: {error}"
        ) from error

    def check(fine, name, expected, received):
        if not fine:
            raise SystemExit(f"{path} is no data for this experiment: {name} must be {expected}. {received}")

    splits = []
    for part in ("train", "test"):
        x_name, y_name = f"x_{part}", f"y_{part}"
        for name in (x_name, y_name):
            check(name in arrays, name, "there", f"Received: {', '.join([*arrays, *others]) or 'no arrays'}")
        x, y = arrays[x_name], arrays[y_name]
        fits = x.shape[1:] == shape or (len(shape) == 1 and math.prod(x.shape[1:]) == shape[0])
        received = f"Received: shape {x.shape}"
        check(x.ndim > 1 and len(x) and fits, x_name, f"images of shape {shape}, at least one", received)
        check(x.dtype == "uint8" or x.dtype.kind == "f", x_name, "uint8 or floats", f"Received: {x.dtype}")
        unit = x.dtype == "uint8" or (x.min() >= 0 and x.max() <= 1)  # not so where there is a NaN
        check(unit, x_name, "in [0, 1] where it is floats", f"Received: from {x.min()} to {x.max()}")
        received = f"Received: shape {y.shape}, {y.dtype}"
        check(y.shape == (len(x),), y_name, f"one label for each of {len(x)} images of {x_name}", received)
        check(y.dtype.kind in "iu", y_name, "of an integer type", received)
        within = y.min() >= 0 and y.max() < CLASSES
        received = f"Received: from {y.min()} to {y.max()}"
        check(within, y_name, f"labels from 0 to {CLASSES - 1}", received)
        splits.append({"image": x, "label": y.astype("int64")})
    return splits


def held_out(splits):
    """Training and validation split: five sixths and a sixth of the training split. Not of the test split."""
    train, _ = splits
    order = np.random.default_rng(0).permutation(len(train["label"]))
    parts = np.split(order, [len(order) // 6])
    validation, rest = ({key: values[part] for key, values in train.items()} for part in parts)
    return rest, validation


def digest(path):
    """What tells the content of a file from another's, whatever its name."""
    with open(path, "rb") as file:
        return "sha256 " + hashlib.file_digest(file, "sha256").hexdigest()[:16]


def batches(splits, shape, batch_size, seed):
    """Training batches, reshuffled every epoch and without the last short one; test batches."""
    train, test = splits
    count = len(train["label"])
    if batch_size > count:
        raise SystemExit(f"--batch-size is at most {count}. Received: {batch_size}")
    if keras.backend.backend() == "tensorflow":
        return _tensorflow_batches(splits, shape, batch_size, seed)
    return Batches(train, shape, batch_size, seed), Batches(test, shape, TEST_BATCH)


class Batches(keras.utils.PyDataset):
    """The batches of a split.

    Args:
        split: dict of the arrays `image` and `label`.
        shape: shape of an input.
        batch_size: integer.
        seed: integer, for batches that are reshuffled every epoch and of which the last short one is
            dropped; None for the split as it is. The order depends on nothing but the seed and the number
            of the epoch, so that a run that resumes sees the batches that it would have seen.
    """

    def __init__(self, split, shape, batch_size, seed=None):
        super().__init__()
        self.x, self.y = _pixels(split["image"], shape), split["label"]
        self.batch_size, self.seed = batch_size, seed
        self.steps = len(self.y) // batch_size if seed is not None else math.ceil(len(self.y) / batch_size)
        self.begin(epoch=0)

    def begin(self, epoch):
        """Put the examples into the order of an epoch."""
        self.epoch = epoch
        if self.seed is not None:
            self.order = np.random.default_rng([self.seed, epoch]).permutation(len(self.y))

    def on_epoch_end(self):
        self.begin(self.epoch + 1)

    def take(self, steps):
        """The same, of at most so many batches an epoch."""
        taken = copy.copy(self)
        taken.steps = min(self.steps, steps)
        return taken

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        at = slice(index * self.batch_size, (index + 1) * self.batch_size)
        if self.seed is not None:
            at = self.order[at]
        return self.x[at], self.y[at]


def _pixels(images, shape):
    """Images as float32 in [0, 1]."""
    return images.reshape(-1, *shape).astype("float32") / np.float32(_scale(images))


def _scale(images):
    return 255.0 if images.dtype == "uint8" else 1.0


def _tensorflow_batches(splits, shape, batch_size, seed):
    import tensorflow as tf

    def batch_of(split):
        images, labels = tf.convert_to_tensor(split["image"]), tf.convert_to_tensor(split["label"])
        scale = _scale(split["image"])

        def pixels_and_labels(at):
            pixels = tf.cast(tf.gather(images, at), "float32") / scale
            return tf.reshape(pixels, (-1, *shape)), tf.gather(labels, at)

        return pixels_and_labels

    train, test = splits
    count = len(train["label"])
    order = tf.data.Dataset.range(count).shuffle(count, seed=seed)
    return (
        prefetched(order.batch(batch_size, drop_remainder=True).map(batch_of(train))),
        prefetched(tf.data.Dataset.range(len(test["label"])).batch(TEST_BATCH).map(batch_of(test)).cache()),
    )


def prefetched(dataset, batches=2):
    """A tf.data pipeline that prepares a few batches ahead, and is not tuned while it runs.

    The thread that tunes looks at a pipeline at intervals that double, and where the pipeline ends in the
    midst of one, taking it down can wait for it to pass: for up to as long as the epoch has taken.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.prefetch(batches).with_options(options)
