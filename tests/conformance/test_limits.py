"""What Keras or TensorFlow cannot do: a plain model fails in the same way. See docs/pages/limits.md."""

import pathlib
import re

import keras
import numpy as np
import pytest
from keras import layers
from table import CUT, ROWS

import keras_sg

ROW = ROWS["linear, conditional"]


def network(plain):
    model = ROW.build()
    return keras_sg.strip(model) if plain else model


def compiled(model, optimizer, **options):
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), **options)
    return model


def accumulation_mirrored(plain, two_devices, tmp_path):
    with two_devices.scope():
        ROW.fit(compiled(network(plain), keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)), 1)


def loss_scale_in_a_loop_mirrored(plain, two_devices, tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    with two_devices.scope():
        ROW.fit(compiled(network(plain), "sgd", steps_per_execution=2), 1)


def rate_schedule_in_half_precision(plain, two_devices, tmp_path):
    half_precision_with(plain, keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate))


def rate_plateau_in_half_precision(plain, two_devices, tmp_path):
    half_precision_with(plain, keras.callbacks.ReduceLROnPlateau("loss"))


def half_precision_with(plain, callback):
    keras.config.set_dtype_policy("mixed_float16")
    two = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1), {".*/kernel": keras.optimizers.SGD(0.2)})
    optimizer = keras.optimizers.MultiOptimizer(two) if plain else keras_sg.decoupled_optimizer()
    ROW.fit(compiled(network(plain), optimizer, run_eagerly=True), 1, callbacks=[callback])


def direction_of_a_metric(plain, two_devices, tmp_path):
    """Keras knows of its own metrics alone whether less is better."""
    model = compiled(network(plain), "sgd", run_eagerly=True)
    if plain:
        model.own_metric = keras.metrics.Mean(name="sg_loss")
    ROW.fit(model, 1, callbacks=[keras.callbacks.EarlyStopping("sg_loss")])


LIMITS = {
    accumulation_mirrored: (RuntimeError, "merge_call. called while defining a new graph"),
    loss_scale_in_a_loop_mirrored: (Exception, "while/cond"),
    rate_schedule_in_half_precision: (ValueError, 'must have a "learning_rate" attribute'),
    rate_plateau_in_half_precision: (AttributeError, "cannot be accessed on a MultiOptimizer"),
    direction_of_a_metric: (ValueError, "monitor=sg_loss, but Keras isn't able to"),
}


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "decoupled"])
@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.__name__)
def test_the_same_error_as_of_a_plain_model(limit, plain, two_devices, tmp_path):
    kind, message = LIMITS[limit]
    with pytest.raises(kind, match=message):
        limit(plain, two_devices, tmp_path)


def test_the_page_has_the_text_of_each():
    page = (pathlib.Path(__file__).parents[2] / "docs" / "pages" / "limits.md").read_text()
    assert not [message for _, message in LIMITS.values() if not re.search(message, page)]


def test_channels_first_on_a_cpu():
    """Not every TensorFlow can without XLA; where it can, it can in an interface."""

    def outcome(plain):
        block = layers.Conv2D(2, 3, padding="same", data_format="channels_first")
        inputs = keras.Input((1, 4, 4))
        critic = keras_sg.synthesizers.Critic((2,), data_format="channels_first")
        cut = block if plain else keras_sg.SyntheticLoss(block, critic, **CUT)
        outputs = layers.Dense(3)(layers.Flatten()(cut(inputs)))
        model = (keras.Model if plain else keras_sg.DecoupledModel)(inputs, outputs)
        compiled(model, "sgd", run_eagerly=True)
        try:
            model.fit(np.ones((4, 1, 4, 4)), np.zeros(4, int), verbose=0)
        except Exception as error:
            return type(error)

    assert outcome(plain=True) is outcome(plain=False)


def test_a_plain_model_that_cannot_be_written_leaves_an_empty_file(tmp_path):
    class Nameless(layers.Layer):
        def __init__(self, function):
            super().__init__()

        def call(self, x):
            return x

    inputs = keras.Input((6,))
    ours = keras.Model(
        inputs, layers.Dense(3)(keras_sg.SyntheticGradient(layers.Dense(5), Nameless(max))(inputs))
    )
    theirs = keras.Model(inputs, layers.Dense(3)(Nameless(max)(inputs)))
    for name, model in (("ours", ours), ("theirs", theirs)):
        with pytest.raises((ValueError, NotImplementedError)):
            model.save(tmp_path / f"{name}.keras")
        assert (tmp_path / f"{name}.keras").stat().st_size < 100
