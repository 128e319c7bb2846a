"""Modules that are updated at random train as the NumPy oracle says, and leave the rest of the work out."""

import keras
import numpy as np
import pytest
from delayed import Adam, AtRandom, Descent
from models import BATCH, CLASSES, FEATURES, MODES, assert_same, mlp, weights_of
from side_by_side import EXAMPLES, data, optimizers

import keras_sg
from keras_sg.schedules import InTurn

TENSORFLOW = keras.backend.backend() == "tensorflow"
TORCH = keras.backend.backend() == "torch"
STEPS = EXAMPLES // BATCH


def batches(conditional=True):
    x, y, weight = data()
    parts = [slice(start, start + BATCH) for start in range(0, EXAMPLES, BATCH)]
    return [(x[at], y[at], y[at] if conditional else None, weight[at]) for at in parts]


def fit(model, schedule, descent=Descent, epochs=3, **options):
    steps = options.pop("steps_per_execution", 1)
    compilation = {key: options.pop(key) for key in ("jit_compile", "run_eagerly") if key in options}
    model.compile(
        options.pop("optimizer", None) or optimizers(descent),
        "mse",
        weighted_metrics=["mae"],
        schedule=schedule,
        steps_per_execution=steps,
        **compilation,
    )
    x, y, weight = data()
    options = {"verbose": 0, "shuffle": False, "epochs": epochs} | options
    return model.fit(x, y, BATCH, sample_weight=weight, **options)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("descent", [Descent, Adam])
@pytest.mark.parametrize("interfaces", [1, 3])
def test_oracle(interfaces, descent, mode):
    schedule = InTurn(module_update=0.5, seed=3)
    model = mlp(interfaces, CLASSES)
    oracle = AtRandom(*weights_of(model), descent, 0.02, 0.05)
    oracle.train(batches() * 3, schedule.descending)
    fit(model, schedule, descent, **mode)
    assert_same(model, oracle, 1e-5)
    assert int(model.optimizer.iterations) == 3 * STEPS


def test_unconditional():
    schedule = InTurn(module_update=0.4)
    model = mlp(2)
    oracle = AtRandom(*weights_of(model), Adam, 0.02, 0.05)
    oracle.train(batches(conditional=False) * 3, schedule.descending)
    fit(model, schedule, Adam)
    assert_same(model, oracle, 1e-5)


def test_update_period():
    schedule = InTurn(module_update=0.5, seed=1)
    model = mlp(2, CLASSES, update_period=2)
    oracle = AtRandom(*weights_of(model), Adam, 0.02, 0.05, update_period=2)
    oracle.train(batches() * 3, schedule.descending)
    fit(model, schedule, Adam)
    assert_same(model, oracle, 1e-5)


def network(kind, **options):
    inputs = h = keras.Input((FEATURES,))
    for name in ("module1", "module2"):
        layer = keras.Sequential([keras.layers.Dense(5), keras.layers.BatchNormalization()], name=name)
        h = kind(layer, num_classes=CLASSES, **options)(h)
    return keras_sg.DecoupledModel(inputs, keras.layers.Dense(CLASSES)(h))


