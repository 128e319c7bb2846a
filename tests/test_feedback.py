"""Direct feedback alignment at interfaces trains as the NumPy oracle says."""

import keras
import numpy as np
import pytest
from models import BATCH, CLASSES, FEATURES, MODES, MODULE_RATE, interfaces_of
from side_by_side import EXAMPLES, data

import keras_sg
from keras_sg.synthesizers import Feedback

LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(
    hidden=3, mix=1.0, outputs=CLASSES, activation=None, model_class=keras_sg.DecoupledModel, **options
):
    keras.utils.set_random_seed(0)
    inputs = h = keras.Input((FEATURES,))
    for k in range(hidden):
        module = keras.layers.Dense(5 + k, activation="tanh", name=f"module{k + 1}")
        feedback = Feedback(scale=2.0, seed=k)
        h = keras_sg.SyntheticGradient(module, feedback, num_classes=CLASSES, mix=mix, **options)(h)
    return model_class(inputs, keras.layers.Dense(outputs, activation, name="last")(h))


def pairs_of(model):
    layers = [interface.layer for interface in interfaces_of(model)] + [model.get_layer("last")]
    return [[np.array(w, "float64") for w in layer.get_weights()] for layer in layers]


def matrices_of(model):
    return [np.array(cut.synthesizer.get_weights()[0], "float64") for cut in interfaces_of(model)]


class Oracle:
    """tanh modules and a linear one on top, softmax cross-entropy, SGD; every error goes straight down."""

    def __init__(self, model, mix=1.0, rate=MODULE_RATE):
        self.pairs, self.matrices, self.mix, self.rate = pairs_of(model), matrices_of(model), mix, rate

    def step(self, x, labels, weight):
        hidden = [x.astype("float64")]
        for kernel, bias in self.pairs[:-1]:
            hidden.append(np.tanh(hidden[-1] @ kernel + bias))
        logits = hidden[-1] @ self.pairs[-1][0] + self.pairs[-1][1]
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        share = exponentials / exponentials.sum(axis=1, keepdims=True)
        error = weight.reshape(-1, 1) * (share - labels)
        signal, gradients = error, []
        for k in reversed(range(len(self.pairs))):
            gradients.insert(0, (hidden[k].T @ signal / len(x), signal.mean(axis=0)))
            if k:
                received = self.mix * error @ self.matrices[k - 1]
                received += (1 - self.mix) * signal @ self.pairs[k][0].T
                signal = received * (1 - hidden[k] ** 2)
        self.pairs = [
            [a - self.rate * g for a, g in zip(pair, own)] for pair, own in zip(self.pairs, gradients)
        ]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mix", [1.0, 0.25])
