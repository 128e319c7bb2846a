"""The recipes: what they make, and how they are named and saved. And labels as features."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_sg
from keras_sg import labels, synthesizers
from keras_sg.labels import Classes, Vector

RECIPES = {
    "linear": synthesizers.Linear(),
    "mlp": synthesizers.MLP(),
    "conv": synthesizers.Conv(),
    "value": synthesizers.Value(),
    "critic": synthesizers.Critic(),
    "error": synthesizers.PredictedError(),
    "feedback": synthesizers.Feedback(),
}
RNG = np.random.default_rng(0)


def is_zero(tensor):
    return not np.any(ops.convert_to_numpy(tensor))


@pytest.mark.parametrize("name", RECIPES)
def test_string_ids_and_serialization(name):
    recipe = synthesizers.get(name)
    assert recipe == RECIPES[name] != synthesizers.MLP((3,))
    config = synthesizers.serialize(recipe)
    assert synthesizers.deserialize(config) == synthesizers.get(config) == recipe
    assert synthesizers.get(recipe) is recipe


def test_every_string_id_is_tested_here():
    assert set(RECIPES) == set(synthesizers.RECIPES)


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("middle", [(), (4,), (4, 5)], ids=str)
def test_linear_of_a_rank_is_linear(middle, conditional):
    """`(h A) B + y V + b` at every position; zero at first, and no narrower for the label."""
    rng = np.random.default_rng(0)
    h, y = rng.normal(size=(2, *middle, 6)).astype("float32"), np.eye(3, dtype="float32")[[0, 2]]
    layer = synthesizers.Linear(rank=2)((None, *middle, 6), Classes(3) if conditional else None)
    inputs = [h, y] if conditional else h
    assert is_zero(layer(inputs)) and not is_zero(layer.reduce)
    drawn = [rng.normal(size=weight.shape) for weight in layer.weights]
    layer.set_weights(drawn)
    a, b, bias, *v = drawn
    assert [w.shape for w in drawn] == [(6, 2), (2, 6), (6,)] + [(3, 6)] * conditional
    expected = h @ a @ b + bias + ((y @ v[0]).reshape(2, *[1] * len(middle), 6) if conditional else 0.0)
    np.testing.assert_allclose(ops.convert_to_numpy(layer(inputs)), expected, rtol=1e-4, atol=1e-5)
    assert layer.compute_output_shape([h.shape, y.shape] if conditional else h.shape) == h.shape


def test_linear_of_a_rank_learns_from_its_zeros():
    x = RNG.normal(size=(64, 6)).astype("float32")
    y = np.arange(64) % 3
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    h = keras_sg.SyntheticGradient(layers.Dense(8), synthesizers.Linear(rank=2), num_classes=3)(inputs)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3)(h))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss)
    cosines = model.fit(x, y, 16, epochs=5, shuffle=False, verbose=0).history["sg_cosine"]
    assert cosines[-1] > 0.5 and not any(map(is_zero, model.interfaces[0].synthesizer.weights))


def test_options_survive_serialization():
    recipe = synthesizers.MLP(widths=(3, 4), batch_normalization=False)
    assert synthesizers.get(synthesizers.serialize(recipe)).get_config() == {
        "widths": [3, 4],
        "batch_normalization": False,
    }
    assert synthesizers.get(synthesizers.serialize(synthesizers.Linear(rank=2))).rank == 2


@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 5), (2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("recipe", [synthesizers.Linear(), synthesizers.MLP((6,))], ids=repr)
def test_gradient_recipes_predict_zero_at_any_rank(recipe, shape):
    layer = recipe((None, *shape[1:]))
    prediction = layer(np.random.default_rng(0).normal(size=shape).astype("float32"))
    assert prediction.shape == shape and is_zero(prediction)
    read_out = layer if isinstance(layer, layers.Dense) else layer.layers[-1]
    assert is_zero(read_out.kernel) and is_zero(read_out.bias)


def test_mlp_is_the_papers():
    layer = synthesizers.MLP()((None, 256))
    layer.build((None, 256))
    kinds = [type(sublayer).__name__ for sublayer in layer.layers]
    assert kinds == ["Dense", "BatchNormalization", "ReLU"] * 2 + ["Dense"]
    assert [sublayer.units for sublayer in layer.layers if hasattr(sublayer, "units")] == [1024, 1024, 256]


@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 5)], ids=str)
def test_value_predicts_one_number_that_is_not_negative(shape):
    prediction = synthesizers.Value((6,))((None, *shape[1:]))(np.ones(shape, "float32"), training=True)
    assert prediction.shape == (2,) and ops.all(prediction >= 0)


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


@pytest.mark.parametrize("axis", [1, 2])
def test_rows_become_channel_masks(axis):
    h = np.random.default_rng(0).normal(size=(2, 6, 4, 5)).astype("float32")
    h = h if axis == 1 else h[:, :, :, 0]  # (2, 6, 4): features last
    joined = ops.convert_to_numpy(labels.append(h, ops.convert_to_tensor(ROWS), axis=axis))
    assert joined.shape == ((2, 9, 4, 5) if axis == 1 else (2, 6, 7))
    masks = np.moveaxis(joined, axis, -1)[..., -3:]
    np.testing.assert_array_equal(np.moveaxis(joined, axis, -1)[..., :-3], np.moveaxis(h, axis, -1))
    for at in np.ndindex(masks.shape[1:-1]):
        np.testing.assert_array_equal(masks[(slice(None), *at)], ROWS)


@pytest.mark.parametrize("shape", [(None, 7, 4), (None, 6, 5, 4), (None, 3, 6, 5, 4)], ids=str)
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_conv_predicts_zero_for_sequences_images_and_volumes(shape, data_format):
    recipe = synthesizers.Conv(depth=1, filters=3, kernel_size=3, data_format=data_format)
    if data_format == "channels_first":
        if keras.backend.backend() == "tensorflow":
            pytest.skip("TensorFlow convolves channels-first on a CPU under XLA only; see test_layers.py")
        shape = (shape[0], shape[-1], *shape[1:-1])
    layer = recipe(shape)
    x = np.random.default_rng(0).normal(size=(2, *shape[1:])).astype("float32")
    prediction = layer(x, training=True)
    assert prediction.shape == x.shape and is_zero(prediction)
    read_out = layer.layers[-1]
    assert read_out.filters == 4 and is_zero(read_out.kernel) and is_zero(read_out.bias)


def test_conv_is_the_papers():
    layer = synthesizers.Conv()((None, 10, 10, 128))
    layer.build((None, 10, 10, 128))
    kinds = [type(sublayer).__name__ for sublayer in layer.layers]
    assert kinds == ["Conv2D", "BatchNormalization", "ReLU"] * 2 + ["Conv2D"]
    convolutions = [sublayer for sublayer in layer.layers if hasattr(sublayer, "kernel_size")]
    assert {(conv.filters, conv.kernel_size) for conv in convolutions} == {(128, (5, 5))}


WRONG = {
    "depth": (lambda: synthesizers.Conv(depth=-1), "`depth` must be an integer of at least 0.*-1"),
    "filters": (lambda: synthesizers.Conv(filters=[8, 9]), "filters.*at least 1.*8, 9"),
    "kernel": (lambda: synthesizers.Critic(kernel_size=(3, 5)), "kernel_size.*at least 1.*3, 5"),
    "pool": (lambda: synthesizers.Critic(pool_size=0), "`pool_size` must be an integer of at least 1"),
    "pool of each": (
        lambda: synthesizers.Critic(per_position=True, pool_size=2),
        "a label for each position, or pools positions.*per_position=True with pool_size=2",
    ),
    "windows that are too long": (
        lambda: synthesizers.Critic(pool_size=5)((None, 8, 4, 2), labels.Classes(3)),
        r"windows that fit into the interface.*\(8, 4\).*pool_size=5 at an interface of shape",
    ),
    "list of losses": (lambda: synthesizers.Critic(loss=["mse"]), "one of.*mse"),
    "format": (lambda: synthesizers.Conv(data_format="NHWC"), "channels_last.*'NHWC'"),
    "rank": (lambda: synthesizers.Conv()((None, 4)), r"one to three axes.*'linear'.*\(None, 4\)"),
    "loss": (
        lambda: synthesizers.Critic(loss="hinge"),
        "loss of a critic.*_crossentropy.*'hinge'",
    ),
    "widths": (lambda: synthesizers.Critic(widths=("a",)), "widths.*positive"),
    "two labels": (lambda: labels.kind(3, 8), "give one of the two.*num_classes=3, label_size=8"),
    "size": (
        lambda: labels.kind(None, 0),
        "must be None .unconditional. or.*at least 1.*label_size=0",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments(case):
    make, message = WRONG[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        make()


def test_label_vectors():
    vector = Vector(3)
    given = np.array([[0, 1, 1], [2, 0, -5]])
    np.testing.assert_array_equal(vector.rows(given, "float32"), given)
    np.testing.assert_array_equal(Vector(1).rows(np.array([0.5, 2.0]), "float32"), [[0.5], [2.0]])
    rows = ops.convert_to_numpy(Vector(3, unit=True).rows(given, "float32"))
    assert np.isnan(rows[1]).all() and (rows[0] == given[0]).all()
