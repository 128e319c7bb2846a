"""Synthesizers that carry the error of a predicted label back: held to the oracle, and what they are for."""

import keras
import models
import numpy as np
import pytest
from keras import layers, ops
from models import BATCH, CLASSES, FEATURES, MODULE_RATE, SYNTHESIZER_RATE, data, train_oracle
from oracle import ErrorOracle

import keras_sg
from keras_sg import labels
from keras_sg.synthesizers import PredictedError

EPOCHS = 5
WEIGHT = np.linspace(0.0, 2.0, models.EXAMPLES).astype("float32")
ACTIVATIONS = {None: "softmax", "binary_crossentropy": "sigmoid", "mse": "linear"}


def network(count=2, loss=None, **options):
    known = {"num_classes": CLASSES} if loss is None else {"label_size": CLASSES}
    return models.mlp(count, synthesizer=PredictedError(loss=loss), **known, **options)


@pytest.mark.parametrize("mode", models.MODES)
@pytest.mark.parametrize("loss", ACTIVATIONS)
def test_oracle(loss, mode):
    model = network(loss=loss, mix=0.75)
    oracle = ErrorOracle(
        *models.weights_of(model), MODULE_RATE, SYNTHESIZER_RATE, mix=0.75, activation=ACTIVATIONS[loss]
    )
    x, y, _ = data()
    model.compile(models.optimizer(), "mse", weighted_metrics=["mae"], **mode)
    model.fit(x, y, BATCH, sample_weight=WEIGHT, epochs=EPOCHS, shuffle=False, verbose=0)
    train_oracle(oracle, x, y, EPOCHS, y.argmax(axis=1), WEIGHT)
    modules, synthesizers = models.weights_of(model)
    for ours, theirs in ((modules, oracle.weights), (synthesizers, oracle.synthesizers)):
        for a, b in zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    moved = network(loss=loss).get_weights()
    assert all(abs(a - b).max() > 1e-5 for a, b in zip(moved, model.get_weights())), "all has learned"


@pytest.mark.parametrize(
    "middle, positions", [((), False), ((4,), False), ((4,), True), ((4, 5), False), ((4, 5), True)]
)
def test_every_position_by_itself(middle, positions):
    rng = np.random.default_rng(0)
    h = rng.normal(size=(2, *middle, 6)).astype("float32")
    y = np.eye(3, dtype="float32")[rng.integers(0, 3, (2, *middle) if positions else 2)]
    layer = PredictedError((5,), batch_normalization=False)((None, *middle, 6), labels.Classes(3))
    found = ops.convert_to_numpy(layer([h, y]))
    one, two = ([np.asarray(w) for w in dense.get_weights()] for dense in layer.classifier.layers[::2])
    z = np.maximum(h @ one[0] + one[1], 0) @ two[0] + two[1]
    p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    given = y if positions else y.reshape(2, *[1] * len(middle), 3)
    np.testing.assert_allclose(found, (p - given) @ np.asarray(layer.back), rtol=1e-4, atol=1e-6)
    assert layer.compute_output_shape([h.shape, y.shape]) == h.shape


