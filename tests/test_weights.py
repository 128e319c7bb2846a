"""What an example counts, and what is not there: weights and masks, at every kind of interface."""

import keras
import models
import numpy as np
import pytest
from backends import compiled
from keras import layers, ops
from models import CLASSES, FEATURES, MODULE_RATE, SYNTHESIZER_RATE, assert_same, synthesizers_of, weights_of
from oracle import Oracle

import keras_sg
from keras_sg import synthesizers
from keras_sg.synthesizers.masks import MaskedFlatten

STEPS, EXAMPLES, BATCH = 5, 16, 8
RNG = np.random.default_rng(0)


def sequences(length=STEPS):
    """Inputs `(16, length, 6)`, zero behind the end, targets, and the mask; 1 to 5 steps are there."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, STEPS + 1, EXAMPLES)
    mask = np.arange(length) < lengths[:, None]
    x = np.zeros((EXAMPLES, length, FEATURES), "float32")
    y = np.zeros((EXAMPLES, length, CLASSES), "float32")
    x[:, :STEPS] = rng.normal(size=(EXAMPLES, STEPS, FEATURES))
    y[:, :STEPS] = rng.normal(size=(EXAMPLES, STEPS, CLASSES))
    return x * mask[..., None], y, mask


class Sliced(keras_sg.DecoupledModel):
    """Labels of every step stand behind its targets."""

    def labels_from(self, y):
        return y[..., CLASSES:]


def network(num_classes=None, model_class=keras_sg.DecoupledModel, **options):
    """Two tanh modules that run on each step of a masked sequence."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, FEATURES))
    h = layers.Masking()(inputs)
    for i in range(2):
        module = layers.Dense(5 + i, activation="tanh", name=f"module{i + 1}")
        h = keras_sg.SyntheticGradient(module, num_classes=num_classes, **options)(h)
    model = model_class(inputs, layers.Dense(CLASSES, name="last")(h))
    rng = np.random.default_rng(0)
    for synthesizer in synthesizers_of(model):
        synthesizer.set_weights([0.1 * rng.normal(size=w.shape) for w in synthesizer.get_weights()])
    return model


def check(model, tolerance=1e-5, labels=None, sample_weight=None, **options):
    """Train by `fit` and by the oracle; `labels` are one-hot, `(16, 3)` or `(16, 5, 3)`."""
    x, y, mask = sequences()
    knows = isinstance(model, keras_sg.DecoupledModel)
    oracle = Oracle(*weights_of(model), MODULE_RATE, SYNTHESIZER_RATE, knows_weights=knows)
    before = weights_of(model)
    loss = "mse"
    targets = y
    if labels is not None:
        each = labels if labels.ndim == 3 else np.repeat(labels[:, None], STEPS, axis=1)
        targets = np.concatenate([y, each], axis=-1)
        loss = first_columns
    model.compile(models.optimizer(), loss, **options)
    model.fit(x, targets, BATCH, sample_weight=sample_weight, epochs=3, shuffle=False, verbose=0)
    for _ in range(3):
        for start in range(0, EXAMPLES, BATCH):
            at = slice(start, start + BATCH)
            parts = [None if part is None else part[at] for part in (labels, sample_weight, mask)]
            oracle.step(x[at], y[at], *parts)
    assert_same(model, oracle, tolerance)
    after = weights_of(model)
    assert all(abs(a[0] - b[0]).max() > 1e-3 for p, q in zip(before, after) for a, b in zip(p, q))


def first_columns(y, y_pred):
    return ops.mean(ops.square(y[..., :CLASSES] - y_pred), axis=-1)


MODES = [
    pytest.param({}, id="graph"),
    pytest.param({"run_eagerly": True}, id="eager"),
    pytest.param({"jit_compile": True, "steps_per_execution": 2}, id="xla", marks=compiled),
]
BY_STEP = np.linspace(0, 2, EXAMPLES * STEPS).reshape(EXAMPLES, STEPS).astype("float32")
BY_STEP[:, 1] = 0.0


@pytest.mark.parametrize("options", MODES)
@pytest.mark.parametrize("weight", [None, BY_STEP], ids=["masked", "masked and weighted"])
def test_exact(weight, options):
    check(network(), sample_weight=weight, **options)


