"""`python tests/golden/make.py`: writes a small model of this version, for later versions to read.

Run it once a release; the files of older versions stay as they are, and `test_golden.py` reads them all.
"""

import pathlib
import zipfile

import keras
import numpy as np
from keras import layers

import keras_sg

HERE = pathlib.Path(__file__).parent


def network():
    """A conditional and an unconditional interface, and a critic on top; small in all things."""
    inputs = h = keras.Input((6,), name="inputs")
    recipe = keras_sg.synthesizers.MLP((4,))
    h = keras_sg.SyntheticGradient(layers.Dense(5, "tanh", name="one"), recipe, loss="huber")(h)
    h = keras_sg.SyntheticGradient(layers.Dense(5, "tanh", name="two"), num_classes=3, mix=0.75)(h)
    critic = keras_sg.synthesizers.Critic((4,))
    block = layers.Dense(4, "tanh", name="three")
    h = keras_sg.SyntheticLoss(block, critic, num_classes=3, sobolev=True, update_period=2)(h)
    return keras_sg.DecoupledModel(inputs, layers.Dense(3, name="last")(h), name="golden")


def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(16, 6)).astype("float32"), np.arange(16) % 3


def compress(path):
    """Keras stores what is in the file as it is, much of it empty space."""
    with zipfile.ZipFile(path) as file:
        contents = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in contents.items():
            file.writestr(name, content)


def main():
    keras.utils.set_random_seed(0)
    model = network()
    # With a larger epsilon, Adam makes no steps of rounding errors, which differ from machine to machine.
    optimizer = keras_sg.decoupled_optimizer(
        keras.optimizers.SGD(0.1, momentum=0.9), keras.optimizers.Adam(1e-2, epsilon=1e-3)
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, run_eagerly=True)
    x, y = data()
    model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    stem = HERE / f"decoupled-{keras_sg.__version__}"
    model.save(f"{stem}.keras")
    compress(f"{stem}.keras")
    predictions = model.predict(x, verbose=0)
    model.fit(x, y, batch_size=16, shuffle=False, verbose=0)
    after = {f"weight{i}": weight for i, weight in enumerate(model.get_weights())}
    np.savez_compressed(f"{stem}.npz", x=x, y=y, predictions=predictions, **after)


if __name__ == "__main__":
    main()
