"""Bad input: what each error says."""

import re
import warnings

import keras
import numpy as np
import pytest
from backends import BACKEND
from keras import layers, ops
from models import Hiding

import keras_sg
from keras_sg import SyntheticGradient, SyntheticLoss, decouple, strip
from keras_sg.gradients import replace_gradient

X = np.ones((8, 4), "float32")
LABELS = np.zeros(8, "int64")


def build(interface, shape=(4,)):
    interface.build((None, *shape))


class TwoOutputs(layers.Layer):
    def call(self, x):
        return x, x


class Summed(layers.Layer):
    def call(self, x):
        return ops.sum(x, axis=-1)


class Rounded(layers.Layer):
    def call(self, x):
        return ops.cast(x, "int32")


WRONG_ARGUMENTS = {
    "synthesizer id": (
        lambda: SyntheticGradient(layers.Dense(3), "quadratic"),
        "Unknown synthesizer.*'conv', 'critic', 'error', 'feedback', 'linear', 'mlp', 'value'.*"
        "Received: 'quadratic' .of type str",
    ),
    "synthesizer configuration": (
        lambda: SyntheticGradient(layers.Dense(3), {"name": "mlp", "widths": [8]}),
        "Unknown synthesizer.*Received: {'name': 'mlp', 'widths': \\[8\\]} .of type dict",
    ),
    "synthesizer class": (
        lambda: SyntheticGradient(layers.Dense(3), keras_sg.synthesizers.MLP),
        "Unknown synthesizer.*of type type",
    ),
    "synthesizer widths": (
        lambda: keras_sg.synthesizers.MLP(widths=(16, 0)),
        r"positive integers.*Received: widths=\(16, 0\)",
    ),
    "synthesizer rank": (
        lambda: keras_sg.synthesizers.Linear(rank=0),
        "`rank` must be an integer of at least 1.*Received: rank=0",
    ),
    "synthesizer rank type": (lambda: keras_sg.synthesizers.Linear(rank=2.0), "Received: rank=2.0"),
    "synthesizer callable": (
        lambda: build(SyntheticGradient(layers.Dense(3), lambda shape: "dense")),
        r"must return a Keras layer.*Received: 'dense' .of type str. for shape \(None, 3\)",
    ),
    "synthesizer shape": (
        lambda: build(SyntheticGradient(layers.Dense(3), layers.Dense(7))),
        r"interface's shape, \(None, 3\).*output of shape \(None, 7\)",
    ),
    "synthetic loss shape": (
        lambda: build(SyntheticLoss(layers.Dense(3), layers.Dense(3))),
        r"\(None,\) or \(None, 1\), at an interface of shape \(None, 3\).*output of shape \(None, 3\)",
    ),
    "several outputs": (
        lambda: build(SyntheticGradient(TwoOutputs())),
        "is one tensor, but.*has several outputs",
    ),
    "rank 1": (
        lambda: build(SyntheticGradient(Summed())),
        r"has shape \(batch, \.\.\., features\).*output of shape \(None,\)",
    ),
    "integers": (lambda: build(SyntheticGradient(Rounded())), "floating point.*output of dtype int32"),
    "several inputs": (
        lambda: SyntheticGradient(layers.MultiHeadAttention(2, 3))(keras.Input((4, 5)), keras.Input((4, 5))),
        "called with one input.*of type MultiHeadAttention",
    ),
    "not a layer": (
        lambda: SyntheticGradient("dense"),
        "wraps a Keras layer or model. Received: layer='dense'",
    ),
    "an interface": (
        lambda: SyntheticGradient(SyntheticGradient(layers.Dense(3, name="block"))),
        "'block' is an interface already",
    ),
    "num_classes 1": (
        lambda: SyntheticGradient(layers.Dense(3), num_classes=1),
        "`num_classes` must be None .unconditional. or an integer of at least 2.*num_classes=1 ",
    ),
    "num_classes type": (
        lambda: SyntheticGradient(layers.Dense(3), num_classes="10"),
        "num_classes='10' .of type str",
    ),
    "mix": (
        lambda: SyntheticGradient(layers.Dense(3), mix=1.5),
        "share of the synthetic gradient.*from 0 .* to 1 .*Received: mix=1.5",
    ),
    "mix type": (lambda: SyntheticGradient(layers.Dense(3), mix="all"), "Received: mix='all' .of type str"),
    "loss": (
        lambda: SyntheticGradient(layers.Dense(3), loss="crossentropy"),
        r"Unknown regression loss.*\['huber', 'mae', 'mse'\]. Received: loss='crossentropy'",
    ),
    "primitive loss": (lambda: replace_gradient(X, X, loss=None), "Received: loss=None .of type NoneType"),
    "primitive shapes": (
        lambda: replace_gradient(X, X[:, :2]),
        r"h of shape \(8, 4\), synthetic of shape \(8, 2\)",
    ),
    "sobolev": (
        lambda: SyntheticLoss(layers.Dense(3), num_classes=3, sobolev="no"),
        "must be True or False.*'no'",
    ),
    "update period": (
        lambda: SyntheticGradient(layers.Dense(3), update_period=0),
        "in which steps the synthesizer learns.*update_period=0 .of type int",
    ),
    "report interfaces": (
        lambda: keras_sg.DecoupledModel(x := keras.Input((4,)), layers.Dense(3)(x), report_interfaces=8),
        "`report_interfaces` says whether.*None .up to 8 interfaces.*report_interfaces=8 .of type int",
    ),
    "data format": (
        lambda: keras_sg.synthesizers.Critic(data_format="NCHW"),
        "must be 'channels_last' or.*'NCHW'",
    ),
    "optimizer": (lambda: keras_sg.decoupled_optimizer("adam", synthesizer=1e-4), "`synthesizer`.*0.0001"),
    "wrapped optimizer": (
        lambda: keras_sg.decoupled_optimizer(keras_sg.decoupled_optimizer()),
        "`optimizer`.*not one that wraps others",
    ),
}


