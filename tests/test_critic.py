"""The critic and Sobolev training: the mathematics by hand, and what labels they take."""

import re

import keras
import numpy as np
import pytest
from backends import compiled
from keras import layers

import keras_sg
from keras_sg import synthesizers
from keras_sg._keras import with_mask
from keras_sg.synthesizers import masks

to_numpy = keras.ops.convert_to_numpy
RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 4)).astype("float32")
CLASSES = RNG.integers(0, 3, 6)
BITS = RNG.integers(0, 2, (6, 3)).astype("float32")


def softmax(z):
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


class ByHand:
    """A tanh module, a linear critic behind it and a linear softmax classifier on top, in float64.

    With p = softmax(h A + a) the critic's class distribution and y the label, one-hot:

        l_hat = -log p[label]                d l_hat / d h = (p - y) A'
        l     = -log softmax(h W + w)[label] d l     / d h = (q - y) W'

    The critic descends mean (l_hat - l)^2 + mean over the batch of |d l_hat / d h - d l / d h|^2.
    """

    def __init__(self, model):
        as_float64 = lambda layer: [np.array(w, "float64") for w in layer.get_weights()]
        self.interface = model.interfaces[0]
        self.module = as_float64(self.interface.layer)
        self.critic = as_float64(self.interface.synthesizer)
        self.head = as_float64(model.layers[-1])
        self.y = np.eye(3)[CLASSES]

    def forward(self):
        kernel, bias = self.module
        return np.tanh(X @ kernel + bias)

    def loss_and_gradient(self, weights):
        kernel, bias = weights
        p = softmax(self.forward() @ kernel + bias)
        return -np.log((p * self.y).sum(axis=1)), (p - self.y) @ kernel.T

    def regression(self, critic, sobolev):
        (predicted, synthetic), (loss, true) = map(self.loss_and_gradient, (critic, self.head))
        value = np.mean((predicted - loss) ** 2)
        return value + sobolev * np.mean(np.sum((synthetic - true) ** 2, axis=1))

    def descended(self, sobolev, step=1e-6, rate=0.1):
        """The critic's kernel after one step, by finite differences."""
        kernel, bias = self.critic
        slope = np.zeros_like(kernel)
        for at in np.ndindex(kernel.shape):
            moved = [kernel.copy(), kernel.copy()]
            moved[0][at] += step
            moved[1][at] -= step
            high, low = (self.regression((k, bias), sobolev) for k in moved)
            slope[at] = (high - low) / (2 * step)
        return kernel - rate * slope

    def module_kernel(self, rate=0.1):
        signal = self.loss_and_gradient(self.critic)[1] * (1 - self.forward() ** 2)
        return self.module[0] - rate * X.T @ signal / len(X)


def build(sobolev, **options):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    h = keras_sg.SyntheticLoss(
        layers.Dense(5, "tanh"), synthesizers.Critic(widths=()), num_classes=3, sobolev=sobolev
    )(inputs)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3)(h))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, **options)
    return model


@pytest.mark.parametrize("sobolev", [False, True], ids=["value", "sobolev"])
@pytest.mark.parametrize(
    "options", [{}, {"run_eagerly": True}, pytest.param({"jit_compile": True}, marks=compiled)], ids=str
)
def test_exact(sobolev, options):
    check(build(sobolev, **options), sobolev)


def test_exact_mirrored(two_devices):
    with two_devices.scope():
        model = build(True)
    check(model, True)


def test_exact_data_parallel(data_parallel):
    check(build(True), True)


def test_half_precision():
    keras.config.set_dtype_policy("mixed_float16")
    check(build(True), True, tolerance=2e-3)


