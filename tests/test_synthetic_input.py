"""Modules that train on what is predicted of their inputs: as the NumPy oracle says, and in training only."""

import keras
import numpy as np
import pytest
from delayed import Adam, Descent
from models import BATCH, CLASSES, FEATURES, MODES, assert_same, mlp, weights_of
from side_by_side import EXAMPLES, data, optimizers
from unlocked import RECIPE, assert_exact, batches, oracle_of, predictors_of

import keras_sg
from keras_sg.schedules import InTurn, SideBySide
from keras_sg.synthesizers import InputConv, InputMLP

BACKEND = keras.backend.backend()


def fit(model, schedule="together", descent=Descent, epochs=3, optimizer=None, **options):
    optimizer = optimizer or optimizers(descent)
    model.compile(optimizer, "mse", weighted_metrics=["mae"], schedule=schedule, **options)
    x, y, weight = data()
    return model.fit(x, y, BATCH, sample_weight=weight, verbose=0, shuffle=False, epochs=epochs)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("schedule", ["together", "in_turn"])
@pytest.mark.parametrize("num_classes", [None, CLASSES], ids=["unconditional", "conditional"])
def test_oracle(num_classes, schedule, mode):
    model = mlp(3, num_classes, synthetic_input=RECIPE)
    oracle = oracle_of(model, Descent)
    fit(model, schedule, **mode)
    for _ in range(3):
        oracle.train(batches(num_classes is not None), lambda steps, modules: [True] * modules)
    assert_exact(model, oracle)


@pytest.mark.parametrize("descent", [Descent, Adam])
def test_updated_at_random(descent):
    schedule = InTurn(module_update=0.5, seed=3)
    model = mlp(3, CLASSES, synthetic_input=RECIPE)
    oracle = oracle_of(model, descent)
    fit(model, schedule, descent)
    for _ in range(3):
        oracle.train(batches(True), schedule.descending)
    assert_exact(model, oracle)


@pytest.mark.skipif(BACKEND != "jax", reason="several devices of a process need JAX")
@pytest.mark.parametrize("descent", [Descent, Adam])
def test_side_by_side(descent):
    model = mlp(2, CLASSES, synthetic_input=RECIPE)
    oracle = oracle_of(model, descent)
    fit(model, SideBySide(), descent)
    for _ in range(3):
        oracle.epoch(batches(True))
    assert_exact(model, oracle)


KINDS = {
    "gradient": (keras_sg.SyntheticGradient, {"synthesizer": keras_sg.synthesizers.MLP((8,))}),
    "value": (keras_sg.SyntheticLoss, {"synthesizer": keras_sg.synthesizers.Value((8,))}),
    "critic-sobolev": (
        keras_sg.SyntheticLoss,
        {"synthesizer": keras_sg.synthesizers.Critic((8,)), "num_classes": CLASSES, "sobolev": True},
    ),
    "local": (keras_sg.LocalLoss, {"num_classes": CLASSES}),
}


def of_kind(kind, **options):
    keras.utils.set_random_seed(0)
    interface, own = KINDS[kind]
    inputs = h = keras.Input((FEATURES,))
    for k in range(2):
        module = keras.layers.Dense(5, activation="tanh", name=f"module{k}")
        h = interface(module, **own, **options)(h)
    return keras_sg.DecoupledModel(inputs, keras.layers.Dense(CLASSES)(h))


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_in_turn(kind):
    weights, logs = [], []
    for schedule in ("together", "in_turn"):
        model = of_kind(kind, synthetic_input="mlp")
        optimizer = keras_sg.decoupled_optimizer(keras.optimizers.SGD(0.02), keras.optimizers.SGD(1e-3))
        logs.append(fit(model, schedule, optimizer=optimizer).history)
        weights.append(model.get_weights())
    for a, b in zip(*weights, strict=True):
        assert np.all(np.isfinite(a))
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert logs[0].keys() == logs[1].keys() >= {"input_loss", "module0_input_loss", "module1_input_loss"}
    for key, values in logs[0].items():
        np.testing.assert_allclose(values, logs[1][key], rtol=1e-4, atol=1e-6, err_msg=key)


def test_reported():
    """The loss is that of the network with predicted inputs; how well they are predicted is apart."""
    model = mlp(1, CLASSES, synthetic_input=RECIPE)
    x, y, _ = data()
    predicted = model.interfaces[0].synthetic_input.predictor(x)
    h = model.interfaces[0].layer(x)
    loss = np.mean((keras.ops.convert_to_numpy(model.get_layer("last")(predicted)) - y) ** 2)
    regression = np.mean(keras.ops.convert_to_numpy(predicted - h) ** 2)
    model.compile(optimizers(Descent), "mse")
    logs = model.train_on_batch(x, y, return_dict=True)
    assert logs["loss"] == pytest.approx(loss, rel=1e-5)
    assert logs["input_loss"] == pytest.approx(regression, rel=1e-5)


