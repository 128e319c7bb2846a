"""The callbacks: what they move, and what they measure."""

import re

import keras
import numpy as np
import pytest
from backends import compiled, not_on_jax, several_steps
from keras import layers
from models import BATCH, assert_same, data, interfaces_of, mlp, optimizer, oracle_of, train_oracle

import keras_sg
from keras_sg import callbacks
from keras_sg.callbacks.alignment import alignment
from keras_sg.callbacks.update_size import weight_groups


def fit(model, epochs, *watchers, **options):
    x, y, _ = data()
    return model.fit(
        x, y, BATCH, epochs=epochs, shuffle=False, verbose=0, callbacks=list(watchers), **options
    ).history


@pytest.mark.parametrize("model_class", [keras.Model, keras_sg.DecoupledModel])
def test_mix_moves_from_epoch_to_epoch(model_class):
    mixes = [0.0, 0.25, 1.0]
    model = mlp(2, model_class=model_class)
    oracle = oracle_of(model)
    model.compile(optimizer(), "mse")
    history = fit(model, 3, callbacks.MixSchedule(lambda epoch: mixes[epoch]))
    for mix in mixes:
        oracle.mix = mix
        train_oracle(oracle, *data()[:2], epochs=1)
    assert_same(model, oracle, 1e-5)
    assert history["mix"] == mixes
    assert [layer.mix for layer in model.layers if hasattr(layer, "mix")] == [1.0, 1.0]


@pytest.mark.tensorflow
def test_mix_is_traced_once():
    traces = []

    class Counting(keras_sg.DecoupledModel):
        def train_step(self, batch):
            traces.append(1)
            return super().train_step(batch)

    model = mlp(1, model_class=Counting)
    model.compile(optimizer(), "mse")
    fit(model, 1)
    before = len(traces)
    fit(model, 5, callbacks.MixSchedule(lambda epoch: epoch / 5))
    assert len(traces) == before + 1
    fit(model, 5, callbacks.MixSchedule(lambda epoch: 1 - epoch / 5))
    assert len(traces) == before + 1


@not_on_jax
@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"jit_compile": True}, marks=compiled),
        pytest.param({"steps_per_execution": 2}, marks=several_steps),
    ],
    ids=str,
)
def test_mix_moves_from_step_to_step(options):
    schedule = lambda step: 0.0 if step < 2 else 0.5
    model = mlp(1)
    oracle = oracle_of(model, mix=0.0)
    model.compile(optimizer(), "mse", **options)
    fit(model, 2, callbacks.MixSchedule(schedule, unit="step"))  # two steps an epoch
    train_oracle(oracle, *data()[:2], epochs=1)
    oracle.mix = 0.5
    train_oracle(oracle, *data()[:2], epochs=1)
    assert_same(model, oracle, 1e-5)


def test_mix_mirrored(two_devices):
    with two_devices.scope():
        model = mlp(2)
        oracle = oracle_of(model)
        model.compile(optimizer(), "mse")
    fit(model, 2, callbacks.MixSchedule(lambda epoch: [0.0, 0.75][epoch]))
    for oracle.mix in (0.0, 0.75):
        train_oracle(oracle, *data()[:2], epochs=1)
    assert_same(model, oracle, 1e-5)


def test_a_moved_mix_is_in_the_configuration_and_not_in_the_weights(tmp_path):
    model = mlp(1)
    model.compile(optimizer(), "mse")
    model.save_weights(tmp_path / "before.weights.h5")
    fit(model, 1, callbacks.MixSchedule(lambda epoch: 0.5))
    model.load_weights(tmp_path / "before.weights.h5")
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.interfaces[0].mix == 0.5
    model.save_weights(tmp_path / "after.weights.h5")
    again.load_weights(tmp_path / "after.weights.h5")
    assert keras_sg.decouple(keras_sg.strip(model), "module1").interfaces[0].mix == 1.0


@not_on_jax
def test_a_moved_mix_is_not_restored_with_the_weights():
    model = mlp(1)
    model.compile(optimizer(), "mse")
    before = model.get_weights()
    fit(model, 1, callbacks.MixSchedule(lambda epoch: 0.5))
    model.set_weights(before)
    assert model.interfaces[0].mix == 0.5
    keras.models.clone_model(model).set_weights(model.get_weights())


def test_mix_can_be_moved_before_the_interface_is_built():
    interface = keras_sg.SyntheticGradient(layers.Dense(3))
    assert interface.move_mix(0.5) and interface.mix == 0.5 and not interface.move_mix(0.25)
    interface.build((None, 2))
    assert interface.mix == 0.25


