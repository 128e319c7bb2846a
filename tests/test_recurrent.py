"""Trained by `fit` on windows, the weights are those of the NumPy oracle, however `fit` is told to run."""

import keras
import numpy as np
import pytest
import recurrent_models as rm
from backends import compiled
from recurrent_models import ROWS, flat, network, oracle_of, windows

import keras_sg

EPOCHS = 2
MODES = {
    "graph": {},
    "eager": {"run_eagerly": True},
    "xla": {"jit_compile": True, "steps_per_execution": 2},
}
modes = pytest.mark.parametrize(
    "mode", [pytest.param(mode, marks=compiled if mode == "xla" else ()) for mode in MODES]
)
classes = pytest.mark.parametrize("model_class", [keras.Model, keras_sg.DecoupledModel])


def fit(model, x, y, ends, weight=None, mask=None, epochs=EPOCHS, optimizer=None, **options):
    model.compile(optimizer or rm.optimizer(), "mse", **options)
    x = x if mask is None else np.where(mask[..., None], x, np.float32(rm.NOTHING))
    weight = None if weight is None else flat(weight)
    options = {"batch_size": x.shape[1], "epochs": epochs, "sample_weight": weight}
    return model.fit([flat(x), flat(ends)], flat(y), shuffle=False, verbose=0, **options).history


def check(model, weight=None, mask=None, tolerance=1e-5, options=(), **oracle_options):
    x, y, ends = windows()
    oracle = oracle_of(model, **oracle_options)
    before = [a.copy() for a in oracle.cell + oracle.synthesizer]
    fit(model, x, y, ends, weight, mask, **dict(options))
    for _ in range(EPOCHS):
        for i, window in enumerate(zip(x, y, ends)):
            parts = {"weight": weight, "mask": mask}
            oracle.step(*window, **{key: part[i] for key, part in parts.items() if part is not None})
    rm.assert_same(model, oracle, tolerance)
    moved = [abs(a - b).max() for a, b in zip(before, oracle.cell + oracle.synthesizer)]
    assert min(moved) > 1e-3, "nothing was trained"


@modes
@classes
@pytest.mark.parametrize("auxiliary", [False, True], ids=["", "auxiliary"])
def test_oracle(model_class, auxiliary, mode):
    check(network(model_class, auxiliary=auxiliary), options=MODES[mode])


@modes
@classes
@pytest.mark.skipif(not keras.layers.SimpleRNN(1).supports_masking, reason="in this Keras, masks end there")
def test_weights_and_masks(model_class, mode):
    model = network(model_class, masked=True, auxiliary=True)
    check(model, rm.weights_of_steps(), rm.masks(), options=MODES[mode])


@classes
@pytest.mark.parametrize("mix", [0.0, 1.0])
@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_mix_and_losses(model_class, mix, loss):
    check(network(model_class, mix=mix, loss=loss, auxiliary=True))


def nearest(states, gradients):
    """A function from states to gradients, exact where the states are those given, both `(number, units)`."""

    def says(state):
        distances = ((state[:, None] - states[None]) ** 2).sum(axis=-1)
        return gradients[distances.argmin(axis=1)]

    return says


class Exact(keras.layers.Layer):
    """A synthesizer that knows the gradients at all states there are; the same as `nearest`, in Keras."""

    def __init__(self, states, gradients):
        super().__init__()
        self.states, self.gradients = states, gradients

    def call(self, state):
        states, gradients = map(keras.ops.convert_to_tensor, (self.states, self.gradients))
        distances = keras.ops.sum(keras.ops.square(state[:, None] - states[None]), axis=-1)
        return keras.ops.take(gradients, keras.ops.argmin(distances, axis=1), axis=0)

    def compute_output_spec(self, state):
        return keras.KerasTensor(state.shape, state.dtype)


def one_sequence(x, y, ends):
    """All windows as one, of one sequence a row."""
    whole = lambda part: np.concatenate(list(part), axis=1)
    return whole(x), whole(y), np.ones_like(ends[0])


