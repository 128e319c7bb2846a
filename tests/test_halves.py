"""A model in two halves: it trains as the undivided one does, by messages; files, buffers, bad input."""

import keras
import numpy as np
import pytest
from backends import compiled
from keras import layers

import keras_sg
from keras_sg import synthesizers

FEATURES, CLASSES, EXAMPLES, BATCH = 4, 3, 20, 8  # the last batch of an epoch is smaller
RNG = np.random.default_rng(0)
X = RNG.normal(size=(EXAMPLES, FEATURES)).astype("float32")
Y = RNG.integers(0, CLASSES, EXAMPLES)
WEIGHTS = (RNG.uniform(0.5, 2, EXAMPLES) * (np.arange(EXAMPLES) % 4 > 0)).astype("float32")
MODE = {"run_eagerly": keras.backend.backend() == "tensorflow"}  # how a few steps are quickest
CRITIC = synthesizers.Critic((4,), batch_normalization=False)
CUT = {"num_classes": CLASSES}
KINDS = {
    "linear": (keras_sg.SyntheticGradient, {}),
    "mlp, conditional": (keras_sg.SyntheticGradient, {"synthesizer": synthesizers.MLP((4,)), **CUT}),
    "critic": (keras_sg.SyntheticLoss, {"synthesizer": CRITIC, **CUT}),
    "critic, sobolev": (keras_sg.SyntheticLoss, {"synthesizer": CRITIC, "sobolev": True, **CUT}),
    "local": (keras_sg.LocalLoss, {"head": CRITIC, **CUT}),
}


def build(kind="critic, sobolev", above=None, **options):
    """A network with an interface behind its first block and, of the kind `above`, behind its second."""
    keras.utils.set_random_seed(0)
    stack = [layers.Dense(5, "tanh", name="a"), layers.Dense(6, "tanh", name="b"), layers.Dense(CLASSES)]
    interface, own = KINDS[kind]
    model = keras.Sequential([keras.Input((FEATURES,)), *stack])
    if above is None:
        model = keras_sg.decouple(model, "a", interface, **{**own, **options})
    else:
        inputs = keras.Input((FEATURES,))
        upper, of_upper = KINDS[above]
        h = upper(stack[1], **of_upper)(interface(stack[0], **{**own, **options})(inputs))
        model = keras_sg.DecoupledModel(inputs, stack[2](h))
    rng = np.random.default_rng(0)
    for cut in model.interfaces:
        for variable in cut.synthesizer.trainable_variables:
            variable.assign(keras.ops.convert_to_numpy(variable) + 0.2 * rng.normal(size=variable.shape))
    return model


def loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def sgd():
    return keras_sg.decoupled_optimizer(keras.optimizers.SGD(0.05, momentum=0.9), keras.optimizers.SGD(0.01))


def adam():
    return keras.optimizers.Adam(0.01, epsilon=1e-3)


def halves(kind="critic, sobolev", above=None, optimizer=sgd, **options):
    lower, upper = keras_sg.split(build(kind, above))
    lower.compile(optimizer(), **(options or MODE))
    upper.compile(optimizer(), loss(), **(options or MODE))
    return lower, upper


def batches(epochs=3, weights=None):
    for _ in range(epochs):
        for start in range(0, EXAMPLES, BATCH):
            at = slice(start, start + BATCH)
            yield X[at], Y[at], None if weights is None else weights[at]


def train(lower, upper, epochs=3, weights=None, period=1):
    """By messages: a target for every `period`-th batch; what the synthesizer reports."""
    logs = []
    for step, (x, y, weight) in enumerate(batches(epochs, weights)):
        sent = lower.advance(x, y, weight)
        target = upper.teach(sent, y, weight)
        if step % period == 0 and lower.cut.name and (target.gradient is not None or target.loss is not None):
            logs.append(lower.learn(sent, y, target, weight))
    return logs


def train_whole(model, epochs=3, weights=None):
    logs = []
    for x, y, weight in batches(epochs, weights):
        model.reset_metrics()
        logs.append(model.train_on_batch(x, y, weight, return_dict=True))
    return logs


def assert_same(found, expected, tolerance=1e-6):
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, abs(b).max()))


