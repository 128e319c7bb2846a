"""Synthesizers that see the network's input: as the NumPy oracles say, which see it as one more label."""

import keras
import numpy as np
import pytest
from delayed import AtRandom, Delayed, Descent
from models import BATCH, CLASSES, FEATURES, MODES, assert_same, mlp, weights_of
from side_by_side import EXAMPLES, data, optimizers

import keras_sg
from keras_sg.schedules import InTurn, SideBySide
from keras_sg.synthesizers import MLP, Conv, InputConv, Linear, WithInput

BACKEND = keras.backend.backend()
LINEAR = WithInput("linear", (FEATURES,))


def fit(model, schedule="together", epochs=3, optimizer=None, **options):
    model.compile(optimizer or optimizers(Descent), "mse", schedule=schedule, **options)
    x, y, weight = data()
    return model.fit(x, y, BATCH, sample_weight=weight, verbose=0, shuffle=False, epochs=epochs)


def batches(num_classes):
    """Those of `data`, with the input behind the label."""
    x, y, weight = data()
    seen = x if num_classes is None else np.concatenate([y, x], axis=1)
    parts = [slice(start, start + BATCH) for start in range(0, EXAMPLES, BATCH)]
    return [(x[at].astype("float64"), y[at], seen[at].astype("float64"), weight[at]) for at in parts]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("schedule", ["together", "in_turn"])
@pytest.mark.parametrize("num_classes", [None, CLASSES], ids=["unconditional", "conditional"])
def test_oracle(num_classes, schedule, mode):
    model = mlp(3, num_classes, synthesizer=LINEAR)
    oracle = AtRandom(*weights_of(model), Descent, 0.02, 0.05)
    fit(model, schedule, **mode)
    for _ in range(3):
        oracle.train(batches(num_classes), lambda steps, modules: [True] * modules)
    assert_same(model, oracle, 1e-5)


def test_updated_at_random():
    schedule = InTurn(module_update=0.5, seed=3)
    model = mlp(3, synthesizer=LINEAR)
    oracle = AtRandom(*weights_of(model), Descent, 0.02, 0.05)
    fit(model, schedule)
    for _ in range(3):
        oracle.train(batches(None), schedule.descending)
    assert_same(model, oracle, 1e-5)


@pytest.mark.skipif(BACKEND != "jax", reason="several devices of a process need JAX")
def test_side_by_side():
    model = mlp(2, synthesizer=LINEAR)
    oracle = Delayed(*weights_of(model), Descent, 0.02, 0.05)
    fit(model, SideBySide())
    for _ in range(3):
        oracle.epoch(batches(None))
    assert_same(model, oracle, 1e-5)


@pytest.mark.parametrize("schedule", ["together", "in_turn"])
def test_oracle_of_sparse_updates(schedule):
    model = mlp(1, synthesizer=LINEAR, update_period=2)
    oracle = Delayed(*weights_of(model), Descent, 0.02, 0.05, update_period=2)
    fit(model, schedule, epochs=1)
    # One batch at a time: nothing is delayed, and the steps are counted on.
    for batch in batches(None):
        oracle.epoch([batch])
    assert_same(model, oracle, 1e-5)


