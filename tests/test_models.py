"""`DecoupledModel`: a `keras.Model` in all but its training step."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers
from models import Hiding

import keras_sg

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 8)).astype("float32")
LABELS = RNG.integers(0, 3, 32)
EAGERLY = keras.backend.backend() != "jax"  # how one step is quickest


def classifier(interfaces=2, num_classes=3, interface=keras_sg.SyntheticGradient, **options):
    inputs = h = keras.Input((8,))
    for i in range(interfaces):
        block = layers.Dense(6, activation="relu", name=f"block{i + 1}")
        h = interface(block, num_classes=num_classes, **options)(h)
    return keras_sg.DecoupledModel(inputs, layers.Dense(3, name="logits")(h))


def compiled(model, optimizer=None, **options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras_sg.decoupled_optimizer(), loss, metrics=["accuracy"], **options)
    return model


@pytest.mark.parametrize(
    "interfaces, expected",
    [
        (0, set()),
        (1, {"sg_loss", "sg_cosine"}),
        (
            2,
            {"sg_loss", "sg_cosine"} | {f"block{i}_sg_{what}" for i in (1, 2) for what in ("loss", "cosine")},
        ),
    ],
)
def test_metric_keys(interfaces, expected):
    model = compiled(classifier(interfaces))
    logs = model.fit(X, LABELS, validation_data=(X, LABELS), verbose=0).history
    assert set(logs) == expected | {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert set(model.evaluate(X, LABELS, return_dict=True, verbose=0)) == {"loss", "accuracy"}
    assert set(model.test_on_batch(X, LABELS, return_dict=True)) == {"loss", "accuracy"}
    assert set(model.train_on_batch(X, LABELS, return_dict=True)) == expected | {"loss", "accuracy"}


@pytest.mark.parametrize(
    "interfaces, chosen, each", [(8, None, True), (9, None, False), (9, True, True), (2, False, False)]
)
def test_each_interface_is_reported_up_to_a_number_or_as_one_chooses(interfaces, chosen, each, tmp_path):
    inputs = hidden = keras.Input((8,))
    for i in range(interfaces):
        hidden = layers.Dense(4, "relu", name=f"block{i}")(hidden)
    plain = keras.Model(inputs, layers.Dense(3)(hidden))
    names = [f"block{i}" for i in range(interfaces)]
    model = keras_sg.decouple(plain, names, num_classes=3, report_interfaces=chosen)
    expected = {"sg_loss", "sg_cosine"}
    expected |= {f"{name}_sg_{what}" for name in names * each for what in ("loss", "cosine")}
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is keras_sg.DecoupledModel and loaded.report_interfaces is chosen
    for reporting in (model, loaded):
        logs = compiled(reporting, run_eagerly=EAGERLY).fit(X, LABELS, verbose=0).history
        assert set(logs) == expected | {"loss", "accuracy"}


def test_what_is_reported_of_all_does_not_depend_on_what_is_reported_of_each():
    logs = []
    for each in (True, False):
        keras.utils.set_random_seed(0)
        model = classifier(3, interface=keras_sg.SyntheticLoss, sobolev=True)
        model = compiled(keras_sg.DecoupledModel(model.inputs, model.outputs, report_interfaces=each))
        logs.append(model.fit(X, LABELS, 16, epochs=2, shuffle=False, verbose=0).history)
    for what in ("sg_loss", "sg_cosine"):
        own = [logs[0][f"block{i}_{what}"] for i in (1, 2, 3)]
        np.testing.assert_allclose(logs[0][what], np.mean(own, axis=0), rtol=1e-5)
        assert logs[1][what] == logs[0][what]


@pytest.mark.tensorflow
def test_each_kind_of_label_is_checked_once():
    import tensorflow as tf

    model = compiled(classifier(4))
    step = tf.function(model.train_step, autograph=False)
    data = tf.TensorSpec((None, 8)), tf.TensorSpec((None,), "int64")
    step.get_concrete_function(data)  # makes the variables
    kinds = [op.type for op in step.get_concrete_function(data).graph.get_operations()]
    # (The lengths of batches are asserted for each interface: that is no branch.)
    assert kinds.count("If") + kinds.count("StatelessIf") == 1


def test_synthetic_losses_have_no_cosine():
    model = compiled(classifier(interface=keras_sg.SyntheticLoss))
    logs = model.fit(X, LABELS, verbose=0).history
    assert set(logs) == {"loss", "accuracy", "sg_loss", "block1_sg_loss", "block2_sg_loss"}


def test_without_interfaces_it_is_keras():
    """To the last bit. (Adam is held to Keras's in tests/test_adam.py.)"""
    ours = classifier(0)
    inputs = keras.Input((8,))
    theirs = keras.Model(inputs, layers.Dense(3)(inputs))
    theirs.set_weights(ours.get_weights())
    for model in (ours, theirs):
        compiled(model, keras.optimizers.SGD(0.1, momentum=0.9))
    histories = [m.fit(X, LABELS, epochs=3, shuffle=False, verbose=0).history for m in (ours, theirs)]
    assert histories[0] == histories[1]
    for a, b in zip(ours.get_weights(), theirs.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_regularizers_and_added_losses_are_kept():
    """The reported loss is Keras's own, and the regularizer moves the module."""

    class Penalty(layers.Layer):
        def call(self, x):
            self.add_loss(keras.ops.convert_to_tensor(3.0))
            return x

    inputs = keras.Input((8,))
    block = layers.Dense(6, kernel_regularizer=keras.regularizers.L2(0.5), activity_regularizer="l1")
    h = keras_sg.SyntheticGradient(block)(inputs)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3)(Penalty()(h)))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    kernel = block.get_weights()[0]
    activity = np.abs(keras.ops.convert_to_numpy(block(X))).sum() / len(X) * 0.01
    error = np.mean(keras.ops.convert_to_numpy(model(X)) ** 2)
    logs = model.train_on_batch(X, np.zeros((32, 3)), return_dict=True)
    np.testing.assert_allclose(logs["loss"], error + 0.5 * np.sum(kernel**2) + 3.0 + activity, rtol=1e-5)
    # The synthesizer is zero: what moved the kernel is the penalties, dL/dk = k + activity's part.
    slope = 0.01 * X.T @ np.sign(X @ kernel) / len(X)
    np.testing.assert_allclose(kernel - block.get_weights()[0], 0.1 * (kernel + slope), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("nesting", ["functional", "sequential", "subclass"])
def test_labels_reach_interfaces_inside_nested_models(nesting):
    interface = keras_sg.SyntheticGradient(layers.Dense(6, name="inner"), num_classes=3)
    if nesting == "functional":
        inner_input = keras.Input((8,))
        inner = keras.Model(inner_input, layers.Dense(5)(interface(inner_input)))
    elif nesting == "sequential":
        inner = keras.Sequential([interface, layers.Dense(5)])
    else:

        class Inner(layers.Layer):
            def __init__(self):
                super().__init__()
                self.interface, self.dense = interface, layers.Dense(5)

            def build(self, shape):
                self.interface.build(shape)
                self.dense.build((None, 6))

            def call(self, x):
                return self.dense(self.interface(x))

        inner = Inner()
    inputs = keras.Input((8,))
    model = compiled(keras_sg.DecoupledModel(inputs, layers.Dense(3)(inner(inputs))))
    assert model.interfaces == [interface]
    model.fit(X, LABELS, epochs=2, verbose=0)
    label_rows = interface.synthesizer.get_weights()[0][6:]
    assert label_rows.shape == (3, 6) and np.all(np.abs(label_rows).max(axis=1) > 0)


def test_save_load_and_go_on(tmp_path):
    """Saved between two epochs, loaded and fitted on, it ends where it would have without."""

    def fit(model):
        return model.fit(X, LABELS, batch_size=8, epochs=2, shuffle=False, verbose=0)

    model = compiled(classifier())
    fit(model)
    model.save(tmp_path / "model.keras")
    fit(model)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is keras_sg.DecoupledModel
    fit(loaded)
    for a, b in zip(model.get_weights(), loaded.get_weights()):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(model.optimizer.variables, loaded.optimizer.variables):
        np.testing.assert_array_equal(a, b)


def test_dataset_and_dictionary_inputs():
    import tensorflow as tf

    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    h = keras_sg.SyntheticGradient(layers.Dense(6, name="block"), num_classes=3)(layers.Concatenate()([a, b]))
    model = compiled(keras_sg.DecoupledModel({"a": a, "b": b}, layers.Dense(3)(h)))
    data = tf.data.Dataset.from_tensor_slices(({"a": X[:, :4], "b": X[:, 4:]}, LABELS)).batch(8)
    assert np.isfinite(model.fit(data, shuffle=False, verbose=0).history["sg_loss"][0])


def test_overflowing_half_precision_steps_are_not_reported():
    keras.config.set_dtype_policy("mixed_float16")
    model = compiled(classifier())
    model.optimizer.initial_scale = 2.0**15
    model.fit(X, LABELS, verbose=0)
    model.optimizer.dynamic_scale.assign(2.0**40)
    logs = model.fit(X, LABELS, batch_size=8, epochs=1, verbose=0).history
    assert np.isfinite(logs["sg_loss"][0]) and np.isfinite(logs["sg_cosine"][0])
    assert float(model.optimizer.dynamic_scale) < 2.0**40


def test_shared_interface_is_reported_once():
    inputs = keras.Input((8,))
    interface = keras_sg.SyntheticGradient(layers.Dense(8, name="shared"))
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3)(interface(interface(inputs))))
    assert model.interfaces == [interface]
    compiled(model).fit(X, LABELS, verbose=0)