def test_oracle(mix, mode):
    model = network(mix=mix)
    oracle = Oracle(model, mix)
    fixed = matrices_of(model)
    x, labels, weight = data()
    model.compile(keras.optimizers.SGD(MODULE_RATE), LOGITS, weighted_metrics=["accuracy"], **mode)
    model.fit(x, labels.argmax(1), BATCH, sample_weight=weight, shuffle=False, epochs=3, verbose=0)
    for _ in range(3):
        for start in range(0, EXAMPLES, BATCH):
            at = slice(start, start + BATCH)
            oracle.step(x[at], labels[at], weight[at])
    for pair, expected in zip(pairs_of(model), oracle.pairs, strict=True):
        for a, b in zip(pair, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    for a, b in zip(fixed, matrices_of(model), strict=True):
        np.testing.assert_array_equal(a, b)


def test_probe():
    """What a probe sees is the error of each example, and the gradient of backpropagation."""
    model = network(2)
    x, labels, weight = data()
    model.compile("sgd", LOGITS, metrics=["accuracy"])
    before = model.get_weights()
    found = model.interface_gradients(x, labels.argmax(1), weight)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    logits = model.predict(x, verbose=0).astype("float64")
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    error = weight.reshape(-1, 1) * (share - labels)
    np.testing.assert_allclose(found["module2"][1], error @ pairs_of(model)[-1][0].T, atol=1e-5)
    for key, matrix in zip(("module1", "module2"), matrices_of(model)):
        np.testing.assert_allclose(found[key][0], error @ matrix, atol=1e-5)


def test_it_comes_into_line():
    """What the method lives from: the network's own weights come to meet the fixed ones."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(512, FEATURES)).astype("float32")
    y = (x @ rng.normal(size=(FEATURES, CLASSES))).argmax(axis=1)
    model = network(1)
    model.compile(keras.optimizers.Adam(1e-2), LOGITS, metrics=["accuracy"])
    cosines = []
    for _ in range(2):
        ((synthetic, true),) = model.interface_gradients(x, y).values()
        cosines.append((synthetic * true).sum() / np.linalg.norm(synthetic) / np.linalg.norm(true))
        history = model.fit(x, y, epochs=20, verbose=0).history
    assert cosines[1] > max(0.4, cosines[0])
    assert history["accuracy"][-1] > 0.9
    assert set(history) == {"loss", "accuracy"}, "nothing learns what is to be reported"


def test_above_and_below_what_learns():
    """A synthesizer below regresses on what the feedback above sends down through the module between."""
    keras.utils.set_random_seed(0)
    inputs = h = keras.Input((FEATURES,))
    for k, recipe in enumerate(("linear", Feedback(seed=0), "linear")):
        module = keras.layers.Dense(5, activation="tanh", name=f"module{k}")
        h = keras_sg.SyntheticGradient(module, recipe, num_classes=CLASSES, synthetic_input="mlp")(h)
    model = keras_sg.DecoupledModel(inputs, keras.layers.Dense(CLASSES)(h))
    model.compile(keras.optimizers.Adam(3e-3), LOGITS)
    x, labels, _ = data()
    history = model.fit(x, labels.argmax(1), epochs=30, verbose=0).history
    assert {"sg_loss", "module0_sg_loss", "module2_sg_cosine", "module1_input_loss"} <= set(history)
    assert "module1_sg_loss" not in history
    assert history["module0_sg_cosine"][-1] > 0.2 and history["loss"][-1] < history["loss"][0]


def test_saved(tmp_path):
    model = network(2)
    model.compile("adam", LOGITS)
    x, labels, _ = data()
    model.fit(x, labels.argmax(1), verbose=0, shuffle=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for again in (model, loaded):
        again.fit(x, labels.argmax(1), verbose=0, shuffle=False)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert loaded.interfaces[0].get_config()["synthesizer"]["config"] == {"scale": 2.0, "seed": 0}


def test_vectors():
    """Outputs that are no classes: as many as the label has numbers."""
    keras.utils.set_random_seed(0)
    plain = keras.Sequential(
        [keras.Input((4, 4, 2)), keras.layers.Conv2D(3, 3, name="conv"), keras.layers.Flatten()]
    )
    plain.add(keras.layers.Dense(2))
    model = keras_sg.decouple(plain, after=["conv"], synthesizer="feedback", label_size=2)
    assert model.interfaces[0].synthesizer.matrix.shape == (2, 2 * 2 * 3)
    model.compile("sgd", "mse")
    before = plain.layers[0].get_weights()[0].copy()
    history = model.fit(np.ones((8, 4, 4, 2)), np.ones((8, 2)), epochs=5, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert np.abs(plain.layers[0].get_weights()[0] - before).max() > 1e-5


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = network(2)
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile(keras.optimizers.Adam(1e-2), LOGITS)
    x, labels, _ = data()
    history = model.fit(x, labels.argmax(1), epochs=20, verbose=0).history
    assert np.all(np.isfinite(history["loss"])) and history["loss"][-1] < history["loss"][0]


@pytest.mark.parametrize("target", [(8,), (8, 1)], ids=["numbers", "a column"])
def test_targets_are_no_labels(target):
    """They are what the loss takes, of whatever shape; what an output has to be is as many numbers."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    cut = keras_sg.SyntheticGradient(keras.layers.Dense(5, "tanh"), Feedback(seed=0), label_size=1)
    model = keras_sg.DecoupledModel(inputs, keras.layers.Dense(1)(cut(inputs)))
    model.compile(keras.optimizers.Adam(3e-2), "mse")
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    history = model.fit(x, np.arange(8.0).reshape(target), epochs=40, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]


def test_pictures():
    """An autoencoder: the target is the picture."""
    inputs = keras.Input((4, 4, 1))
    cut = keras_sg.SyntheticGradient(keras.layers.Dense(5, "tanh"), Feedback(seed=0), label_size=16)
    outputs = keras.layers.Reshape((4, 4, 1))(keras.layers.Dense(16)(cut(keras.layers.Flatten()(inputs))))
    model = keras_sg.DecoupledModel(inputs, outputs)
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(8, 4, 4, 1)).astype("float32")
    history = model.fit(x, x, epochs=5, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    ((synthetic, true),) = model.interface_gradients(x, x).values()
    assert synthetic.shape == true.shape == (8, 5)


# Bad input


def test_arguments():
    for wrong in (0, -1.0, True, "1", float("inf")):
        with pytest.raises(ValueError, match="of a feedback must be a positive number"):
            Feedback(scale=wrong)
    with pytest.raises(ValueError, match="`seed` must be an integer"):
        Feedback(seed=0.5)
    with pytest.raises(ValueError, match="so it has no period"):
        network(update_period=2)


def test_size_of_an_output_unknown():
    cut = keras_sg.SyntheticGradient(keras.layers.Dense(4), "feedback")
    with pytest.raises(ValueError, match=r"how many numbers an output has: pass num_classes"):
        cut(keras.Input((3,)))


def test_length_unknown():
    cut = keras_sg.SyntheticGradient(keras.layers.Dense(4), "feedback", num_classes=3)
    with pytest.raises(ValueError, match="whose axes must be known"):
        cut(keras.Input((None, 3)))


def test_other_outputs():
    with pytest.raises(ValueError, match=r"of which there has to be one, of 3 numbers.*\(None, 4\)"):
        network(outputs=4)
    inputs = keras.Input((4,))
    h = keras_sg.SyntheticGradient(keras.layers.Dense(4), "feedback", num_classes=3)(inputs)
    with pytest.raises(ValueError, match="of which there has to be one"):
        keras_sg.DecoupledModel(inputs, [keras.layers.Dense(3)(h), keras.layers.Dense(3)(h)])


@pytest.mark.parametrize(
    "loss", ["sparse_categorical_crossentropy", keras.losses.SparseCategoricalCrossentropy()]
)
def test_probabilities(loss):
    model = network(1, activation="softmax")
    model.compile("sgd", loss, run_eagerly=True)
    x, labels, _ = data()
    with pytest.raises(ValueError, match="is of the error at the output before its activation"):
        model.fit(x, labels.argmax(1), verbose=0)


def test_schedules():
    with pytest.raises(ValueError, match="until the whole network has run"):
        network(1).compile("sgd", LOGITS, schedule="in_turn")


def test_halves():
    with pytest.raises(ValueError, match="would have to wait in every step"):
        keras_sg.split(network(2), at="module1")


def test_plain_model():
    model = network(1, model_class=keras.Model)
    model.compile("sgd", LOGITS, run_eagerly=True)
    x, labels, _ = data()
    with pytest.raises(
        ValueError, match=r"receives the error of the model's output \(synthesizer 'feedback'\)"
    ):
        model.fit(x, labels.argmax(1), verbose=0)