def pictures(recipe, options=None, **shape):
    """A convolution, cut behind it, of pictures 6 x 6 x 2 averaged to 3 x 3 x 4."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 2))
    layers = [keras.layers.Conv2D(4, 3, padding="same", activation="relu"), keras.layers.AveragePooling2D(2)]
    module = keras.Sequential(layers, name="module")
    h = keras_sg.SyntheticGradient(module, recipe, **options or {})(inputs)
    return keras_sg.DecoupledModel(inputs, keras.layers.Dense(CLASSES)(keras.layers.Flatten()(h)))


CONTEXTS = {
    "conv": lambda: WithInput(Conv(1, kernel_size=3), (6, 6, 2), context=InputConv(0, kernel_size=3)),
    "mlp": lambda: WithInput(Conv(1, kernel_size=3), (6, 6, 2), context="mlp"),
    "layer": lambda: WithInput(keras.layers.Dense(4), (6, 6, 2), keras.layers.Conv2D(3, 2, strides=2)),
}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("num_classes", [None, CLASSES], ids=["unconditional", "conditional"])
def test_context_learns_and_is_saved(tmp_path, context, num_classes):
    model = pictures(CONTEXTS[context](), {"num_classes": num_classes})
    model.compile(optimizers(Descent), "mse")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 6, 6, 2)).astype("float32"), np.eye(CLASSES)[np.arange(8) % CLASSES]
    model.fit(x, y, verbose=0)
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in variables_of(model)]
    model.fit(x, y, verbose=0)  # the read-out began at zero: from here on a gradient goes through it
    after = [np.array(keras.ops.convert_to_numpy(v)) for v in variables_of(model)]
    assert all(np.any(a != b) for a, b in zip(before, after, strict=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for again in (loaded, keras.models.clone_model(loaded)):
        assert again.interfaces[0].sees_input
        again.compile(optimizers(Descent), "mse")
        again.fit(x, y, verbose=0)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for each in (model, loaded):
        each.fit(x, y, verbose=0, shuffle=False)
    for ours, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)


def variables_of(model):
    (interface,) = model.interfaces
    return interface.synthesizer.trainable_variables


def test_sees_the_input_at_every_position():
    """Where the interface has the positions of the input, each sees its own features of it."""
    inputs = keras.Input((5, FEATURES))
    module = keras.layers.Dense(4, activation="tanh", name="module")
    h = keras_sg.SyntheticGradient(module, WithInput("linear", (None, FEATURES)))(inputs)
    model = keras_sg.DecoupledModel(inputs, keras.layers.Dense(2)(h))
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 5, FEATURES)).astype("float32")
    kernel, bias = rng.normal(size=(4 + FEATURES, 4)), rng.normal(size=4)
    model.interfaces[0].synthesizer.set_weights([kernel, bias])
    ((synthetic, _),) = model.interface_gradients(x, np.zeros((3, 5, 2))).values()
    seen = np.concatenate([keras.ops.convert_to_numpy(module(x)), x], axis=-1)
    np.testing.assert_allclose(synthetic, seen @ kernel + bias, rtol=1e-5, atol=1e-5)


def test_channels_first():
    recipe = WithInput(Conv(0, kernel_size=1, data_format="channels_first"), (2, 4, 4))
    assert recipe.axis == 1
    seen = recipe((None, 3, 4, 4))([keras.KerasTensor((None, 2, 4, 4)), keras.KerasTensor((None, 3, 4, 4))])
    assert tuple(seen.shape) == (None, 3, 4, 4)


@pytest.mark.parametrize("context", [None, "mlp"])
def test_what_does_not_count_teaches_nothing(context):
    """An example of weight 0, whatever it holds, leaves what is learned as it is."""
    weights = []
    for rubbish in (0.0, 1e3):
        model = mlp(2, synthesizer=WithInput(MLP((7,)), (FEATURES,), context))
        x, y, weight = data()
        x[weight == 0] = rubbish
        model.compile(optimizers(Descent), "mse")
        model.fit(x, y, BATCH, sample_weight=weight, verbose=0, shuffle=False)
        weights.append([v for s in model.interfaces for v in s.synthesizer.get_weights()])
    for a, b in zip(weights[0], weights[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_all_of_it_runs_in_training_mode():
    """So the statistics of its BatchNormalization move, of the context's, too."""
    model = mlp(1, synthesizer=WithInput(MLP((7,)), (FEATURES,), "mlp"))
    statistics = model.interfaces[0].synthesizer.non_trainable_variables
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in statistics]
    fit(model, epochs=1)
    moved = [np.any(keras.ops.convert_to_numpy(v) != a) for v, a in zip(statistics, before, strict=True)]
    assert moved == [True] * 4


