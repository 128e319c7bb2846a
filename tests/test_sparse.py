"""`update_period`: synthesizers that learn in some steps only, and whose state rests in the others."""

import importlib
import re

import keras
import numpy as np
import pytest
from backends import BACKEND, compiled
from keras import layers
from models import (
    BATCH,
    MODULE_RATE,
    SYNTHESIZER_RATE,
    assert_same,
    data,
    interfaces_of,
    mlp,
    optimizer,
    oracle_of,
    train_oracle,
    weights_of,
)
from oracle import Oracle

import keras_sg
from keras_sg._optimizers import clipping

PERIOD, EPOCHS = 3, 4


def check(model, compiled_with=None, tolerance=1e-5, oracle=None, **options):
    x, y, _ = data()
    oracle = oracle or oracle_of(model, update_period=PERIOD)
    model.compile(compiled_with or optimizer(), "mse", **options)
    model.fit(x, y, BATCH, epochs=EPOCHS, shuffle=False, verbose=0)
    train_oracle(oracle, x, y, EPOCHS)
    assert_same(model, oracle, tolerance)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"run_eagerly": True},
        pytest.param({"jit_compile": True}, marks=compiled),
        pytest.param({"steps_per_execution": 2, "jit_compile": True}, marks=compiled),
    ],
    ids=str,
)
def test_exact(options):
    check(mlp(2, update_period=PERIOD), **options)


def test_exact_mirrored(two_devices):
    with two_devices.scope():
        check(mlp(2, update_period=PERIOD))


def test_exact_data_parallel(data_parallel):
    check(mlp(2, update_period=PERIOD))


class SeveralPeriods(Oracle):
    """The oracle of a network in which each synthesizer has a period of its own."""

    periods = (2, 1, PERIOD)

    def step(self, *args, **options):
        before, step = self.synthesizers, self.steps
        pairs = super().step(*args, **options)
        self.synthesizers = [
            new if step % period == 0 else old
            for old, new, period in zip(before, self.synthesizers, self.periods)
        ]
        return pairs


def several_periods(interfaces=3, periods=SeveralPeriods.periods):
    model = mlp(interfaces)
    for interface, period in zip(interfaces_of(model), periods):
        interface.update_period = period
    return model


@pytest.mark.parametrize("options", [{}, pytest.param({"jit_compile": True}, marks=compiled)], ids=str)
def test_exact_with_several_periods(options):
    model = several_periods()
    check(model, oracle=SeveralPeriods(*weights_of(model), MODULE_RATE, SYNTHESIZER_RATE), **options)


def test_exact_mirrored_with_several_periods(two_devices):
    with two_devices.scope():
        model = several_periods()
        check(model, oracle=SeveralPeriods(*weights_of(model), MODULE_RATE, SYNTHESIZER_RATE))


@pytest.mark.skipif(BACKEND == "torch", reason="nothing is traced")
def test_a_step_grows_with_the_number_of_periods():
    """Each weight is in the graph once (on JAX, also in a first look at its branch)."""

    class Counting(keras.optimizers.SGD):
        calls = 0

        def update_step(self, *args):
            self.calls += 1
            return super().update_step(*args)

    model = several_periods(4, periods=range(2, 6))
    model.compile(Counting(0.1), "mse", jit_compile=False)
    x, y, _ = data()
    model.train_on_batch(x, y)
    assert 0 < model.optimizer.calls <= 2 * len(model.trainable_variables)


RATES = keras.optimizers.schedules.ExponentialDecay(1e-2, 2, 0.5)
SAME_STEP = {
    "adam": lambda: keras.optimizers.Adam(RATES),
    "decay, clipped": lambda: keras.optimizers.AdamW(1e-2, weight_decay=0.1, clipnorm=0.1),
    "one norm": lambda: keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.5),
    "one norm, scaled": lambda: keras.optimizers.Adam(1e-2, global_clipnorm=0.1, loss_scale_factor=4.0),
    "a state for all weights": lambda: keras.optimizers.Nadam(1e-2),
    "two": lambda: keras_sg.decoupled_optimizer(
        keras.optimizers.Adam(RATES, global_clipnorm=0.5), keras.optimizers.AdamW(RATES, weight_decay=0.1)
    ),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-2), 4.0),
    "loss scale, two": lambda: keras.optimizers.LossScaleOptimizer(keras_sg.decoupled_optimizer(), 4.0),
}