def check(model, sobolev, tolerance=1e-5):
    by_hand = ByHand(model)
    logs = model.fit(X, CLASSES, batch_size=6, verbose=0).history
    found = by_hand.interface.synthesizer.get_weights()[0], by_hand.interface.layer.get_weights()[0]
    np.testing.assert_allclose(found[0], by_hand.descended(sobolev), rtol=0, atol=tolerance)
    np.testing.assert_allclose(found[1], by_hand.module_kernel(), rtol=0, atol=tolerance)
    assert logs["sg_loss"][0] == pytest.approx(by_hand.regression(by_hand.critic, sobolev), rel=1e-2)
    assert ("sg_cosine" in logs) == sobolev


@pytest.mark.parametrize("loss", [None, "mse"])
def test_label_vectors(loss):
    """Several bits a label; the critic's own loss, and what it sends down, by hand."""
    inputs = keras.Input((4,))
    critic = synthesizers.Critic(widths=(), loss=loss)
    block = layers.Dense(5, "tanh", name="block")
    cut = keras_sg.SyntheticLoss(block, critic, label_size=3)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3, "sigmoid")(cut(inputs)))
    model.compile("sgd", "mse")
    kernel, bias = (np.array(w, "float64") for w in cut.synthesizer.get_weights())
    h = keras.ops.convert_to_numpy(block(X)).astype("float64")
    z = h @ kernel + bias
    slope = (1 / (1 + np.exp(-z)) - BITS) / 3 if loss is None else 2 * (z - BITS) / 3
    synthetic, _ = model.interface_gradients(X, BITS)["block"]
    np.testing.assert_allclose(synthetic, slope @ kernel.T, rtol=0, atol=1e-5)
    model.fit(X, BITS, verbose=0)


@pytest.mark.parametrize(
    "shape, block",
    [
        ((6, 6, 2), layers.Conv2D(3, 3, padding="same")),
        ((7, 2), layers.Conv1D(3, 3, padding="same")),
        ((None, 2), layers.Conv1D(3, 3, padding="same")),
    ],
    ids=["image", "sequence", "sequence of any length"],
)
@pytest.mark.parametrize("pool_size", [1, 2])
def test_convolutional_critics(shape, block, pool_size, tmp_path):
    inputs = keras.Input(shape)
    critic = synthesizers.Critic((4,), pool_size=pool_size)
    h = keras_sg.SyntheticLoss(
        type(block).from_config(block.get_config()), critic, num_classes=3, sobolev=True
    )(inputs)
    pool = layers.GlobalAveragePooling2D() if len(shape) == 3 else layers.GlobalAveragePooling1D()
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3)(pool(h)))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = RNG.normal(size=(6, *(n or 5 for n in shape))).astype("float32")
    before = [w.copy() for w in model.get_weights()]
    model.fit(x, CLASSES, verbose=0)
    assert all(np.isfinite(w).all() for w in model.get_weights())
    moved = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights())]
    assert sum(moved) >= len(moved) - 2  # biases before BatchNormalization need not move
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
    assert again.interfaces[0].sobolev and again.interfaces[0].label == model.interfaces[0].label


def test_windows_are_means_of_what_counts():
    """By hand: of seven positions the last fills no window; of a window that counts nowhere, zero."""
    x = np.arange(14.0, dtype="float32").reshape(1, 7, 2)
    mask = np.array([[True, True, False, True, False, False, True]])
    pooling = masks.MaskedAveragePooling(2, "channels_last")
    x = keras.ops.convert_to_tensor(x)
    np.testing.assert_allclose(to_numpy(pooling(x)), [[[1, 2], [5, 6], [9, 10]]])
    np.testing.assert_allclose(
        to_numpy(pooling(x, mask=keras.ops.convert_to_tensor(mask))), [[[1, 2], [6, 7], [0, 0]]]
    )
    found = pooling.compute_mask(x, keras.ops.convert_to_tensor(mask))
    np.testing.assert_array_equal(to_numpy(found), [[True, True, False]])
    assert pooling.compute_mask(x, None) is None


