"""Local losses: the mathematics by hand, with weights, behind several cuts, by every schedule; bad input."""

import keras
import numpy as np
import pytest
from backends import compiled
from keras import layers

import keras_sg
from keras_sg import synthesizers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 4)).astype("float32")
CLASSES = RNG.integers(0, 3, 6)
WEIGHTS = np.array([1, 0, 2, 0.5, 0, 1], "float32")
HEAD = synthesizers.Critic(widths=())
RATE = 0.1


def softmax(z):
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


class ByHand:
    """Tanh modules with a linear head behind each, and a linear softmax classifier on top, in float64.

    With p = softmax(h A + a) what a head says of the classes, y the one-hot label and w an example's weight:

        l = -log p[label]    d l / d h = (p - y) A'    d l / d A = h' (p - y)

    A head descends the sum of w l over how many examples count, its module that of w l over the batch.
    Nothing else reaches either.
    """

    def __init__(self, model, weights=None):
        as_float64 = lambda layer: [np.array(w, "float64") for w in layer.get_weights()]
        self.modules = [as_float64(cut.layer) for cut in model.interfaces]
        self.heads = [as_float64(cut.synthesizer) for cut in model.interfaces]
        self.last = as_float64(model.layers[-1])
        self.weights = np.ones(len(X)) if weights is None else np.array(weights, "float64")
        self.losses = []

    def _error(self, h, pair):
        p = softmax(h @ pair[0] + pair[1])
        y = np.eye(3)[CLASSES]
        return self.weights[:, None] * (p - y), -np.log((p * y).sum(axis=1))

    def _descend(self, pair, x, signal, number):
        pair[0] -= RATE * x.T @ signal / number
        pair[1] -= RATE * signal.sum(axis=0) / number

    def step(self):
        x, counting, losses = np.array(X, "float64"), np.count_nonzero(self.weights), []
        for module, head in zip(self.modules, self.heads):
            h = np.tanh(x @ module[0] + module[1])
            error, loss = self._error(h, head)
            losses.append((self.weights * loss).sum() / counting)
            signal = error @ head[0].T * (1 - h**2)
            self._descend(head, h, error, counting)
            self._descend(module, x, signal, len(X))
            x = h
        self._descend(self.last, x, self._error(x, self.last)[0], len(X))
        self.losses.append(np.mean(losses))


def build(count=2, head=HEAD, mix=1.0, update_period=1, **options):
    keras.utils.set_random_seed(0)
    inputs = h = keras.Input((4,))
    for i in range(count):
        h = keras_sg.LocalLoss(
            layers.Dense(5 - i, "tanh", name=f"module{i}"),
            head,
            num_classes=3,
            mix=mix,
            update_period=update_period,
        )(h)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3)(h))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(RATE), loss, **options)
    return model


def check(model, weights=None, steps=3, tolerance=1e-6):
    by_hand = ByHand(model, weights)
    logs = model.fit(
        X, CLASSES, sample_weight=weights, batch_size=6, epochs=steps, shuffle=False, verbose=0
    ).history
    for _ in range(steps):
        by_hand.step()
    for cut, module, head in zip(model.interfaces, by_hand.modules, by_hand.heads):
        for layer, expected in ((cut.layer, module), (cut.head, head)):
            for found, value in zip(layer.get_weights(), expected):
                np.testing.assert_allclose(found, value, rtol=0, atol=tolerance)
    np.testing.assert_allclose(model.layers[-1].get_weights()[0], by_hand.last[0], rtol=0, atol=tolerance)
    np.testing.assert_allclose(logs["sg_loss"], by_hand.losses, rtol=max(1e-5, 10 * tolerance))
    assert "sg_cosine" not in logs


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize(
    "options",
    [{}, {"run_eagerly": True}, pytest.param({"jit_compile": True}, marks=compiled), {"schedule": "in_turn"}],
    ids=str,
)
def test_exact(options, weights):
    check(build(**options), weights)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="devices of one process are JAX's")
@pytest.mark.parametrize("slack", [0, 1])
def test_side_by_side_nothing_is_late(slack):
    """Modules that learn from nobody above train as they do together, tick by tick."""
    schedule = keras_sg.schedules.SideBySide(slack=slack)
    check(build(schedule=schedule), WEIGHTS)
    batches = {"batch_size": 2, "epochs": 2, "shuffle": False, "verbose": 0, "sample_weight": WEIGHTS}
    side, whole = build(schedule=keras_sg.schedules.SideBySide(slack=slack)), build()
    logs = [model.fit(X, CLASSES, **batches).history for model in (side, whole)]
    for a, b in zip(side.get_weights(), whole.get_weights()):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    for key, values in logs[1].items():
        np.testing.assert_allclose(logs[0][key], values, rtol=1e-5, err_msg=key)


def test_exact_mirrored(two_devices):
    with two_devices.scope():
        model = build()
    check(model)


def test_exact_data_parallel(data_parallel):
    check(build())