@pytest.mark.parametrize("model_class", [keras_sg.DecoupledModel, keras.Model])
def test_mix_can_be_assigned(model_class, tmp_path):
    """Before anything is traced it stays a constant; after that, the next fit has it, of a DecoupledModel."""
    model = mlp(2, model_class=model_class)
    oracle = oracle_of(model)
    model.compile(optimizer(), "mse")
    interfaces = interfaces_of(model)
    decoupled = model_class is keras_sg.DecoupledModel
    for oracle.mix in (0.5, 0.25, 1.0) if decoupled else (0.5,):
        for interface in interfaces:
            interface.mix = oracle.mix
            assert interface.mix == oracle.mix and interface.get_config()["mix"] == oracle.mix
        assert any(interface.mix_moves for interface in interfaces) == (oracle.mix != 0.5)
        fit(model, 1)
        train_oracle(oracle, *data()[:2], epochs=1)
        assert_same(model, oracle, 1e-5)
    if not decoupled:
        with pytest.raises(
            ValueError, match=r"hold mix=0.5 of.*'module1' as a constant\. Call move_mix\(0.25\).*compile"
        ):
            interfaces[0].mix = 0.25
        for interface in interfaces:
            interface.move_mix(0.25)
        model.compile(optimizer(), "mse")
        fit(model, 1)
        oracle.mix = 0.25
        train_oracle(oracle, *data()[:2], epochs=1)
        assert_same(model, oracle, 1e-5)
    with pytest.raises(ValueError, match=r"share of the synthetic gradient.*mix=1\.5"):
        interfaces[0].mix = 1.5


def test_true_gradients_reach_the_module_of_a_synthetic_loss_at_mix_0():
    """A warm-up: at mix 0 the modules of a critic learn as by backpropagation."""
    x, _, labels = data()

    def build(cut):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6,))
        initial = lambda: keras.initializers.GlorotUniform(seed=1)
        h = cut(layers.Dense(5, "tanh", name="block", kernel_initializer=initial()))(inputs)
        last = layers.Dense(3, kernel_initializer=initial(), activation="softmax")
        model = keras_sg.DecoupledModel(inputs, last(h))
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        block = model.get_layer("block")
        block = getattr(block, "layer", block)
        before = block.get_weights()
        model.fit(x, labels, 8, epochs=3, shuffle=False, verbose=0)
        return [after - w for after, w in zip(block.get_weights(), before)]

    true = build(lambda layer: layer)
    cut = build(lambda layer: keras_sg.SyntheticLoss(layer, "critic", num_classes=3, mix=0.0))
    for a, b in zip(true, cut):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    assert np.abs(true[0]).max() > 1e-4


def test_schedules_that_are_wrong():
    plain = keras.Sequential([keras.Input((6,)), layers.Dense(3)])
    plain.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"there are none in this model.*decouple"):
        fit(plain, 1, callbacks.MixSchedule(lambda epoch: 1.0))
    model = mlp(1, model_class=keras.Model)
    model.compile("sgd", "mse")
    for wrong in (1.5, -0.1, None, "1", float("nan")):
        with pytest.raises(ValueError, match=rf"(?s)MixSchedule returned no mix.*0.*to 1.*mix={wrong!r}"):
            fit(model, 1, callbacks.MixSchedule(lambda epoch, mix=wrong: mix))
    with pytest.raises(ValueError, match=r"`unit` must be 'epoch' or 'step'.*'batch'"):
        callbacks.MixSchedule(lambda epoch: 1.0, unit="batch")
    if keras.backend.backend() == "jax":
        with pytest.raises(ValueError, match="On JAX, Keras hands a model's variables"):
            fit(model, 1, callbacks.MixSchedule(lambda step: 1.0, unit="step"))
        with pytest.raises(ValueError, match="On JAX, Keras writes a model's variables"):
            callbacks.UpdateSize(per="step")


def test_alignment_by_hand():
    true = np.array([[3.0, 4.0], [1.0, 0.0]])
    synthetic = np.array([[4.0, 3.0], [0.0, 0.0]])
    found = alignment(synthetic, true)
    assert found["cosine"] == pytest.approx(24 / np.sqrt(26 * 25))
    assert found["error"] == pytest.approx(np.sqrt(3 / 26))
    assert found["sign"] == 3 / 4
    assert alignment(true, true) == pytest.approx({"cosine": 1.0, "error": 0.0, "sign": 1.0})
    assert np.isnan(alignment(true, 0 * true)["error"])
    assert alignment(0 * true, true)["cosine"] == alignment(true, 0 * true)["cosine"] == 0.0


