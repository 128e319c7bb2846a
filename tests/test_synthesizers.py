"""The recipes: what they make, and how they are named and saved. And labels as features."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_sg import labels, synthesizers
from keras_sg.labels import Classes

RECIPES = {
    "linear": synthesizers.Linear(),
    "mlp": synthesizers.MLP(),
    "conv": synthesizers.Conv(),
    "value": synthesizers.Value(),
    "critic": synthesizers.Critic(),
}


@pytest.mark.parametrize("name", RECIPES)
def test_string_ids_and_serialization(name):
    recipe = synthesizers.get(name)
    assert recipe == RECIPES[name] != synthesizers.MLP((3,))
    config = synthesizers.serialize(recipe)
    assert synthesizers.deserialize(config) == synthesizers.get(config) == recipe
    assert synthesizers.get(recipe) is recipe


def test_every_string_id_is_tested_here():
    assert set(RECIPES) == set(synthesizers.RECIPES)


def test_options_survive_serialization():
    recipe = synthesizers.MLP(widths=(3, 4), batch_normalization=False)
    assert synthesizers.get(synthesizers.serialize(recipe)).get_config() == {
        "widths": [3, 4],
        "batch_normalization": False,
    }


@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 5), (2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("recipe", [synthesizers.Linear(), synthesizers.MLP((6,))], ids=repr)
def test_gradient_recipes_predict_zero_at_any_rank(recipe, shape):
    layer = recipe((None, *shape[1:]))
    prediction = layer(np.random.default_rng(0).normal(size=shape).astype("float32"))
    assert prediction.shape == shape and not np.any(prediction)
    read_out = layer if isinstance(layer, layers.Dense) else layer.layers[-1]
    assert not np.any(read_out.kernel) and not np.any(read_out.bias)


def test_mlp_is_the_papers():
    layer = synthesizers.MLP()((None, 256))
    layer.build((None, 256))
    kinds = [type(sublayer).__name__ for sublayer in layer.layers]
    assert kinds == ["Dense", "BatchNormalization", "ReLU"] * 2 + ["Dense"]
    assert [sublayer.units for sublayer in layer.layers if hasattr(sublayer, "units")] == [1024, 1024, 256]


@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 5)], ids=str)
def test_value_predicts_one_number_that_is_not_negative(shape):
    prediction = synthesizers.Value((6,))((None, *shape[1:]))(np.ones(shape, "float32"), training=True)
    assert prediction.shape == (2,) and np.all(prediction >= 0)


def test_a_layer_stands_for_itself():
    dense = layers.Dense(3)
    recipe = synthesizers.get(dense)
    assert recipe((None, 3)) is dense
    again = synthesizers.get(synthesizers.serialize(recipe))((None, 3))
    assert again.get_config() == dense.get_config()


ROWS = np.array([[1, 0, 0], [0, 0, 1]], "float32")


@pytest.mark.parametrize(
    "given",
    [np.array([0, 2]), np.array([[0], [2]], "uint8"), ROWS, ROWS.astype("int64")],
    ids=["indices", "column", "one-hot", "integer one-hot"],
)
def test_one_hot(given):
    rows = Classes(3).rows(given, "float32")
    assert keras.backend.standardize_dtype(rows.dtype) == "float32"
    np.testing.assert_array_equal(rows, ROWS)


def test_soft_labels_are_kept():
    soft = np.array([[0.5, 0.25, 0.25]], "float32")
    np.testing.assert_array_equal(Classes(3).rows(soft, "float32"), soft)


def test_indices_out_of_range_become_nan():
    rows = ops.convert_to_numpy(Classes(3).rows(np.array([0, 3, -1]), "float32"))
    assert np.isnan(rows[1:]).all() and not np.isnan(rows[0]).any()


@pytest.mark.parametrize("middle", [(), (4,), (4, 5)], ids=str)
def test_rows_are_appended_behind_the_features_at_every_position(middle):
    h = np.random.default_rng(0).normal(size=(2, *middle, 6)).astype("float32")
    joined = ops.convert_to_numpy(labels.append(h, ops.convert_to_tensor(ROWS)))
    np.testing.assert_array_equal(joined[..., :6], h)
    for at in np.ndindex(*middle):
        np.testing.assert_array_equal(joined[(slice(None), *at)][:, 6:], ROWS)