def test_interfaces_of_the_same_name_are_reported_apart():
    inputs = h = keras.Input((8,))
    for i in range(2):
        block = keras_sg.SyntheticGradient(layers.Dense(6, name="block"))
        h = keras.Sequential([block, layers.Dense(5)], name=f"part{i}")(h)
    model = compiled(keras_sg.DecoupledModel(inputs, layers.Dense(3)(h)))
    logs = model.fit(X, LABELS, verbose=0).history
    assert {"block_sg_loss", "block_1_sg_loss"} <= set(logs)


def test_a_subclassed_model_may_be_the_last_module():
    class Head(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def build(self, shape):
            self.dense.build(shape)

        def call(self, x):
            return self.dense(x)

    inputs = keras.Input((8,))
    model = keras_sg.DecoupledModel(inputs, Head()(keras_sg.SyntheticGradient(layers.Dense(6))(inputs)))
    compiled(model).fit(X, LABELS, verbose=0)


def test_interfaces_that_take_no_part_are_noticed():
    inputs = keras.Input((8,))
    hidden = Hiding(keras_sg.SyntheticGradient(layers.Dense(6, name="idle")), training=False)(inputs)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3)(hidden))
    model.compile("sgd", "mse")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, np.ones((32, 3)), verbose=0)
    assert any("['idle']" in str(w.message) and "took no part" in str(w.message) for w in caught)


