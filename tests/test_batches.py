"""Containers: what Keras's `fit` takes, everything of ours takes, and reads in the same way."""

import re

import keras
import numpy as np
import pytest
from backends import BACKEND
from keras import layers

import keras_sg
from keras_sg import callbacks

# What Keras says of a list or a dictionary for a model with one input.
pytestmark = pytest.mark.filterwarnings("ignore:The structure of `inputs`:UserWarning")

N = 8
RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(N, 4)).astype("float32"), RNG.normal(size=(N, 2)).astype("float32")
LABELS, VALUES, WEIGHTS = np.arange(N) % 3, B[:, :1], np.linspace(0.5, 2.0, N).astype("float32")


def network(kind, wrap=lambda layer: layer, model_class=keras.Model, **options):
    """Inputs `b` and `a`, outputs `v` and `c`, in no alphabetical order; or `a` and `c` alone."""
    keras.utils.set_random_seed(0)
    inputs = [keras.Input((2,), name="b"), keras.Input((4,), name="a")]
    losses = {"v": "mse", "c": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
    if kind == "single":
        inputs, losses = inputs[1], {"c": losses["c"]}
    h = wrap(layers.Dense(5, "tanh", name="block"))(
        layers.Concatenate()(inputs) if kind != "single" else inputs
    )
    outputs = {name: layers.Dense({"v": 1, "c": 3}[name], name=name)(h) for name in losses}
    if kind != "named":
        outputs = list(outputs.values())
    model = model_class(inputs, outputs[0] if kind == "single" else outputs, **options)
    seeded = np.random.default_rng(1)
    for name in ("block", *losses):
        layer = getattr(model.get_layer(name), "layer", model.get_layer(name))
        layer.set_weights([seeded.normal(size=w.shape) for w in layer.get_weights()])
    loss = losses["c"] if kind == "single" else losses
    model.compile("sgd", loss, run_eagerly=BACKEND != "jax", jit_compile=False)
    return model


def cut(kind, interface=keras_sg.SyntheticGradient):
    wrap = lambda layer: interface(layer, num_classes=3)
    options = {} if kind == "single" else {"labels_from": lambda y: y["c"] if isinstance(y, dict) else y[1]}
    return network(kind, wrap, keras_sg.DecoupledModel, **options)


class OneBatch(keras.utils.PyDataset):
    def __init__(self, *batch):
        super().__init__()
        self.batch = batch

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.batch


def table(make):
    """`make(pandas)`, where that is installed."""
    return lambda: make(pytest.importorskip("pandas"))


def torch_loader():
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.tensor(A), torch.tensor(LABELS))
    return (torch.utils.data.DataLoader(data, batch_size=N),)


def tf_data():
    tf = pytest.importorskip("tensorflow")
    return (tf.data.Dataset.from_tensors(({"a": A}, LABELS, WEIGHTS)),)


def sparse_matrix():
    return pytest.importorskip("scipy.sparse").csr_matrix(A), LABELS


SINGLE = {
    "arrays": lambda: (A, LABELS, WEIGHTS),
    "other dtypes": lambda: (A.astype("float64"), LABELS.astype("uint8"), WEIGHTS.astype("float64")),
    "an axis more": lambda: (A[..., None], LABELS[:, None]),
    "lists": lambda: ([A], [LABELS], [WEIGHTS]),
    "dictionaries": lambda: ({"z": B, "a": A}, [LABELS], [WEIGHTS]),
    "a dictionary and arrays": lambda: ({"a": A}, (LABELS,), WEIGHTS),
    "a sparse matrix": sparse_matrix,
    "tables": table(lambda pd: (pd.DataFrame(A), pd.DataFrame({"y": LABELS}), pd.Series(WEIGHTS))),
    "columns": table(lambda pd: (pd.DataFrame(A), pd.Series(LABELS, index=range(N, 0, -1)))),
    "tables by name": table(lambda pd: ({"a": pd.DataFrame(A)}, [pd.DataFrame(LABELS)])),
    "a generator": lambda: (((A, LABELS) for _ in range(4)),),
    "a PyDataset": lambda: (OneBatch({"a": A}, LABELS, WEIGHTS),),
    "tf.data": tf_data,
    "a DataLoader": torch_loader,
}
SEVERAL = {
    "lists": lambda: ([B, A], [VALUES, LABELS]),
    "tuples": lambda: ((B, A), (VALUES, LABELS), (WEIGHTS, 2 * WEIGHTS)),
    "dictionaries": lambda: ({"a": A, "b": B}, {"c": LABELS, "v": VALUES}),
    "a list and a weight": lambda: ([B, A], [VALUES, LABELS], WEIGHTS),
    "tables": table(lambda pd: ({"a": pd.DataFrame(A), "b": B}, {"v": VALUES, "c": pd.DataFrame(LABELS)})),
}
NAMED = {  # outputs that are a dictionary, too
    "dictionaries": lambda: ({"a": A, "b": B}, {"c": LABELS, "v": VALUES}, {"v": 2 * WEIGHTS, "c": WEIGHTS}),
    "dictionaries and a weight": lambda: ({"a": A, "b": B}, {"v": VALUES, "c": LABELS}, WEIGHTS),
}
KINDS = {"single": SINGLE, "several": SEVERAL, "named": NAMED}
CASES = [(kind, name) for kind, cases in KINDS.items() for name in cases]