def test_exact_in_a_plain_model():
    """It knows masks, but no weights."""
    check(network(model_class=keras.Model))
    check(network(model_class=keras.Model), sample_weight=BY_STEP)


def test_exact_with_a_label_for_each_step():
    labels = np.eye(CLASSES, dtype="float32")[RNG.integers(0, CLASSES, (EXAMPLES, STEPS))]
    check(network(CLASSES, Sliced), labels=labels, sample_weight=BY_STEP)


def test_exact_mirrored(two_devices):
    with two_devices.scope():
        model = network()
    x, y, mask = sequences()
    # The mean over what is there is one of a replica's part of the batch, in plain Keras, too.
    whole = mask.sum(1) == mask.sum(1).max()
    x, y = (np.repeat(part[whole][:1], 8, axis=0) for part in (x, y))
    oracle = Oracle(*weights_of(model), MODULE_RATE, SYNTHESIZER_RATE)
    model.compile(models.optimizer(), "mse")
    model.fit(x, y, 8, sample_weight=BY_STEP[[0, 5, 9, 2] * 2], verbose=0)
    oracle.step(x, y, None, BY_STEP[[0, 5, 9, 2] * 2], np.repeat(mask[whole][:1], 8, axis=0))
    assert_same(model, oracle, 1e-5)


KINDS = {
    "linear": lambda layer: keras_sg.SyntheticGradient(layer),
    "linear-conditional": lambda layer: keras_sg.SyntheticGradient(layer, num_classes=CLASSES),
    "mlp": lambda layer: keras_sg.SyntheticGradient(layer, synthesizers.MLP((8,))),
    "sparse": lambda layer: keras_sg.SyntheticGradient(layer, synthesizers.MLP((8,)), update_period=2),
    "value": lambda layer: keras_sg.SyntheticLoss(layer, synthesizers.Value((8,))),
    "critic": lambda layer: keras_sg.SyntheticLoss(layer, num_classes=CLASSES),
    "sobolev": lambda layer: keras_sg.SyntheticLoss(layer, num_classes=CLASSES, sobolev=True),
    "local": lambda layer: keras_sg.LocalLoss(layer, num_classes=CLASSES),
}
WITH_POSITIONS = {
    **KINDS,
    "conv": lambda layer: keras_sg.SyntheticGradient(layer, synthesizers.Conv(1)),
    "critic of positions": lambda layer: keras_sg.SyntheticLoss(
        layer, synthesizers.Critic((4,), per_position=True), num_classes=CLASSES
    ),
    "local that pools": lambda layer: keras_sg.LocalLoss(
        layer, synthesizers.Critic((4,), pool_size=2), num_classes=CLASSES
    ),
}


def trained(model, *batches, loss=None):
    """All weights, and the logs, after three steps: on each `(x, y, sample weight)`, from the same start.

    The model is compiled once, for all of them.
    """
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras_sg.decoupled_optimizer(keras.optimizers.SGD(0.3), keras.optimizers.SGD(0.1))
    model.compile(optimizer, loss, jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    start, found = [ops.convert_to_numpy(variable).copy() for variable in variables], []
    for batch in batches:
        for variable, value in zip(variables, start):
            variable.assign(value)
        model.reset_metrics()
        logs = [model.train_on_batch(*batch, return_dict=True) for _ in range(3)]
        found.append((model.get_weights(), logs[-1]))
    return found


def assert_same_run(a, b, tolerance=1e-5):
    for ours, theirs in zip(a[0], b[0], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)
    assert a[1].keys() == b[1].keys()
    for key, value in a[1].items():
        np.testing.assert_allclose(value, b[1][key], rtol=1e-4, atol=tolerance, err_msg=key)


@pytest.mark.parametrize("kind", KINDS)
def test_what_counts_nothing_has_no_effect(kind):
    """Noise in the rows of weight 0: neither modules, nor synthesizers and their statistics, nor reports."""
    x, _, y = models.data()
    weight = np.arange(len(x)) % 4 == 0
    noise = np.where(weight[:, None], x, 100 * RNG.normal(size=x.shape)).astype("float32")

    keras.utils.set_random_seed(0)
    inputs = h = keras.Input((FEATURES,))
    for units in (5, 4):
        h = KINDS[kind](layers.Dense(units, "tanh", name=f"module{units}"))(h)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(CLASSES)(h))
    weights = weight.astype("float32")
    assert_same_run(*trained(model, (x, y, weights), (noise, np.where(weight, y, 0), weights)))