def sparse_model(make):
    """Synthesizers of periods 2 and 3, one with a constraint that moves what is moved by nothing else."""
    keras.utils.set_random_seed(0)
    inputs = h = keras.Input((3,))
    for period, constraint in ((2, "unit_norm"), (3, None)):
        synthesizer = layers.Dense(4, kernel_constraint=constraint)
        h = keras_sg.SyntheticGradient(layers.Dense(4), synthesizer, update_period=period)(h)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(2)(h))
    model.compile(make(), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def sparse_step(model):
    """What a training step does with the gradients of all variables, as a function of these."""
    module = importlib.import_module(f"keras_sg._trainers.{BACKEND}.periods")
    if BACKEND == "jax":
        import jax

        apply = jax.jit(lambda state, *rest: module.JaxPeriodicUpdates(model, state).apply(state, *rest))
        return lambda updates: statelessly(model, updates, apply)
    kind = {"tensorflow": "TensorFlowPeriodicUpdates", "torch": "TorchPeriodicUpdates"}[BACKEND]
    return lambda updates: getattr(module, kind)(model).apply(updates)


def apply_plainly(model, updates):
    """What the optimizer does with gradients; None for variables that it is not given."""
    pairs = list(zip(updates, model.trainable_variables))
    with clipping.apart(model.optimizer, pairs):
        if BACKEND == "jax":
            import jax

            return statelessly(model, updates, jax.jit(model.optimizer.stateless_apply))
        model.optimizer.apply_gradients([pair for pair in pairs if pair[0] is not None])


def statelessly(model, updates, apply):
    owned = model.trainable_variables, model.optimizer.variables
    weights, state = ([variable.value for variable in variables] for variables in owned)
    for variables, values in zip(owned, apply(state, updates, weights)):
        for variable, value in zip(variables, values):
            variable.assign(value)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")  # on JAX, of those that are left out
@pytest.mark.parametrize("case", SAME_STEP)
def test_a_step_is_that_of_an_optimizer_that_is_given_what_is_due(case):
    """All weights and all state, after steps in which none, one and both of two periods are due."""
    ours, theirs = sparse_model(SAME_STEP[case]), sparse_model(SAME_STEP[case])
    apply_sparsely, rng = sparse_step(ours), np.random.default_rng(0)
    period_of = {
        id(variable): interface.update_period
        for interface in theirs.interfaces
        for variable in interface.synthesizer.variables
    }
    for step in range(7):
        count = int(theirs.optimizer.iterations)  # which a step that overflows does not move
        due = [count % period_of.get(id(v), 1) == 0 for v in theirs.trainable_variables]
        drawn = [rng.normal(size=v.shape).astype("float32") for v in theirs.trainable_variables]
        if step == 4 and case.startswith("loss scale"):
            drawn[2][:] = np.inf  # of a synthesizer: nothing at all may move
        updates = [keras.ops.convert_to_tensor(d * is_due) for d, is_due in zip(drawn, due)]
        apply_sparsely(updates)
        apply_plainly(theirs, [update if is_due else None for update, is_due in zip(updates, due)])
        for a, b in zip(ours.weights + ours.optimizer.variables, theirs.weights + theirs.optimizer.variables):
            np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (a, b)), rtol=2e-6, atol=1e-7)


