"""Models that older versions have saved are read, predict what they did, and train on as they would have."""

import pathlib

import keras
import numpy as np
import pytest
from golden import make

import keras_sg

pytestmark = pytest.mark.tensorflow
FOLDER = pathlib.Path(__file__).parent / "golden"
FILES = sorted(FOLDER.glob("*.keras"))
INTERFACES = {
    "decoupled": ["SyntheticGradient", "SyntheticGradient", "SyntheticLoss"],
    "unlocked": ["SyntheticGradient", "SyntheticGradient", "LocalLoss"],
    "recurrent": ["RecurrentSyntheticGradient"],
}


def test_this_version_has_its_files():
    own = {FOLDER / f"{name}-{keras_sg.__version__}.keras" for name in make.NETWORKS}
    assert own <= set(FILES), "run python tests/golden/make.py"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_of_an_older_version(path):
    assert path.stat().st_size < 50_000
    with np.load(path.with_suffix(".npz")) as kept:
        expected = dict(kept)
    model = keras.models.load_model(path)
    x, y = make.given(model, expected)
    kinds = [type(interface).__name__ for interface in model.interfaces]
    assert kinds == INTERFACES[path.stem.partition("-")[0]] and len(model.optimizer.optimizers) == 2
    (predictions,) = keras.tree.flatten(model.predict(x, verbose=0))
    np.testing.assert_allclose(predictions, expected["predictions"], rtol=0, atol=1e-5)
    before = model.get_weights()
    model.fit(x, y, batch_size=len(expected["y"]), shuffle=False, verbose=0)  # one step
    weights = model.get_weights()
    assert len(weights) == sum(name.startswith("weight") for name in expected)
    for i, weight in enumerate(weights):
        np.testing.assert_allclose(weight, expected[f"weight{i}"], rtol=0, atol=1e-4)
    assert sum(not np.array_equal(a, b) for a, b in zip(before, weights)) > len(weights) / 2