def test_not_outside_training():
    model = mlp(2, CLASSES, synthetic_input=RECIPE)
    fit(model)
    x, y, _ = data()
    plain = keras_sg.strip(model)
    np.testing.assert_array_equal(model.predict(x, verbose=0), plain.predict(x, verbose=0))
    plain.compile(loss="mse")
    assert model.evaluate(x, y, verbose=0, return_dict=True)["loss"] == plain.evaluate(x, y, verbose=0)
    shapes = {key: pair[0].shape for key, pair in model.interface_gradients(x, y).items()}
    assert shapes == {"module1": (EXAMPLES, 5), "module2": (EXAMPLES, 6)}


def test_true_gradient_is_that_of_the_network():
    """A probe sees backpropagation through the network itself, with no predicted input in it."""
    probed = []
    for options in ({}, {"synthetic_input": RECIPE}):
        model = mlp(2, CLASSES, **options)
        model.compile(optimizers(Descent), "mse")
        probed.append(model.interface_gradients(*data()[:2]))
    for key, (synthetic, true) in probed[0].items():
        np.testing.assert_allclose(probed[1][key][0], synthetic, atol=1e-6)
        np.testing.assert_allclose(probed[1][key][1], true, atol=1e-6)


def test_saved(tmp_path):
    models = [mlp(2, CLASSES, synthetic_input="mlp") for _ in range(2)]
    for model in models:
        fit(model, epochs=2)
    models[0].save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.interfaces[0].synthetic_input.recipe == InputMLP()
    x, y, weight = data()
    for model in (loaded, models[1]):
        model.fit(x, y, BATCH, sample_weight=weight, verbose=0, shuffle=False, epochs=2)
    for a, b in zip(loaded.get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_frozen_stays_so_in_a_file(tmp_path):
    model = mlp(2, CLASSES, synthetic_input=RECIPE)
    model.interfaces[0].synthetic_input.trainable = False
    model.interfaces[1].synthetic_input.predictor.layers[0].trainable = False
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for again in (loaded, keras.models.clone_model(loaded)):
        first, second = (cut.synthetic_input for cut in again.interfaces)
        assert not first.trainable and first.trainable_variables == []
        assert [layer.trainable for layer in second.predictor.layers[::2]] == [False, True]
        assert len(second.trainable_variables) == 2
    before = predictors_of(loaded)
    x, y, weight = data()
    loaded.fit(x, y, BATCH, sample_weight=weight, verbose=0)
    moved = [[np.any(a != b) for a, b in zip(*pair)] for pair in zip(before, predictors_of(loaded))]
    assert moved == [[False] * 4, [False, False, True, True]]


def from_shapes(given, shape):
    return keras.layers.Dense(shape[-1])


@pytest.mark.parametrize(
    "synthetic_input", [keras.layers.Dense(5), from_shapes, RECIPE], ids=["layer", "callable", "recipe"]
)
def test_whatever_predicts_is_saved(tmp_path, synthetic_input):
    model = mlp(1, CLASSES, synthetic_input=synthetic_input)
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for a, b in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    x, y, _ = data()
    loaded.fit(x, y, BATCH, verbose=0)


def test_existing_model():
    inputs = keras.Input((FEATURES,))
    h = keras.layers.Dense(5, activation="tanh", name="hidden")(inputs)
    plain = keras.Model(inputs, keras.layers.Dense(CLASSES)(h))
    model = keras_sg.decouple(plain, after=["hidden"], num_classes=CLASSES, synthetic_input="mlp")
    assert "input_loss" in fit(model).history


def test_one_optimizer_of_synthesizers_has_it():
    model = mlp(1, CLASSES, synthetic_input=RECIPE)
    optimizer = keras_sg.decoupled_optimizer(keras.optimizers.SGD(0.0), keras.optimizers.SGD(0.1))
    model.compile(optimizer, "mse")
    modules, _ = weights_of(model)
    predictors = predictors_of(model)
    model.fit(*data()[:2], verbose=0)
    assert_same(model, type("Same", (), {"weights": modules, "synthesizers": weights_of(model)[1]}), 0)
    for before, after in zip(predictors[0], predictors_of(model)[0]):
        assert np.any(before != after)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    model = of_kind("gradient", synthetic_input=RECIPE, dtype=policy)
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    x, y, _ = data()
    history = model.fit(x, y, BATCH, epochs=8, verbose=0).history["input_loss"]
    assert np.all(np.isfinite(history)) and history[-1] < history[0]


@pytest.mark.parametrize("strides", [1, 2], ids=["same positions", "fewer positions"])
def test_convolutional(strides):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 2))
    module = keras.layers.Conv2D(4, 3, strides=strides, padding="same", activation="relu", name="module")
    cut = keras_sg.SyntheticGradient(module, "conv", num_classes=3, synthetic_input=InputConv(kernel_size=3))
    model = keras_sg.DecoupledModel(
        inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(cut(inputs)))
    )
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 8, 8, 2)).astype("float32"), rng.integers(0, 3, 32)
    model.compile(keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(x, y, epochs=10, batch_size=8, verbose=0).history["input_loss"]
    assert history[-1] < 0.5 * history[0]


def test_channels_first_predicts():
    recipe = InputConv(data_format="channels_first", depth=0, kernel_size=1)
    assert recipe((None, 2, 8, 8), (None, 5, 4, 4)).layers[0].data_format == "channels_first"
    assert len(recipe((None, 2, 4, 4), (None, 5, 4, 4)).layers) == 1


def test_sequences():
    """A vector at each position is predicted from the vector there; of other positions, from all numbers."""
    assert InputMLP()((None, None, 3), (None, None, 5)).layers[-1].units == 5
    assert InputMLP()((None, 7, 3), (None, 4, 5))(np.ones((2, 7, 3), "float32")).shape == (2, 4, 5)


# Bad input


def cut(layer=None, **options):
    return keras_sg.SyntheticGradient(layer or keras.layers.Dense(4, name="module"), **options)


def test_unknown():
    with pytest.raises(ValueError, match="Unknown synthesizer"):
        cut(synthesizer=InputMLP())
    for wrong in ("linear", 3, keras_sg.synthesizers.Linear(), InputMLP):
        with pytest.raises(ValueError, match=r"`synthetic_input` says .* Received: "):
            cut(synthetic_input=wrong)


def test_several_inputs():
    inputs = [keras.Input((4,)), keras.Input((4,))]
    h = cut(synthetic_input="mlp")(keras.layers.Add()(inputs))
    with pytest.raises(ValueError, match=r"one tensor of floats\. Join several inputs"):
        keras_sg.DecoupledModel(inputs, keras.layers.Dense(2)(h))


def test_integers():
    inputs = keras.Input((4,), dtype="int32")
    h = cut(synthetic_input="mlp")(keras.layers.Embedding(9, 4)(inputs))
    with pytest.raises(ValueError, match="make an embedding of tokens"):
        keras_sg.DecoupledModel(inputs, keras.layers.Dense(2)(h))


def test_other_input():
    h = cut(synthetic_input="mlp")
    for size in (4, 5):
        inputs = keras.Input((size,))
        entering = inputs if size == 4 else keras.layers.Dense(4)(inputs)
        outputs = keras.layers.Dense(2)(h(entering))
        if size == 4:
            keras_sg.DecoupledModel(inputs, outputs)
    with pytest.raises(ValueError, match=r"was built for an input of shape \(None, 4\)"):
        keras_sg.DecoupledModel(inputs, outputs)


@pytest.mark.parametrize(
    "predicts, said",
    [
        (lambda given, shape: 3, "synthetic_input is to make a Keras layer"),
        (keras.layers.Dense(3), "must predict the interf"),
    ],
)
def test_predicts_something_else(predicts, said):
    inputs = keras.Input((4,))
    h = cut(synthetic_input=predicts)(inputs)
    with pytest.raises(ValueError, match=said):
        keras_sg.DecoupledModel(inputs, keras.layers.Dense(2)(h))


def test_shapes_that_do_not_go_together():
    with pytest.raises(ValueError, match="has to know how long both are"):
        InputMLP()((None, None, 3), (None, 4))
    with pytest.raises(ValueError, match="Take 'mlp' where the input is a vector"):
        InputConv()((None, 3), (None, 4, 4, 2))


def test_period():
    with pytest.raises(ValueError, match="Use synthetic_input without update_period"):
        cut(synthetic_input="mlp", update_period=2)


def test_between_windows():
    with pytest.raises(ValueError, match="lies between windows of time: no module above waits"):
        keras_sg.RecurrentSyntheticGradient(keras.layers.LSTM(3), synthetic_input="mlp")


def test_plain_model():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2)(cut(synthetic_input="mlp")(inputs)))
    model.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(ValueError, match="it only has from the training step"):
        model.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0)