XLA = pytest.param("critic, sobolev", {"jit_compile": True}, marks=compiled, id="xla")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((kind, MODE) for kind in KINDS),
        *(("critic, sobolev", {"run_eagerly": e}) for e in (True, False)),
        XLA,
    ],
)
def test_a_target_for_every_batch_is_the_undivided_model(kind, options):
    model = build(kind)
    model.compile(sgd(), loss(), **options)
    expected = train_whole(model, weights=WEIGHTS)
    before = model.get_weights()
    lower, upper = halves(kind, **options)
    logs = train(lower, upper, weights=WEIGHTS)
    assert_same(keras_sg.join(lower, upper).get_weights(), before)
    for found, whole in zip(logs, expected):
        for key, value in found.items():
            assert value == pytest.approx(whole[key], rel=1e-4, abs=1e-6), key


@pytest.mark.parametrize("kind", ["mlp, conditional", "critic, sobolev", "local"])
def test_one_optimizer_is_copied_for_the_synthesizer(kind):
    model = build(kind)
    model.compile(adam(), loss(), **MODE)
    train_whole(model)
    lower, upper = halves(kind, optimizer=adam)
    train(lower, upper)
    assert_same(keras_sg.join(lower, upper).get_weights(), model.get_weights(), 2e-6)
    counts = [int(keras.ops.convert_to_numpy(single.iterations)) for single in lower.optimizer.optimizers]
    assert counts == [9, 9]


@pytest.mark.parametrize("kind", ["linear", "critic, sobolev"])
def test_a_target_for_every_other_batch_is_an_update_period_of_two(kind):
    model = build(kind, update_period=2)
    model.compile(sgd(), loss(), **MODE)
    train_whole(model)
    lower, upper = halves(kind)
    train(lower, upper, period=2)
    assert_same(keras_sg.join(lower, upper).get_weights(), model.get_weights())


@pytest.mark.parametrize(
    ("kind", "above"),
    [("linear", "linear"), ("critic", "critic, sobolev"), ("critic, sobolev", "linear"), ("critic", "local")],
)
def test_the_upper_half_has_interfaces_of_its_own(kind, above):
    model = build(kind, above)
    model.compile(sgd(), loss(), **MODE)
    train_whole(model)
    lower, upper = keras_sg.split(build(kind, above), "a")
    lower.compile(sgd(), **MODE)
    upper.compile(sgd(), loss(), **MODE)
    train(lower, upper)
    assert_same(keras_sg.join(lower, upper).get_weights(), model.get_weights())
    assert [cut.name for cut in upper.interfaces] == ["b"]


@pytest.mark.parametrize("kind", ["mlp, conditional", "critic"])
def test_half_precision(kind):
    """With a loss scale of its own in each half; where one overflows, only that half skips the step."""
    keras.config.set_dtype_policy("mixed_float16")
    model = build(kind)
    model.compile(sgd(), loss(), **MODE)
    train_whole(model)
    lower, upper = halves(kind)
    train(lower, upper)
    assert_same(keras_sg.join(lower, upper).get_weights(), model.get_weights(), 1e-3)


def test_joined_it_is_the_model():
    model = build("linear", "linear")
    lower, upper = keras_sg.split(model, "a")
    whole = keras_sg.join(lower, upper)
    np.testing.assert_array_equal(whole.predict(X, verbose=0), model.predict(X, verbose=0))
    parts = upper.predict(lower.predict(X, verbose=0), verbose=0)
    np.testing.assert_allclose(parts, whole.predict(X, verbose=0), rtol=0, atol=1e-6)
    assert {id(v) for v in whole.variables} == {id(v) for v in model.variables}
    assert whole.name == model.name and [cut.name for cut in whole.interfaces] == ["a", "b"]
    again = keras_sg.join(*keras_sg.split(whole, whole.interfaces[0]))
    np.testing.assert_array_equal(again.predict(X, verbose=0), model.predict(X, verbose=0))