KINDS = {
    "gradient": lambda layer, **options: keras_sg.SyntheticGradient(layer, "mlp", **options),
    "critic": keras_sg.SyntheticLoss,
    "sobolev": lambda layer, **options: keras_sg.SyntheticLoss(layer, sobolev=True, **options),
    "local": keras_sg.LocalLoss,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_update_is_that_of_together(kind):
    """With nothing left out, the weights are those of one program."""
    keras.utils.set_random_seed(1)
    together = network(KINDS[kind])
    always = keras.models.clone_model(together)
    always.set_weights(together.get_weights())
    for model, schedule in ((together, "together"), (always, Always(0.5))):
        slow = keras.optimizers.SGD(1e-3)  # at the rates of the others, predictions of two layers run away
        fit(model, schedule, optimizer=slow)
    for a, b in zip(together.get_weights(), always.get_weights()):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


class Always(InTurn):
    """At random, and it so happens that nothing rests."""

    def descending(self, steps, modules):
        return [True] * modules


class Only(InTurn):
    """One module descends, the others rest."""

    def __init__(self, k):
        super().__init__(0.5)
        self.k = k

    def descending(self, steps, modules):
        return [k == self.k for k in range(modules)]


@pytest.mark.parametrize("kind", KINDS)
def test_what_rests_stays(kind):
    """Weights of a module, of the synthesizer below it, and of a local loss's head; statistics move."""
    model, rng = network(KINDS[kind]), np.random.default_rng(0)
    for variable in model.trainable_variables:  # read-outs that are zero would have nobody learn
        variable.assign(keras.ops.convert_to_numpy(variable) + 0.1 * rng.normal(size=variable.shape))
    before = {variable.path: keras.ops.convert_to_numpy(variable) for variable in model.variables}
    fit(model, Only(1), Adam, epochs=1)
    now = {variable.path: keras.ops.convert_to_numpy(variable) for variable in model.variables}
    moved = {path for path, value in before.items() if np.any(now[path] != value)}
    of = lambda interface, part: {variable.path for variable in part(model.get_layer(interface))}
    layers, heads = lambda i: i.layer.trainable_variables, lambda i: i.synthesizer.trainable_variables
    assert moved & of("module2", layers) and not moved & of("module1", layers)
    assert bool(moved & of("module1", heads)) == (kind != "local")
    assert bool(moved & of("module2", heads)) == (kind == "local")
    assert of("module1", lambda i: i.layer.non_trainable_variables) & moved
    # The synthesizer of the module that descends is called, but learns nothing: its statistics, too, stay.
    assert kind == "local" or not moved & of("module2", lambda i: i.synthesizer.variables)


def test_synthesizers_at_rest_are_not_called():
    """Where a module rests, its synthesizer does not predict."""
    seen = []

    class Told(keras.layers.Dense):
        def call(self, inputs):
            seen.append(True)
            return super().call(inputs)

    inputs = keras.Input((FEATURES,))
    h = keras_sg.SyntheticGradient(keras.layers.Dense(5), Told(5))(inputs)
    model = keras_sg.DecoupledModel(inputs, keras.layers.Dense(CLASSES)(h))
    x, y, _ = data()
    for k, called in ((5, False), (0, True)):
        seen.clear()
        model.compile("sgd", "mse", schedule=Only(k), run_eagerly=True)
        model.train_on_batch(x, y)
        assert bool(seen) == called


def test_goes_on_where_it_stopped(tmp_path):
    """Saved after an epoch and loaded, the same modules rest as if nothing had happened."""
    schedule = lambda: InTurn(module_update=0.5, seed=2)
    whole, model = mlp(2, CLASSES), mlp(2, CLASSES)
    model.set_weights(whole.get_weights())
    fit(whole, schedule(), Adam, epochs=4)
    fit(model, schedule(), Adam, epochs=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    optimizer = loaded.optimizer
    loaded.compile(optimizer, "mse", weighted_metrics=["mae"], schedule=schedule())
    x, y, weight = data()
    loaded.fit(x, y, BATCH, sample_weight=weight, shuffle=False, epochs=2, verbose=0)
    for a, b in zip(whole.get_weights(), loaded.get_weights()):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_metrics_and_how_often():
    history = fit(mlp(2, CLASSES), InTurn(0.3), validation_data=data()).history
    assert {"loss", "mae", "sg_loss", "val_loss"} <= set(history)
    assert history["loss"][-1] < history["loss"][0]
    drawn = np.array([InTurn(0.3).descending(step, 4) for step in range(4000)])
    assert np.allclose(drawn.mean(axis=0), 0.3, atol=0.03)
    assert np.all(np.abs(np.corrcoef(drawn.T) - np.eye(4)) < 0.06)  # independently of the others
    assert InTurn(0.3, 1).descending(7, 40) != InTurn(0.3, 2).descending(7, 40)


@pytest.mark.parametrize("p", [0, 0.0, -0.1, 1.01, True, "half", None, float("nan")])
def test_probability(p):
    with pytest.raises(ValueError, match="`module_update` is the probability with which a module is updated"):
        InTurn(module_update=p)


@pytest.mark.parametrize("seed", [-1, 0.5, True, None])
def test_seed(seed):
    with pytest.raises(ValueError, match="`seed` says which modules are updated in which step"):
        InTurn(module_update=0.5, seed=seed)


def test_what_cannot_be_updated_by_itself():
    clipped = keras.optimizers.SGD(global_clipnorm=1.0)
    model = mlp(1)
    refused = "updated by themselves know no norm of all gradients.*schedule='in_turn, module_update=0.5'"
    with pytest.raises(ValueError, match=refused):
        model.compile(clipped, "mse", schedule=InTurn(module_update=0.5))
    model.compile(clipped, "mse", schedule=InTurn())