@pytest.mark.parametrize("kind", WITH_POSITIONS)
def test_padding_has_no_effect(kind):
    """The same sequences, padded to 5 and to 9 steps."""

    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, FEATURES))
    h = WITH_POSITIONS[kind](layers.Dense(5, "tanh", name="module"))(layers.Masking()(inputs))
    model = keras_sg.DecoupledModel(inputs, layers.Dense(CLASSES)(layers.LSTM(4)(h)))
    y = np.arange(EXAMPLES) % CLASSES
    assert_same_run(*trained(model, *((sequences(length)[0], y) for length in (STEPS, STEPS + 4))))


def test_where_a_mask_is_false_nothing_goes_down():
    x, _, mask = sequences()
    inputs = keras.Input((STEPS, FEATURES))
    interface = keras_sg.SyntheticGradient(layers.Dense(4))
    h = interface(layers.Masking()(inputs))
    outputs = layers.Dense(1)(MaskedFlatten()(h))
    model = keras_sg.DecoupledModel(inputs, outputs)
    interface.synthesizer.set_weights([np.zeros((4, 4)), np.ones(4)])
    model.compile(keras.optimizers.SGD(1.0), "mse", run_eagerly=True)
    before = interface.layer.get_weights()[1]
    model.train_on_batch(x, np.zeros((EXAMPLES, 1)))
    # A gradient of one per example and position that is there.
    expected = before - mask.sum() / EXAMPLES
    np.testing.assert_allclose(interface.layer.get_weights()[1], expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["linear-conditional", "sobolev"])
@pytest.mark.parametrize("labels", [np.int64, np.float32])
def test_ignore_class_is_a_weight_of_zero(kind, labels):
    x, _, y = models.data()
    ignored = np.arange(len(x)) % 3 == 0

    def run(*batches, loss=None):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((FEATURES,))
        h = KINDS[kind](layers.Dense(5, "tanh", name="module"))(inputs)
        model = keras_sg.DecoupledModel(inputs, layers.Dense(CLASSES)(h))
        return trained(model, *batches, loss=loss)

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    # Keras's mean is over what is not ignored.
    weight = np.where(ignored, 0, len(x) / (~ignored).sum()).astype("float32")
    noise = np.where(ignored[:, None], 100 * RNG.normal(size=x.shape), x).astype("float32")
    given = np.where(ignored, -1, y).astype(labels)
    ours, again = run((x, given), (noise, given), loss=loss)
    assert np.isfinite(ours[0][0]).all()
    # A factor common to all weights is not seen at the interface; the loss that arrives there has it.
    if kind == "linear-conditional":
        ((_, weighted),) = run((x, y, weight))
        assert abs(ours[1]["loss"] - weighted["loss"]) < 0.2
    assert_same_run(ours, again)


def test_outputs_with_weights_of_their_own():
    """The mean over the outputs that an interface leads to, by their loss weights."""
    x, y, _ = models.data()
    inputs = keras.Input((FEATURES,))
    both = keras_sg.SyntheticGradient(layers.Dense(5, "tanh", name="both"))
    one = keras_sg.SyntheticGradient(layers.Dense(4, "tanh", name="one"))
    h = both(inputs)
    outputs = {"a": layers.Dense(CLASSES, name="a")(one(h)), "b": layers.Dense(CLASSES, name="b")(h)}
    model = keras_sg.DecoupledModel(inputs, outputs)
    for interface in (both, one):
        kernel, bias = interface.synthesizer.get_weights()
        interface.synthesizer.set_weights([kernel, bias + 1])
    weight = {"a": np.tile([0.0, 2.0], 8), "b": np.tile([0.0, 0.0, 1.0, 3.0], 4)}
    model.compile("sgd", {"a": "mse", "b": "mse"}, loss_weights={"a": 3.0, "b": 1.0})
    found = model.interface_gradients(x, {"a": y, "b": y}, weight)
    np.testing.assert_allclose(found["one"][0][:, 0], weight["a"], rtol=1e-6)
    np.testing.assert_allclose(found["both"][0][:, 0], (3 * weight["a"] + weight["b"]) / 4, rtol=1e-6)
    np.testing.assert_allclose(found["one"][1][weight["a"] == 0], 0)


