"""Trained by `fit` on windows, the weights are those of the NumPy oracle, however `fit` is told to run."""

import keras
import numpy as np
import pytest
import recurrent_models as rm
from backends import several_steps
from recurrent_models import ROWS, flat, network, oracle_of, windows

import keras_sg

EPOCHS = 2
MODES = {
    "graph": {},
    "eager": {"run_eagerly": True},
    "xla": {"jit_compile": True, "steps_per_execution": 2},
}
modes = pytest.mark.parametrize(
    "mode", [pytest.param(mode, marks=several_steps if mode == "xla" else ()) for mode in MODES]
)
classes = pytest.mark.parametrize("model_class", [keras.Model, keras_sg.DecoupledModel])


def fit(model, x, y, ends, weight=None, mask=None, epochs=EPOCHS, optimizer=None, **options):
    model.compile(optimizer or rm.optimizer(), "mse", **options)
    x = x if mask is None else np.where(mask[..., None], x, np.float32(rm.NOTHING))
    weight = None if weight is None else flat(weight)
    options = {"batch_size": x.shape[1], "epochs": epochs, "sample_weight": weight}
    return model.fit([flat(x), flat(ends)], flat(y), shuffle=False, verbose=0, **options).history


def check(model, weight=None, mask=None, tolerance=1e-5, options=(), **oracle_options):
    x, y, ends = windows()
    oracle = oracle_of(model, **oracle_options)
    before = [a.copy() for a in oracle.cell + oracle.synthesizer]
    fit(model, x, y, ends, weight, mask, **dict(options))
    for _ in range(EPOCHS):
        for i, window in enumerate(zip(x, y, ends)):
            parts = {"weight": weight, "mask": mask}
            oracle.step(*window, **{key: part[i] for key, part in parts.items() if part is not None})
    rm.assert_same(model, oracle, tolerance)
    moved = [abs(a - b).max() for a, b in zip(before, oracle.cell + oracle.synthesizer)]
    assert min(moved) > 1e-3, "nothing was trained"


@modes
@classes
@pytest.mark.parametrize("auxiliary", [False, True], ids=["", "auxiliary"])
def test_oracle(model_class, auxiliary, mode):
    check(network(model_class, auxiliary=auxiliary), options=MODES[mode])


@modes
@classes
def test_weights_and_masks(model_class, mode):
    model = network(model_class, masked=True, auxiliary=True)
    check(model, rm.weights_of_steps(), rm.masks(), options=MODES[mode])


@classes
@pytest.mark.parametrize("mix", [0.0, 1.0])
@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_mix_and_losses(model_class, mix, loss):
    check(network(model_class, mix=mix, loss=loss, auxiliary=True))
