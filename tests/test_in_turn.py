"""In turn, the numbers are those of one program: for every kind of interface, and in every network."""

import keras
import numpy as np
import pytest
from in_turn import (
    BATCH,
    CLASSES,
    CRITIC,
    EXAMPLES,
    FEATURES,
    LABELS,
    MLP,
    VALUE,
    WEIGHTS,
    Fresh,
    X,
    chain,
    check,
    dense,
    gradient,
    local,
    loss,
    optimizer,
)
from keras import layers

import keras_sg
from keras_sg import synthesizers

RNG = np.random.default_rng(1)
NOISE = synthesizers.Critic((4,), batch_normalization=True)
made = lambda shape: keras.Sequential([layers.Dense(4, kernel_regularizer="l2"), layers.Dense(shape[-1])])


def of(interface, *args, **options):
    return lambda layer: interface(layer, *args, **options)


def three(interface, *args, **options):
    return [of(interface, *args, **options)] * 3


SQUARES = three(loss, VALUE, sobolev=True)
KINDS = {
    "linear": three(gradient, "linear", num_classes=None),
    "linear, conditional": three(gradient, "linear"),
    "linear of a rank": three(gradient, synthesizers.Linear(rank=2)),
    "error": three(gradient, "error"),
    "error of a network": three(gradient, synthesizers.PredictedError((4,)), loss="mae"),
    "mlp": three(gradient, MLP, num_classes=None, loss="huber"),
    "mlp, conditional": three(gradient, MLP, loss="mae"),
    "mlp with BatchNormalization": three(gradient, synthesizers.MLP((4,), batch_normalization=True)),
    "a layer with a penalty": three(gradient, made, num_classes=None),
    "value": three(loss, VALUE, num_classes=None),
    "value, conditional, sobolev": SQUARES,
    "critic": three(loss, CRITIC),
    "critic, sobolev": three(loss, CRITIC, sobolev=True),
    "critic with BatchNormalization": three(loss, NOISE, sobolev=True),
    "update period": three(gradient, MLP, update_period=3),
    "critic, update period": three(loss, NOISE, sobolev=True, update_period=2),
    "mixed": [of(gradient, "linear", update_period=2), of(gradient, MLP, num_classes=None), of(loss, CRITIC)],
    "mixed, a loss below": [of(loss, CRITIC, sobolev=True), of(gradient, "linear"), of(loss, VALUE)],
    "local": three(local, CRITIC),
    "local, update period": three(local, NOISE, update_period=2),
    "mixed, local above": [of(gradient, "linear"), of(loss, CRITIC, sobolev=True), of(local, CRITIC)],
    "two losses around a gradient": [of(loss, VALUE), of(gradient, MLP), of(loss, CRITIC, sobolev=True)],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_interface(kind):
    options = {"fit": {"sample_weight": WEIGHTS}}
    if KINDS[kind] is SQUARES:
        # The square of what a read-out says, differentiated twice, runs away at the rates of the others; and
        # where XLA compiles it in other pieces, it is rounded otherwise.
        options |= {"optimizer": Fresh(lambda: optimizer(rates=(0.03, 1e-4))), "tolerance": 3e-6}
    check(lambda: chain(*KINDS[kind]), **options)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="Keras's operations turn float64 into float32")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_in_double_precision(kind):
    """What is left in single precision is rounding."""
    keras.config.set_dtype_policy("float64")
    keras.config.set_floatx("float64")
    rates = (0.03, 1e-4) if KINDS[kind] is SQUARES else (0.03, 0.005)
    check(
        lambda: chain(*KINDS[kind]),
        X.astype("float64"),
        fit={"sample_weight": WEIGHTS},
        optimizer=Fresh(lambda: optimizer(rates)),
        tolerance=1e-12,
    )


@pytest.mark.parametrize("kind", ["mlp, conditional", "critic, sobolev"])
def test_without_weights(kind):
    check(lambda: chain(*KINDS[kind]))


@pytest.mark.parametrize(
    "cut",
    [
        of(gradient, synthesizers.Conv(depth=1, filters=2, kernel_size=3)),
        of(loss, synthesizers.Critic((4,), kernel_size=3), sobolev=True),
    ],
    ids=["gradient", "critic"],
)
def test_convolutions(cut):
    def make():
        inputs = h = keras.Input((4, 4, 1))
        for name in ("a", "b"):
            block = [layers.Conv2D(2, 3, padding="same"), layers.BatchNormalization(), layers.ReLU()]
            h = cut(keras.Sequential(block, name=name))(h)
        return keras_sg.DecoupledModel(inputs, layers.Dense(CLASSES)(layers.Flatten()(h)))

    check(make, RNG.normal(size=(EXAMPLES, 4, 4, 1)).astype("float32"))


