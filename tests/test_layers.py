"""The interfaces as layers: what they build, what they leave alone, what crosses them."""

import keras
import numpy as np
import pytest
from backends import BACKEND, compiled
from keras import layers, ops

import keras_sg
from keras_sg import synthesizers

RNG = np.random.default_rng(0)


def weights_of(layer):
    return [w.copy() for w in layer.get_weights()]


def same(ours, theirs):
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs))


@pytest.mark.parametrize("interface", [keras_sg.SyntheticGradient, keras_sg.SyntheticLoss])
def test_identity_when_not_training(interface):
    block = layers.Dense(4, activation="relu")
    wrapped = interface(block, num_classes=3)
    x = RNG.normal(size=(3, 5)).astype("float32")
    expected = ops.convert_to_numpy(block(x))
    for found in (wrapped(x), wrapped(x, training=False)):
        np.testing.assert_array_equal(ops.convert_to_numpy(found), expected)


@pytest.mark.parametrize(
    "block, shape, interface_shape",
    [
        (layers.Dense(4), (5,), (None, 4)),
        (layers.Dense(4), (7, 5), (None, 7, 4)),
        (layers.LSTM(4, return_sequences=True), (7, 5), (None, 7, 4)),
        (layers.Conv2D(4, 3, padding="same"), (6, 6, 2), (None, 6, 6, 4)),
        (layers.Embedding(10, 4), (7,), (None, 7, 4)),
        (keras.Sequential([layers.Dense(3), layers.Dense(4)]), (5,), (None, 4)),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
@pytest.mark.parametrize("synthesizer", ["linear", "mlp"])
def test_every_variable_exists_after_build(block, shape, interface_shape, synthesizer):
    interface = keras_sg.SyntheticGradient(type(block).from_config(block.get_config()), synthesizer)
    interface.build((None, *shape))
    assert interface.synthesizer.compute_output_shape(interface_shape) == interface_shape
    count = len(interface.variables)
    interface(RNG.integers(0, 5, (2, *shape)).astype("float32"), training=True)
    assert len(interface.variables) == count


def test_name_and_policy_are_the_layers():
    interface = keras_sg.SyntheticGradient(layers.Dense(4, name="block1", dtype="mixed_bfloat16"))
    assert interface.name == "block1"
    assert interface.dtype_policy.name == "mixed_bfloat16"
    interface.build((None, 3))
    assert interface.synthesizer.dtype_policy.name == "mixed_bfloat16"
    assert keras_sg.SyntheticGradient(layers.Dense(4), name="first").name == "first"


def test_the_synthesizer_predicts_nothing_at_first_and_gets_no_say_in_the_module():
    interface = keras_sg.SyntheticGradient(layers.Dense(4))
    model = keras.Sequential([keras.Input((3,)), interface, layers.Dense(1)])
    assert not np.any(interface.synthesizer.get_weights()[0])
    before = weights_of(interface.layer)
    model.compile(keras.optimizers.SGD(0.5), "mse")
    model.train_on_batch(RNG.normal(size=(8, 3)), RNG.normal(size=(8, 1)))
    assert same(weights_of(interface.layer), before)
    assert np.any(interface.synthesizer.get_weights()[0])
    model.train_on_batch(RNG.normal(size=(8, 3)), RNG.normal(size=(8, 1)))
    assert not same(weights_of(interface.layer), before)


@pytest.mark.parametrize("interface", [keras_sg.SyntheticGradient, keras_sg.SyntheticLoss])
def test_batch_normalization_advances_once_a_step(interface):
    recipe = synthesizers.MLP((6,)) if interface is keras_sg.SyntheticGradient else synthesizers.Value((6,))
    block = keras.Sequential([layers.Dense(4), layers.BatchNormalization(momentum=0.9)])
    inputs = keras.Input((3,))
    wrapped = interface(block, recipe)
    outputs = layers.Dense(1)(wrapped(inputs))
    model_class = keras.Model if interface is keras_sg.SyntheticGradient else keras_sg.DecoupledModel
    model = model_class(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    x = RNG.normal(size=(8, 3)).astype("float32")
    model.train_on_batch(x, np.ones((8, 1)))

    dense, norm = block.layers
    before = ops.convert_to_numpy(dense(x))
    batch_mean = before.mean(axis=0)
    np.testing.assert_allclose(norm.moving_mean, 0.1 * batch_mean, rtol=1e-4, atol=1e-6)
    hidden, hidden_norm = wrapped.synthesizer.layers[:2]
    h = norm(ops.convert_to_tensor(before), training=True)
    np.testing.assert_allclose(
        hidden_norm.moving_mean, 0.01 * ops.convert_to_numpy(hidden(h)).mean(axis=0), rtol=1e-3, atol=1e-6
    )


def test_masks_pass_through():
    inputs = keras.Input((5,), dtype="int32")
    embedded = keras_sg.SyntheticGradient(layers.Embedding(10, 4, mask_zero=True, name="embedding"))(inputs)
    normed = keras_sg.SyntheticGradient(layers.LayerNormalization(name="norm"))(embedded)
    model = keras.Model(inputs, layers.Dense(1)(layers.LSTM(3)(normed)))
    plain = keras_sg.strip(model)
    x = np.array([[1, 2, 0, 0, 0], [3, 4, 5, 6, 7]])
    np.testing.assert_array_equal(*(ops.convert_to_numpy(network(x)) for network in (model, plain)))
    longer = np.array([[1, 2, 9, 9, 9], [3, 4, 5, 6, 7]])
    assert abs(ops.convert_to_numpy(model(x) - model(longer)))[0] > 1e-6

    seen = []

    class Spy(layers.Layer):
        supports_masking = True

        def call(self, x, mask=None):
            seen.append(mask)
            return x

    spied = keras.Model(inputs, Spy()(normed))
    spied(x, training=True)
    np.testing.assert_array_equal(np.asarray(seen[-1]), x != 0)


def test_a_list_of_inputs():
    a, b = keras.Input((4,)), keras.Input((4,))
    total = keras_sg.SyntheticGradient(layers.Add())([a, layers.Dense(4)(b)])
    model = keras.Model([a, b], layers.Dense(1)(total))
    model.compile("sgd", "mse")
    model.fit([np.ones((4, 4)), np.ones((4, 4))], np.ones((4, 1)), verbose=0)


def test_recipes_layers_models_and_callables_as_synthesizers():
    functional_input = keras.Input((4,))
    functional = keras.Model(functional_input, layers.Dense(4)(functional_input))
    for synthesizer in (
        "linear",
        synthesizers.MLP(widths=(3,), batch_normalization=False),
        layers.Dense(4, kernel_initializer="zeros"),
        keras.Sequential([layers.Dense(3, activation="tanh"), layers.Dense(4)]),
        functional,
        lambda shape: layers.Dense(shape[-1]),
        layers.Rescaling(0.0),
    ):
        interface = keras_sg.SyntheticGradient(layers.Dense(4), synthesizer)
        model = keras.Sequential([keras.Input((3,)), interface, layers.Dense(1)])
        model.compile(keras_sg.decoupled_optimizer("sgd", "adam"), "mse")
        model.fit(np.ones((4, 3)), np.ones((4, 1)), verbose=0)
        for variable in interface.synthesizer.trainable_variables:
            assert synthesizers.SCOPE in variable.path, variable.path
        rebuilt = type(interface).from_config(interface.get_config())
        rebuilt.build((None, 3))
        assert rebuilt.synthesizer.compute_output_shape((None, 4)) == (None, 4)


def test_a_built_synthesizer_is_copied_with_its_weights():
    given = layers.Dense(4)
    given.build((None, 4))
    interface = keras_sg.SyntheticGradient(layers.Dense(4), given)
    interface.build((None, 3))
    assert interface.synthesizer is not given
    assert same(interface.synthesizer.get_weights(), given.get_weights())
    assert len(interface.trainable_variables) == 4


@pytest.mark.parametrize("synthesizer", ["linear", "mlp", synthesizers.MLP((3,), False)], ids=str)
def test_config_round_trip(synthesizer):
    interface = keras_sg.SyntheticGradient(
        layers.Dense(4, name="block"), synthesizer, num_classes=5, loss="huber", mix=0.5
    )
    config = interface.get_config()
    again = keras_sg.SyntheticGradient.from_config(config)
    assert again.get_config() == config == interface.get_config()
    assert (again.num_classes, again.loss, again.mix) == (5, "huber", 0.5)


class Values:
    """The synthetic loss in NumPy: linear predictions, three modules, plain SGD."""

    def __init__(self, modules, synthesizers, rate):
        self.modules, self.synthesizers, self.rate = modules, synthesizers, rate

    def step(self, x, y, weight):
        batch = len(x)
        hidden = [x]
        for kernel, bias in self.modules[:-1]:
            hidden.append(np.tanh(hidden[-1] @ kernel + bias))
        kernel, bias = self.modules[-1]
        error = hidden[-1] @ kernel + bias - y
        # Of an example that counts once, times what it counts.
        predicted = [weight * (h @ k + b)[:, 0] for h, (k, b) in zip(hidden[1:], self.synthesizers)]
        targets = [predicted[1], weight * np.mean(error**2, axis=1)]
        # The last module takes the true gradient; the others descend the mean of their prediction.
        signals = [weight[:, None] @ k.T * (1 - h**2) for h, (k, _) in zip(hidden[1:], self.synthesizers)]
        signals.append(weight[:, None] * 2 * error / y.shape[1])
        self.modules = [
            (k - self.rate * h.T @ s / batch, b - self.rate * s.mean(0))
            for h, s, (k, b) in zip(hidden, signals, self.modules)
        ]
        misses = [2 * (weight * (p - t))[:, None] for p, t in zip(predicted, targets)]
        counted = np.count_nonzero(weight)
        self.synthesizers = [
            (k - self.rate * h.T @ m / counted, b - self.rate * m.sum(0) / counted)
            for h, m, (k, b) in zip(hidden[1:], misses, self.synthesizers)
        ]
        return predicted, targets


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"run_eagerly": True}, pytest.param({"jit_compile": True}, marks=compiled)], ids=str
)
def test_synthetic_loss_is_exact(options, weighted):
    check_synthetic_loss(options, weighted)