@pytest.mark.parametrize("shape", [(None, 9, 2), (None, 7, 6, 2), (None, 4, 5, 6, 2), (None, None, 2)])
def test_shapes_of_windows(shape):
    pooling = masks.MaskedAveragePooling(2, "channels_last")
    x = np.zeros((3, *(size or 8 for size in shape[1:])), "float32")
    expected = [known for known in pooling.compute_output_shape(shape)[1:] if known]
    assert list(pooling(x).shape)[-len(expected) :] == expected
    assert masks.MaskedAveragePooling(3, "channels_first").compute_output_shape((None, 2, 7, None)) == (
        None,
        2,
        2,
        None,
    )


def test_what_is_masked_does_not_reach_a_critic_that_pools():
    critic = synthesizers.Critic((4,), batch_normalization=False, pool_size=2)(
        (None, 6, 2), keras_sg.labels.Classes(3)
    )
    critic.build([(None, 6, 2), (None, 3)])
    critic.body.supports_masking = True  # as an interface has it
    x, label = RNG.normal(size=(2, 6, 2)).astype("float32"), np.eye(3, dtype="float32")[:2]
    mask = np.array([[True, True, True, False, False, False], [True] * 6])
    other = np.where(mask[..., None], x, 7.0).astype("float32")
    values = []
    for h in (x, other):
        h = with_mask(keras.ops.convert_to_tensor(h), keras.ops.convert_to_tensor(mask))
        values.append(to_numpy(critic([h, keras.ops.convert_to_tensor(label)])))
    np.testing.assert_allclose(*values, rtol=1e-6)
    critic_of_all = to_numpy(critic([keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(label)]))
    assert abs(critic_of_all[0] - values[0][0]) > 1e-4


def test_a_layer_of_ones_own_may_take_the_label_apart():
    class Distance(layers.Layer):
        label_apart = True

        def build(self, shapes):
            self.scale = self.add_weight(shape=(shapes[0][-1], shapes[1][-1]), initializer="ones")

        def call(self, inputs):
            h, label = inputs
            return keras.ops.sum((h @ self.scale - label) ** 2, axis=-1)

    inputs = keras.Input((4,))
    cut = keras_sg.SyntheticLoss(layers.Dense(5), Distance(), label_size=3)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3)(cut(inputs)))
    model.compile("sgd", "mse")
    model.fit(X, BITS, verbose=0)
    assert not np.allclose(cut.synthesizer.scale, 1.0)


WRONG = {
    "unconditional": ({}, None, "predicts the label.*num_classes.*label_size.*Received: Critic"),
    "classes for bits": (
        {"num_classes": 3},
        "binary_crossentropy",
        "Of the losses of a critic.*others are for label vectors.*Classes",
    ),
    "bits for classes": ({"label_size": 3}, "categorical_crossentropy", "class labels.*Vector"),
}


@pytest.mark.parametrize("case", WRONG)
def test_critics_that_do_not_fit_their_labels(case):
    options, loss, message = WRONG[case]
    layer = keras_sg.SyntheticLoss(layers.Dense(3), synthesizers.Critic(loss=loss), **options)
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        layer.build((None, 4))


WRONG_LABELS = {
    "indices for vectors": ({"label_size": 3}, CLASSES, "label_size=3.*pass num_classes.*class index"),
    "a column for vectors": ({"label_size": 3}, CLASSES[:, None], "label_size=3.*class index"),
    "another width": ({"label_size": 3}, BITS[:, :2], "label_size=3.*of another shape"),
    "no bits": ({"label_size": 3}, BITS + 0.5, "from 0 to 1.*labels from 0.5 to 1.5"),
    "no numbers": ({"label_size": 3}, BITS * np.nan, "finite"),
    "multi-hot for a class": ({"num_classes": 3}, np.ones((6, 3)), "sum to one.*pass label_size"),
}


@pytest.mark.parametrize("case", WRONG_LABELS)
def test_labels_that_do_not_fit_their_critic(case):
    options, y, message = WRONG_LABELS[case]
    inputs = keras.Input((4,))
    h = keras_sg.SyntheticLoss(layers.Dense(5), "critic", **options)(inputs)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3)(h))
    model.compile("sgd", "mse")
    before = model.get_weights()
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        model.fit(X, y, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))