@pytest.mark.parametrize("case", WRONG_ARGUMENTS)
def test_arguments(case):
    make, message = WRONG_ARGUMENTS[case]
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        make()


def test_a_recipe_without_a_layer():
    class Mine(keras_sg.synthesizers.Synthesizer):
        pass

    with pytest.raises(NotImplementedError, match=r"returns a Keras layer: implement __call__.*of type Mine"):
        build(SyntheticGradient(layers.Dense(3), Mine()))


def conditional(model_class, interface=SyntheticGradient, num_classes=3, loss="mse", **options):
    inputs = keras.Input((4,))
    synthesizer = "value" if interface is SyntheticLoss else "linear"
    block = interface(layers.Dense(3, name="block"), synthesizer, num_classes=num_classes)
    model = model_class(inputs, layers.Dense(3)(block(inputs)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True) if loss == "sparse" else loss
    model.compile("sgd", loss, **options)
    return model


@pytest.mark.parametrize(
    "interface, num_classes, message",
    [
        (SyntheticGradient, 3, "The conditional interface 'block'.*num_classes=3.*DecoupledModel"),
        (SyntheticLoss, None, "'block' learns from the prediction.*DecoupledModel"),
    ],
)
@pytest.mark.parametrize("call", ["sampling", "distillation"])
def test_training_calls_that_no_step_of_ours_makes(interface, num_classes, message, call):
    """They say what to do: sample from the stripped network, put a loss of one's own into compute_loss."""
    model = conditional(keras_sg.DecoupledModel, interface, num_classes)
    if call == "sampling":
        run = lambda: model(X, training=True)
    else:
        loss = keras.distillation.LogitsDistillation()
        distiller = keras.distillation.Distiller(strip(model), model, loss)
        distiller.compile("sgd", "mse")
        run = lambda: distiller.fit(X, np.eye(3)[LABELS], verbose=0)
    message += r".*compute_loss of a subclass.*keras_sg\.strip\(model\)\(x, training=True\)"
    sampled = ops.convert_to_numpy(strip(model)(X, training=True))
    np.testing.assert_allclose(sampled, ops.convert_to_numpy(model(X)), rtol=1e-6)
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        run()


@pytest.mark.parametrize(
    "interface, num_classes, message",
    [
        (SyntheticGradient, 3, "The conditional interface 'block'.*num_classes=3.*DecoupledModel"),
        (SyntheticLoss, None, "'block' learns from the prediction.*DecoupledModel"),
    ],
)
def test_trained_outside_a_decoupled_model(interface, num_classes, message):
    model = conditional(keras.Model, interface, num_classes)
    with pytest.raises(ValueError, match=message):
        model.fit(X, np.ones((8, 3)), verbose=0)


def test_no_trainer_for_this_backend():
    """What `DecoupledModel` is mixed with on a backend without a trainer."""
    from keras_sg._trainers.missing import MissingTrainer

    expected = rf"trains on the backends 'tensorflow', 'jax' and 'torch'.*the backend '{BACKEND}'"
    with pytest.raises(NotImplementedError, match=expected):
        MissingTrainer(None, None)


@pytest.mark.skipif(BACKEND != "torch", reason=f"an error of the torch backend, not {BACKEND}")
def test_no_compiled_training_on_torch():
    model = conditional(keras_sg.DecoupledModel, jit_compile=True)
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"trains eagerly on PyTorch.*'tensorflow' or 'jax'"):
        model.fit(X, np.eye(3)[np.arange(8) % 3], verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))