def test_two_interfaces_given_one_layer_have_a_copy_each(tmp_path):
    given = layers.Dense(6)
    model = compiled(classifier(num_classes=None, synthesizer=given))
    first, second = (interface.synthesizer for interface in model.interfaces)
    assert first is not second
    model.fit(X, LABELS, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model.predict(X, verbose=0), loaded.predict(X, verbose=0))


def test_an_interface_may_also_be_an_output():
    inputs = keras.Input((8,))
    h = keras_sg.SyntheticGradient(layers.Dense(6, name="block"))(inputs)
    model = keras_sg.DecoupledModel(inputs, {"logits": layers.Dense(3)(h), "features": h})
    model.compile("sgd", {"logits": "mse"})
    model.fit(X, {"logits": np.ones((32, 3))}, verbose=0)


def test_a_compute_loss_that_drops_the_added_losses():
    class Own(keras_sg.DecoupledModel):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.mean(keras.ops.square(y_pred))

    inputs = keras.Input((8,))
    h = keras_sg.SyntheticGradient(layers.Dense(6))(inputs)
    model = Own(inputs, layers.Dense(3)(h))
    model.compile("sgd")
    logs = model.fit(X, LABELS, epochs=2, verbose=0).history
    assert logs["sg_loss"][0] > 0


