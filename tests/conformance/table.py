"""Everything public that can sit in a model, one row each; the files beside this one hold a property a test.

Every row is trained eagerly and as a graph, saved, loaded, resumed and configured. What is slow (a compiler,
several devices, exported files) is tried on representative rows, those that name it in `tried`: the rows
left out differ from one of these in a layer, not in how the training step runs.
"""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import pytest
from backends import ONE_STEP
from keras import layers
from models import CLASSES, FEATURES, data

import keras_sg
from keras_sg import (
    DecoupledModel,
    LocalLoss,
    RecurrentSyntheticGradient,
    SyntheticGradient,
    SyntheticLoss,
    synthesizers,
)
from keras_sg._interfaces.interface import interfaces_in

EPOCHS, BATCH = 2, 4  # four steps an epoch
EAGERLY = keras.backend.backend() != "jax"  # how a few steps are quickest
CUT = dict(num_classes=CLASSES)
BITS = dict(label_size=CLASSES)
IMAGES = dict(shape=(4, 4, 1))
MLP = synthesizers.MLP((4,))
CONV = synthesizers.Conv(depth=1, filters=2, kernel_size=3)
SMALL = synthesizers.InputConv(filters=2, kernel_size=3, batch_normalization=False)
PLAIN_CONV = synthesizers.Conv(1, filters=2, kernel_size=1, batch_normalization=False)
PLAIN = synthesizers.MLP((4,), batch_normalization=False)
SEEN = synthesizers.InputMLP((4,), batch_normalization=False)
VALUE = synthesizers.Value((4,), batch_normalization=False)
CRITIC = synthesizers.Critic((4,), kernel_size=3, batch_normalization=False)


def two_optimizers(rate=0.1, **options):
    """Both with a state; epsilon keeps Adam from making steps of rounding errors."""
    return keras_sg.decoupled_optimizer(
        keras.optimizers.SGD(rate, momentum=0.9, **options),
        keras.optimizers.Adam(rate / 10, epsilon=1e-3, **options),
    )


def one_optimizer(**options):
    return keras.optimizers.Adam(1e-2, epsilon=1e-3, **options)


@dataclasses.dataclass(frozen=True)
class Row:
    """How to make a model, and what it is trained on.

    make: makes the model; nothing else may depend on when and where it is called.
    shape: of an example, `(features,)` or `(height, width, channels)`.
    bits: whether labels are vectors of bits, not classes.
    recurrent: whether it takes windows, with their ends.
    decoupled: whether the model is a `DecoupledModel`.
    optimizer: makes the optimizer.
    tried: what is tried on this row though it is slow: "xla", "steps", "mirrored", "half", "export",
        "accumulation", "data", "callbacks", "killed".
    """

    make: Callable
    shape: tuple = (FEATURES,)
    bits: bool = False
    recurrent: bool = False
    decoupled: bool = True
    optimizer: Callable = two_optimizers
    tried: str = ""

    def build(self):
        """The model, always with the same weights; its synthesizers do not predict zero."""
        keras.utils.set_random_seed(0)
        model = self.make()
        rng = np.random.default_rng(0)
        for interface in interfaces_in(model):
            for variable in interface.synthesizer.trainable_variables:
                variable.assign(keras.ops.convert_to_numpy(variable) + 0.1 * rng.normal(size=variable.shape))
        return model

    def compiled(self, optimizer=None, **options):
        model = self.build()
        losses = keras.losses.BinaryCrossentropy if self.bits else keras.losses.SparseCategoricalCrossentropy
        model.compile(optimizer or self.optimizer(), losses(from_logits=True), **options)
        return model

    def data(self):
        x, _, labels = data()
        count = len(x)
        if len(self.shape) > 1:
            x = np.random.default_rng(1).normal(size=(count, *self.shape)).astype("float32")
        if self.recurrent:
            x = [x, (np.arange(count) % 3 == 0).astype("float32")]
        bits = (np.arange(count)[:, None] >> np.arange(CLASSES)) % 2
        return x, bits.astype("float32") if self.bits else labels

    def one_batch(self):
        """All of the data; of windows as many as there are rows."""
        return keras.tree.map_structure(lambda part: part[:BATCH] if self.recurrent else part, self.data())

    def fit(self, model, epochs=EPOCHS, batch_size=BATCH, **options):
        """Train `model`; the epochs always see the same batches."""
        options = {"shuffle": False, "verbose": 0, **options}
        return model.fit(*self.data(), batch_size=batch_size, epochs=epochs, **options).history


def dense(interface=SyntheticGradient, *args, count=1, model_class=DecoupledModel, **options):
    """A network of `count` tanh modules with an interface behind each, and a linear one."""

    def make():
        inputs = h = keras.Input((FEATURES,))
        for i in range(count):
            h = interface(layers.Dense(5 - i, "tanh", name=f"module{i + 1}"), *args, **options)(h)
        return model_class(inputs, layers.Dense(CLASSES, name="last")(h))

    return make


