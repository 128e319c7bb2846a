"""The run that everything is held against: each row, trained by `fit` in float32, eagerly (but on JAX)."""

import functools
import pathlib
from types import SimpleNamespace

import keras
import pytest
from table import EAGERLY, EPOCHS, ROWS, numbers, predicted, state, why_not

HERE = pathlib.Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        reason = item.path.parent == HERE and why_not(item.originalname, item.path.stem)
        if reason:
            item.add_marker(pytest.mark.skip(reason=f"{keras.backend.backend()}: {reason}"))


@pytest.fixture(autouse=True)
def clean_keras():
    """As for all tests, but the session is cleared once a file: that takes longer than most tests here."""
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture(autouse=True, scope="module")
def clean_session():
    yield
    keras.backend.clear_session()


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """Function from the name of a row to its run, which is made once.

    Attributes of the run: `folder`, with a file `1.keras` and `1.weights.h5` and so on after each epoch;
    `state`, all numbers in the end; `weights`, those of the model; `predictions` and `history`.
    """

    @functools.cache
    def train(name):
        assert keras.config.dtype_policy().name == "float32", "made once, for all tests"
        row, folder = ROWS[name], tmp_path_factory.mktemp("reference")
        model = row.compiled(run_eagerly=EAGERLY)
        before = numbers(model.trainable_variables)
        files = [
            keras.callbacks.ModelCheckpoint(folder / "{epoch}.keras"),
            keras.callbacks.ModelCheckpoint(folder / "{epoch}.weights.h5", save_weights_only=True),
        ]
        history = row.fit(model, EPOCHS, callbacks=files)
        moved = [abs(a - b).max() > 1e-4 for a, b in zip(before, numbers(model.trainable_variables))]
        still = [v.path for v, has in zip(model.trainable_variables, moved) if not has]
        # A bias before BatchNormalization changes nothing, and no gradient reaches it.
        assert not [path for path in still if not path.endswith("bias") or len(still) > 1], still
        predictions = predicted(model, row.data()[0])
        return SimpleNamespace(
            folder=folder,
            history=history,
            state=state(model),
            weights=numbers(model.weights),
            predictions=predictions,
        )

    return train