def test_an_optimizer_is_as_before_when_a_step_fails():
    class Failing(keras.optimizers.SGD):
        def update_step(self, *args):
            raise ZeroDivisionError

    model = sparse_model(lambda: Failing(0.1, global_clipnorm=0.5))
    attributes = set(vars(model.optimizer))
    with pytest.raises(ZeroDivisionError):
        sparse_step(model)([keras.ops.ones(v.shape) for v in model.trainable_variables])
    assert set(vars(model.optimizer)) == attributes and model.optimizer.global_clipnorm == 0.5


def test_mirrored_with_several_steps_per_execution(two_devices):
    """Where Keras itself cannot (its loss scaling fails in the same way), an error that says so."""
    x, y, _ = data()
    with two_devices.scope():
        model = mlp(1, update_period=PERIOD)
        model.compile("sgd", "mse", steps_per_execution=2)
    with pytest.raises(ValueError, match="on 2 replicas with steps_per_execution=2"):
        model.fit(x, y, verbose=0)


def test_what_is_frozen_in_a_synthesizer_stays_as_it_is():
    """Even where it is computed with in half precision."""
    keras.config.set_dtype_policy("mixed_float16")
    x, y, _ = data()
    frozen = layers.Dense(6, trainable=False)
    inputs = keras.Input((6,))
    synthesizer = keras.Sequential([frozen, layers.Dense(5)])
    cut = keras_sg.SyntheticGradient(layers.Dense(5), synthesizer, update_period=2)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3, dtype="float32")(cut(inputs)))
    model.compile("sgd", "mse")
    before = frozen.kernel.numpy()
    model.fit(x, y, batch_size=4, verbose=0)
    np.testing.assert_array_equal(frozen.kernel.numpy(), before)


def test_half_precision():
    keras.config.set_dtype_policy("mixed_float16")
    check(mlp(2, update_period=PERIOD), tolerance=2e-3)


def critic_model(period, sobolev=True, **options):
    """Two critics with BatchNormalization, whose statistics are to rest with the weights."""
    keras.utils.set_random_seed(0)
    critic = keras_sg.synthesizers.Critic(widths=(4,))
    inputs = h = keras.Input((6,))
    for units in (5, 4):
        h = keras_sg.SyntheticLoss(
            layers.Dense(units, "tanh", name=f"module{units}"),
            critic,
            num_classes=3,
            sobolev=sobolev,
            update_period=period,
        )(h)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3)(h))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Epsilon keeps Adam from making steps of rounding errors (the gradient of a bias before normalization).
    adam = lambda: keras.optimizers.Adam(1e-2, epsilon=1e-3)
    chosen = adam() if options.pop("single", False) else keras_sg.decoupled_optimizer(adam(), adam())
    model.compile(chosen, loss, **options)
    return model


def state(model):
    """All numbers that belong to synthesizers: weights, statistics, and Adam's moments."""
    owner = model.optimizer
    owner = getattr(owner, "inner_optimizer", owner)
    variables = [v for interface in model.interfaces for v in interface.synthesizer.variables]
    if isinstance(owner, keras.optimizers.MultiOptimizer):
        variables += owner.optimizers[0].variables
    else:
        variables += [v for v in owner.variables if "keras_sg_synthesizer" in v.path]
    return [v.numpy() for v in variables if not v.path.endswith("learning_rate")]


seconds_a_step = pytest.mark.skipif(BACKEND == "jax", reason="not compiled, it is slow; test_exact runs it")


@pytest.mark.parametrize(
    "jit_compile",
    [pytest.param(False, marks=seconds_a_step), pytest.param(True, marks=compiled)],
    ids=["graph", "xla"],
)
@pytest.mark.parametrize("single", [False, True], ids=["two optimizers", "one optimizer"])
def test_nothing_of_a_resting_synthesizer_moves(single, jit_compile):
    x, _, labels = data()
    model = critic_model(PERIOD, single=single, jit_compile=jit_compile)
    model.train_on_batch(x, labels)
    rested = []
    for _ in range(2 * PERIOD):
        before = state(model)
        module = model.interfaces[0].layer.kernel.numpy()
        model.train_on_batch(x, labels)
        after = state(model)
        rested.append(all(np.array_equal(a, b) for a, b in zip(before, after)))
        assert not np.array_equal(module, model.interfaces[0].layer.kernel.numpy())
        assert len(before) > 20
    # The first call was step 0; steps 3 and 6 are due.
    assert rested == [True, True, False, True, True, False]