def convolutional(interface, *args, **options):
    def make():
        inputs = keras.Input((4, 4, 1))
        block = layers.Conv2D(2, 3, padding="same", activation="tanh", name="module1")
        h = layers.Flatten()(interface(block, *args, **options)(inputs))
        return DecoupledModel(inputs, layers.Dense(CLASSES, name="last")(h))

    return make


@keras.saving.register_keras_serializable(package="conformance")
class Subclass(DecoupledModel):
    """A `DecoupledModel` with a method of its own."""

    def labels_from(self, y):
        return 1.0 - y


@keras.saving.register_keras_serializable(package="conformance")
class Block(layers.Layer):
    """A layer of one's own with an interface inside."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.units = units
        self.cut = SyntheticGradient(layers.Dense(units, "tanh", name="module1"), **CUT)

    def build(self, shape):
        self.cut.build(shape)

    def call(self, x):
        return self.cut(x)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def both():
    inputs = keras.Input((FEATURES,))
    made = lambda shape: layers.Dense(shape[-1], name="made")
    h = SyntheticGradient(layers.Dense(5, "tanh", name="module1"), made, **CUT)(inputs)
    h = SyntheticLoss(layers.Dense(4, "tanh", name="module2"), CRITIC, **CUT)(h)
    return DecoupledModel(inputs, layers.Dense(CLASSES, name="last")(h))


def recurrent(model_class=DecoupledModel, **options):
    def make():
        rows = None if "batch_size" in options else BATCH
        x, ends = keras.Input((3, 2), rows, name="x"), keras.Input((), name="ends")
        gru = layers.GRU(4, recurrent_initializer="glorot_uniform", name="gru")  # drawn in any dtype
        h = RecurrentSyntheticGradient(gru, **options)(x, ends=ends)
        return model_class([x, ends], layers.Dense(CLASSES, name="last")(h))

    return make


def inside_a_layer():
    inputs = keras.Input((FEATURES,))
    return DecoupledModel(inputs, layers.Dense(CLASSES)(Block(5, name="block")(inputs)))


def sequential():
    stack = [layers.Dense(5, "tanh", name="module1"), layers.Dense(CLASSES, name="last")]
    return keras.Sequential([keras.Input((FEATURES,)), *stack], name="stack")


def functional():
    inputs = keras.Input((FEATURES,))
    h = layers.Dense(5, "tanh", name="module1")(inputs)
    skipped = layers.Add(name="sum")([h, layers.Dense(5, name="side")(h)])
    return keras.Model(inputs, layers.Dense(CLASSES, name="last")(skipped))


def nested():
    inputs = keras.Input((FEATURES,))
    return keras.Model(inputs, layers.Dense(CLASSES, name="head")(sequential()(inputs)))


def decoupled(make, after, **options):
    return lambda: keras_sg.decouple(make(), after=after, **options)


MOST = "xla steps mirrored half export accumulation data callbacks"
seldom = synthesizers.Critic((4,), kernel_size=3)  # with BatchNormalization
ROWS = {
    "plain model": Row(
        dense(count=2, model_class=keras.Model),
        decoupled=False,
        optimizer=one_optimizer,
        tried="export accumulation",
    ),
    "linear, conditional": Row(dense(count=2, **CUT), tried=MOST + " killed"),
    "linear of a rank": Row(dense(SyntheticGradient, synthesizers.Linear(rank=2))),
    "linear of a rank, conditional": Row(
        dense(SyntheticGradient, synthesizers.Linear(rank=2), **CUT), tried="half export"
    ),
    "error": Row(dense(SyntheticGradient, "error", count=2, **CUT), tried="xla steps half export"),
    "error, label vectors": Row(
        dense(SyntheticGradient, synthesizers.PredictedError((4,)), **BITS), bits=True
    ),
    "mlp": Row(decoupled(functional, "sum", synthesizer=MLP)),
    "mlp, conditional": Row(decoupled(sequential, "module1", synthesizer=MLP, **CUT), tried="half"),
    "conv": Row(convolutional(SyntheticGradient, CONV), **IMAGES, optimizer=one_optimizer),
    "conv, conditional": Row(convolutional(SyntheticGradient, CONV, **CUT), **IMAGES, tried="half export"),
    "a layer": Row(dense(SyntheticGradient, layers.Dense(5, name="given"), loss="huber", mix=0.5)),
    "subclass": Row(dense(model_class=Subclass, **BITS), bits=True),
    "decoupled nested": Row(decoupled(nested, ["stack/module1", "stack"], **CUT), tried="export"),
    "inside a layer": Row(inside_a_layer),
    "both kinds": Row(both),
    "value": Row(dense(SyntheticLoss, VALUE, count=2)),
    "value, conditional": Row(dense(SyntheticLoss, VALUE, **CUT)),
    "critic, label vectors": Row(dense(SyntheticLoss, CRITIC, **BITS), bits=True),
    "critic, sobolev": Row(dense(SyntheticLoss, CRITIC, sobolev=True, count=2, **CUT), tried=MOST),
    "local": Row(dense(LocalLoss, CRITIC, count=2, **CUT), tried="xla steps mirrored half export"),
    "local, pooled": Row(
        convolutional(LocalLoss, synthesizers.Critic((2,), batch_normalization=False, pool_size=2), **CUT),
        **IMAGES,
        tried="half",
    ),
    "local, label vectors": Row(
        dense(LocalLoss, synthesizers.Critic(()), mix=0.5, update_period=3, **BITS), bits=True
    ),
    "recurrent": Row(recurrent(batch_size=BATCH), (3, 2), recurrent=True, tried="xla steps half killed"),
    "recurrent, auxiliary": Row(
        recurrent(keras.Model, synthesizer=MLP, auxiliary=True, loss="huber", mix=1.0),
        (3, 2),
        recurrent=True,
        decoupled=False,
    ),
    "synthetic input": Row(
        dense(count=2, synthetic_input=synthesizers.InputMLP((4, 3), batch_normalization=False), **CUT),
        tried="xla steps mirrored half killed",
    ),
    "synthetic input, conv": Row(
        convolutional(SyntheticGradient, CONV, synthetic_input=SMALL, **CUT), **IMAGES, tried="half"
    ),
    "with the input": Row(
        dense(SyntheticGradient, synthesizers.WithInput(PLAIN, (FEATURES,), SEEN), count=2),
        tried="xla steps mirrored half export accumulation killed",
    ),
    "conv, with the input, update period": Row(
        convolutional(
            SyntheticGradient, synthesizers.WithInput(PLAIN_CONV, (4, 4, 1)), update_period=3, **CUT
        ),
        **IMAGES,
        tried="xla mirrored half",
    ),
    "feedback": Row(
        dense(SyntheticGradient, synthesizers.Feedback(seed=0), count=2, **CUT),
        tried="xla steps mirrored half export accumulation",
    ),
    "update period": Row(dense(update_period=3, **CUT), tried="mirrored half"),
    "critic, update period": Row(
        convolutional(SyntheticLoss, seldom, sobolev=True, update_period=3, **CUT), **IMAGES, tried="killed"
    ),
}


# What is not tried on other backends than TensorFlow, and why: a test or a file -> backend -> reason.
ONCE = "has nothing to do with the backend"
NOT_TRIED = {
    "test_table": {"jax": ONCE, "torch": ONCE},
    "test_limits": {"jax": "is about TensorFlow", "torch": "is about TensorFlow"},
    "test_observers": {"jax": ONCE, "torch": ONCE},
    "test_compiled": {
        "jax": "is how everything runs there",
        "torch": "a DecoupledModel trains eagerly only",
    },
    "test_several_steps_per_execution": {"torch": "Keras executes one step at a time"} if ONE_STEP else {},
    "test_half_precision_with_a_loss_scale_that_moves": {
        "jax": "Keras on JAX writes the loss scale once an epoch: it cannot be watched",
    },
    "test_exported_it_serves_predictions_and_holds_no_synthesizer": {
        "jax": "Keras needs TensorFlow to write a SavedModel",
        "torch": "Keras needs TensorFlow to write a SavedModel",
    },
    "test_what_cannot_be_taken_out_is_exported_as_it_is": {
        "jax": "Keras needs TensorFlow to write a SavedModel",
        "torch": "Keras needs TensorFlow to write a SavedModel",
    },
    "test_in_double_precision_nothing_is_rounded_to_single": {
        "jax": "Keras's operations turn float64 into float32 there",
        "torch": "Keras's operations turn float64 into float32 there",
    },
    "test_watched_saved_and_loaded": {"jax": "takes half a minute to compile"},
    "test_killed_it_goes_on_when_it_is_started_again": {"jax": ONCE, "torch": ONCE},
}


def why_not(test, file):
    """Why a test in a file is not tried on this backend, or None."""
    reasons = {**NOT_TRIED.get(file, {}), **NOT_TRIED.get(test, {})}
    return reasons.get(keras.backend.backend())


def rows(tried=None):
    """Parametrises a test by the name of each row, or of each on which something slow is tried."""
    return pytest.mark.parametrize(
        "name", [name for name, row in ROWS.items() if tried is None or tried in row.tried.split()]
    )


def numbers(variables):
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def predicted(model, x):
    return keras.ops.convert_to_numpy(model(x))


def state(model):
    """All that training moves: weights, statistics, and the variables of the optimizers."""
    return numbers(model.weights) + numbers(model.optimizer.variables)


def assert_same(ours, theirs, tolerance=0.0):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
