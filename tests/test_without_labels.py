"""What a synthesizer that sees no label comes to predict: a gradient's mean over the labels `h` may have.

Four kinds of example whose labels are drawn, so that nothing can tell the label from the example. The
gradient of a softmax and its cross-entropy by the logits is `p - y`, and its mean over the labels
`p - P(y | h)`.
"""

import keras
import numpy as np
import pytest

import keras_sg

KINDS, CLASSES, EACH = 4, 3, 12


def data():
    """Each kind as a one-hot row, 12 times; classes in other shares for each kind. And these shares."""
    shares = np.array([[6, 3, 3], [1, 9, 2], [4, 4, 4], [0, 2, 10]]) / EACH
    labels = [np.repeat(np.arange(CLASSES), np.round(row * EACH).astype(int)) for row in shares]
    return np.repeat(np.eye(KINDS, dtype="float32"), EACH, axis=0), np.concatenate(labels), shares


def network(num_classes=None):
    """An interface that is the input itself, and a classifier on it."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((KINDS,))
    same = keras.layers.Dense(KINDS, kernel_initializer="identity", trainable=False, name="same")
    h = keras_sg.SyntheticGradient(same, "linear", num_classes=num_classes)(inputs)
    return keras_sg.DecoupledModel(inputs, keras.layers.Dense(CLASSES, name="classifier")(h))


def taught(model, rate, steps=200):
    """Train the synthesizer to the end, and the classifier at a rate."""
    optimizer = keras_sg.decoupled_optimizer(keras.optimizers.SGD(rate), keras.optimizers.SGD(2.0))
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y, _ = data()
    model.fit(np.tile(x, (steps, 1)), np.tile(y, steps), batch_size=len(x), shuffle=False, verbose=0)
    return model.interface_gradients(x, y)["same"]


def test_it_is_the_mean_over_labels():
    model = network()
    synthetic, true = taught(model, rate=0.0)
    x, _, shares = data()
    kernel, bias = model.get_layer("classifier").get_weights()
    logits = np.eye(KINDS) @ kernel + bias
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    mean = (p - shares) @ kernel.T
    np.testing.assert_allclose(synthetic, x @ mean, atol=2e-4)
    # Where it is that mean, cosine and relative length are the same number.
    norms = np.linalg.norm(synthetic), np.linalg.norm(true)
    assert np.sum(synthetic * true) / (norms[0] * norms[1]) == pytest.approx(norms[0] / norms[1], abs=1e-3)


def test_it_fades_where_the_classifier_is_calibrated():
    """What is lost is as large as ever; it is not told any more. With the label it is."""
    lengths = {}
    for num_classes in (None, CLASSES):
        synthetic, true = taught(network(num_classes), rate=2.0, steps=300)
        lengths[num_classes] = np.linalg.norm(synthetic) / np.linalg.norm(true)
    assert lengths[None] < 0.03
    assert lengths[CLASSES] > 0.97
