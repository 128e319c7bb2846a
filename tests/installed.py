"""`python tests/installed.py`: the installed package, not the one beside this file, trains and is saved.

It takes what `pip install "keras_sg[BACKEND]"` brings, no more; KERAS_BACKEND says which backend.
"""

import importlib.metadata
import pathlib
import sysconfig
import tempfile

import keras
import numpy as np
from keras import layers

import keras_sg


def main():
    package = pathlib.Path(keras_sg.__file__).parent
    assert package.parent == pathlib.Path(sysconfig.get_path("purelib")), f"{package} is no installation"
    assert (package / "py.typed").is_file()
    assert keras_sg.__version__ == importlib.metadata.version("keras_sg")

    keras.utils.set_random_seed(0)
    plain = keras.Sequential([keras.Input((6,)), layers.Dense(5, "tanh", name="block"), layers.Dense(3)])
    model = keras_sg.decouple(plain, after="block", synthesizer="linear", num_classes=3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras_sg.decoupled_optimizer("sgd", synthesizer="adam"), loss)
    x, y = np.random.default_rng(0).normal(size=(8, 6)).astype("float32"), np.arange(8) % 3
    before = model.get_weights()
    # In the first step the synthesizer says zero, in the second what it has learned.
    history = model.fit(x, y, batch_size=8, epochs=2, verbose=0).history
    assert all(np.isfinite(values).all() for values in history.values())
    assert all(not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.keras"
        model.save(path)
        loaded = keras.models.load_model(path)
    np.testing.assert_allclose(loaded.predict(x, verbose=0), plain.predict(x, verbose=0), atol=1e-6)
    versions = f"keras_sg {keras_sg.__version__}, Keras {keras.__version__}, {keras.backend.backend()}"
    print(f"{versions}: trained and saved by {package}")


if __name__ == "__main__":
    main()
