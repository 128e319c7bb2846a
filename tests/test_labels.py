"""Labels of every kind that Keras's losses take, as rows of features."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_sg
from keras_sg import labels

INDEX = np.array([[0, 2, 1], [1, 1, 0]])
ONE_HOT = np.eye(4)[INDEX]


def rows(kind, given, **options):
    return ops.convert_to_numpy(kind.rows(ops.convert_to_tensor(given), "float32", **options))


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "float32", "float64"])
@pytest.mark.parametrize("column", [False, True])
def test_an_index_is_a_whole_number_of_any_dtype(dtype, column):
    given = np.array([0, 3, 1], dtype)
    found = rows(labels.Classes(4), given[:, None] if column else given)
    np.testing.assert_array_equal(found, np.eye(4)[[0, 3, 1]])


def test_more_classes_than_the_dtype_can_count():
    found = rows(labels.Classes(1000), np.array([0, 255], "uint8"))
    np.testing.assert_array_equal(found.argmax(axis=1), [0, 255])


@pytest.mark.parametrize("positions", [(3,), (None,)])
@pytest.mark.parametrize("given", [INDEX, INDEX.astype("float32"), INDEX[..., None], ONE_HOT], ids=np.shape)
def test_a_class_for_each_position(given, positions):
    np.testing.assert_array_equal(rows(labels.Classes(4).at(positions), given), ONE_HOT)


def test_a_class_for_each_pixel():
    given = np.arange(12).reshape(1, 3, 4) % 4
    np.testing.assert_array_equal(rows(labels.Classes(4).at((3, 4)), given), np.eye(4)[given])


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 1), (2, 3)])
def test_a_vector_for_each_position(shape):
    size = shape[2] if len(shape) == 3 else 3
    given = np.random.default_rng(0).normal(size=shape).astype("float32")
    kind = labels.Vector(size).at((3,))
    np.testing.assert_array_equal(rows(kind, given), given)


def test_one_label_for_all_positions():
    kind = labels.Classes(4).at((3,))
    np.testing.assert_array_equal(rows(kind, np.array([2, 0])), np.eye(4)[[2, 0]])
    np.testing.assert_array_equal(rows(kind, np.eye(4)[[2, 0]]), np.eye(4)[[2, 0]])


@pytest.mark.parametrize(
    "given, message",
    [
        (np.zeros((2, 5), int), "of shape .batch, 3. or .*rows of 5 numbers"),
        (np.zeros((2, 5, 4)), "of other positions"),
        (np.zeros((2, 3, 4, 1)), "of another rank"),
    ],
)
def test_labels_of_other_positions(given, message):
    with pytest.raises(ValueError, match=message):
        labels.Classes(4).at((3,)).check(given)


def test_indices_that_can_only_be_read_as_rows():
    """As many positions as classes: the error says how to tell them apart."""
    with pytest.raises(ValueError, match=r"sums from 3 to 3 \(indices per position.*\(batch, 3, 1\)"):
        labels.Classes(3).at((3,)).check_values(np.array([[0, 1, 2]]))


def test_ignored_labels_are_no_class():
    kind, given = labels.Classes(3), np.array([0, -1, 7])
    np.testing.assert_array_equal(rows(kind, given, ignored=(-1,))[:2], [[1, 0, 0], [0, 0, 0]])
    assert np.isnan(rows(kind, given, ignored=(-1,))[2]).all()
    kind.check_values(given[:2], ignored=(-1,))
    with pytest.raises(ValueError, match="labels from 0 to 7"):
        kind.check_values(given[[0, 2]], ignored=(-1,))


@pytest.mark.parametrize("wrong", [2**32, 2**32 + 1, -(2**32), 2**40])
def test_no_label_wraps_around(wrong):
    with pytest.raises(ValueError, match=f"as .{wrong}."):
        labels.Classes(3).check_values(np.array([0, wrong]))


@pytest.mark.parametrize("synthesizer", ["linear", "conv", keras_sg.synthesizers.Linear(rank=2)], ids=str)
def test_a_network_with_a_label_for_each_position_trains(synthesizer):
    inputs = keras.Input((5, 4))
    h = keras_sg.SyntheticGradient(layers.Dense(3), synthesizer, num_classes=2)(inputs)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(2)(h))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    y = np.arange(20).reshape(4, 5) % 2
    assert np.isfinite(model.train_on_batch(np.ones((4, 5, 4)), y, return_dict=True)["sg_loss"])


def test_a_critic_that_takes_one_label_an_example():
    inputs = keras.Input((5, 4))
    h = keras_sg.SyntheticLoss(layers.Dense(3, name="cut"), num_classes=2)(inputs)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(2)(h))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    with pytest.raises(ValueError, match=r"'cut' takes one label an example.*Critic\(per_position=True\)"):
        model.fit(np.ones((4, 5, 4)), np.zeros((4, 5), int), verbose=0)