def test_a_critic_that_is_built_already_wants_bits_too():
    first = keras_sg.SyntheticLoss(layers.Dense(5), "critic", label_size=3)
    first.build((None, 4))
    again = keras_sg.SyntheticLoss(layers.Dense(5), first.synthesizer, label_size=3)
    with pytest.raises(ValueError, match="from 0 to 1"):
        again.label.check_values(BITS * 5)


def test_label_vectors_that_overflow_half_precision():
    keras.config.set_dtype_policy("mixed_float16")
    inputs = keras.Input((4,))
    cut = keras_sg.SyntheticGradient(layers.Dense(5), "linear", label_size=3)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3, dtype="float32")(cut(inputs)))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="finite in float16"):
        model.fit(X, BITS * 1e5, verbose=0)


@pytest.mark.tensorflow
def test_label_vectors_of_a_width_that_is_not_known_beforehand():
    tf = pytest.importorskip("tensorflow")
    inputs = keras.Input((4,))
    cut = keras_sg.SyntheticGradient(layers.Dense(5), "linear", label_size=3)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3)(cut(inputs)))
    model.compile("sgd", "mse")
    for width, fits in ((3, True), (2, False), (1, False)):
        signature = (tf.TensorSpec((None, 4)), tf.TensorSpec((None, None)))
        batches = tf.data.Dataset.from_generator(
            lambda width=width: iter([(X, BITS[:, :width])]), output_signature=signature
        ).apply(tf.data.experimental.assert_cardinality(1))
        if fits:
            model.fit(batches, verbose=0, shuffle=False)
        else:
            wrong = rf"label_size=3\..*Received, at interface 'dense.*': vectors of {width} numbers"
            with pytest.raises(ValueError, match=wrong):
                model.fit(batches, verbose=0, shuffle=False)


@pytest.mark.tensorflow
@pytest.mark.parametrize("sobolev", [False, True])
def test_a_replica_without_examples(two_devices, sobolev):
    with two_devices.scope():
        model = build(sobolev)
    logs = model.fit(X[:5], CLASSES[:5], batch_size=4, shuffle=False, verbose=0).history
    assert all(np.isfinite(values).all() for values in logs.values())
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_a_regularized_synthesizer():
    """What an activity regularizer inside it adds to the loss moves it, and nothing else."""
    found = []
    for strength in (0.0, 0.5):
        keras.utils.set_random_seed(0)
        module = layers.Dense(5, "tanh")
        hidden = layers.Dense(4, activity_regularizer=keras.regularizers.L2(strength))
        inputs = keras.Input((4,))
        h = keras_sg.SyntheticLoss(module, keras.Sequential([hidden, layers.Dense(1)]))(inputs)
        model = keras_sg.DecoupledModel(inputs, layers.Dense(3)(h))
        model.compile(keras.optimizers.SGD(0.1), "mse")
        before = [layer.get_weights() for layer in (module, hidden)]
        model.fit(X, BITS, batch_size=len(X), verbose=0)
        found.append([layer.get_weights() for layer in (module, hidden)])
    (module_without, hidden_without), (module_with, hidden_with) = found
    (kernel, bias), (hidden_kernel, hidden_bias) = before
    h = np.tanh(X @ kernel + bias)
    # Keras takes the mean over the batch: 0.5 sum(activity ^ 2) / 6.
    slope = h.T @ (h @ hidden_kernel + hidden_bias) / len(X)
    assert abs(slope).max() > 1e-2
    np.testing.assert_allclose(hidden_with[0], hidden_without[0] - 0.1 * slope, rtol=0, atol=1e-6)
    for with_it, without in zip(module_with, module_without):
        np.testing.assert_allclose(with_it, without, rtol=0, atol=1e-6)