def test_a_frozen_model_stays_as_it_is():
    model = classifier(1)
    model.trainable = False
    compiled(model)
    before = [w.copy() for w in model.get_weights()]
    with pytest.warns(UserWarning, match="not have any trainable weights"):
        model.fit(X, LABELS, verbose=0)
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("y", [LABELS > 0, (LABELS > 0)[:, None]], ids=["row", "column"])
def test_boolean_labels(y):
    compiled(classifier(num_classes=2)).fit(X, y, verbose=0)


def test_labels_inside_a_structure():
    inputs = keras.Input((8,))
    h = keras_sg.SyntheticGradient(layers.Dense(6), num_classes=3)(inputs)
    model = compiled(keras_sg.DecoupledModel(inputs, {"p": layers.Dense(3)(h)}))
    model.fit(X, {"p": LABELS}, verbose=0)

    class Both(keras_sg.DecoupledModel):
        def labels_from(self, y):
            return y["labels"]

    outputs = {"labels": layers.Dense(3)(h), "value": layers.Dense(1)(h)}
    model = Both(inputs, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", {"labels": loss, "value": "mse"})
    model.fit(X, {"labels": LABELS, "value": np.ones((32, 1))}, verbose=0)


class Traced(keras_sg.DecoupledModel):
    """Counts its training steps: those that TensorFlow traces, where it does not run eagerly."""

    def labels_from(self, y):
        self.traced = getattr(self, "traced", 0) + 1
        return super().labels_from(y)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "options",
    [{}, {"steps_per_execution": 2}, {"metrics": ["accuracy"], "weighted_metrics": ["mae"]}],
    ids=str,
)
def test_a_step_is_traced_once(options):
    """TensorFlow would trace it twice if it made the variables of the optimizer, or of metrics."""
    inputs = keras.Input((4,))
    model = Traced(inputs, layers.Dense(3)(keras_sg.SyntheticGradient(layers.Dense(5))(inputs)))
    model.compile(keras_sg.decoupled_optimizer(), "mse", jit_compile=False, **options)
    found = model.fit(np.ones((8, 4)), np.zeros((8, 3)), batch_size=2, epochs=2, verbose=0)
    assert model.traced == 1
    assert {"loss", *options.get("metrics", ()), *options.get("weighted_metrics", ())} < set(found.history)


@pytest.mark.tensorflow
def test_a_step_with_several_losses_is_traced_once():
    inputs = keras.Input((4,))
    h = keras_sg.SyntheticGradient(layers.Dense(5))(inputs)
    model = Traced(inputs, [layers.Dense(3, name="a")(h), layers.Dense(1, name="b")(h)])
    model.compile("sgd", ["mse", "mae"], metrics=[["mae"], None], jit_compile=False)
    data = np.ones((8, 4)), [np.zeros((8, 3)), np.zeros((8, 1))]
    found = model.fit(*data, batch_size=2, verbose=0)
    assert model.traced == 1
    assert {"a_loss", "b_loss", "a_mae"} < set(found.history)


@pytest.mark.tensorflow
def test_metrics_are_those_for_what_a_step_of_ones_own_makes_of_the_batch():
    """One-hot labels, of which the step makes indices: the metric is made for indices."""

    class Model(keras_sg.DecoupledModel):
        def train_step(self, data):
            x, y = data
            return super().train_step((x, keras.ops.argmax(y, axis=-1)))

    inputs = keras.Input((4,))
    model = Model(inputs, layers.Dense(3)(keras_sg.SyntheticGradient(layers.Dense(5))(inputs)))
    any_labels = lambda y, y_pred: keras.ops.mean(keras.ops.square(y_pred), axis=-1)
    model.compile("sgd", any_labels, metrics=["accuracy"], jit_compile=False)
    model.fit(np.ones((8, 4)), np.eye(3)[[0, 0, 0, 0, 0, 0, 0, 1]], verbose=0)
    kinds = [type(metric) for metric in model._compile_metrics.metrics]
    assert kinds == [keras.metrics.SparseCategoricalAccuracy]
