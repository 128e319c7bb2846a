"""Trained by `fit`, the weights are those of the NumPy oracle, however `fit` is told to run."""

import contextlib

import keras
import models
import numpy as np
import pytest
from backends import compiled
from models import BATCH, assert_same, data, interfaces_of, mlp, oracle_of, train_oracle

import keras_sg

EPOCHS = 4
WEIGHT = np.linspace(0.2, 2.0, models.EXAMPLES).astype("float32")
WEIGHT[::5] = 0.0  # what counts nothing teaches nothing


def fit(model, x, y, sample_weight=None, optimizer=None, **options):
    model.compile(optimizer or models.optimizer(), "mse", **options)
    return model.fit(x, y, models.BATCH, sample_weight=sample_weight, epochs=EPOCHS, shuffle=False, verbose=0)


def check(model, tolerance=1e-5, conditional=False, sample_weight=None, options=(), **oracle_options):
    x, y, labels = data()
    oracle = oracle_of(model, **oracle_options)
    before = [layer.get_weights()[0].copy() for layer in model.layers if layer.weights]
    fit(model, x, y, sample_weight, **dict(options))
    train_oracle(oracle, x, y, EPOCHS, labels if conditional else None, sample_weight)
    assert_same(model, oracle, tolerance)
    after = [layer.get_weights()[0] for layer in model.layers if layer.weights]
    assert all(abs(a - b).max() > 1e-3 for a, b in zip(after, before)), "nothing was trained"


@pytest.mark.parametrize("interfaces", [1, 2, 3])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
def test_plain_model(interfaces, weight):
    check(mlp(interfaces, model_class=keras.Model), sample_weight=weight)


MODES = {
    "graph": {},
    "eager": {"run_eagerly": True},
    "xla": {"jit_compile": True, "steps_per_execution": 2},
}


modes = pytest.mark.parametrize(
    "mode", [pytest.param(mode, marks=compiled if mode == "xla" else ()) for mode in MODES]
)


@modes
@pytest.mark.parametrize("num_classes", [None, 3], ids=["unconditional", "conditional"])
@pytest.mark.parametrize("interfaces", [1, 2, 3])
def test_decoupled_model(interfaces, num_classes, mode):
    model = mlp(interfaces, num_classes)
    check(model, conditional=num_classes is not None, sample_weight=WEIGHT, options=MODES[mode])


@modes
def test_plain_model_modes(mode):
    check(mlp(2, model_class=keras.Model), options=MODES[mode])


@pytest.mark.parametrize(
    "model_class, num_classes",
    [(keras.Model, None), (keras_sg.DecoupledModel, None), (keras_sg.DecoupledModel, 3)],
    ids=["plain", "unconditional", "conditional"],
)
def test_mirrored(two_devices, model_class, num_classes):
    with two_devices.scope():
        model = mlp(2, num_classes, model_class)
        check(model, conditional=num_classes is not None, sample_weight=WEIGHT)


@pytest.mark.parametrize(
    "model_class, num_classes",
    [(keras.Model, None), (keras_sg.DecoupledModel, None), (keras_sg.DecoupledModel, 3)],
    ids=["plain", "unconditional", "conditional"],
)
def test_data_parallel(data_parallel, model_class, num_classes):
    model = mlp(2, num_classes, model_class)
    check(model, conditional=num_classes is not None, sample_weight=WEIGHT)
    assert len(model.get_layer("last").kernel.value.devices()) == 2


@pytest.mark.parametrize(
    "strategy",
    [None, pytest.param("two_devices", marks=pytest.mark.tensorflow)],
    ids=["one-device", "mirrored"],
)
@pytest.mark.parametrize("model_class", [keras.Model, keras_sg.DecoupledModel])
def test_half_precision(model_class, strategy, request):
    keras.config.set_dtype_policy("mixed_float16")
    with request.getfixturevalue(strategy).scope() if strategy else contextlib.nullcontext():
        model = mlp(2, model_class=model_class)
        check(model, tolerance=2e-3)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)


@pytest.mark.parametrize("model_class", [keras.Model, keras_sg.DecoupledModel])
def test_bfloat16(model_class):
    keras.config.set_dtype_policy("mixed_bfloat16")
    check(mlp(2, model_class=model_class), tolerance=2e-2)


@pytest.mark.parametrize("mix", [0.0, 0.3])
@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_mix_and_losses(mix, loss):
    check(mlp(2, model_class=keras.Model, mix=mix, loss=loss), mix=mix, loss=loss)


def test_mix_zero_is_backpropagation():
    x, y, _ = data()
    decoupled = mlp(2, model_class=keras.Model, mix=0.0)
    stripped = keras_sg.strip(decoupled)
    plain = keras.models.clone_model(stripped)
    plain.set_weights(stripped.get_weights())
    for model in (decoupled, plain):
        fit(model, x, y, optimizer=keras.optimizers.SGD(0.1))
    for a, b in zip(stripped.get_weights(), plain.get_weights()):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_class_weight():
    x, y, labels = data()
    model = mlp(2, 3)
    oracle = oracle_of(model)
    model.compile(models.optimizer(), "mse")
    class_weight = {0: 0.5, 1: 1.0, 2: 3.0}
    model.fit(x, y, models.BATCH, class_weight=class_weight, epochs=2, shuffle=False, verbose=0)
    train_oracle(oracle, x, y, 2, labels, np.array([class_weight[label] for label in labels]))
    assert_same(model, oracle, 1e-5)