def test_examples_that_are_fitted_do_not_lower_the_cosine():
    """Their gradient is nearly zero, and so is their share in the update, however wrong the prediction."""
    true = np.array([[[3.0, 4.0]], [[1e-4, 0.0]], [[0.0, 1e-4]]])
    synthetic = np.array([[[3.0, 4.0]], [[0.0, 1e-2]], [[1e-2, 0.0]]])
    assert alignment(synthetic, true)["cosine"] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("nested", [False, True])
def test_the_true_gradient_is_that_of_backpropagation(nested):
    """Not the bootstrapped target: at the lower interface the two differ."""
    x, y, _ = data()
    model = mlp(2)
    oracle = oracle_of(model, mix=0.0)
    if nested:
        inputs = keras.Input((6,))
        model = keras_sg.DecoupledModel(inputs, keras.Model(model.input, model.output)(inputs))
    model.compile(optimizer(), "mse")
    found = model.interface_gradients(x, y)
    for key, (predicted, target) in zip(("module1", "module2"), oracle.step(x, y)):
        np.testing.assert_allclose(found[key][0], predicted, rtol=0, atol=1e-6)
        np.testing.assert_allclose(found[key][1], target, rtol=0, atol=1e-6)


def test_alignment_goes_into_the_logs_and_touches_nothing(tmp_path):
    x, _, labels = data()

    def train(*watchers):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6,))
        module = keras.Sequential(
            [layers.Dense(5), layers.BatchNormalization(), layers.Dropout(0.5, seed=0)], name="module1"
        )
        h = keras_sg.SyntheticGradient(module, "mlp", num_classes=3)(inputs)
        h = keras_sg.SyntheticLoss(layers.Dense(4, name="module2"), "critic", num_classes=3)(h)
        model = keras_sg.DecoupledModel(inputs, layers.Dense(3)(h))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=["accuracy"])
        history = model.fit(
            x, labels, 8, epochs=3, shuffle=False, verbose=0, callbacks=list(watchers)
        ).history
        return model, history

    alone, plain = train()
    table = tmp_path / "log.csv"
    watched, history = train(
        callbacks.GradientAlignment(x, labels), callbacks.UpdateSize(), keras.callbacks.CSVLogger(table)
    )
    for a, b in zip(alone.get_weights(), watched.get_weights()):
        np.testing.assert_array_equal(a, b)
    for key, values in plain.items():
        assert history[key] == values
    keys = {f"module{i}_alignment_{m}" for i in (1, 2) for m in ("cosine", "error", "sign")}
    assert keys <= set(history) and keys <= set(table.read_text().splitlines()[0].split(","))
    assert "module1_synthesizer_update_size" in history
    assert all(np.isfinite(history[key]).all() for key in keys)


def test_alignment_mirrored(two_devices):
    x, y, _ = data()
    measures = []
    for scope in (two_devices.scope(), None):
        if scope:
            with scope:
                model = mlp(2)
                model.compile(optimizer(), "mse")
        else:
            model = mlp(2)
            model.compile(optimizer(), "mse")
        history = fit(model, 1, callbacks.GradientAlignment(x, y))
        measures.append({key: v[0] for key, v in history.items() if "alignment" in key})
    assert measures[0] == pytest.approx(measures[1], abs=1e-5) and len(measures[0]) == 6


def test_the_true_gradient_is_that_of_the_loss_compiled_last():
    x, y, _ = data()
    model = mlp(1)
    model.compile(optimizer(), "mse")
    first = model.interface_gradients(x, y)["module1"][1]
    model.compile(optimizer(), "mae")
    assert not np.allclose(first, model.interface_gradients(x, y)["module1"][1])


def test_a_probe_of_named_inputs_in_any_order():
    inputs = [keras.Input((4,), name="b"), keras.Input((2,), name="a")]
    h = keras_sg.SyntheticGradient(layers.Dense(3, name="block"))(layers.Concatenate()(inputs))
    model = keras_sg.DecoupledModel(inputs, layers.Dense(1)(h))
    model.compile("sgd", "mse")
    x, y = {"a": np.ones((4, 2)), "b": np.ones((4, 4))}, np.ones((4, 1))
    logs = model.fit(x, y, verbose=0, callbacks=[callbacks.GradientAlignment(x, y)]).history
    assert "block_alignment_sign" in logs