def test_half_precision():
    keras.config.set_dtype_policy("mixed_float16")
    check(build(), tolerance=3e-3)


def test_mixed_with_the_true_gradient_at_zero_it_is_backpropagation():
    model = build(count=1, mix=0.0)
    plain = keras_sg.strip(model)
    plain = keras.models.clone_model(plain)
    plain.set_weights(keras_sg.strip(model).get_weights())
    plain.compile(keras.optimizers.SGD(RATE), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for trained in (model, plain):
        trained.fit(X, CLASSES, batch_size=6, epochs=3, shuffle=False, verbose=0)
    for a, b in zip(keras_sg.strip(model).get_weights(), plain.get_weights()):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_the_head_rests_between_its_updates():
    model, moved = build(count=1, update_period=2), []
    for _ in range(4):
        before = model.interfaces[0].head.get_weights()[0]
        model.train_on_batch(X, CLASSES)
        moved.append(bool(np.any(before != model.interfaces[0].head.get_weights()[0])))
    assert moved == [True, False, True, False]


def test_it_asks_the_training_loss_for_nothing():
    """A sum is no mean over examples, which a synthetic loss would learn from."""
    model = build(count=1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    model.compile("sgd", loss)
    model.fit(X, CLASSES, verbose=0)


@pytest.mark.parametrize("kind", ["gradient", "loss"])
def test_an_interface_below_learns_from_it(kind):
    """From its gradient, carried back through the module between, or from its loss."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    module = layers.Dense(5, "tanh")
    if kind == "gradient":
        h = keras_sg.SyntheticGradient(module, num_classes=3)(inputs)
    else:
        h = keras_sg.SyntheticLoss(module, HEAD, num_classes=3)(inputs)
    h = keras_sg.LocalLoss(layers.Dense(4, "tanh"), HEAD, num_classes=3)(h)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3)(h))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    lower, upper = model.interfaces
    kernel, bias = (np.array(w, "float64") for w in lower.layer.get_weights())
    h = np.tanh(X @ kernel + bias)
    kernel, bias = (np.array(w, "float64") for w in upper.layer.get_weights())
    above, head = np.tanh(h @ kernel + bias), np.array(upper.head.get_weights()[0], "float64")
    p, y = softmax(above @ head), np.eye(3)[CLASSES]
    critic = lower.synthesizer.get_weights()
    logs = model.train_on_batch(X, CLASSES, return_dict=True)
    if kind == "gradient":  # which begins at 0
        expected = np.mean(((p - y) @ head.T * (1 - above**2) @ kernel.T) ** 2)
    else:
        loss = lambda p: -np.log((p * y).sum(axis=1))
        expected = np.mean((loss(softmax(h @ critic[0] + critic[1])) - loss(p)) ** 2)
    assert logs[f"{lower.name}_sg_loss"] == pytest.approx(expected, rel=1e-4)


def test_files_and_configuration(tmp_path):
    model = build(head=synthesizers.Critic((3,), batch_normalization=False))
    model.fit(X, CLASSES, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    cut = loaded.interfaces[0]
    assert type(cut) is keras_sg.LocalLoss and not {"loss", "synthesizer"} & set(cut.get_config())
    for trained in (model, loaded):
        trained.fit(X, CLASSES, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), loaded.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_decoupled_every_cut_has_a_head_of_its_own():
    stack = [keras.Input((4,)), *(layers.Dense(5, name=f"block{i}") for i in range(2)), layers.Dense(3)]
    given = synthesizers.Critic(())((None, 5), keras_sg.labels.kind(3, None, False, "float32"))
    given([keras.KerasTensor((None, 5)), keras.KerasTensor((None, 3))])
    model = keras_sg.decouple(
        keras.Sequential(stack), ["block0", "block1"], keras_sg.LocalLoss, head=given, num_classes=3
    )
    first, second = (cut.head for cut in model.interfaces)
    assert first is not second and first is not given


def refused(match, head="critic", **options):
    with pytest.raises(ValueError, match=match):
        keras_sg.LocalLoss(layers.Dense(4, name="cut"), head, **options)(keras.Input((4,)))


def test_bad_input():
    refused("The head of local loss 'cut' learns from the label alone, so it has to know")
    refused(
        "is how far its guess at the label is off; 'value' predicts",
        "value",
        num_classes=3,
    )
    refused("must predict one loss an example", keras.layers.Dense(5), num_classes=3)
    refused("This one predicts a gradient", "linear", num_classes=3)
    model = build()
    with pytest.raises(ValueError, match=r"Labels must lie in \[0, 3\)"):
        model.fit(X, CLASSES + 1, verbose=0)
    inputs = keras.Input((4,))
    h = keras_sg.LocalLoss(layers.Dense(4, name="cut"), num_classes=3)(inputs)
    plain = keras.Model(inputs, layers.Dense(3)(h))
    plain.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"The conditional interface 'cut' .* needs the labels"):
        plain.fit(X, np.eye(3)[CLASSES], verbose=0)
