"""The MLPs that the tests train, and the oracle that starts from the same weights."""

import keras
import numpy as np
import pytest
from backends import several_steps
from oracle import Oracle

import keras_sg

FEATURES, CLASSES, EXAMPLES, BATCH = 6, 3, 16, 8
MODULE_RATE, SYNTHESIZER_RATE = 0.1, 0.3
_TORCH = keras.backend.backend() == "torch"
# How a model is compiled.
MODES = [
    pytest.param({}, id="default"),
    pytest.param({"run_eagerly": True}, id="eager"),
    pytest.param(
        {"jit_compile": True}, id="xla", marks=pytest.mark.skipif(_TORCH, reason="PyTorch has no XLA")
    ),
    pytest.param(
        {"steps_per_execution": 5},
        id="several steps",
        marks=several_steps,
    ),
]


def data(seed=0):
    """Inputs `(16, 6)`, targets `(16, 3)` and class indices `(16,)`."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, EXAMPLES)
    x = rng.normal(size=(EXAMPLES, FEATURES)).astype("float32")
    return x, np.eye(CLASSES, dtype="float32")[labels], labels


def mlp(interfaces, num_classes=None, model_class=keras_sg.DecoupledModel, seed=0, **options):
    """A tanh MLP with so many hidden modules, each with a linear synthesizer that is not zero."""
    keras.utils.set_random_seed(seed)
    inputs = h = keras.Input((FEATURES,))
    for i in range(interfaces):
        module = keras.layers.Dense(5 + i, activation="tanh", name=f"module{i + 1}")
        h = keras_sg.SyntheticGradient(module, num_classes=num_classes, **options)(h)
    model = model_class(inputs, keras.layers.Dense(CLASSES, name="last")(h))
    rng = np.random.default_rng(seed)
    for synthesizer in synthesizers_of(model):
        synthesizer.set_weights([0.1 * rng.normal(size=w.shape) for w in synthesizer.get_weights()])
    return model


class Hiding(keras.layers.Layer):
    """A layer of somebody's own making with an interface inside."""

    def __init__(self, interface, training=None):
        super().__init__()
        self.interface, self.training = interface, training

    def build(self, shape):
        self.interface.build(shape)

    def call(self, x):
        return self.interface(x) if self.training is None else self.interface(x, training=self.training)


def optimizer():
    return keras_sg.decoupled_optimizer(
        keras.optimizers.SGD(MODULE_RATE), keras.optimizers.SGD(SYNTHESIZER_RATE)
    )


def interfaces_of(model):
    return [layer for layer in model.layers if isinstance(layer, keras_sg.SyntheticGradient)]


def synthesizers_of(model):
    return [interface.synthesizer for interface in interfaces_of(model)]


def weights_of(model):
    """([(kernel, bias)] of the modules, [(kernel, bias)] of the synthesizers), as NumPy."""
    modules = [interface.layer for interface in interfaces_of(model)] + [model.get_layer("last")]
    return (
        [tuple(layer.get_weights()) for layer in modules],
        [tuple(layer.get_weights()) for layer in synthesizers_of(model)],
    )


def oracle_of(model, **options):
    options.setdefault("knows_weights", isinstance(model, keras_sg.DecoupledModel))
    return Oracle(*weights_of(model), MODULE_RATE, SYNTHESIZER_RATE, **options)


def train_oracle(oracle, x, y, epochs, labels=None, sample_weight=None):
    """The batches that an unshuffled `fit` makes. Returns the pairs of the last step."""
    for _ in range(epochs):
        for start in range(0, len(x), BATCH):
            at = slice(start, start + BATCH)
            pairs = oracle.step(
                x[at],
                y[at],
                labels=None if labels is None else np.eye(CLASSES)[labels[at]],
                sample_weight=None if sample_weight is None else sample_weight[at],
            )
    return pairs


def assert_same(model, oracle, tolerance):
    for ours, theirs in zip(weights_of(model), (oracle.weights, oracle.synthesizers)):
        for pair, expected in zip(ours, theirs):
            for a, b in zip(pair, expected):
                np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