def fit(model, x, y=None, sample_weight=None):
    options = {} if y is None else {"batch_size": N, "sample_weight": sample_weight}
    return model.fit(x, y, shuffle=False, steps_per_epoch=1, verbose=0, **options).history["loss"]


@pytest.mark.parametrize("kind, name", CASES)
def test_fit_takes_what_plain_fit_takes(kind, name):
    expected = fit(network(kind), *KINDS[kind][name]())
    np.testing.assert_allclose(
        fit(cut(kind, keras_sg.SyntheticLoss), *KINDS[kind][name]()), expected, rtol=1e-5
    )


@pytest.mark.parametrize("kind, name", CASES)
def test_interface_gradients_take_what_fit_takes(kind, name):
    """The true gradient is the one by which `fit` moves the biases of the plain network, d tanh = 1 - h^2."""
    plain, model = network(kind), cut(kind)
    kernel, bias = plain.get_layer("block").get_weights()
    h = np.tanh((np.concatenate([B, A], axis=1) if kind != "single" else A) @ kernel + bias)
    fit(plain, *KINDS[kind][name]())
    moved = (bias - plain.get_layer("block").get_weights()[1]) / 0.01
    _, true = model.interface_gradients(*KINDS[kind][name]())["block"]
    np.testing.assert_allclose(np.mean(true * (1 - h**2), axis=0), moved, rtol=1e-3, atol=1e-4)
    assert np.abs(moved).max() > 1e-2


@pytest.mark.parametrize("name", ["tables", "a generator", "tf.data", "lists"])
def test_a_probe_is_what_fit_takes(name):
    """And is read once: a generator has one first batch."""
    probe = callbacks.GradientAlignment(*SINGLE[name]())
    history = cut("single").fit(A, LABELS, epochs=2, verbose=0, callbacks=[probe]).history
    assert np.isfinite(history["block_alignment_cosine"]).all()