def test_of_the_module_below_a_linear_layer_it_can_say_everything():
    """Its form is that of the true gradient there: taught to the end, it is the true gradient."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((FEATURES,))
    frozen = layers.Dense(5, activation="tanh", trainable=False)
    h = keras_sg.SyntheticGradient(frozen, "error", num_classes=CLASSES)(inputs)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(CLASSES, trainable=False)(h))
    x, y = np.random.default_rng(0).normal(size=(512, FEATURES)), np.arange(512) % CLASSES
    rate = keras.optimizers.schedules.CosineDecay(0.03, 100 * 16)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    model.fit(x, y, 32, epochs=100, verbose=0)
    ((synthetic, true),) = model.interface_gradients(x, y).values()
    assert np.linalg.norm(synthetic - true) < 0.02 * np.linalg.norm(true)


def test_it_falls_silent_where_it_knows_the_label():
    layer = PredictedError(loss="mse")((None, 4), labels.Vector(4))
    label = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    layer.build([(None, 4), (None, 4)])
    layer.set_weights([np.ones((4, 4)), np.eye(4), np.zeros(4)])
    assert not np.any(ops.convert_to_numpy(layer([label, label])))


def test_modules_learn_from_the_first_step():
    """Those of linear synthesizers, which start at zero, stand still in it."""
    x, y, _ = data()
    moved = {}
    for recipe in ("error", "linear"):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((FEATURES,))
        h = keras_sg.SyntheticGradient(layers.Dense(5, name="cut"), recipe, num_classes=CLASSES)(inputs)
        model = keras_sg.DecoupledModel(inputs, layers.Dense(CLASSES)(h))
        model.compile("sgd", "mse")
        before = model.interfaces[0].layer.get_weights()[0]
        model.train_on_batch(x, y)
        moved[recipe] = np.any(model.interfaces[0].layer.get_weights()[0] != before)
    assert moved == {"error": True, "linear": False}


def test_saved(tmp_path):
    x, y, _ = data()
    model = models.mlp(2, CLASSES, synthesizer=PredictedError((4,), batch_normalization=False))
    model.compile(models.optimizer(), "mse")
    model.fit(x, y, verbose=0, shuffle=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for again in (model, loaded):
        again.fit(x, y, verbose=0, shuffle=False)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    assert keras_sg.synthesizers.get(loaded.interfaces[0].get_config()["synthesizer"]).widths == [4]


def test_wrong_arguments():
    for wrong, message in {
        "hinge": "The loss of a predicted error must be None or one of .*Received: loss='hinge'",
        3: "Received: loss=3",
    }.items():
        with pytest.raises(ValueError, match=message):
            PredictedError(loss=wrong)
    with pytest.raises(ValueError, match=r"positive integers.*Received: widths=\(0,\)"):
        PredictedError((0,))
    with pytest.raises(ValueError, match=r"carries back how wrong a predicted label is.*label_size"):
        PredictedError()((None, 4))
    for loss, label in (("mse", labels.Classes(3)), ("categorical_crossentropy", labels.Vector(3))):
        with pytest.raises(ValueError, match=f"Of the losses of a predicted error.*loss='{loss}'"):
            PredictedError(loss=loss)((None, 4), label)


@pytest.mark.parametrize("synthesizer", ["error", "feedback", "linear", PredictedError((4,))], ids=repr)
def test_a_gradient_is_no_loss(synthesizer):
    """Not even at an interface of one feature, where the shapes are the same."""
    with pytest.raises(ValueError, match=r"This one predicts a gradient, for a keras_sg\.SyntheticGradient"):
        keras_sg.SyntheticLoss(layers.Dense(1), synthesizer, num_classes=CLASSES)


@pytest.mark.parametrize(
    "options",
    [{"synthesizer": "error"}, {"synthesizer": "critic"}, {"num_classes": 3}, {"update_period": 2}],
    ids=str,
)
def test_states_have_no_label(options):
    with pytest.raises(ValueError, match="no label goes with a state.*Received: " + next(iter(options))):
        keras_sg.RecurrentSyntheticGradient(layers.LSTM(3), batch_size=2, **options)
    # What says nothing is no label.
    keras_sg.RecurrentSyntheticGradient(layers.LSTM(3), batch_size=2, num_classes=None, update_period=1)


def test_labels_that_the_loss_leaves_out():
    """They teach nothing: whatever their examples are, module and synthesizer learn the same."""
    x, _, classes = data()
    left_out = np.arange(len(classes)) % 2 == 1
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    found = []
    for given in (x, np.where(left_out[:, None], 3 - x, x)):
        model = network(1)
        before = model.interfaces[0].get_weights()
        model.compile(models.optimizer(), loss, run_eagerly=True)
        model.train_on_batch(given, np.where(left_out, -1, classes))
        found.append(model.interfaces[0].get_weights())
    for old, a, b in zip(before, *found, strict=True):
        assert np.any(a != old)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