PROBES = {
    "features": (lambda x, y: (x[:, :2], y), r"Expected x of shapes \[\(None, 6\)\].*\(16, 2\)"),
    "examples": (lambda x, y: (x, y[:3]), "as many examples"),
    "empty": (lambda x, y: (x[:0], y[:0]), "at least one"),
    "labels": (lambda x, y: (x, y + 7), r"\[0, 3\)"),
}


@pytest.mark.parametrize("case", PROBES)
def test_probes_that_do_not_fit(case):
    make, message = PROBES[case]
    x, _, labels = data()
    model = mlp(1, num_classes=3)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = model.get_weights()
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        model.fit(x, labels, verbose=0, callbacks=[callbacks.GradientAlignment(*make(x, labels))])
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))


def test_alignment_needs_a_decoupled_model():
    x, y, _ = data()
    model = mlp(1, model_class=keras.Model)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"compares gradients at.*DecoupledModel.*of type Functional"):
        fit(model, 1, callbacks.GradientAlignment(x, y))


def test_groups_of_weights():
    inputs = keras.Input((6,))
    inner = keras.Sequential(
        [layers.Dense(4, name="a"), keras_sg.SyntheticGradient(layers.Dense(4, name="cut"))], name="inner"
    )
    h = inner(layers.Dense(4, name="first")(inputs))
    model = keras.Model(inputs, layers.Dense(1, name="last")(layers.Dense(2, name="middle")(h)))
    groups = {name: [v.path for v in variables] for name, variables in weight_groups(model).items()}
    assert list(groups) == ["cut", "cut_synthesizer", "output"]
    owners = lambda name: {path.split("/")[-2] for path in groups[name]}
    assert owners("cut") == {"first", "a", "cut"} and owners("output") == {"middle", "last"}
    assert all("keras_sg_synthesizer" in path for path in groups["cut_synthesizer"])
    assert sum(map(len, groups.values())) == len(model.trainable_variables)


def test_groups_of_weights_that_share_a_name_are_numbered():
    cut = lambda: keras_sg.SyntheticGradient(layers.Dense(4, name="cut"))
    inner = keras.Sequential([keras.Input((6,)), cut()], name="inner")
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(1, name="last")(cut()(inner(inputs))))
    names = ["cut", "cut_synthesizer", "cut_1", "cut_synthesizer_1", "output"]
    assert list(weight_groups(model)) == names


@pytest.mark.parametrize("per", ["epoch", "step"])
def test_update_size(per):
    if per == "step" and keras.backend.backend() == "jax":
        pytest.skip("steps cannot be watched on JAX")
    model = mlp(1, model_class=keras.Model)
    oracle = oracle_of(model)
    model.compile(optimizer(), "mse")
    flat = lambda pair: np.concatenate([np.ravel(w) for w in pair])
    before = [flat(pair) for pair in (*oracle.weights, *oracle.synthesizers)]
    history = fit(model, 1, callbacks.UpdateSize(per))
    x, y, _ = data()
    if per == "epoch":
        train_oracle(oracle, x, y, 1)
    else:
        oracle.step(x[:BATCH], y[:BATCH])
    after = [flat(pair) for pair in (*oracle.weights, *oracle.synthesizers)]
    expected = [np.linalg.norm(b - a) / np.linalg.norm(a) for a, b in zip(before, after)]
    found = [history[f"{key}_update_size"][0] for key in ("module1", "output", "module1_synthesizer")]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_update_size_of_weights_that_begin_at_zero():
    """What came is all that there is; where nothing came, nothing moved. All of it fits into JSON."""
    model = keras.Sequential([keras.Input((6,)), layers.Dense(3, kernel_initializer="zeros")])
    model.compile("sgd", "mse")
    first, second = fit(model, 2, callbacks.UpdateSize())["output_update_size"]
    assert first == pytest.approx(1) and 0 < second != pytest.approx(1)
    model.set_weights([np.zeros_like(w) for w in model.get_weights()])
    model.optimizer.learning_rate = 0.0
    assert fit(model, 1, callbacks.UpdateSize())["output_update_size"] == [0.0]
    with pytest.raises(ValueError, match=r"`per` must be 'epoch' or 'step'.*'batch'"):
        callbacks.UpdateSize(per="batch")