def test_synthetic_loss_mirrored(two_devices):
    with two_devices.scope():
        check_synthetic_loss({}, True)


def check_synthetic_loss(options, weighted):
    keras.utils.set_random_seed(0)
    inputs = h = keras.Input((6,))
    wrapped = []
    for units in (5, 4):
        wrapped.append(keras_sg.SyntheticLoss(layers.Dense(units, "tanh"), layers.Dense(1)))
        h = wrapped[-1](h)
    last = layers.Dense(3)
    model = keras_sg.DecoupledModel(inputs, last(h))
    model.compile(keras.optimizers.SGD(0.1), "mse", **options)

    as_pairs = lambda found: [tuple(np.array(w, "float64") for w in layer.get_weights()) for layer in found]
    found = [w.layer for w in wrapped] + [last], [w.synthesizer for w in wrapped]
    oracle = Values(*map(as_pairs, found), 0.1)
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(16, 6)).astype("float32"), rng.normal(size=(16, 3)).astype("float32")
    weight = np.linspace(0.5, 2, 16).astype("float32") * (np.arange(16) % 3 > 0) if weighted else None
    logs = model.fit(x, y, 8, epochs=4, shuffle=False, verbose=0, sample_weight=weight).history
    for _ in range(4):
        misses = []
        for at in (slice(8), slice(8, 16)):
            predicted, targets = oracle.step(x[at], y[at], weight[at] if weighted else np.ones(8))
            counts = weight[at] != 0 if weighted else slice(None)
            misses += [np.mean((p - t)[counts] ** 2) for p, t in zip(predicted, targets)]
    for ours, theirs in zip(map(as_pairs, found), (oracle.modules, oracle.synthesizers)):
        for a, b in zip(ours, theirs):
            np.testing.assert_allclose(a[0], b[0], rtol=0, atol=1e-5)
            np.testing.assert_allclose(a[1], b[1], rtol=0, atol=1e-5)
    np.testing.assert_allclose(logs["sg_loss"][-1], np.mean(misses), rtol=1e-3)