@modes
@classes
def test_with_an_exact_synthesizer_it_is_backpropagation_through_all_of_time(model_class, mode):
    x, y, _ = windows()
    ends = np.zeros((len(x), ROWS), "float32")
    ends[-1] = 1.0
    # Full backpropagation, of the sum of the windows' losses, which are means.
    full = oracle_of(network(), mix=0.0)
    whole = full.gradients(*one_sequence(x, y, ends))

    # The same going backward from window to window, where each learns what comes after it.
    states, arriving = [], []
    oracle = oracle_of(network(), mix=1.0, says=lambda state: np.zeros_like(state))
    for window in zip(x, y, ends):
        oracle.gradients(*window)
        states.append(oracle.state)
    arrived = np.zeros((ROWS, rm.UNITS))
    for i in reversed(range(len(x))):
        arriving.insert(0, arrived)
        oracle.state = states[i - 1] if i else np.zeros((ROWS, rm.UNITS))
        oracle.fresh = np.zeros(ROWS)
        oracle.says = lambda state, arrived=arrived: arrived
        arrived = ROWS * oracle.gradients(x[i], y[i], ends[i])["entering"]
    known = [np.concatenate(part).astype("float32") for part in (states, arriving)]

    model = network(model_class, mix=1.0, synthesizer=Exact(*known))
    (interface,) = rm.interfaces_of(model)
    before = interface.layer.get_weights()
    sgd = keras.optimizers.SGD(rm.RATE, gradient_accumulation_steps=len(x))
    fit(model, x, y, ends, epochs=1, optimizer=sgd, **MODES[mode])
    for a, b, gradient in zip(before, interface.layer.get_weights(), whole["cell"]):
        # The loss of the whole is a mean over twelve times as many steps, as an accumulated gradient is.
        np.testing.assert_allclose(b, a - rm.RATE * gradient, rtol=0, atol=1e-5)
    truncated = network(model_class, mix=0.0)
    sgd = keras.optimizers.SGD(rm.RATE, gradient_accumulation_steps=len(x))
    fit(truncated, x, y, ends, epochs=1, optimizer=sgd, **MODES[mode])
    apart = [
        abs(a - b).max()
        for a, b in zip(rm.interfaces_of(truncated)[0].layer.get_weights(), interface.layer.get_weights())
    ]
    assert max(apart) > 1e-3


LAYERS = {
    "SimpleRNN": lambda: keras.layers.SimpleRNN(5, return_sequences=True, name="rnn"),
    "LSTM": lambda: keras.layers.LSTM(4, return_sequences=True, name="rnn"),
    "GRU": lambda: keras.layers.GRU(4, return_sequences=True, name="rnn"),
    "cell": lambda: keras.layers.RNN(keras.layers.LSTMCell(3), return_sequences=True, name="rnn"),
    "cells": lambda: keras.layers.RNN(
        [keras.layers.LSTMCell(3), keras.layers.GRUCell(4), keras.layers.SimpleRNNCell(2)],
        return_sequences=True,
        name="rnn",
    ),
    "one cell in a list": lambda: keras.layers.RNN(
        [keras.layers.GRUCell(4)], return_sequences=True, name="rnn"
    ),
}


def handed_on(make, seed=0):
    """The same network, whose states are inputs and outputs."""
    keras.utils.set_random_seed(seed)
    layer = make()
    x = keras.Input((rm.STEPS, rm.FEATURES), name="x")
    sizes = keras.tree.flatten(layer.state_size)
    states = [keras.Input((size,)) for size in sizes]
    nested = keras.tree.pack_sequence_as(layer.get_initial_state(batch_size=1), states)
    layer.return_state = True
    h, *left = layer(x, initial_state=nested)
    outputs = [keras.layers.Dense(rm.OUTPUTS, name="last")(h), *keras.tree.flatten(left)]
    return keras.Model([x, *states], outputs), sizes