def test_one_hot_and_index_labels_are_the_same():
    x, _, labels = data()
    weights = []
    for y, loss in (
        (labels, keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
        (labels[:, None], keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
        (np.eye(3, dtype="float32")[labels], keras.losses.CategoricalCrossentropy(from_logits=True)),
    ):
        model = mlp(2, 3)
        model.compile(models.optimizer(), loss)
        model.fit(x, y, models.BATCH, epochs=3, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for other in weights[1:]:
        for a, b in zip(weights[0], other):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_reported_loss_and_cosine_are_those_of_the_last_pairs():
    x, y, labels = data()
    model = mlp(2, 3)
    oracle = oracle_of(model)
    model.compile(models.optimizer(), "mse")
    logs = model.fit(x[:8], y[:8], 8, epochs=3, shuffle=False, verbose=0, sample_weight=WEIGHT[:8]).history
    pairs = train_oracle(oracle, x[:8], y[:8], 3, labels[:8], WEIGHT[:8])
    counts = WEIGHT[:8] != 0  # the others are in no mean
    losses = [np.mean((p - t)[counts] ** 2) for p, t in pairs]
    cosines = [np.sum(p * t) / np.linalg.norm(p) / np.linalg.norm(t) for p, t in pairs]
    for i in range(2):
        np.testing.assert_allclose(logs[f"module{i + 1}_sg_loss"][-1], losses[i], rtol=1e-4)
        np.testing.assert_allclose(logs[f"module{i + 1}_sg_cosine"][-1], cosines[i], rtol=1e-4)
    np.testing.assert_allclose(logs["sg_loss"][-1], np.mean(losses), rtol=1e-4)
    np.testing.assert_allclose(logs["sg_cosine"][-1], np.mean(cosines), rtol=1e-4)


def test_zero_synthesizer_leaves_the_modules_below_unmoved_in_the_first_step():
    x, y, _ = data()
    model = mlp(2, model_class=keras.Model)
    for interface in interfaces_of(model):
        interface.synthesizer.set_weights([0 * w for w in interface.synthesizer.get_weights()])
    first, second = (interface.layer.get_weights() for interface in interfaces_of(model))
    last = model.get_layer("last").get_weights()
    model.compile(models.optimizer(), "mse")
    model.train_on_batch(x, y)
    for before, interface in zip((first, second), interfaces_of(model)):
        for a, b in zip(before, interface.layer.get_weights()):
            np.testing.assert_array_equal(a, b)
    assert abs(model.get_layer("last").get_weights()[0] - last[0]).max() > 1e-3
    assert abs(interfaces_of(model)[1].synthesizer.get_weights()[0]).max() > 1e-4
    # Its target is the second synthetic gradient, zero, carried back through the second module.
    assert abs(interfaces_of(model)[0].synthesizer.get_weights()[0]).max() == 0


def test_the_regression_never_moves_the_module():
    """With nothing but the synthesizer's regression to learn from, the module stays."""
    x, y, _ = data()
    model = mlp(1, model_class=keras.Model)
    interface = interfaces_of(model)[0]
    kernel, bias = interface.synthesizer.get_weights()
    interface.synthesizer.set_weights([0 * kernel, 0 * bias])
    before = interface.layer.get_weights()
    model.compile(keras_sg.decoupled_optimizer(keras.optimizers.SGD(1.0), keras.optimizers.SGD(1e-12)), "mse")
    model.fit(x, y, epochs=3, verbose=0)
    # The synthetic gradient stays within 1e-9 of zero; the regression's own gradient would not.
    for a, b in zip(before, interface.layer.get_weights()):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-7)


@pytest.mark.parametrize("two", [True, False], ids=["two optimizers", "one optimizer"])
def test_gradient_accumulation_is_the_large_batch(two):
    """Two batches of 4, accumulated, are one of 8, for modules and synthesizers."""
    x, y, _ = data()
    model = mlp(2, model_class=keras.Model)
    oracle = oracle_of(model)
    modules, synthesizers = (
        keras.optimizers.SGD(rate, gradient_accumulation_steps=2)
        for rate in (oracle.learning_rate, oracle.synthesizer_learning_rate)
    )
    if not two:
        oracle.synthesizer_learning_rate = oracle.learning_rate
    model.compile(keras_sg.decoupled_optimizer(modules, synthesizers) if two else modules, "mse")
    model.fit(x, y, BATCH // 2, epochs=EPOCHS, shuffle=False, verbose=0)
    train_oracle(oracle, x, y, EPOCHS)
    assert_same(model, oracle, 1e-5)
