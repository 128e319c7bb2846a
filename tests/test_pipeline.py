"""What schedules cannot serve is said in `compile`, or before the first step, by name."""

import keras
import numpy as np
import pytest
from models import BATCH, CLASSES, FEATURES, data, mlp

import keras_sg
from keras_sg._modules import optimizers
from keras_sg.schedules import InTurn, OnRay, SideBySide, get
from keras_sg.schedules.worker import ModuleWorker

JAX = keras.backend.backend() == "jax"


@pytest.fixture
def schedule():
    """One by which modules work side by side, on any backend."""
    pytest.importorskip("ray")
    return OnRay()


def refused(model, schedule, match, optimizer="sgd", **options):
    with pytest.raises(ValueError, match=match):
        model.compile(optimizer, "mse", schedule=schedule, **options)


def test_identifiers():
    assert isinstance(get("in_turn"), InTurn) and repr(get("together")) == "Together()"
    assert get(given := InTurn()) is given
    refused(
        mlp(1), "sideways", r"`schedule` says when and where modules run: one of \['in_turn', 'together'\]"
    )


@pytest.mark.parametrize("slack", [-1, 1.5, True, None])
def test_slack(slack):
    with pytest.raises(ValueError, match="`slack` is how many ticks more than one a message may travel"):
        OnRay(slack=slack)


@pytest.mark.parametrize("max_delay", [1, 3, 2.5, True])
def test_max_delay(max_delay):
    with pytest.raises(ValueError, match=r"`max_delay` is how many ticks .* at least 2 \(1 \+ slack\), 4"):
        OnRay(slack=1, max_delay=max_delay)


@pytest.mark.parametrize("options", ["gpu", [{}, "gpu"]])
def test_options_of_actors(options):
    with pytest.raises(ValueError, match="`options` is a dictionary of what Ray is asked for each actor"):
        OnRay(options=options)


@pytest.mark.parametrize("delay", [-0.1, "1", True])
def test_delay(delay):
    with pytest.raises(ValueError, match="`delay` is for how many seconds a message is held back"):
        OnRay(delay=delay)


def test_as_many_entries_as_modules(schedule):
    for what, given in (("options", [{}] * 3), ("cores", [[0]])):
        refused(mlp(1), OnRay(**{what: given}), f"parts into 2 modules; give `{what}` one entry for each")


def test_without_ray(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(
        ModuleNotFoundError, match="OnRay runs modules in actors of Ray, which is not installed"
    ):
        OnRay()


@pytest.mark.skipif(JAX, reason="JAX has it")
def test_devices_of_other_backends():
    with pytest.raises(ValueError, match="Modules work on several devices of one process on JAX only"):
        SideBySide()


@pytest.mark.skipif(not JAX, reason="devices are those of JAX")
def test_devices():
    with pytest.raises(ValueError, match=r"`devices` are those of jax.devices\(\), or their names"):
        SideBySide(devices=["gpu:7"])
    refused(
        mlp(2), SideBySide(devices=["cpu:0", "cpu:1"]), "parts into 3 modules, each of which needs a device"
    )
    mlp(1).compile("sgd", "mse", schedule=SideBySide(devices=["cpu:0", "cpu:1"]))


def test_loss_scale(schedule):
    keras.config.set_dtype_policy("mixed_float16")
    refused(mlp(1), schedule, "cannot share a dynamic loss scale")


def test_norm_of_all_gradients(schedule):
    clipped = keras.optimizers.SGD(global_clipnorm=1.0)
    refused(mlp(1), schedule, "know no norm of all gradients", clipped)
    refused(mlp(1), schedule, "know no norm of all", keras_sg.decoupled_optimizer("sgd", clipped))


def test_weights_without_decay(schedule):
    optimizer = keras.optimizers.AdamW()
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    refused(mlp(1), schedule, r"leave out of its weight decay \(exclude_from_weight_decay\)", optimizer)


def test_predicted_losses_below_predicted_gradients(schedule):
    inputs = keras.Input((FEATURES,))
    h = keras_sg.SyntheticLoss(keras.layers.Dense(4), "value")(inputs)
    h = keras_sg.SyntheticGradient(keras.layers.Dense(4))(h)
    model = keras_sg.DecoupledModel(inputs, keras.layers.Dense(CLASSES)(h))
    refused(model, schedule, "learns from the next predicted loss, and the next module predicts none")
    model.compile("sgd", "mse", schedule="in_turn")


def test_interfaces_between_windows():
    windows, ends = keras.Input((3, FEATURES), batch_size=4), keras.Input((), batch_size=4)
    h = keras_sg.RecurrentSyntheticGradient(keras.layers.GRU(4))(windows, ends=ends)
    model = keras_sg.DecoupledModel([windows, ends], keras.layers.Dense(CLASSES)(h))
    refused(model, "in_turn", "lies between windows of time, not between modules")


class Own(keras_sg.DecoupledModel):
    def compute_metrics(self, *args, **kwargs):
        return super().compute_metrics(*args, **kwargs)


def test_metrics_of_its_own(schedule):
    model = mlp(1, model_class=Own)
    refused(model, schedule, r"\['compute_metrics'\] of its own, which the process of its last module")
    model.compile("sgd", "mse", schedule="in_turn")


def test_state_that_belongs_to_no_weight():
    class Odd(keras.optimizers.SGD):
        def build(self, variables):
            super().build(variables)
            self.table = {"odd": self.add_variable((), name="odd")}

    model, optimizer = mlp(1), Odd()
    optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match="cannot be parted among modules, for some of it belongs to no one"):
        optimizers.slots(optimizer, model.trainable_variables)


