"""`labels_from`: where in `y` the labels are."""

import re

import keras
import numpy as np
import pytest
from keras import layers

import keras_sg
from keras_sg._interfaces import label_sources

X, LABELS = np.random.default_rng(0).normal(size=(8, 4)).astype("float32"), np.arange(8) % 3
VALUES = X[:, :1]
DICTIONARY, LIST = {"value": VALUES, "label": LABELS}, [VALUES, LABELS]


@keras.saving.register_keras_serializable(package="tests")
def coarse(y):
    """Not the labels themselves, so that nobody can find them without it."""
    return y["label"] // 2


@keras.saving.register_keras_serializable(package="tests")
class Entry:
    def __init__(self, key):
        self.key = key

    def __call__(self, y):
        return y[self.key]

    def get_config(self):
        return {"key": self.key}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable(package="tests")
class Lost:
    """Without a from_config, Keras cannot make it anew."""

    def __call__(self, y):
        return y["label"]

    def get_config(self):
        return {}


SOURCES = {
    "key": ("label", DICTIONARY, LABELS),
    "index": (1, LIST, LABELS),
    "last": (np.int64(-1), LIST, LABELS),
    "function": (coarse, DICTIONARY, LABELS // 2),
    "callable object": (Entry("label"), DICTIONARY, LABELS),
}


def network(dictionary=True):
    inputs = keras.Input((4,))
    h = layers.Dense(5, "tanh", name="block")(inputs)
    outputs = [layers.Dense(1, name="value")(h), layers.Dense(3, name="label")(h)]
    return keras.Model(inputs, dict(zip(DICTIONARY, outputs)) if dictionary else outputs)


def fit(model):
    loss = ["mse", keras.losses.SparseCategoricalCrossentropy(from_logits=True)]
    dictionary = isinstance(model.output, dict)
    model.compile("sgd", dict(zip(DICTIONARY, loss)) if dictionary else loss)
    return model.fit(X, DICTIONARY if dictionary else LIST, shuffle=False, verbose=0)


@pytest.mark.parametrize("case", SOURCES)
def test_it_trains_and_goes_with_the_model(case, tmp_path):
    """Into files, configurations, clones, and models around it."""
    source, y, expected = SOURCES[case]
    model = keras_sg.decouple(network(isinstance(y, dict)), "block", num_classes=3, labels_from=source)
    np.testing.assert_array_equal(model.labels_from(y), expected)
    fit(model)
    # Of the label, the synthesizer has learned: the rows behind the features, one a class.
    rows = model.interfaces[0].synthesizer.get_weights()[0][5:]
    assert [bool(row.any()) for row in rows] == [label in expected for label in range(3)]
    model.save(tmp_path / "model.keras")
    inputs = keras.Input((4,))
    for other in (
        keras.models.load_model(tmp_path / "model.keras"),
        keras.models.clone_model(model),
        keras_sg.DecoupledModel.from_config(model.get_config()),
        keras_sg.DecoupledModel(inputs, model(inputs)),
    ):
        np.testing.assert_array_equal(other.labels_from(y), expected)
    again = keras_sg.decouple(keras_sg.strip(model), "block", num_classes=3, labels_from=source)
    np.testing.assert_array_equal(again.labels_from(y), expected)
    fit(keras.models.load_model(tmp_path / "model.keras"))


def test_the_constructor_takes_it_and_subclasses_override_it():
    class Own(keras_sg.DecoupledModel):
        def labels_from(self, y):
            return super().labels_from(y) + 1

    plain = network()
    cut = keras_sg.decouple(plain, "block", num_classes=3)
    for model_class, expected in ((keras_sg.DecoupledModel, LABELS), (Own, LABELS + 1)):
        model = model_class(cut.input, cut.output, labels_from="label")
        np.testing.assert_array_equal(model.labels_from(DICTIONARY), expected)


WRONG = {
    "key": ("labels", DICTIONARY, r"entry 'labels' of `y`.*type dict, with the keys \['value', 'label'\]"),
    "index": (2, LIST, "entry 2 of `y`.*type list, with the indices 0 to 1"),
    "key of a list": ("label", LIST, "entry 'label' of `y`.*type list"),
    "index of a dictionary": (1, DICTIONARY, "entry 1 of `y`.*the keys"),
    "one array": (0, LABELS, "entry 0 of `y`.*type ndarray, with no entries"),
}


@pytest.mark.parametrize("case", WRONG)
def test_entries_that_are_not_there(case):
    source, y, message = WRONG[case]
    model = keras_sg.decouple(network(), "block", num_classes=3, labels_from=source)
    model.compile("sgd", "mse")
    for take in (lambda: model.fit(X, y, verbose=0), lambda: model.interface_gradients(X, y)):
        with pytest.raises(ValueError, match=rf"(?s)as labels_from says.*there is none|{message}") as raised:
            take()
        assert re.search(message, str(raised.value))


@pytest.mark.parametrize("source", [True, 1.5, ["label"]])
def test_what_is_no_source(source):
    with pytest.raises(
        ValueError, match=r"says where in `y` the labels.*a key.*an index.*a callable.*Received"
    ):
        keras_sg.decouple(network(), "block", num_classes=3, labels_from=source)


def test_y_that_is_more_than_labels_is_told_both_ways():
    model = keras_sg.decouple(network(), "block", num_classes=3)
    expected = (
        r"keras_sg\.decouple.*labels_from=.*key or an index.*override `DecoupledModel\.labels_from\(y\)`"
    )
    with pytest.raises(ValueError, match=expected):
        fit(model)


@pytest.mark.parametrize(
    "source", [lambda y: y["label"], DICTIONARY.get, Lost()], ids=["lambda", "method", "object"]
)
def test_a_callable_that_cannot_be_written(source, tmp_path):
    model = keras_sg.decouple(network(), "block", num_classes=3, labels_from=source)
    expected = (
        r"`labels_from` is a callable that cannot be saved.*register_keras_serializable.*the index.*Rec"
    )
    with pytest.raises(ValueError, match=expected):
        model.save(tmp_path / "model.keras")
    assert list(tmp_path.iterdir()) == []


def test_interfaces_that_were_told_different_ones():
    inputs = h = keras.Input((4,))
    for source in ("a", "b"):
        h = keras_sg.SyntheticGradient(layers.Dense(4), num_classes=3, labels_from=source)(h)
    with pytest.raises(ValueError, match=r"take their labels from one place.*\['a', 'b'\]"):
        keras_sg.DecoupledModel(inputs, layers.Dense(3)(h))
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3)(h), labels_from="c")
    assert label_sources.take(model.interfaces[0].labels_from, {"c": 3}) == 3