@classes
@pytest.mark.parametrize("name", LAYERS)
def test_without_mix_it_is_truncated_backpropagation_with_the_state_handed_on(model_class, name):
    if name == "one cell in a list" and keras.backend.backend() == "jax":
        pytest.skip("Keras on JAX cannot run such a layer")
    x, y, ends = windows()
    model = network(model_class, LAYERS[name](), mix=0.0)
    plain, sizes = handed_on(LAYERS[name])
    (interface,) = rm.interfaces_of(model)
    plain.get_layer("rnn").set_weights(interface.layer.get_weights())
    plain.get_layer("last").set_weights(model.get_layer("last").get_weights())
    plain.compile(keras.optimizers.SGD(rm.RATE), ["mse"] + [None] * len(sizes))
    fit(model, x, y, ends, epochs=1)
    states, fresh = [np.zeros((ROWS, size), "float32") for size in sizes], np.ones((ROWS, 1))
    for window, target, end in zip(x, y, ends):
        states = [(1 - fresh).astype("float32") * state for state in states]
        left = plain.predict_on_batch([window, *states])[1:]
        plain.train_on_batch([window, *states], [target, *left])
        states, fresh = left, end[:, None]
    for a, b in zip(interface.layer.get_weights(), plain.get_layer("rnn").get_weights()):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(interface.state), np.concatenate(states, axis=1), rtol=0, atol=1e-5
    )


def test_without_mix_and_ends_it_is_a_stateful_layer():
    """On JAX, Keras's own loses its state in `fit`, so there it is trained batch by batch."""
    x, y, ends = windows()
    ends = np.zeros_like(ends)
    model = network(keras.Model, mix=0.0)
    fit(model, x, y, ends, epochs=1)
    keras.utils.set_random_seed(0)
    inputs = keras.Input(batch_shape=(ROWS, rm.STEPS, rm.FEATURES))
    layer = keras.layers.SimpleRNN(rm.UNITS, return_sequences=True, stateful=True)
    plain = keras.Model(inputs, keras.layers.Dense(rm.OUTPUTS)(layer(inputs)))
    plain.compile(keras.optimizers.SGD(rm.RATE), "mse", run_eagerly=True)
    fitted = keras.backend.backend() != "jax"
    if fitted:
        plain.fit(flat(x), flat(y), ROWS, shuffle=False, verbose=0)
        ours, theirs = rm.interfaces_of(model)[0].layer.get_weights(), layer.get_weights()
        for a, b in zip(ours, theirs):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    else:
        plain.fit(flat(x), flat(y), ROWS, shuffle=False, verbose=0)
        assert abs(np.asarray(layer.states[0])).max() == 0.0, "docs/pages/limits.md says that it is lost"


@pytest.mark.parametrize("policy, tolerance", [("mixed_float16", 3e-3), ("mixed_bfloat16", 3e-2)])
@classes
def test_mixed_precision(model_class, policy, tolerance):
    keras.config.set_dtype_policy(policy)
    check(network(model_class, auxiliary=True), tolerance=tolerance)


def test_the_value_of_the_loss_is_that_of_the_plain_layer():
    """Whatever is exchanged, the loss that is reported is the model's."""
    x, y, ends = windows()
    model = network(auxiliary=True, mix=1.0)
    stripped = keras_sg.strip(model)
    stripped.compile("sgd", "mse")
    model.compile(keras.optimizers.SGD(0.0), "mse")
    ours = model.train_on_batch([x[0], ends[0]], y[0])  # the first window of all rows
    np.testing.assert_allclose(np.ravel(ours)[0], stripped.evaluate(x[0], y[0], verbose=0), rtol=1e-5)


def test_reported_loss_and_cosine_are_those_of_the_rows_that_go_on():
    x, y, ends = windows()
    model = network()
    oracle = oracle_of(model)
    model.compile(rm.optimizer(), "mse")
    for i, window in enumerate(zip(x[:4], y, ends)):
        found = oracle.step(*window)
        logs = model.train_on_batch([window[0], window[2]], window[1], return_dict=True)
        if i:
            model.reset_metrics()
        prediction, target = found["prediction"], found["target"]
    np.testing.assert_allclose(logs["sg_loss"], np.mean((prediction - target) ** 2), rtol=1e-4)
    cosine = np.sum(prediction * target) / np.linalg.norm(prediction) / np.linalg.norm(target)
    np.testing.assert_allclose(logs["sg_cosine"], cosine, rtol=1e-3)