@pytest.mark.parametrize("schedule", ["in_turn", InTurn(module_update=0.5)])
def test_whole_recipes_in_turn(schedule):
    """BatchNormalization, contexts and labels, module by module: the numbers of one program."""
    recipe = WithInput(MLP((7,)), (FEATURES,), context="mlp")
    models = []
    for each in ("together", schedule):
        models.append(mlp(2, CLASSES, synthesizer=recipe))
        sgd = keras_sg.decoupled_optimizer(keras.optimizers.SGD(0.02), keras.optimizers.SGD(1e-3))
        logs = fit(models[-1], each, optimizer=sgd).history
        assert np.all(np.isfinite(logs["sg_loss"]))
    if schedule == "in_turn":
        for a, b in zip(*(model.get_weights() for model in models), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_stripped():
    model = mlp(2, synthesizer=LINEAR)
    fit(model)
    x = data()[0]
    np.testing.assert_array_equal(model.predict(x, verbose=0), keras_sg.strip(model).predict(x, verbose=0))


def test_existing_model():
    inputs = keras.Input((FEATURES,))
    h = keras.layers.Dense(5, activation="tanh", name="hidden")(inputs)
    plain = keras.Model(inputs, keras.layers.Dense(CLASSES)(h))
    model = keras_sg.decouple(plain, ["hidden"], synthesizer=WithInput("mlp", (FEATURES,)))
    assert "sg_cosine" in fit(model).history


@pytest.mark.parametrize("num_classes", [None, CLASSES])
def test_low_rank(num_classes):
    model = mlp(1, num_classes, synthesizer=WithInput(Linear(rank=2), (FEATURES,)))
    reduce, expand, *_ = model.interfaces[0].synthesizer.get_weights()
    assert (reduce.shape, expand.shape) == ((5 + FEATURES, 2), (2, 5))
    fit(model)


def test_recipe():
    recipe = WithInput(Linear(), [4, None], context="conv")
    again = keras_sg.synthesizers.get(keras_sg.synthesizers.serialize(recipe))
    assert again == recipe and again.input_shape == (4, None) and again.context == InputConv()
    assert WithInput("mlp", (4,)) != WithInput("linear", (4,))


# What is refused.


@pytest.mark.parametrize("shape", [(), 784, "784"])
def test_no_shape(shape):
    with pytest.raises(ValueError, match="`input_shape` is the shape of one example"):
        WithInput("mlp", shape)
    with pytest.raises(ValueError, match="`input_shape` must be an integer"):
        WithInput("mlp", (0,))


@pytest.mark.parametrize("synthesizer", ["critic", "feedback", keras_sg.synthesizers.Value(), LINEAR, 3])
def test_what_predicts_no_gradient(synthesizer):
    with pytest.raises(ValueError, match="next to an interface predicts a gradient"):
        WithInput(synthesizer, (4,))


@pytest.mark.parametrize("interface", [keras_sg.SyntheticLoss, keras_sg.LocalLoss])
def test_predicted_losses(interface):
    with pytest.raises(ValueError, match="sees the interface, not the network's input"):
        interface(keras.layers.Dense(3), LINEAR, num_classes=3)


def test_between_windows():
    with pytest.raises(ValueError, match="sees the interface, not the network's input"):
        keras_sg.RecurrentSyntheticGradient(keras.layers.LSTM(3), LINEAR)


def test_positions():
    with pytest.raises(ValueError, match="For others, say what makes them of it"):
        WithInput("conv", (6, 6, 2))((None, 3, 3, 4))
    with pytest.raises(ValueError, match="of which it has to know how many"):
        WithInput("mlp", (None, 2))((None, 4))


@pytest.mark.parametrize(
    "inputs, said",
    [
        ([keras.Input((5,))], r"was made to see inputs of shape \(6,\)"),
        ([keras.Input((FEATURES,)), keras.Input((FEATURES,))], "Join several inputs into one"),
        ([keras.Input((FEATURES,), dtype="int32")], "take a synthesizer that does not see it"),
    ],
)
def test_other_inputs(inputs, said):
    floats = [keras.ops.cast(x, "float32") for x in inputs]
    joined = floats[0] if len(floats) == 1 else keras.layers.Concatenate()(floats)
    h = keras_sg.SyntheticGradient(keras.layers.Dense(4), LINEAR)(joined)
    with pytest.raises(ValueError, match=said):
        keras_sg.DecoupledModel(inputs, keras.layers.Dense(2)(h))


def test_plain_model():
    inputs = keras.Input((FEATURES,))
    h = keras_sg.SyntheticGradient(keras.layers.Dense(4), LINEAR)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(h))
    model.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(ValueError, match="which nothing but the training step of"):
        model.fit(np.ones((4, FEATURES)), np.ones((4, 2)), verbose=0)


def test_halves():
    with pytest.raises(ValueError, match="synthesizers that see no input"):
        keras_sg.split(mlp(2, synthesizer=LINEAR), at="module1")