def test_conditional_synthetic_loss_with_two_outputs_and_loss_weights():
    inputs = keras.Input((6,))
    block = layers.Dense(5, activation="tanh")
    h = keras_sg.SyntheticLoss(block, synthesizers.Value((8,)))(inputs)
    model = keras_sg.DecoupledModel(
        inputs, {"a": layers.Dense(2, name="a")(h), "b": layers.Dense(1, name="b")(h)}
    )
    model.compile("sgd", {"a": "mse", "b": "mae"}, loss_weights={"a": 1.0, "b": 10.0})
    x = RNG.normal(size=(8, 6)).astype("float32")
    logs = model.fit(x, {"a": np.ones((8, 2)), "b": np.full((8, 1), 100.0)}, verbose=0).history
    # The target is the weighted loss, about 10 * 100; the prediction starts near zero.
    assert 0.5 * 1000**2 < logs["sg_loss"][0] < 2 * 1000**2


@pytest.mark.tensorflow
def test_convolutional_interface_against_finite_differences():
    """Target, module update and synthesizer update of a cut convolutional network, in float64."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    keras.utils.set_random_seed(0)
    batch, rate = 3, 0.1
    conv = layers.Conv2D(2, 3, padding="same", activation="tanh")
    synthesizer = layers.Conv2D(2, 3, padding="same")
    head = keras.Sequential([layers.AveragePooling2D(2), layers.Flatten(), layers.Dense(2)])
    inputs = keras.Input((4, 4, 1))
    interface = keras_sg.SyntheticGradient(conv, synthesizer)
    model = keras_sg.DecoupledModel(inputs, head(interface(inputs)))
    model.compile(keras.optimizers.SGD(rate), "mse")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(batch, 4, 4, 1)), rng.normal(size=(batch, 2))
    h = np.asarray(conv(x))
    g = np.asarray(synthesizer(h))
    kernel = weights_of(conv)[0]
    synthesizer_kernel = weights_of(synthesizer)[0]

    def differences(function, at, step=1e-6):
        found = np.zeros_like(at)
        for index in np.ndindex(at.shape):
            moved = [at.copy(), at.copy()]
            moved[0][index] += step
            moved[1][index] -= step
            found[index] = (function(moved[0]) - function(moved[1])) / (2 * step)
        return found

    target = batch * differences(lambda h: np.mean((np.asarray(head(h)) - y) ** 2), h)

    def module_surrogate(k):  # its derivative is the synthetic gradient carried into the kernel
        return np.sum(np.asarray(ops.tanh(ops.conv(x, k, padding="same"))) * g) / batch

    def regression(k):
        return np.mean((np.asarray(ops.conv(h, k, padding="same")) - target) ** 2)

    to_module = differences(module_surrogate, kernel)
    to_synthesizer = differences(regression, synthesizer_kernel)
    logs = model.train_on_batch(x, y, return_dict=True)
    np.testing.assert_allclose(logs["sg_loss"], np.mean((g - target) ** 2), rtol=1e-6)
    np.testing.assert_allclose(kernel - weights_of(conv)[0], rate * to_module, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(
        synthesizer_kernel - weights_of(synthesizer)[0], rate * to_synthesizer, rtol=1e-5, atol=1e-9
    )


def dice(y, p, axes=(1, 2, 3)):
    return (2 * (y * p).sum(axes) + 1e-7) / (y.sum(axes) + p.sum(axes) + 1e-7)


def cosines(y, p, axis=1):
    return (y * p).sum(axis) / np.linalg.norm(y, axis=axis) / np.linalg.norm(p, axis=axis)


@pytest.mark.parametrize(
    "shape, loss, values",
    [
        ((6, 3), "mse", lambda y, p: np.mean((y - p) ** 2, axis=-1)),
        ((6, 6, 3), "mse", lambda y, p: np.mean((y - p) ** 2, axis=(1, 2))),
        ((6, 5, 3), "mse", lambda y, p: np.mean((y - p) ** 2, axis=(1, 2))),
        (
            (6, 5, 3),
            lambda y, p: ops.max(ops.square(y - p), (1, 2)),
            lambda y, p: np.max((y - p) ** 2, (1, 2)),
        ),
        ((6, 4, 6, 3), "mae", lambda y, p: np.mean(np.abs(y - p), axis=(1, 2, 3))),
        ((6, 5, 4, 3), "mae", lambda y, p: np.mean(np.abs(y - p), axis=(1, 2, 3))),
        ((6, 6, 4, 3), keras.losses.Dice(axis=(1, 2, 3)), lambda y, p: 1 - dice(y, p)),
        ((6, 6, 3), keras.losses.CosineSimilarity(axis=1), lambda y, p: -np.mean(cosines(y, p), axis=-1)),
    ],
)
def test_loss_of_each_example(shape, loss, values):
    """Also where a loss is one value a position, and as many positions as examples."""
    inputs = keras.Input(shape[1:])
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3)(inputs))
    model.compile("sgd", loss)
    y, p = RNG.uniform(size=(2, *shape)).astype("float32")
    with keras.StatelessScope():
        _, per_example = model._loss_per_example(None, y, ops.convert_to_tensor(p), None, 6)
    np.testing.assert_allclose(per_example, values(y, p), rtol=1e-5)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_predicted_loss_that_knows_nothing_of_the_interface(frozen):
    """Its gradient is zero: the module stays, and what there is of the synthesizer learns."""

    class Constant(layers.Layer):
        def build(self, shape):
            self.guess = self.add_weight(shape=(), initializer="zeros", trainable=not frozen)

        def call(self, h):
            return ops.zeros_like(h[:, 0]) + self.guess

    inputs = keras.Input((6,))
    cut = keras_sg.SyntheticLoss(layers.Dense(5), Constant(), sobolev=True)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(1)(cut(inputs)))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = weights_of(cut.layer)
    model.train_on_batch(np.ones((4, 6)), np.full((4, 1), 3.0))
    assert same(weights_of(cut.layer), before)
    assert (cut.synthesizer.get_weights()[0] > 0) != frozen


@pytest.mark.tensorflow
def test_synthetic_loss_in_double_precision_and_with_partial_weights():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    inputs = keras.Input((6,))
    h = keras_sg.SyntheticLoss(layers.Dense(5), layers.Dense(1))(inputs)
    model = keras_sg.DecoupledModel(inputs, {"a": layers.Dense(2)(h), "b": layers.Dense(1)(h)})
    model.compile("sgd", "mse")
    y = {"a": np.ones((8, 2)), "b": np.ones((8, 1))}
    model.fit(RNG.normal(size=(8, 6)), y, sample_weight={"a": np.ones(8), "b": None}, verbose=0)


def test_output_shape_is_the_layers():
    class Doubling(layers.Layer):  # says nothing of its output shape
        def call(self, x):
            return ops.concatenate([x, x], axis=-1)

    assert keras_sg.SyntheticGradient(layers.Dense(4)).compute_output_shape((None, 8)) == (None, 4)
    assert keras_sg.SyntheticGradient(Doubling()).compute_output_shape((None, 8)) == (None, 16)


def test_numpy_numbers_are_numbers():
    recipe = synthesizers.MLP(widths=(np.int64(3),))
    interface = keras_sg.SyntheticGradient(
        layers.Dense(4), recipe, num_classes=np.int64(3), mix=np.float32(0.5)
    )
    config = interface.get_config()
    assert (type(config["num_classes"]), type(config["mix"])) == (int, float)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_a_conditional_convolutional_interface(data_format, tmp_path):
    """The label arrives as channel masks; both formats learn the same, and are saved."""
    first = data_format == "channels_first"
    keras.utils.set_random_seed(0)
    inputs = keras.Input((2, 6, 6) if first else (6, 6, 2))
    recipe = synthesizers.Conv(depth=1, filters=4, kernel_size=3, data_format=data_format)
    block = layers.Conv2D(3, 3, padding="same", data_format=data_format)
    cut = keras_sg.SyntheticGradient(block, recipe, num_classes=4)
    pool = layers.GlobalAveragePooling2D(data_format=data_format)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(4)(pool(cut(inputs))))
    # On a CPU, TensorFlow convolves channels-first under XLA only.
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, jit_compile=BACKEND != "torch")
    kernel = cut.synthesizer.layers[0].kernel
    assert kernel.shape == (3, 3, 3 + 4, 4)
    x = np.random.default_rng(0).normal(size=(8, 6, 6, 2)).astype("float32")
    x = np.moveaxis(x, -1, 1) if first else x
    history = model.fit(x, np.arange(8) % 4, batch_size=8, epochs=40, verbose=0).history
    assert history["sg_cosine"][-1] > 0.5 and np.isfinite(history["loss"]).all()
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.interfaces[0].synthesizer.layers[0].data_format == data_format