def test_outside_training_it_is_the_plain_layer_and_leaves_the_state_alone():
    x, y, ends = windows()
    model = network(keras.Model)
    fit(model, x[:3], y[:3], ends[:3] * 0, epochs=1)
    (interface,) = rm.interfaces_of(model)
    before = [keras.ops.convert_to_numpy(v).copy() for v in (interface.state, interface.fresh)]
    plain = keras_sg.strip(model)
    assert [tensor.name for tensor in plain.inputs] == ["x"]
    assert not any("keras_sg" in type(layer).__module__ for layer in plain.layers)
    for rows in (ROWS, 3, 9):  # any number of rows
        batch = np.random.default_rng(3).normal(size=(rows, rm.STEPS, rm.FEATURES)).astype("float32")
        ours = model.predict([batch, np.zeros(rows)], verbose=0)
        np.testing.assert_array_equal(ours, plain.predict(batch, verbose=0))
    model.evaluate([x[0], ends[0]], y[0], verbose=0)
    for variable, value in zip((interface.state, interface.fresh), before):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), value)
    assert before[0].any() and not before[1].any()


def test_strip_of_a_dictionary_of_inputs():
    x, ends = keras.Input((3, 2), name="x"), keras.Input((), name="ends")
    h = keras_sg.RecurrentSyntheticGradient(keras.layers.GRU(4), batch_size=4)(x, ends=ends)
    plain = keras_sg.strip(keras_sg.DecoupledModel({"x": x, "ends": ends}, h))
    assert list(plain.input) == ["x"] and plain.predict({"x": np.ones((2, 3, 2))}, verbose=0).shape == (2, 4)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
@classes
def test_saved_and_loaded_in_mid_sequence_it_goes_on(model_class, suffix, tmp_path):
    x, y, ends = windows()
    whole, path = network(model_class, auxiliary=True), tmp_path / f"model{suffix}"
    fit(whole, x, y, ends, epochs=1)
    half = network(model_class, auxiliary=True)
    fit(half, x[:6], y[:6], ends[:6], epochs=1)
    if suffix == ".keras":
        half.save(path)
        loaded = keras.models.load_model(path)
    else:
        half.save_weights(path)
        loaded = network(model_class, auxiliary=True, seed=5)
        loaded.compile(rm.optimizer(), "mse")
        loaded.load_weights(path)
    loaded.fit([flat(x[6:]), flat(ends[6:])], flat(y[6:]), ROWS, shuffle=False, verbose=0)
    for a, b in zip(whole.get_weights(), loaded.get_weights()):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_it_begins_afresh_when_it_is_told_to():
    x, y, ends = windows()
    model = network(keras.Model)
    fit(model, x[:2], y[:2], ends[:2] * 0, epochs=1)
    (interface,) = rm.interfaces_of(model)
    interface.reset_state()
    assert keras.ops.convert_to_numpy(interface.fresh).all()


@classes
def test_dropout(model_class):
    """Every window has a mask of its own, and learns."""
    layer = keras.layers.LSTM(4, dropout=0.5, recurrent_dropout=0.5, return_sequences=True, name="rnn")
    x, y, ends = windows()
    model = network(model_class, layer)
    seed = lambda: keras.ops.convert_to_numpy(layer.cell.seed_generator.state.value).copy()
    before, seeds = layer.get_weights(), seed()
    losses = fit(model, x, y, ends, epochs=3)["loss"]
    assert np.isfinite(losses).all()
    if keras.backend.backend() != "torch":  # where Keras draws from PyTorch's own generator
        assert (seed() != seeds).any()
    assert all(abs(a - b).max() > 1e-4 for a, b in zip(before, layer.get_weights()))