def test_weights_of_positions_at_an_interface_without_them():
    """An example has the mean of its positions' weights."""
    x, y, _ = sequences()
    inputs = keras.Input((STEPS, FEATURES))
    cut = keras_sg.SyntheticGradient(layers.Dense(4, name="cut"))
    h = cut(layers.Reshape((STEPS * FEATURES,))(inputs))
    outputs = layers.Reshape((STEPS, CLASSES))(layers.Dense(STEPS * CLASSES)(h))
    model = keras_sg.DecoupledModel(inputs, outputs)
    cut.synthesizer.set_weights([np.zeros((4, 4)), np.ones(4)])
    model.compile("sgd", "mse")
    found = model.interface_gradients(x, y, BY_STEP)["cut"][0]
    np.testing.assert_allclose(found, np.repeat(BY_STEP.mean(axis=1, keepdims=True), 4, axis=1), rtol=1e-5)


@pytest.mark.parametrize("kind", ["value", "critic of positions"])
@pytest.mark.parametrize("pad_with", [0.0, 1.0])
def test_padding_of_outputs_with_positions_has_no_effect_on_predicted_losses(kind, pad_with):
    """Neither their number nor the weights that are given for them."""

    def padded(length):
        x, _, mask = sequences(length)
        y, weight = np.zeros((EXAMPLES, length), int), np.full((EXAMPLES, length), pad_with, "float32")
        y[:, :STEPS] = np.arange(EXAMPLES * STEPS).reshape(EXAMPLES, STEPS) % CLASSES
        weight[mask] = np.resize(BY_STEP, mask[:, :STEPS].shape)[mask[:, :STEPS]]
        return x, y, weight

    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, FEATURES))
    h = WITH_POSITIONS[kind](layers.Dense(5, "tanh", name="module"))(layers.Masking()(inputs))
    model = keras_sg.DecoupledModel(inputs, layers.Dense(CLASSES)(h))
    assert_same_run(*trained(model, padded(STEPS), padded(STEPS + 4)))


def test_predicted_losses_of_masked_outputs_without_weights():
    """As with weights of one."""
    x, _, _ = sequences()
    y = np.arange(EXAMPLES * STEPS).reshape(EXAMPLES, STEPS) % CLASSES

    inputs = keras.Input((STEPS, FEATURES))
    h = WITH_POSITIONS["value"](layers.Dense(5, "tanh", name="module"))(layers.Masking()(inputs))
    model = keras_sg.DecoupledModel(inputs, layers.Dense(CLASSES)(h))
    assert_same_run(*trained(model, (x, y), (x, y, np.ones((EXAMPLES, STEPS), "float32"))))