@pytest.mark.skipif(BACKEND != "torch", reason=f"an error of the torch backend, not {BACKEND}")
@pytest.mark.parametrize("wrapped", [True, False], ids=["wrapped", "distribution"])
def test_no_training_in_several_processes_on_torch(wrapped, monkeypatch):
    model = conditional(keras_sg.DecoupledModel)
    if wrapped:  # what Keras from 3.16 on does in a process of a group
        vars(model)["ddp_model"] = model
    else:
        monkeypatch.setattr(keras.distribution, "distribution", lambda: "a distribution")
    before = model.get_weights()
    with pytest.raises(
        ValueError, match=r"in one process on PyTorch.*several processes with KERAS_BACKEND='jax'"
    ):
        model.fit(X, np.eye(3)[np.arange(8) % 3], verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))


WRONG_LABELS = {
    "rank 3": (np.ones((8, 3, 1)), r"labels of shape .*3, 1\)"),
    "no whole numbers": (np.full(8, 0.5), r"\[0, 3\).*labels from 0.5 to 0.5, 8 of them wrong, as \[0.5\]"),
    "one-hot width": (np.ones((8, 5)), "num_classes=3.*rows of 5 numbers, where there are 3 classes"),
    "token ids": (
        np.array([[0, 1, 2]] * 8),
        r"sum to one.*sums from 3 to 3, 8 of them wrong, as \[0 1 2\]",
    ),
    "larger than 32 bits": (np.full(8, 2**32), rf"\[0, 3\).*labels from {2**32} to {2**32}"),
    "multi-hot": (np.array([[0, 1, 1]] * 8), r"sum to one.*several ones.*pass label_size"),
    "unnormalised": (np.full((8, 3), 0.7), r"sum to one.*pass label_size"),
    "strings": (np.array(["a"] * 8), "labels of shape .* and dtype str"),
    "two targets": ({"a": np.ones(8), "b": np.ones(8)}, "override `DecoupledModel.labels_from"),
}


@pytest.mark.parametrize("case", WRONG_LABELS)
def test_labels(case):
    labels, message = WRONG_LABELS[case]
    model = conditional(keras_sg.DecoupledModel)
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        model.fit(X, labels, verbose=0)


@pytest.mark.tensorflow  # Keras itself has no word for it on JAX, and no step without targets.
def test_no_labels():
    model = conditional(keras_sg.DecoupledModel)
    with pytest.raises(ValueError, match=r"Received: None .of type NoneType"):
        model.fit(X, verbose=0)


@pytest.mark.parametrize("bad", [3, -1])
def test_labels_out_of_range_are_found_before_training_in_arrays(bad):
    labels = np.array([0, 1, 2, bad, 0, 0, 0, 0])
    model = conditional(keras_sg.DecoupledModel, loss="sparse", jit_compile=True)
    before = model.get_weights()
    with pytest.raises(ValueError, match=rf"(?s)\[0, 3\).*labels from {min(labels)} to {max(labels)}"):
        model.fit(X, labels, verbose=0)
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)