@pytest.mark.parametrize("sobolev", [False, True])
def test_a_step_that_is_due_is_the_ordinary_step(sobolev):
    """What the trainer teaches in one step of many is what the one backward pass teaches else."""
    x, _, labels = data()
    often, seldom = critic_model(1, sobolev), critic_model(1000, sobolev)
    seldom.set_weights(often.get_weights())
    reports = [model.train_on_batch(x, labels, return_dict=True) for model in (often, seldom)]
    for a, b in zip(often.get_weights(), seldom.get_weights()):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    assert reports[0] == pytest.approx(reports[1], rel=1e-5)


def test_two_periods_in_one_model():
    x, y, _ = data()
    model = mlp(2)
    inputs, h = keras.Input((6,)), None
    h = inputs
    for interface, period in zip(interfaces_of(model), (2, 3)):
        h = keras_sg.SyntheticGradient(interface.layer, "linear", update_period=period)(h)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3)(h))
    for interface in model.interfaces:
        interface.synthesizer.set_weights(
            [np.full(w.shape, 0.1) for w in interface.synthesizer.get_weights()]
        )
    model.compile("adam", "mse")
    moved = []
    for _ in range(7):
        before = [interface.synthesizer.get_weights() for interface in model.interfaces]
        model.train_on_batch(x, y)
        after = [interface.synthesizer.get_weights() for interface in model.interfaces]
        moved.append([not np.array_equal(b[0], a[0]) for b, a in zip(before, after)])
    assert [pair[0] for pair in moved] == [step % 2 == 0 for step in range(7)]
    assert [pair[1] for pair in moved] == [step % 3 == 0 for step in range(7)]


def test_a_penalty_on_a_synthesizer_rests_with_it():
    x, y, _ = data()
    model = mlp(1)
    synthesizer = layers.Dense(5, kernel_regularizer=keras.regularizers.L2(1.0))
    inputs = keras.Input((6,))
    cut = keras_sg.SyntheticGradient(layers.Dense(5), synthesizer, update_period=2)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3)(cut(inputs)))
    model.compile(optimizer(), "mse")
    kernels = []
    for _ in range(3):
        model.train_on_batch(x, y)
        kernels.append(cut.synthesizer.kernel.numpy())
    assert np.array_equal(kernels[0], kernels[1]) and not np.array_equal(kernels[1], kernels[2])


def test_modules_that_are_frozen_do_not_stop_the_count():
    x, y, _ = data()
    model = mlp(1, update_period=2)
    model.get_layer("module1").layer.trainable = False
    model.get_layer("last").trainable = False
    model.compile("sgd", "mse")
    for _ in range(4):
        model.train_on_batch(x, y)
    assert int(model.optimizer.iterations.numpy()) == 4


WRONG = {
    "keras's own": (
        lambda: keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1))),
        "updates all variables in every step.*decoupled_optimizer",
    ),
    "accumulation": (
        lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
        "counts steps that are none.*gradient_accumulation_steps=2",
    ),
    "averages": (lambda: keras.optimizers.SGD(0.1, use_ema=True), "moves the averages of all.*use_ema=True"),
}


@pytest.mark.parametrize("case", WRONG)
def test_optimizers_that_cannot(case):
    make, message = WRONG[case]
    x, y, _ = data()
    model = mlp(1, update_period=2)
    model.compile(make(), "mse")
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        model.fit(x, y, verbose=0)


def test_a_plain_model_cannot():
    x, y, _ = data()
    model = mlp(1, model_class=keras.Model, update_period=2)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"learns in one of 2 steps \(update_period\).*DecoupledModel"):
        model.fit(x, y, verbose=0)