def test_what_cannot_be_written(tmp_path):
    inputs = keras.Input((4,))
    h = cut(synthetic_input=lambda given, shape: keras.layers.Lambda(lambda x: x))(inputs)
    model = keras_sg.DecoupledModel(inputs, keras.layers.Dense(2)(h))
    model.save(tmp_path / "model.keras")  # Keras writes a lambda, and refuses to read it
    with pytest.raises(ValueError, match="lambda"):
        keras.saving.load_model(tmp_path / "model.keras")

    class Recipe(InputMLP):
        def get_config(self):
            raise NotImplementedError("a recipe with a function in it")

    h = cut(synthetic_input=Recipe())(inputs)
    model = keras_sg.DecoupledModel(inputs, keras.layers.Dense(2)(h))
    with pytest.raises(
        ValueError, match=r"The synthetic_input of interface 'module' cannot be written.*Sequential"
    ):
        model.save(tmp_path / "model.keras")


def test_halves():
    with pytest.raises(ValueError, match="which the upper half has not"):
        keras_sg.split(mlp(2, synthetic_input="mlp"), at="module1")


def test_folded():
    inputs = keras.Input((2, 4))
    h = cut(
        synthetic_input=lambda given, shape: keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(4)])
    )
    folded = h(keras.ops.reshape(inputs, (-1, 4)))
    model = keras_sg.DecoupledModel(inputs, keras.layers.Dense(2)(keras.ops.reshape(folded, (-1, 8))))
    model.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(ValueError, match="which of the inputs belongs to which example"):
        model.fit(np.ones((4, 2, 4)), np.ones((4, 2)), verbose=0)
