"""What an interface must leave as it is in the network around it: frozen weights, masks, penalties, losses.

These run eagerly, which is quicker for a few steps; that graphs do the same is in `test_saving.py`.
"""

import keras
import numpy as np
import pytest
from keras import layers
from table import CLASSES, CRITIC, CUT, EAGERLY, ROWS, VALUE, assert_same, numbers, two_optimizers

import keras_sg

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(8, 6)).astype("float32")
TOKENS = np.where(np.arange(5) < 1 + np.arange(8)[:, None] % 5, RNG.integers(1, 9, (8, 5)), 0)
LABELS = np.arange(8) % CLASSES


@pytest.mark.parametrize("part", ["interface", "layer", "synthesizer"])
@pytest.mark.parametrize("name", ["linear, conditional", "critic, sobolev", "update period"])
def test_what_is_frozen_stays_and_the_rest_moves(name, part):
    row = ROWS[name]
    model = row.build()
    first = model.interfaces[0]
    (first if part == "interface" else getattr(first, part)).trainable = False
    frozen = first.synthesizer if part == "synthesizer" else first.layer  # an interface is its module
    model.compile(row.optimizer(), keras.losses.SparseCategoricalCrossentropy(True), run_eagerly=EAGERLY)
    before = numbers(model.variables)
    row.fit(model, 1)
    still = {id(variable) for variable in frozen.variables}
    for variable, old in zip(model.variables, before):
        assert np.array_equal(variable.numpy(), old) == (id(variable) in still), variable.path
    assert len(still) == (len(first.synthesizer.variables) if part == "synthesizer" else 2)


def regularized(wrap):
    """Penalties on the weights and on the activations of the module at the interface."""
    inputs = keras.Input((6,))
    block = layers.Dense(5, "tanh", kernel_regularizer="l2", activity_regularizer="l1", name="block")
    outputs = layers.Dense(CLASSES, kernel_regularizer="l1", name="last")(wrap(block)(inputs))
    return inputs, outputs, FEATURES, LABELS, {"loss": crossentropy()}


def masked(wrap):
    """The mask is made below the interface and used above it."""
    inputs = keras.Input((5,), dtype="int32")
    h = wrap(layers.Embedding(9, 4, mask_zero=True, name="embedding"))(inputs)
    outputs = layers.Dense(CLASSES, name="last")(layers.LSTM(3, name="lstm")(h))
    return inputs, outputs, TOKENS, LABELS, {"loss": crossentropy()}


def two_outputs(wrap):
    """Two losses of unequal weight, both behind the interface."""
    inputs = keras.Input((6,))
    h = wrap(layers.Dense(5, "tanh", name="block"))(inputs)
    outputs = {"a": layers.Dense(CLASSES, name="a")(h), "b": layers.Dense(1, name="b")(h)}
    losses = {"loss": {"a": crossentropy(), "b": "mae"}, "loss_weights": {"a": 0.3, "b": 2.0}}
    return inputs, outputs, FEATURES, {"a": LABELS, "b": FEATURES[:, :1]}, losses


def crossentropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class LabelsFromA(keras_sg.DecoupledModel):
    def labels_from(self, y):
        return y["a"] if isinstance(y, dict) else y


KINDS = {
    "linear": lambda layer: keras_sg.SyntheticGradient(layer, mix=0.0, **CUT),
    "value": lambda layer: keras_sg.SyntheticLoss(layer, VALUE, mix=0.0),
    "critic": lambda layer: keras_sg.SyntheticLoss(layer, CRITIC, sobolev=True, mix=0.0, **CUT),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("network", [regularized, masked, two_outputs])
def test_at_mix_zero_it_is_the_plain_network(network, kind):
    """The losses reported are the same, and so is every weight of the network; the synthesizer learns."""
    made = []
    descent = keras.optimizers.SGD(0.1, momentum=0.9)
    for wrap, model_class, optimizer in (
        (lambda layer: layer, keras.Model, descent),
        (KINDS[kind], LabelsFromA, two_optimizers()),
    ):
        keras.utils.set_random_seed(0)
        inputs, outputs, x, y, losses = network(wrap)
        model = model_class(inputs, outputs)
        model.compile(optimizer, run_eagerly=EAGERLY, **losses)
        made.append((model, x, y))
    (plain, x, y), (cut, *_) = made
    stripped = keras_sg.strip(cut)
    stripped.set_weights(plain.get_weights())
    synthesizer = numbers(cut.interfaces[0].synthesizer.trainable_variables)
    options = dict(batch_size=4, epochs=3, shuffle=False, verbose=0)
    reports = [model.fit(x, y, **options).history for model in (plain, cut)]
    assert_same(numbers(stripped.weights), numbers(plain.weights), 1e-6)
    for key, values in reports[0].items():
        assert reports[1][key] == pytest.approx(values, rel=1e-5), key
    after = numbers(cut.interfaces[0].synthesizer.trainable_variables)
    assert any(abs(a - b).max() > 1e-3 for a, b in zip(synthesizer, after))