def test_a_cut_inside_a_nested_model_with_statistics_and_noise():
    def make():
        keras.utils.set_random_seed(0)
        inner = [
            layers.Dense(5, name="dense"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
        ]
        stem = keras.Sequential([keras.Input((FEATURES,)), *inner], name="stem")
        stack = [keras.Input((FEATURES,)), stem, layers.Dropout(0.3, seed=1), layers.Dense(CLASSES)]
        return keras_sg.decouple(keras.Sequential(stack), "stem/norm", num_classes=CLASSES)

    model = make()
    model.compile(sgd(), loss(), **MODE)
    train_whole(model)
    lower, upper = keras_sg.split(make())
    lower.compile(sgd(), **MODE)
    upper.compile(sgd(), loss(), **MODE)
    train(lower, upper)
    whole = keras_sg.join(lower, upper)
    np.testing.assert_allclose(whole.predict(X, verbose=0), model.predict(X, verbose=0), atol=1e-5)


def test_fit_trains_the_module_and_leaves_the_synthesizer():
    lower, _ = halves()
    module, synthesizer = lower.cut.layer.get_weights(), lower.cut.synthesizer.get_weights()
    logs = lower.fit(X, Y, batch_size=BATCH, epochs=2, verbose=0).history
    assert set(logs) == {"loss"} and logs["loss"][1] < logs["loss"][0]
    assert_same(lower.cut.synthesizer.get_weights(), synthesizer, 0.0)
    assert abs(lower.cut.layer.get_weights()[0] - module[0]).max() > 1e-3


def test_fit_on_pairs_trains_the_synthesizer_and_leaves_the_module():
    lower, upper = halves()
    pairs = keras_sg.Pairs(batch_size=BATCH)
    for x, y, weight in batches(1, WEIGHTS):
        sent = lower.advance(x, y, weight)
        pairs.add(sent, y, upper.teach(sent, y, weight), weight)
    module, synthesizer = lower.cut.layer.get_weights(), lower.cut.synthesizer.get_weights()
    logs = lower.fit(pairs, epochs=20, shuffle=False, verbose=0).history
    assert set(logs) == {"sg_loss", "sg_cosine"} and logs["sg_loss"][-1] < 0.9 * logs["sg_loss"][0]
    assert_same(lower.cut.layer.get_weights(), module, 0.0)
    assert abs(lower.cut.synthesizer.get_weights()[0] - synthesizer[0]).max() > 1e-3


def test_fit_on_a_pair_is_to_learn_it():
    weights = []
    for learn in (True, False):
        lower, upper = halves()
        sent = lower.advance(X, Y)
        target = upper.teach(sent, Y)
        if learn:
            lower.learn(sent, Y, target)
        else:
            pairs = keras_sg.Pairs(batch_size=EXAMPLES)
            pairs.add(sent, Y, target)
            lower.fit(pairs, shuffle=False, verbose=0)
        weights.append(lower.get_weights())
    assert_same(*weights)


def test_pairs_keep_so_many_examples():
    pairs = keras_sg.Pairs(batch_size=3, limit=5)
    for value in range(4):
        h = np.full((2, 1), value, "float32")
        pairs.add(keras_sg.Sent(h), None, keras_sg.Target(h, None))
    assert pairs.examples == 4 and len(pairs) == 2
    seen = np.concatenate([pairs[i][0] for i in range(len(pairs))]).ravel()
    assert sorted(seen) == [2, 2, 3, 3]
    for i in range(len(pairs)):
        h, taught = pairs[i]
        np.testing.assert_array_equal(h, taught.gradient)


def test_each_half_is_saved_by_itself_and_goes_on(tmp_path):
    lower, upper = halves("mlp, conditional")
    train(lower, upper, epochs=1)
    lower.save(tmp_path / "lower.keras")
    upper.save(tmp_path / "upper.keras")
    others = [keras.models.load_model(tmp_path / f"{half}.keras") for half in ("lower", "upper")]
    assert [type(half) for half in others] == [keras_sg.LowerModel, keras_sg.UpperModel]
    assert others[1].sends == ("gradient",)
    for pair in ((lower, upper), others):
        train(*pair, epochs=2)
    assert_same(keras_sg.join(*others).get_weights(), keras_sg.join(lower, upper).get_weights())


def test_messages_know_their_size():
    lower, upper = halves()
    sent = lower.advance(X, Y)
    assert sent.nbytes == EXAMPLES * 5 * 4
    assert upper.teach(sent, Y).nbytes == EXAMPLES * 5 * 4 + EXAMPLES * 4
    lower, upper = halves("local")
    assert upper.teach(lower.advance(X, Y), Y) == keras_sg.Target(None, None, 0)


def test_the_upper_half_is_a_model_of_its_own():
    _, upper = halves("linear")
    h = RNG.normal(size=(EXAMPLES, 5)).astype("float32")
    logs = upper.fit(h, Y, epochs=3, verbose=0).history["loss"]
    assert logs[-1] < logs[0]
    assert upper.evaluate(h, Y, verbose=0) < logs[0]


def not_split(match, model, at=None):
    with pytest.raises(ValueError, match=match):
        keras_sg.split(model, at)


def test_what_cannot_be_split():
    plain = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(3, name="a")])
    not_split("parts a keras_sg.DecoupledModel at one of its interfaces. Cut the model first", plain, "a")
    not_split(r"`at` names the interface at which .* one of \['a'\]", build(), "b")
    not_split(r"`at` names the interface at which .* one of \['a', 'b'\]", build("linear", "linear"))
    not_split("Below interface 'b' lie others", build("linear", "linear"), "b")
    not_split("has an update_period of 3, but in two halves", build(update_period=3))
    not_split(r"mixes in the true gradient \(mix=0.5\), for which the lower half", build(mix=0.5))