@classes
def test_it_may_be_the_last_layer_and_stand_on_another(model_class):
    """Two recurrent interfaces and one between layers; the upper one is an output of the model."""
    keras.utils.set_random_seed(0)
    x, ends = keras.Input((3, 2)), keras.Input(())
    lower = keras.layers.GRU(4, return_sequences=True, name="lower")
    h = keras_sg.RecurrentSyntheticGradient(lower, batch_size=ROWS)(x, ends=ends)
    h = keras_sg.SyntheticGradient(keras.layers.Dense(3, name="between"))(h)
    upper = keras.layers.SimpleRNN(2, return_sequences=True, name="upper")
    outputs = keras_sg.RecurrentSyntheticGradient(upper, batch_size=ROWS)(h, ends=ends)
    model = model_class([x, ends], outputs)
    windows_of = windows()
    before = model.get_weights()
    logs = fit(model, *windows_of, epochs=3)
    assert all(abs(a - b).max() > 0 for a, b in zip(before, model.get_weights()))
    if model_class is keras_sg.DecoupledModel:
        assert {"sg_loss", "lower_sg_cosine", "between_sg_loss", "upper_sg_cosine"} <= logs.keys()
        # Those of a recurrent interface would be of the rest of one window.
        found = model.interface_gradients([windows_of[0][0], windows_of[2][0]], windows_of[1][0])
        assert list(found) == ["between"]


def test_the_optimizer_for_synthesizers_takes_those_of_recurrent_interfaces():
    x, y, ends = windows()
    model = network(auxiliary=True)
    optimizer = keras_sg.decoupled_optimizer(keras.optimizers.SGD(0.0), keras.optimizers.SGD(0.1))
    before = model.get_weights()
    fit(model, x, y, ends, epochs=1, optimizer=optimizer)
    moved = {v.path for v, a in zip(model.weights, before) if abs(a - np.asarray(v)).max() > 0}
    (interface,) = rm.interfaces_of(model)
    expected = [*interface.synthesizer.variables, interface.state, interface.fresh]
    assert moved == {variable.path for variable in expected}


def test_a_frozen_layer_stays():
    x, y, ends = windows()
    model = network(trainable=False)
    (interface,) = rm.interfaces_of(model)
    layer, synthesizer = interface.layer.get_weights(), interface.synthesizer.get_weights()
    fit(model, x, y, ends, epochs=1)
    for a, b in zip(layer, interface.layer.get_weights()):
        np.testing.assert_array_equal(a, b)
    assert all(abs(a - b).max() > 0 for a, b in zip(synthesizer, interface.synthesizer.get_weights()))


def test_mix_is_moved():
    x, y, ends = windows()
    model, same = network(mix=1.0), network(mix=0.0)
    schedule = keras_sg.callbacks.MixSchedule(lambda epoch: 0.0)
    model.compile(rm.optimizer(), "mse")
    model.fit([flat(x), flat(ends)], flat(y), ROWS, shuffle=False, verbose=0, callbacks=[schedule])
    fit(same, x, y, ends, epochs=1)
    ours, theirs = (rm.interfaces_of(m)[0].layer.get_weights() for m in (model, same))
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_a_linear_auxiliary_read_out_changes_nothing_else():
    """The two read-outs of a linear synthesizer share nothing."""
    x, y, ends = windows()
    models = [network(auxiliary=auxiliary) for auxiliary in (True, False)]
    (with_it,), (without,) = map(rm.interfaces_of, models)
    kernel, bias = with_it.synthesizer.get_weights()
    without.synthesizer.set_weights([kernel[:, : rm.UNITS], bias[: rm.UNITS]])
    for model in models:
        fit(model, x, y, ends, epochs=1)
    for a, b in zip(with_it.layer.get_weights(), without.layer.get_weights()):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("synthesizer", ["mlp", keras_sg.synthesizers.MLP((6,), batch_normalization=False)])
@pytest.mark.parametrize("auxiliary", [False, True])
@classes
def test_hidden_layers(model_class, auxiliary, synthesizer):
    x, y, ends = windows()
    options = {"synthesizer": synthesizer, "auxiliary": auxiliary, "say_nothing": True}
    model = network(model_class, LAYERS["LSTM"](), **options)
    losses = fit(model, x, y, ends, epochs=3, optimizer=keras.optimizers.Adam(1e-3))["loss"]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
