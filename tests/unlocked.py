"""The oracle of modules that train on what is predicted of their inputs, and the models held against it."""

import numpy as np
from delayed import AtRandom
from models import BATCH, assert_same, weights_of
from side_by_side import EXAMPLES, data

from keras_sg.synthesizers import InputMLP

RECIPE = InputMLP((7,), batch_normalization=False)


class Unlocked(AtRandom):
    """The oracle: a hidden layer with ReLU predicts from `x` what enters the module above, regressed on it.

    Args:
        predictors: list of [kernel, bias, kernel, bias], one an interface.
    """

    def __init__(self, weights, synthesizers, predictors, descent, rate, synthesizer_rate):
        super().__init__(weights, synthesizers, descent, rate, synthesizer_rate)
        self._predictors = [descent(arrays, synthesizer_rate) for arrays in predictors]

    @property
    def predictors(self):
        return [predictor.arrays for predictor in self._predictors]

    @property
    def _taught(self):
        return self._synthesizers + self._predictors

    def _enters(self, k, h, batch):
        if k == len(self._modules) - 1:
            return h
        first, offset, second, bias = self._predictors[k].arrays
        return np.maximum(batch[0] @ first + offset, 0) @ second + bias

    def _lessons(self, k, h, target, batch):
        first, offset, second, _ = self._predictors[k].arrays
        hidden = np.maximum(batch[0] @ first + offset, 0)
        counts = batch[3].reshape(-1, 1) != 0
        error = counts * 2 * (self._enters(k, h, batch) - h) / (np.count_nonzero(counts) * h.shape[1])
        below = error @ second.T * (hidden > 0)
        gradients = [batch[0].T @ below, below.sum(axis=0), hidden.T @ error, error.sum(axis=0)]
        return [*super()._lessons(k, h, target, batch), (self._predictors[k], gradients)]


def predictors_of(model):
    return [interface.synthetic_input.get_weights() for interface in model.interfaces]


def oracle_of(model, descent):
    return Unlocked(*weights_of(model), predictors_of(model), descent, 0.02, 0.05)


def batches(conditional):
    x, y, weight = data()
    parts = [slice(start, start + BATCH) for start in range(0, EXAMPLES, BATCH)]
    return [(x[at].astype("float64"), y[at], y[at] if conditional else None, weight[at]) for at in parts]


def assert_exact(model, oracle, tolerance=1e-5):
    assert_same(model, oracle, tolerance)
    for ours, theirs in zip(predictors_of(model), oracle.predictors, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