def test_cuts_that_do_not_separate():
    inputs = keras.Input((FEATURES,), name="pictures")
    h = keras_sg.SyntheticGradient(layers.Dense(FEATURES, name="cut"))(inputs)
    around = keras_sg.DecoupledModel(inputs, layers.Dense(2)(layers.Add()([h, inputs])))
    not_split(r"The cut at interface 'cut' does not separate: the inputs \['pictures'\]", around)
    below = layers.Dense(5, name="below")(inputs)
    h = keras_sg.SyntheticGradient(layers.Dense(5, name="cut"))(below)
    not_split("does not part", keras_sg.DecoupledModel(inputs, layers.Dense(2)(layers.Add()([h, below]))))
    both = [keras_sg.SyntheticGradient(layers.Dense(5, name=name))(inputs) for name in ("left", "right")]
    model = keras_sg.DecoupledModel(inputs, layers.Dense(2)(layers.Add()(both)))
    not_split(r"lie several tensors, those of the interfaces \['left', 'right'\]", model, "left")
    h = keras_sg.SyntheticGradient(layers.Dense(5, name="cut"))(inputs)
    g = keras_sg.SyntheticGradient(layers.Dense(5, name="next"))(h)
    skip = keras_sg.DecoupledModel(inputs, layers.Dense(2)(layers.Add()([h, g])))
    not_split("does not part", skip, "cut")


def test_what_crosses_has_no_mask():
    inputs = keras.Input((5,), dtype="int32")
    h = keras_sg.SyntheticGradient(layers.Dense(4, name="cut"))(
        layers.Embedding(7, 3, mask_zero=True)(inputs)
    )
    model = keras_sg.DecoupledModel(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(h)))
    not_split("has a mask, which a message does not carry", model)


def test_a_recurrent_interface_is_no_cut():
    windows, ends = keras.Input((3, FEATURES), batch_size=4), keras.Input((), batch_size=4)
    h = keras_sg.RecurrentSyntheticGradient(layers.GRU(4, name="gru"))(windows, ends=ends)
    not_split(
        "windows of time, not between layers. Split at another",
        keras_sg.DecoupledModel([windows, ends], layers.Dense(2)(h)),
    )


def test_halves_that_do_not_fit():
    lower, upper = halves()
    with pytest.raises(ValueError, match="the lower one first"):
        keras_sg.join(upper, lower)
    keras.utils.set_random_seed(0)
    other = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(7, name="a"), layers.Dense(2)])
    other, _ = keras_sg.split(keras_sg.decouple(other, "a"))
    with pytest.raises(ValueError, match="The halves do not fit"):
        keras_sg.join(other, upper)