@pytest.mark.parametrize(
    "optimizer", ["sgd", "adam", "adamw", "rmsprop", "adagrad", "adadelta", "adamax", "nadam", "ftrl", "lion"]
)
def test_state_that_can_be_parted(optimizer):
    """By weight, and what is common to all: every variable of the state is found once."""
    variables = mlp(1).trainable_variables
    optimizer = keras.optimizers.get(optimizer)
    optimizer.build(variables)
    first, others = (optimizers.slots(optimizer, part) for part in (variables[:1], variables[1:]))
    by_weight = [v for slots in (first, others) for owned in slots.values() for v in owned]
    assert {id(v) for v in by_weight} == {id(v) for v in optimizer.variables}
    for name, owned in first.items():
        common = owned[0] is others[name][0]
        assert common or (len(owned), len(others[name])) == (1, len(variables) - 1)
        assert common or tuple(owned[0].shape) in (tuple(variables[0].shape), ())


@pytest.mark.skipif(not JAX, reason="devices are those of JAX")
def test_in_flight():
    """Whoever looks at a model within an epoch waits; metrics are those of the batches that were fed."""
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 0:
                seen.append((int(self.model.optimizer.iterations), self.model.get_weights()))

    x, y, _ = data()
    model = mlp(2)
    model.compile("adam", "mse", schedule=SideBySide(), metrics=["mae"])
    before = model.get_weights()
    model.fit(x, y, BATCH, epochs=2, verbose=0, callbacks=[Look()], shuffle=False)
    assert [steps for steps, _ in seen] == [1, 3]
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, seen[0][1]))
    logs = model.train_on_batch(x, y, return_dict=True)
    assert int(model.optimizer.iterations) == 5 and logs["loss"] > 0 and logs["mae"] > 0


@pytest.mark.skipif(not JAX, reason="devices are those of JAX")
def test_an_error_in_mid_epoch_leaves_the_weights_from_before_it():
    def batches():
        x, y, _ = data()
        yield x, y
        yield x[:, :-1], y  # which do not fit

    model = mlp(2)
    model.compile("adam", "mse", schedule=SideBySide())
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"expected shape=.None, 6., found shape=.16, 5."):
        model.fit(batches(), verbose=0, shuffle=False)
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)
    x, y, _ = data()
    model.fit(x, y, BATCH, verbose=0)
    assert int(model.optimizer.iterations) == len(x) // BATCH


@pytest.mark.skipif(not JAX, reason="devices are those of JAX")
def test_an_error_at_the_end_of_an_epoch_leaves_the_weights_from_before_it(monkeypatch):
    model = mlp(2)
    model.compile("adam", "mse", schedule=SideBySide())
    before = model.get_weights()

    def dies(worker):
        raise RuntimeError("This worker has died.")

    x, y, _ = data()
    with monkeypatch.context() as patch:
        patch.setattr(ModuleWorker, "values", dies)
        with pytest.raises(RuntimeError, match="This worker has died"):
            model.fit(x, y, BATCH, verbose=0)
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_modules_are_counted_and_not_interfaces(schedule):
    """Of two interfaces at one boundary, two modules."""
    inputs = keras.Input((FEATURES,))
    cut = [keras_sg.SyntheticGradient(keras.layers.Dense(4))(inputs) for _ in range(2)]
    model = keras_sg.DecoupledModel(inputs, keras.layers.Dense(CLASSES)(keras.layers.Add()(cut)))
    model.compile("sgd", "mse", schedule=OnRay(cores=[[0], [0]]))
    refused(model, OnRay(cores=[[0]] * 3), "parts into 2 modules; give `cores` one entry for each")