@pytest.mark.skipif(BACKEND == "torch", reason="Keras on torch takes arrays in train_on_batch only")
def test_lists_of_numbers_are_weights():
    """Keras takes them in train_on_batch."""
    losses = [
        model.train_on_batch(A, LABELS, sample_weight=WEIGHTS.tolist(), return_dict=True)["loss"]
        for model in (network("single"), cut("single", keras_sg.SyntheticLoss))
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    lists, arrays = (
        cut("single").interface_gradients(*batch)["block"][1]
        for batch in ((A.tolist(), LABELS.tolist(), WEIGHTS.tolist()), (A, LABELS, WEIGHTS))
    )
    np.testing.assert_allclose(lists, arrays, rtol=1e-5)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras on torch takes arrays in train_on_batch only")
def test_inputs_that_are_no_batch_are_for_keras_to_name():
    for model in (network("single"), cut("single")):
        with pytest.raises(ValueError, match="input"):
            model.train_on_batch(A.tolist(), LABELS)


def test_what_fit_checks_is_what_the_step_will_see():
    """A function of `y` that indexes arrays is not handed a table."""
    pandas = pytest.importorskip("pandas")
    options = {"labels_from": lambda y: y[0][:, 0]}
    model = network(
        "single", lambda h: keras_sg.SyntheticGradient(h, num_classes=3), keras_sg.DecoupledModel, **options
    )
    model.fit(A, [pandas.DataFrame({"label": LABELS})], verbose=0)


WRONG = {
    "features": (lambda: (A[:, :2], LABELS), r"Expected x of shapes \[\(None, 4\)\].*\(8, 2\)"),
    "rank": (lambda: (A[:, None, None], LABELS), r"Expected x of shapes \[\(None, 4\)\].*\(8, 1, 1, 4\)"),
    "names": (lambda: ({"b": A}, LABELS), "does not fit model.*'b'|does not fit model.*structure"),
    "inputs": (lambda: ([A, B], LABELS), "does not fit model"),
    "examples": (lambda: (A, LABELS[:5]), "as many examples, at least one"),
    "examples of a generator": (lambda: (((A, LABELS[:5]) for _ in range(2)),), "as many examples"),
    "weights": (lambda: (A, LABELS, WEIGHTS[:5]), "as many examples"),
    "empty": (lambda: (A[:0], LABELS[:0]), "at least one"),
    "no data": (lambda: (iter(()),), "does not fit model"),
    "labels out of range": (lambda: (A, LABELS + 7), r"\[0, 3\).*from 7 to 9"),
    "labels of another kind": (lambda: (A, LABELS + 0.5), r"\[0, 3\).*from 0.5 to 2.5"),
    "no labels": (lambda: (A,), "needs class labels.*Received: None"),
}


@pytest.mark.parametrize("case", WRONG)
def test_batches_that_do_not_fit(case, monkeypatch):
    """Said before anything is computed, of a probe, too."""
    make, message = WRONG[case]
    model = cut("single")
    monkeypatch.setattr(model, "make_probe_function", lambda: pytest.fail("computed"))
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        model.interface_gradients(*make())
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        model.fit(A, LABELS, verbose=0, callbacks=[callbacks.GradientAlignment(*make())])


def test_a_model_that_is_not_compiled():
    inputs = keras.Input((4,))
    h = keras_sg.SyntheticGradient(layers.Dense(3))(inputs)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3)(h), name="fresh")
    with pytest.raises(ValueError, match=r"is that of the loss that a model is compiled.*'fresh'"):
        model.interface_gradients(A, LABELS)


class Halved(layers.Layer):
    """Adds the mean square of its input over two as a loss: of one example, the gradient is h / features."""

    def call(self, h):
        self.add_loss(keras.ops.mean(keras.ops.square(h)) / 2)
        return h


@pytest.mark.parametrize("loss", [None, "mse"])
def test_added_losses_have_a_gradient(loss):
    """By hand: of the added loss alone, and next to that of the mean square error, 2 (h - y) / 5."""
    inputs = keras.Input((4,))
    h = keras_sg.SyntheticGradient(layers.Dense(5, name="block"))(inputs)
    model = keras_sg.DecoupledModel(inputs, Halved()(h))
    model.compile("sgd", loss)
    y = None if loss is None else np.ones((N, 5), "float32")
    found = keras.ops.convert_to_numpy(model(A))
    expected = found / 5 + (0 if loss is None else 2 * (found - y) / 5)
    for _ in range(2):
        np.testing.assert_allclose(
            model.interface_gradients(A, y)["block"][1], expected, rtol=1e-4, atol=1e-6
        )
        model.compile("sgd", loss)
    model.fit(A, y, verbose=0)
    measured = callbacks.GradientAlignment(A, y)
    assert "block_alignment_sign" in model.fit(A, y, verbose=0, callbacks=[measured]).history


def test_nothing_is_stale_when_trainable_moves():
    """A BatchNormalization that is frozen normalizes by its own statistics."""
    inputs = keras.Input((4,))
    h = keras_sg.SyntheticGradient(layers.Dense(5, name="block"))(inputs)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(1)(layers.BatchNormalization(name="norm")(h)))
    model.compile("sgd", "mse")
    free = model.interface_gradients(A, VALUES)["block"][1]
    model.get_layer("norm").trainable = False
    frozen = model.interface_gradients(A, VALUES)["block"][1]
    fresh = keras.models.clone_model(model)
    fresh.set_weights(model.get_weights())
    fresh.get_layer("norm").trainable = False
    fresh.compile("sgd", "mse")
    np.testing.assert_allclose(frozen, fresh.interface_gradients(A, VALUES)["block"][1], rtol=1e-4, atol=1e-6)
    assert not np.allclose(free, frozen, rtol=1e-2)