@pytest.mark.tensorflow
@pytest.mark.parametrize("eager", [False, True])
def test_labels_out_of_range_are_found_in_the_first_step_of_a_data_set(eager):
    import tensorflow as tf

    # The loss knows four classes; only the interface was told of three.
    inputs = keras.Input((4,))
    block = SyntheticGradient(layers.Dense(3, name="block"), num_classes=3)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(4)(block(inputs)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=eager)
    data = tf.data.Dataset.from_tensors((X, np.full(8, 3)))
    before = model.get_weights()
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"Labels must lie in \[0, 3\)") as found:
        model.fit(data, shuffle=False, verbose=0)
    # As an error about an array reads, with nothing of the graph around it.
    assert isinstance(found.value, ValueError) and "Detected at node" not in str(found.value)
    assert "labels from 3 to 3" in str(found.value)
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(BACKEND != "jax", reason="on JAX, labels are looked at on their way into the step")
@pytest.mark.parametrize("steps", [1, 2])
def test_labels_out_of_range_are_found_in_a_data_set_on_jax(steps):
    model = conditional(keras_sg.DecoupledModel, loss="sparse", steps_per_execution=steps)
    good = X, np.arange(8) % 3
    batches = lambda *found: (batch for batch in found)
    model.fit(batches(good, good), steps_per_epoch=2, shuffle=False, verbose=0)
    with pytest.raises(ValueError, match=r"Labels must lie in \[0, 3\).*labels from 3 to 3"):
        model.fit(batches(good, (X, np.full(8, 3))), steps_per_epoch=2, shuffle=False, verbose=0)


@pytest.mark.skipif(BACKEND != "torch", reason="on torch, every step can look at its labels")
def test_labels_out_of_range_are_found_in_a_step_on_torch():
    model = conditional(keras_sg.DecoupledModel, loss="sparse")
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"Labels must lie in \[0, 3\).*labels from 3 to 3"):
        model.train_on_batch(X, np.full(8, 3))
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)


@pytest.mark.tensorflow
def test_labels_out_of_range_are_not_learned_from_unnoticed_under_xla():
    import tensorflow as tf

    model = conditional(keras_sg.DecoupledModel, loss="sparse", jit_compile=True)
    data = tf.data.Dataset.from_tensors((X, np.full(8, 3)))
    logs = model.fit(data, shuffle=False, verbose=0).history
    assert np.isnan(logs["sg_loss"][0])


@pytest.mark.skipif(BACKEND == "jax", reason="on JAX, a gradient of zero arrives where there is none")
@pytest.mark.parametrize(
    "interface, message",
    [
        (SyntheticGradient, "No gradient arrives at interface 'block'.*Compile the model with a loss"),
        (SyntheticLoss, "nothing behind them to learn from.*no loss per example.*takes no sample weights"),
    ],
)
def test_nothing_to_learn_from(interface, message):
    model = conditional(keras_sg.DecoupledModel, interface, loss=None)
    with pytest.raises(ValueError, match=message):
        model.fit(X, LABELS, verbose=0)


@pytest.mark.parametrize("reduction", ["mean_with_sample_weight", "sum", None])
def test_a_loss_that_is_no_mean(reduction):
    loss = keras.losses.MeanSquaredError(reduction=reduction)
    model = conditional(keras_sg.DecoupledModel, SyntheticLoss, None, loss=loss)
    with pytest.raises(
        ValueError, match=rf"training loss must be the mean of.*reduction={reduction!r} \(mean_squared"
    ):
        model.fit(X, np.ones((8, 3)), verbose=0)


@pytest.mark.parametrize(
    "loss, shape",
    [
        (keras.losses.Dice(), r"\(\)"),
        (keras.losses.CosineSimilarity(axis=0), r"\(3,\)"),
        (lambda y, p: y[0, 0] - p[0, 0], r"\(\)"),
    ],
    ids=["dice", "cosine", "a function"],
)
def test_a_loss_without_a_loss_per_example(loss, shape):
    model = conditional(keras_sg.DecoupledModel, SyntheticLoss, None, loss=loss)
    with pytest.raises(ValueError, match=f"one for all of a batch.*whose values have the shape {shape}"):
        model.fit(X, np.ones((8, 3)), verbose=0)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("interface", [SyntheticGradient, SyntheticLoss])
def test_interface_on_the_output(interface, nested):
    inputs = keras.Input((4,))
    layer = interface(layers.Dense(3, name="block"), num_classes=3)
    layer = keras.Sequential([layers.Dense(4), layer]) if nested else layer
    with pytest.raises(ValueError, match=r"'block' is an output of the model.*shape \(None, 3\)"):
        keras_sg.DecoupledModel(inputs, layer(inputs))


def toy():
    inputs = keras.Input((4,))
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="deep")], name="inner")
    shared = layers.Dense(4, name="shared")
    h = layers.Dense(4, name="block")(shared(shared(inner(inputs))))
    return keras.Model(inputs, layers.Dense(2, name="last")(h), name="toy")


class Subclassed(keras.Model):
    def call(self, x):
        return x


