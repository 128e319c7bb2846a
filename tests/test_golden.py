"""Models that older versions have saved are read, predict what they did, and train on as they would have."""

import pathlib

import keras
import numpy as np
import pytest

import keras_sg

pytestmark = pytest.mark.tensorflow
FOLDER = pathlib.Path(__file__).parent / "golden"
FILES = sorted(FOLDER.glob("*.keras"))


def test_this_version_has_a_file():
    assert FOLDER / f"decoupled-{keras_sg.__version__}.keras" in FILES, "run python tests/golden/make.py"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_of_an_older_version(path):
    assert path.stat().st_size < 50_000
    with np.load(path.with_suffix(".npz")) as kept:
        expected = dict(kept)
    x, y, predictions = (expected.pop(name) for name in ("x", "y", "predictions"))
    model = keras.models.load_model(path)
    assert len(model.interfaces) == 3 and len(model.optimizer.optimizers) == 2
    np.testing.assert_allclose(model.predict(x, verbose=0), predictions, rtol=0, atol=1e-5)
    before = model.get_weights()
    model.fit(x, y, batch_size=16, shuffle=False, verbose=0)  # one step
    weights = model.get_weights()
    assert len(weights) == len(expected)
    for i, weight in enumerate(weights):
        np.testing.assert_allclose(weight, expected[f"weight{i}"], rtol=0, atol=1e-4)
    assert sum(not np.array_equal(a, b) for a, b in zip(before, weights)) > len(weights) / 2