TOKENS = np.where(np.arange(5) < 1 + np.arange(EXAMPLES)[:, None] % 5, RNG.integers(1, 9, (EXAMPLES, 5)), 0)
SEQUENCES = np.where((TOKENS == 0)[..., None], 0, RNG.normal(size=(EXAMPLES, 5, 3))).astype("float32")


def masked(first, cut, positions):
    """A mask is made below both interfaces, used at them, and above."""
    inputs = keras.Input((5, 3) if isinstance(first, layers.Masking) else (5,))
    h = first(inputs) if isinstance(first, layers.Masking) else cut(first)(inputs)
    h = cut(layers.LSTM(4, return_sequences=True, name="lstm"))(h)
    h = h if positions else layers.LSTM(3, name="above")(h)
    return keras_sg.DecoupledModel(inputs, layers.Dense(CLASSES, name="last")(h))


@pytest.mark.parametrize("kind", ["gradient", "loss"])
@pytest.mark.parametrize("positions", [False, True], ids=["one label", "a label per position"])
@pytest.mark.parametrize("first", ["Embedding", "Masking"])
def test_masks(first, positions, kind):
    per_position = synthesizers.Critic((4,), batch_normalization=False, per_position=True)
    cut = of(gradient, MLP) if kind == "gradient" else of(loss, per_position if positions else CRITIC)

    def make():
        embedding = layers.Embedding(9, 3, mask_zero=True, name="embedding")
        return masked(embedding if first == "Embedding" else layers.Masking(name="masking"), cut, positions)

    y = TOKENS % CLASSES if positions else LABELS
    weight = np.tile(WEIGHTS[:, None], (1, 5)) if positions else WEIGHTS
    check(make, TOKENS if first == "Embedding" else SEQUENCES, y, fit={"sample_weight": weight})


class Penalty(layers.Layer):
    """Adds a loss that nobody but `add_loss` knows of."""

    def call(self, x):
        self.add_loss(0.1 * keras.ops.mean(keras.ops.square(x)))
        return x


def penalized():
    penalties = dict(kernel_regularizer="l2", activity_regularizer="l1")
    inputs = h = keras.Input((FEATURES,))
    for i in range(2):
        h = gradient(dense(5, f"module{i}", **penalties), MLP)(h)
        h = layers.Dropout(0.3, name=f"dropout{i}")(
            Penalty(name=f"penalty{i}")(layers.BatchNormalization()(h))
        )
    return keras_sg.DecoupledModel(inputs, layers.Dense(CLASSES, bias_regularizer="l1", name="last")(h))


def several_outputs(cut):
    """Inputs and outputs in dictionaries; two branches that join."""
    a, b = keras.Input((FEATURES,), name="a"), keras.Input((2,), name="b")
    left = cut(dense(5, "left2"))(cut(dense(4, "left1"))(a))
    right = cut(dense(3, "right"))(layers.Concatenate()([a, b]))
    h = dense(4, "join")(layers.Concatenate()([left, right]))
    outputs = {"p": layers.Dense(CLASSES, name="p")(h), "q": layers.Dense(1, name="q")(layers.Add()([h, h]))}
    return keras_sg.DecoupledModel({"a": a, "b": b}, outputs, labels_from="p")


@pytest.mark.parametrize("kind", ["gradient", "value", "critic, sobolev"])
def test_several_inputs_outputs_and_branches(kind):
    interface, args = {"gradient": (gradient, [MLP]), "value": (loss, [VALUE])}.get(kind, (loss, [CRITIC]))
    options = {"sobolev": True} if "sobolev" in kind else {}
    x, y = {"a": X, "b": X[:, :2]}, {"p": LABELS, "q": X[:, :1]}
    losses = {"p": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "q": "mae"}
    check(
        lambda: several_outputs(of(interface, *args, **options)),
        x,
        y,
        loss=losses,
        loss_weights={"p": 0.3, "q": 0.6},
        metrics={"p": ["accuracy"], "q": ["mse", "mae"]},
        fit={"sample_weight": {"p": WEIGHTS, "q": 1 + WEIGHTS}, "validation_data": (x, y)},
    )


def test_penalties_dropout_and_statistics():
    model = check(penalized, fit={"validation_data": (X, LABELS)})
    assert len(model.losses) > 0