WRONG_SURGERY = {
    "unknown names": (
        lambda: decouple(toy(), after=["block", "blok", "inner/dep"]),
        r"no layers \['blok', 'inner/dep'\]\. Its layers are .'inner', 'inner/deep', .*'last'",
    ),
    "no names": (
        lambda: decouple(toy(), after=[]),
        r"names no layer to cut behind.*'block'.*Received: after=\[\]",
    ),
    "subclassed": (
        lambda: decouple(Subclassed(), after=["a"]),
        "Functional and Sequential.*of type Subclassed",
    ),
    "not a model": (
        lambda: decouple(layers.Dense(3), after=["a"]),
        "Functional and Sequential.*of type Dense",
    ),
    "unbuilt": (
        lambda: decouple(keras.Sequential([layers.Dense(3, name="a")]), after=["a"]),
        "is not built.*unbuilt model of type Sequential",
    ),
    "used twice": (
        lambda: decouple(toy(), after=["shared"]),
        "'shared' is used 2 times in model 'toy'.*several interfaces at once",
    ),
    "decoupled already": (
        lambda: decouple(decouple(toy(), after=["block"]), after=["inner"]),
        r"decoupled already, at \['block'\].*keras_sg.strip",
    ),
    "own output": (lambda: decouple(toy(), after=["last"]), "'last' is an output of the model"),
    "interface": (lambda: decouple(toy(), after=["block"], interface="sg"), "`interface` must be.*'sg'"),
    "strip subclassed": (
        lambda: strip(Subclassed()),
        "keras_sg.strip works on Functional.*of type Subclassed",
    ),
    "strip hidden": (
        lambda: strip(
            keras.Sequential([keras.Input((4,)), Hiding(SyntheticGradient(layers.Dense(4, name="h")))])
        ),
        "'h' sits inside a layer that is neither.*cannot be taken out",
    ),
}


@pytest.mark.parametrize("case", WRONG_SURGERY)
def test_surgery(case):
    make, message = WRONG_SURGERY[case]
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        make()


def test_an_interface_inside_time_distributed():
    inputs = keras.Input((5, 4))
    h = layers.TimeDistributed(SyntheticGradient(layers.Dense(3, name="inner")), name="outer")(inputs)
    with pytest.raises(ValueError, match=r"'inner' sits inside keras.layers.TimeDistributed.*'outer'"):
        keras_sg.DecoupledModel(inputs, layers.Dense(2)(h))


@pytest.mark.skipif(BACKEND != "jax", reason="plain Keras rematerializes on JAX alone")
def test_remat_scope():
    """Around an interface and a model it works; around a model in a model it cannot."""
    inputs = keras.Input((4,))
    weights = []
    for mode in (None, "full"):
        keras.utils.set_random_seed(0)
        with keras.RematScope(mode=mode):
            block = SyntheticGradient(layers.Dense(3, "tanh"), num_classes=3)
            model = keras_sg.DecoupledModel(inputs, layers.Dense(3)(block(inputs)))
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(X, LABELS, verbose=0)
        weights.append(model.get_weights())
    for a, b in zip(*weights):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    with keras.RematScope(mode="full"):
        nested = keras.Model(
            inputs, layers.Dense(3)(SyntheticGradient(layers.Dense(3, name="inner"))(inputs))
        )
    with pytest.raises(ValueError, match="'inner' sits inside a layer that was made in a keras"):
        keras_sg.DecoupledModel(inputs, nested(inputs))


class Silent(keras.Model):
    def __init__(self, **options):
        super().__init__()
        self.block, self.top = SyntheticGradient(layers.Dense(3, name="block"), **options), layers.Dense(3)

    def call(self, x):
        return self.top(self.block(x))


def test_a_model_that_does_not_say_that_it_trains():
    model = Silent()
    with pytest.warns(
        UserWarning, match=r"'block' is idle: the `call` of model .* \(of type Silent\) takes no"
    ):
        model(X)
    model.compile("sgd", "mse")  # once is enough
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Interface")
        warnings.filterwarnings("ignore", "Gradients do not exist")
        model.fit(X, np.ones((8, 3)), verbose=0)


def test_a_critic_of_positions_with_features_first():
    with pytest.raises(
        ValueError, match=r"needs the features last.*per_position=True with data_format='channels_first'"
    ):
        keras_sg.synthesizers.Critic(per_position=True, data_format="channels_first")
