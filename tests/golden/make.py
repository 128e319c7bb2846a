"""`python tests/golden/make.py`: writes small models of this version, for later versions to read.

Run it once a release; the files of older versions stay as they are, and `test_golden.py` reads them all.
"""

import pathlib
import zipfile

import keras
import numpy as np
from keras import layers

import keras_sg
from keras_sg import synthesizers

HERE = pathlib.Path(__file__).parent
CLASSES = 3


def decoupled():
    """A conditional and an unconditional interface, and a critic on top; small in all things."""
    inputs = h = keras.Input((6,), name="inputs")
    h = keras_sg.SyntheticGradient(layers.Dense(5, "tanh", name="one"), synthesizers.MLP((4,)), loss="huber")(
        h
    )
    h = keras_sg.SyntheticGradient(layers.Dense(5, "tanh", name="two"), num_classes=CLASSES, mix=0.75)(h)
    critic = synthesizers.Critic((4,))
    block = layers.Dense(4, "tanh", name="three")
    h = keras_sg.SyntheticLoss(block, critic, num_classes=CLASSES, sobolev=True, update_period=2)(h)
    return keras_sg.DecoupledModel(inputs, layers.Dense(CLASSES, name="last")(h), name="golden")


def unlocked():
    """An input that is predicted, feedback, a local loss, and labels from an entry of `y`."""
    inputs = h = keras.Input((6,), name="inputs")
    low, predicted = synthesizers.Linear(rank=2), synthesizers.InputMLP((4,))
    block = layers.Dense(5, "tanh", name="one")
    h = keras_sg.SyntheticGradient(block, low, num_classes=CLASSES, synthetic_input=predicted)(h)
    feedback = synthesizers.Feedback(scale=0.5)
    h = keras_sg.SyntheticGradient(layers.Dense(5, "tanh", name="two"), feedback, num_classes=CLASSES)(h)
    head = synthesizers.Critic((4,))
    h = keras_sg.LocalLoss(layers.Dense(4, "tanh", name="three"), head, num_classes=CLASSES)(h)
    outputs = {"last": layers.Dense(CLASSES, name="last")(h)}
    return keras_sg.DecoupledModel(inputs, outputs, labels_from="last", name="golden")


def recurrent():
    """An interface between windows of time, in the middle of sequences."""
    x, ends = keras.Input((3, 2), name="x"), keras.Input((), name="ends")
    lstm = layers.LSTM(3, return_sequences=True, name="lstm")
    h = keras_sg.RecurrentSyntheticGradient(lstm, synthesizers.MLP((4,)), auxiliary=True, batch_size=4)(
        x, ends=ends
    )
    return keras_sg.DecoupledModel([x, ends], layers.Dense(CLASSES, name="last")(h), name="golden")


NETWORKS = {"decoupled": decoupled, "unlocked": unlocked, "recurrent": recurrent}


def data(name):
    """One batch for a network, the only one that it is trained on: inputs and `y`, by name."""
    rng = np.random.default_rng(0)
    if name == "recurrent":
        x = rng.normal(size=(4, 3, 2)).astype("float32")
        ends = np.array([0.0, 1.0, 0.0, 0.0], "float32")
        return {"x": x, "ends": ends, "y": np.arange(12).reshape(4, 3) % CLASSES}
    return {"x": rng.normal(size=(16, 6)).astype("float32"), "y": np.arange(16) % CLASSES}


def compress(path):
    """Keras stores what is in the file as it is, much of it empty space."""
    with zipfile.ZipFile(path) as file:
        contents = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in contents.items():
            file.writestr(name, content)


def write(name):
    keras.utils.set_random_seed(0)
    model = NETWORKS[name]()
    # With a larger epsilon, Adam makes no steps of rounding errors, which differ from machine to machine.
    optimizer = keras_sg.decoupled_optimizer(
        keras.optimizers.SGD(0.1, momentum=0.9), keras.optimizers.Adam(1e-2, epsilon=1e-3)
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, run_eagerly=True)
    batch = data(name)
    x, y = given(model, batch)
    model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    stem = HERE / f"{name}-{keras_sg.__version__}"
    model.save(f"{stem}.keras")
    compress(f"{stem}.keras")
    (predictions,) = keras.tree.flatten(model.predict(x, verbose=0))
    model.fit(x, y, batch_size=len(batch["y"]), shuffle=False, verbose=0)
    after = {f"weight{i}": weight for i, weight in enumerate(model.get_weights())}
    np.savez_compressed(f"{stem}.npz", predictions=predictions, **batch, **after)


def given(model, batch):
    """A batch as the model's `fit` takes it: `x` and `y`."""
    x = [batch[name] for name in ("x", "ends") if name in batch]
    y = {key: batch["y"] for key in model.output} if isinstance(model.output, dict) else batch["y"]
    return x if len(x) > 1 else x[0], y


if __name__ == "__main__":
    for name in NETWORKS:
        write(name)