@keras.saving.register_keras_serializable("tests")
class Normalized(layers.Layer):
    """A synthesizer of one's own that says nothing of masks."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.normalize, self.read_out = layers.BatchNormalization(), layers.Dense(5)

    def build(self, shape):
        self.normalize.build(shape)
        self.read_out.build(shape)

    def call(self, h, training=None):
        return self.read_out(self.normalize(h, training=training))


def test_statistics_inside_a_synthesizer_of_ones_own():
    inputs = keras.Input((FEATURES,))
    cut = keras_sg.SyntheticGradient(layers.Dense(5, name="module"), lambda shape: Normalized())
    model = keras_sg.DecoupledModel(inputs, layers.Dense(CLASSES)(cut(inputs)))
    x, _, y = models.data()
    weight = (np.arange(len(x)) % 4 == 0).astype("float32")
    expected = 0.01 * ops.convert_to_numpy(cut.layer(x[weight > 0])).mean(axis=0)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    model.train_on_batch(x, y, sample_weight=weight)
    found = ops.convert_to_numpy(cut.synthesizer.normalize.moving_mean)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_a_synthesizer_whose_layers_read_masks_otherwise():
    """Keras hands a mask of examples to Softmax, which has one of features."""
    inputs = keras.Input((FEATURES,))
    synthesizer = lambda shape: keras.Sequential([layers.Dense(4), layers.Softmax(), layers.Dense(shape[-1])])
    h = keras_sg.SyntheticGradient(layers.Dense(5), synthesizer)(inputs)
    x, _, y = models.data()
    model = keras_sg.DecoupledModel(inputs, layers.Dense(CLASSES)(h))
    ((_, logs),) = trained(model, (x, y, np.arange(len(x)) % 2))
    assert logs["sg_loss"] > 0


@pytest.mark.parametrize("options", [{}, {"run_eagerly": True}], ids=["graph", "eager"])
def test_a_batch_that_was_folded_below_a_synthetic_loss(options):
    inputs = keras.Input((STEPS, FEATURES))
    folded = layers.Lambda(lambda x: ops.reshape(x, (-1, FEATURES)), output_shape=(FEATURES,))(inputs)
    h = keras_sg.SyntheticLoss(layers.Dense(4, name="cut"), synthesizers.Value((4,)))(folded)
    unfolded = layers.Lambda(lambda h: ops.mean(ops.reshape(h, (-1, STEPS, 4)), axis=1), output_shape=(4,))(h)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(CLASSES)(unfolded))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), **options)
    message = "below interface 'cut'.* 4 losses, where the interface has 20 examples"
    with pytest.raises(ValueError, match=message):
        model.fit(np.ones((4, STEPS, FEATURES), "float32"), np.arange(4) % CLASSES, verbose=0)


def test_labels_that_are_true_or_false():
    x, _, y = models.data()
    assert_same_run(*trained(models.mlp(1, CLASSES), (x, y > 0), (x, (y > 0).astype(int))))


@pytest.mark.parametrize("what", ["labels", "sample weights"])
@pytest.mark.parametrize("options", [{}, {"run_eagerly": True}], ids=["graph", "eager"])
def test_a_batch_that_was_folded_below_the_interface(what, options):
    inputs = keras.Input((STEPS, FEATURES))
    folded = layers.Lambda(lambda x: ops.reshape(x, (-1, FEATURES)), output_shape=(FEATURES,))(inputs)
    classes = CLASSES if what == "labels" else None
    h = keras_sg.SyntheticGradient(layers.Dense(4, name="cut"), num_classes=classes)(folded)
    unfolded = layers.Lambda(lambda h: ops.mean(ops.reshape(h, (-1, STEPS, 4)), axis=1), output_shape=(4,))(h)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(CLASSES)(unfolded))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), **options)
    x, y = np.ones((4, STEPS, FEATURES), "float32"), np.arange(4) % CLASSES
    weight = np.ones(4) if what == "sample weights" else None
    with pytest.raises(
        ValueError, match=f"below interface 'cut'.* 4 {what}, where the interface has 20 examples"
    ):
        model.fit(x, y, sample_weight=weight, verbose=0)


def test_alignment_leaves_out_what_does_not_count():
    """The signs of two zeros would agree."""
    x, y, _ = sequences()
    model = network()
    model.compile("sgd", "mse")
    measure = keras_sg.callbacks.GradientAlignment(x, y, BY_STEP)
    measure.set_model(model)
    found = measure.measure()
    counts = (BY_STEP != 0) & sequences()[2]
    for name, (synthetic, true) in model.interface_gradients(x, y, BY_STEP).items():
        assert not synthetic[~counts].any() and synthetic[counts].all()
        expected = np.mean(np.sign(synthetic[counts]) == np.sign(true[counts]))
        assert found[f"{name}_alignment_sign"] == pytest.approx(expected)


def test_a_batch_in_which_nothing_counts_is_not_reported():
    x, y, _ = models.data()
    model = models.mlp(1)
    model.compile("sgd", "mse")
    before = model.get_weights()
    logs = model.train_on_batch(x, y, sample_weight=np.zeros(len(x)), return_dict=True)
    assert (logs["sg_loss"], logs["sg_cosine"]) == (0, 0)
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)
    logs = model.train_on_batch(x, y, return_dict=True)
    assert logs["sg_loss"] > 0  # and it is not in the mean