def test_losses_in_a_list_of_outputs():
    def make():
        inputs = keras.Input((FEATURES,))
        h = gradient(dense(5, "a"), num_classes=None)(inputs)
        outputs = [layers.Dense(CLASSES, name="p")(h), layers.Dense(1, name="q")(h)]
        return keras_sg.DecoupledModel(inputs, outputs)

    losses = [keras.losses.SparseCategoricalCrossentropy(from_logits=True), "mse"]
    check(make, X, [LABELS, X[:, :1]], loss=losses, metrics=[["accuracy"], []])


@pytest.mark.parametrize("kind", [KINDS["mlp, conditional"], KINDS["critic, sobolev"]], ids=["mlp", "critic"])
def test_labels_that_say_there_is_none(kind):
    y = np.where(np.arange(EXAMPLES) % 3, LABELS, -1)
    options = {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)}
    check(lambda: chain(*kind), y=y, **options)


def test_class_weights():
    check(lambda: chain(*KINDS["mlp, conditional"]), fit={"class_weight": {0: 0.5, 1: 1.0, 2: 3.0}})


def test_interfaces_in_nested_models():
    def make():
        inner = [gradient(dense(5, "a")), dense(4, "b"), layers.Dropout(0.2), loss(dense(3, "c"), CRITIC)]
        inner = keras.Sequential([keras.Input((6,)), *inner], name="inner")
        inputs = keras.Input((FEATURES,))
        h = gradient(dense(4, "above"))(inner(dense(6, "stem")(inputs)))
        return keras_sg.DecoupledModel(inputs, layers.Dense(CLASSES, name="last")(h))

    check(make)


def test_losses_whose_order_is_not_that_of_the_modules():
    """Of branches of different lengths a step meets interfaces as Keras runs them, by distance to the end."""

    def make():
        a, b = keras.Input((FEATURES,)), keras.Input((FEATURES,))
        left = loss(dense(4, "left1"), CRITIC)(dense(4, "below")(a))
        left = loss(dense(4, "left2"), CRITIC)(dense(4, "between")(dense(4, "under")(left)))
        right = loss(dense(4, "right2"), VALUE)(loss(dense(5, "right1"), VALUE)(b))
        h = layers.Concatenate()([left, dense(4, "long")(dense(4, "longer")(right))])
        return keras_sg.DecoupledModel([a, b], layers.Dense(CLASSES, name="last")(h))

    check(make, [X, X[:, ::-1].copy()])


def test_the_mask_of_tokens_in_every_module():
    def make():
        tokens = keras.Input((5,), dtype="int32")
        there = layers.Reshape((1, 5))(keras.ops.not_equal(tokens, 0))
        h = layers.Embedding(9, 4)(tokens)
        for i in range(2):
            attended = layers.MultiHeadAttention(1, 2, name=f"attention{i}")(h, h, attention_mask=there)
            h = gradient(layers.LayerNormalization(name=f"norm{i}"), MLP)(layers.Add()([h, attended]))
        return keras_sg.DecoupledModel(tokens, layers.Dense(CLASSES)(layers.GlobalAveragePooling1D()(h)))

    check(make, TOKENS)


class Weighing(keras_sg.DecoupledModel):
    """A loss and a metric of its own, which look at the inputs and at other layers."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        return loss + 0.1 * keras.ops.mean(keras.ops.square(y_pred - x[:, :CLASSES]))

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return {**super().compute_metrics(x, y, y_pred, sample_weight), "own": keras.ops.mean(y_pred)}


@pytest.mark.parametrize("kind", ["mlp, conditional", "critic, sobolev"])
def test_a_loss_and_a_metric_of_a_subclass(kind):
    check(lambda: chain(*KINDS[kind], model_class=Weighing))


@pytest.mark.parametrize("part", ["layer", "synthesizer", "last", "all"])
def test_frozen_layers(part):
    def make():
        model = chain(*KINDS["mlp, conditional"])
        second = model.interfaces[1]
        {"last": model.get_layer("last"), "all": model}.get(
            part, getattr(second, part, None)
        ).trainable = False
        return model

    if part == "all":
        with pytest.warns(UserWarning, match="does not have any trainable weights"):
            check(make)
    else:
        check(make)


def test_a_batch_may_be_of_any_size():
    check(lambda: chain(*KINDS["linear, conditional"]), fit={"batch_size": BATCH + 5, "shuffle": False})


def test_metrics_see_the_mask_of_an_output():
    def make():
        embedding = layers.Embedding(9, 3, mask_zero=True, name="embedding")
        return masked(embedding, of(gradient, "linear"), positions=True)

    weight = np.tile(WEIGHTS[:, None], (1, 5))
    options = {"metrics": ["accuracy"], "weighted_metrics": ["accuracy"], "run_eagerly": False}
    check(make, TOKENS, TOKENS % CLASSES, fit={"sample_weight": weight}, **options)