def test_what_halves_are_compiled_with():
    lower, upper = halves()
    with pytest.raises(ValueError, match=r"is the upper half's. .* Received: \['loss', 'metrics'\]"):
        lower.compile("sgd", loss="mse", metrics=["accuracy"])
    with pytest.raises(ValueError, match=r"is the upper half's. .* Received: \['loss'\]"):
        lower.compile("sgd", "mse")
    multi = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(keras.optimizers.SGD()))
    for other in (multi, keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())):
        with pytest.raises(
            ValueError, match="of a lower half do not step together, so each has an optimizer"
        ):
            lower.compile(other)
    with pytest.raises(ValueError, match="The lower half has no optimizer to train with"):
        keras_sg.split(build())[0].advance(X, Y)
    with pytest.raises(ValueError, match="The upper half runs its modules in turn"):
        upper.compile("sgd", "mse", schedule="in_turn")
    lower.cut.mix = 0.5
    with pytest.raises(ValueError, match=r"Train keras_sg.join\(lower, upper\). Received: a LowerModel and"):
        lower.compile("sgd")
    for evaluating in (
        lambda: lower.evaluate(X, Y),
        lambda: lower.test_on_batch(X, Y),
        lambda: lower.fit(X, Y, validation_data=(X, Y)),
        lambda: lower.fit(X, Y, validation_split=0.5),
    ):
        with pytest.raises(ValueError, match="The lower half has no loss to evaluate"):
            evaluating()
    with pytest.raises(ValueError, match="The true gradient is not known in the lower half"):
        lower.interface_gradients(X, Y)


def test_bad_messages():
    lower, upper = halves()
    first = lower.advance(X, Y)
    target, second = upper.teach(first, Y), lower.advance(X, Y)

    def refused(match, *args, **options):
        with pytest.raises(ValueError, match=match):
            lower.learn(*args, **options)

    refused("The target is that of another batch", second, Y, target)
    refused(
        r"gradient must have the shape \(20, 5\)", first, Y, target._replace(gradient=target.gradient[:, :2])
    )
    refused(
        r"loss must have the shape \(20,\), for what was sent has the shape \(20, 5\)",
        first,
        Y,
        target._replace(loss=target.loss[:3]),
    )
    refused(
        "learns from the gradient of each example, which the target", first, Y, target._replace(gradient=None)
    )
    refused("learns from the loss of each example, which the target", first, Y, target._replace(loss=None))
    refused("of another age than it may be", first, Y, target, max_age=1)
    refused("of another age", first._replace(step=99), Y, target._replace(step=99))
    refused("sees the label, so the lower half needs the labels", first, None, target)
    refused("A pair is what LowerModel.advance returned", X, Y, target)
    refused(
        r"as many labels as examples were sent, 20. Received: labels of the shape \(5,\)",
        first,
        Y[:5],
        target,
    )
    refused(r"Labels must lie in \[0, 3\)", first, Y + 1, target)
    with pytest.raises(ValueError, match="needs the labels of every batch"):
        lower.advance(X)
    with pytest.raises(ValueError, match=r"a Sent with h of the shape \(None, 5\). Received: \(20, 4\)"):
        upper.teach(keras_sg.Sent(X), Y)
    with pytest.raises(ValueError, match="Received: ndarray"):
        upper.teach(X, Y)
    lower.learn(first, Y, target, max_age=2)


def test_no_gradient_arrives():
    inputs = keras.Input((FEATURES,))
    h = keras_sg.SyntheticGradient(layers.Dense(5, name="cut"))(inputs)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(CLASSES)(keras.ops.stop_gradient(h)))
    lower, upper = keras_sg.split(model)
    lower.compile("sgd", **MODE)
    upper.compile("sgd", loss(), run_eagerly=True)
    if keras.backend.backend() == "jax":  # which knows no difference between that and zero
        assert not upper.teach(lower.advance(X), Y).gradient.any()
        return
    with pytest.raises(
        ValueError, match=r"No gradient arrives at the input of .*: nothing in the upper half"
    ):
        upper.teach(lower.advance(X), Y)


def test_bad_pairs():
    h = np.zeros((2, 1), "float32")
    for options in ({"batch_size": 0}, {"limit": 1.5}):
        with pytest.raises(ValueError, match="is a number of examples, an integer of at least 1"):
            keras_sg.Pairs(**options)
    pairs = keras_sg.Pairs()
    pairs.add(keras_sg.Sent(h), None, keras_sg.Target(h, None))
    with pytest.raises(ValueError, match="must all have the same parts"):
        pairs.add(keras_sg.Sent(h), [0, 1], keras_sg.Target(h, None))
    with pytest.raises(ValueError, match="as many labels as examples were sent, 2"):
        keras_sg.Pairs().add(keras_sg.Sent(h), [0, 1, 2], keras_sg.Target(h, None))
