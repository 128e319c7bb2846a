"""The private corners of Keras in `keras_sg/_keras.py`, each held to what we take it to do."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_sg import _keras


class Taker(layers.Layer):
    """Notes the step that a call brought it."""

    def __init__(self):
        super().__init__()
        self.taken = []
        _keras.register_step(self)

    def call(self, x, decoupled_step=None):
        self.taken.append(decoupled_step)
        return x


def test_a_registered_step_reaches_layers_at_any_depth():
    taker, step = Taker(), object()
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.Sequential([keras.Sequential([taker])])(inputs))
    _keras.register_step(model)
    model(np.ones((1, 2)), **{_keras.STEP: step})
    assert taker.taken[-1] is step
    model(np.ones((1, 2)))
    assert taker.taken[-1] is None


def test_sublayers_are_found_at_any_depth():
    dense = layers.Dense(2)
    model = keras.Sequential([keras.Input((3, 2)), keras.Sequential([layers.TimeDistributed(dense)])])
    assert dense in _keras.sublayers(model) and model not in _keras.sublayers(model)


def test_masks_are_copied():
    embedded = layers.Embedding(4, 2, mask_zero=True)(np.array([[1, 0]]))
    copied = _keras.copy_mask(embedded, keras.ops.copy(embedded))
    np.testing.assert_array_equal(copied._keras_mask, [[True, False]])


def test_producer():
    dense = layers.Dense(2)
    assert _keras.producer(dense(keras.Input((2,)))) == (dense, 0)


def test_consumed():
    inputs = keras.Input((2,))
    h = layers.Dense(2)(inputs)
    out = layers.Dense(2)(h)
    model = keras.Model(inputs, out)
    assert _keras.consumed(model, h) and not _keras.consumed(model, out)


@pytest.mark.tensorflow  # where alone it is needed
def test_metrics_are_made_for_the_shapes_of_a_batch():
    inputs = keras.Input((2,))
    h = layers.Dense(3, name="h")(inputs)
    model = keras.Model(inputs, [h, layers.Dense(1, name="v")(h)])
    model.compile("sgd", ["mse", "mae"], metrics=[["accuracy"], None])
    x, y = np.ones((4, 2), "float32"), [np.zeros((4, 1), "int32"), np.zeros((4, 1), "float32")]
    _keras.make_metrics(model, x, y, None)
    made = [id(variable) for variable in model.metrics_variables]
    found = model.train_on_batch(x, y, return_dict=True)
    assert {"loss", "h_loss", "v_loss", "h_accuracy"} == set(found)
    assert [id(variable) for variable in model.metrics_variables] == made
    assert keras.metrics.SparseCategoricalAccuracy in map(type, model._compile_metrics.metrics)


def test_reductions():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, layers.Dense(1)(inputs))
    model.compile("sgd", keras.losses.MeanSquaredError(reduction="sum"))
    assert _keras.reductions(model) == ["sum"]
    model.compile("sgd", "mse")
    assert _keras.reductions(model) == [None]


@pytest.mark.tensorflow
def test_loss_and_its_tracker():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, layers.Dense(1, kernel_initializer="zeros")(inputs))
    model.compile("sgd", "mse")
    x, y = np.ones((4, 2), "float32"), np.full((4, 1), 3.0, "float32")
    loss = _keras.compute_loss(model, x, y, model(x), None)
    np.testing.assert_allclose(loss, 9.0)
    _keras.track_loss(model, loss, 4)
    np.testing.assert_allclose(model.get_metrics_result()["loss"], 9.0)


@pytest.mark.parametrize("built", [False, True])
def test_a_knob_can_be_turned_and_is_a_weight_on_jax_only(built):
    layer = layers.Dense(2)
    if built:
        layer.build((None, 3))
    variable = _keras.Knob(layer, "knob", 0.25).variable
    assert float(keras.ops.convert_to_numpy(variable)) == 0.25 and not variable.trainable
    among = any(weight is variable for weight in layer.weights)
    assert among == (keras.backend.backend() == "jax")
    if built:
        with pytest.raises(ValueError, match="already built"):
            layer.add_weight(shape=(), name="another")


def test_a_variable_is_read_as_it_is_in_any_precision():
    class Reader(layers.Layer):
        def build(self, shape):
            self.state = self.add_weight(shape=(), initializer="ones", trainable=False)

        def call(self, x):
            kinds = [keras.ops.copy(v).dtype for v in (self.state, _keras.uncast(self.state))]
            self.kinds = [keras.backend.standardize_dtype(kind) for kind in kinds]
            return x

    reader = Reader(dtype="mixed_float16")
    reader(np.ones((1, 1)))
    assert reader.kinds == ["float16", "float32"]


@pytest.mark.parametrize("loss", ["mse", None])
def test_compiling_makes_a_new_compilation(loss):
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    model.compile("sgd", loss)
    first = _keras.compilation(model)
    assert first is _keras.compilation(model)
    model.compile("sgd", loss)
    assert first is not _keras.compilation(model)


def test_one_batch_is_all_of_the_arrays_and_the_first_of_a_generator():
    x, y = np.arange(100.0)[:, None], np.arange(100)
    found = _keras.one_batch({"x": x}, [y])
    assert found[0]["x"].dtype == "float32" and found[2] is None
    np.testing.assert_array_equal(found[0]["x"], x)
    np.testing.assert_array_equal(found[1][0], y)
    first = _keras.one_batch((x[i : i + 3], y[i : i + 3], y[:3]) for i in (0, 3, 6))
    for part, expected in zip(first, (x[:3], y[:3], y[:3]), strict=True):
        np.testing.assert_array_equal(part, expected)


def test_inputs_as_a_functional_model_takes_them():
    b, a = keras.Input((2,), name="b"), keras.Input((1,), name="a", dtype="int32")
    model = keras.Model([b, a], layers.Concatenate()([b, a]))
    found = _keras.inputs_of(model, {"a": np.ones(4), "b": np.ones((4, 2)), "c": np.ones(4)})
    assert [tuple(tensor.shape) for tensor in found] == [(4, 2), (4, 1)]
    kinds = [keras.backend.standardize_dtype(tensor.dtype) for tensor in found]
    assert kinds == ["float32", "int32"]


def test_the_optimizer_of_a_variable():
    special, default = keras.optimizers.SGD(0.1), keras.optimizers.SGD(0.2)
    multi = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(default, {"special": special}))
    variables = [keras.Variable(0.0, name=name) for name in ("special", "other")]
    assert [_keras.optimizer_of(multi, v) for v in variables] == [special, default]
    assert _keras.inner_optimizer(keras.optimizers.LossScaleOptimizer(multi)) is multi
    assert _keras.inner_optimizer(default) is default
    assert _keras.single_optimizers(keras.optimizers.LossScaleOptimizer(multi)) == multi.optimizers
    assert _keras.single_optimizers(default) == [default]


def test_children_are_the_layers_directly_inside():
    inner = keras.Sequential([keras.Input((2,)), layers.Dense(3, name="deep")], name="inner")
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2, name="first"), inner])
    names = [layer.name for layer in _keras.children(model)]
    assert [name for name in names if not name.startswith("input")] == ["first", "inner"]
    assert _keras.contains(model, layers.Dense) and not _keras.contains(model, layers.Conv2D)


def test_the_variables_that_an_optimizer_was_built_for():
    variables = [keras.Variable(0.0), keras.Variable(1.0)]
    optimizer = keras.optimizers.Adam()
    optimizer.build(variables)
    assert all(a is b for a, b in zip(_keras.built_for(optimizer), variables, strict=True))


@pytest.mark.tensorflow  # where alone they are needed
def test_the_moments_of_a_weight():
    weights = [keras.Variable([0.0]), keras.Variable([1.0, 2.0])]
    adam = keras.optimizers.Adam(beta_1=0.5, beta_2=0.75)
    adam.build(weights)
    adam.apply([keras.ops.zeros(1), keras.ops.ones(2)])
    for weight in (weights[1], weights[1].value):  # Keras's and TensorFlow's
        momentum, velocity = _keras.moments(adam, weight)
        np.testing.assert_array_equal(momentum, [0.5, 0.5])
        np.testing.assert_array_equal(velocity, [0.25, 0.25])


def test_a_scope_inside_half_precision_keeps_values_as_they_are():
    fine = 1.0 + 2.0**-20  # not a number of half precision

    class Scoped(layers.Layer):
        def build(self, shape):
            self.state = self.add_weight(shape=(), initializer="ones", trainable=False)

        def call(self, x):
            with _keras.scope_with([(self.state, keras.ops.convert_to_tensor(fine, "float32"))]) as scope:
                self.add_loss(keras.ops.sum(x))
            self.found, self.losses_there = scope.get_current_value(self.state), len(scope.losses)
            return x

    scoped = Scoped(dtype="mixed_float16")
    scoped(np.ones((1, 1)))
    assert float(scoped.found) == np.float32(fine) and scoped.losses_there == 1
    pure = Scoped(dtype="float16")
    pure(np.ones((1, 1)))  # nor are they widened to floatx
    assert keras.backend.standardize_dtype(pure.found.dtype) == "float16"


def every_optimizer():
    kinds = [kind for kind in vars(keras.optimizers).values() if isinstance(kind, type)]
    wrappers = keras.optimizers.MultiOptimizer, keras.optimizers.LossScaleOptimizer
    found = [kind for kind in kinds if issubclass(kind, keras.Optimizer) and not issubclass(kind, wrappers)]
    return sorted({kind for kind in found if kind is not keras.Optimizer}, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", every_optimizer())
def test_common_state_is_what_updates_of_different_weights_move(kind):
    shapes = [(4,), ()] if kind is keras.optimizers.Muon else [(4,), (), (2, 3)]  # matrices, eagerly: fails
    weights = [keras.Variable(np.ones(shape)) for shape in shapes]
    optimizer = kind(0.1)
    optimizer.build(weights)

    def moved_by(weight):
        before = [keras.ops.convert_to_numpy(v).copy() for v in optimizer.variables]
        optimizer.apply([keras.ops.ones(weight.shape)], [weight])
        after = map(keras.ops.convert_to_numpy, optimizer.variables)
        return {i for i, (a, b) in enumerate(zip(before, after)) if not np.array_equal(a, b)}

    by_all = set.intersection(*map(moved_by, weights))
    common = [v for v in _keras.common_state(optimizer) if v is not optimizer.learning_rate]
    assert [id(optimizer.variables[i]) for i in sorted(by_all)] == [*map(id, common)] != []


def test_clip_by_global_norm():
    clipped = _keras.clip_by_global_norm([keras.ops.ones((3,)), None, keras.ops.ones(())], 1.0)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(clipped[0]), [0.5] * 3, rtol=1e-6)
    assert clipped[1] is None and float(clipped[2]) == pytest.approx(0.5)


@pytest.mark.parametrize("accumulated", [None, 2])
def test_an_optimizer_can_be_made_to_clip_otherwise(accumulated):
    """`clip` sees what the optimizer would have clipped: unscaled, accumulated, and no None."""
    values = [keras.Variable([0.0]), keras.Variable([0.0]), keras.Variable([0.0, 0.0])]
    sgd = keras.optimizers.SGD(
        1.0, global_clipnorm=1.0, loss_scale_factor=2.0, gradient_accumulation_steps=accumulated
    )
    sgd.build(values)
    shapes, ones = [], keras.ops.ones

    def last_alone(own, gradients):
        shapes.append([tuple(gradient.shape) for gradient in gradients])
        return [*gradients[:-1], *own(gradients[-1:])]

    gradients = [6.0 * ones(1), None, keras.ops.convert_to_tensor([6.0, 8.0])]
    with _keras.clipping(sgd, last_alone):
        for _ in range(accumulated or 1):
            with pytest.warns(UserWarning, match="Gradients do not exist"):
                sgd.apply(gradients, values)
    assert {((1,), (2,))} == set(map(tuple, shapes))
    for value, expected in zip(values, ([-3.0], [0.0], [-0.6, -0.8])):  # [3, 4] has norm 5
        np.testing.assert_allclose(keras.ops.convert_to_numpy(value), expected, rtol=1e-6)
    assert "_clip_gradients" not in vars(sgd)


def test_masks_are_read_and_attached():
    tensor = keras.ops.ones((2, 3))
    assert _keras.mask_of(tensor) is None
    mask = keras.ops.ones((2,), "bool")
    assert _keras.mask_of(_keras.with_mask(tensor, mask)) is mask


def test_the_outermost_layer_is_found():
    found = []

    class Asking(keras.layers.Layer):
        def call(self, x):
            found.append(_keras.entry_layer())
            return x

    model = keras.Sequential([Asking()])
    model(keras.ops.ones((2, 3)))
    assert found[-1] is model and _keras.entry_layer() is None


def test_what_is_made_in_a_remat_scope():
    with keras.RematScope(mode="full"):
        inside = keras.layers.Dense(2)
    assert _keras.is_rematerialized(inside) and not _keras.is_rematerialized(keras.layers.Dense(2))


def test_where_a_symbolic_tensor_was_made():
    inputs, shared = keras.Input((3,)), keras.layers.Dense(3)
    first = shared(inputs)
    second = shared(first)
    assert _keras.made_from(second) == (shared, [first]) and _keras.made_from(first)[1] == [inputs]


def test_calls():
    inputs, shared = keras.Input((3,)), keras.layers.Dense(3)
    first = shared(inputs)
    second = keras.layers.Add()([first, shared(inputs=first)])
    last = keras.ops.tanh(second)
    found = _keras.calls(keras.Model(inputs, last))
    layers = [layer for layer, *_ in found]
    assert isinstance(layers[0], keras.layers.InputLayer) and layers[1:3] == [shared, shared]
    assert layers[3:] == [_keras.producer(x)[0] for x in (second, last)]
    assert [outputs for *_, outputs in found] == [[inputs], [first], [found[3][1][0][1]], [second], [last]]
    assert found[1][1:3] == ((inputs,), {}) and found[2][1:3] == ((), {"inputs": first})


def test_a_call_is_told_from_others_of_the_same_layer():
    inputs, shared = keras.Input((3,)), keras.layers.Dense(3)
    first = shared(inputs)
    second = shared(first)
    (one, *made), (two, *again) = _keras.call_of(first), _keras.call_of(second)
    assert made == [shared, [inputs]] and again == [shared, [first]]
    assert one != two and one == _keras.call_of(first)[0]
    assert _keras.call_of(inputs)[2] == []


@pytest.mark.parametrize("sequential", [True, False])
def test_a_graph_is_run_with_other_calls(sequential):
    layers = [keras.layers.Dense(4, name="a"), keras.layers.Dense(2, name="b")]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model = model if sequential else keras.Model(model.inputs[0], model.outputs[0])
    called = []

    def call(layer, *args, **kwargs):
        called.append(layer)
        return layer(*args, **kwargs)

    inputs = keras.Input((3,))
    output = _keras.run_graph(model, inputs, call)
    assert called == layers == _keras.calls_in_order(model) and output.shape == (None, 2)
    assert _keras.call_of(_keras.call_of(output)[2][0])[2] == [inputs]


class WithTrainStep(keras.Model):
    def train_step(self, *args):
        raise NotImplementedError


class WithCall(keras.Model):
    def call(self, x):
        return super().call(x) + 1


@pytest.mark.parametrize("make, expected", [(keras.Model, True), (WithTrainStep, True), (WithCall, False)])
def test_models_with_a_call_of_their_own_are_known(make, expected):
    inputs = keras.Input((3,))
    assert _keras.runs_its_graph(make(inputs, keras.layers.Dense(2)(inputs))) is expected
    assert _keras.runs_its_graph(keras.Sequential([inputs, keras.layers.Dense(2)]))


def test_calls_are_listed_in_the_order_in_which_they_are_made():
    made = []

    class Noting(keras.layers.Layer):
        def call(self, x):
            made.append(self)
            return x

    inputs = keras.Input((3,))
    long = Noting()(Noting()(Noting()(inputs)))
    short = Noting()(inputs)
    twice = Noting()
    model = keras.Model(inputs, keras.layers.Add()([twice(twice(long)), short]))
    made.clear()
    model(keras.ops.ones((2, 3)))
    listed = _keras.calls_in_order(model)
    assert [layer for layer in listed if isinstance(layer, Noting)] == made and len(made) == 6


def test_losses_are_added_in_the_place_of_the_models_own():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(1, kernel_regularizer="l2")(inputs))
    model.compile("sgd", "mse")
    y = keras.ops.ones((2, 1))
    compute = lambda: keras.ops.convert_to_numpy(_keras.compute_loss(model, None, y, y + 1, None))
    own = compute()
    assert own > 1
    with _keras.adding(model, [keras.ops.convert_to_tensor(2.0), keras.ops.convert_to_tensor(3.0)]):
        assert compute() == 6
    with _keras.adding(model, []):
        assert compute() == 1
    assert compute() == own


def two_outputs(named=False):
    inputs = keras.Input((3,))
    b, a = keras.layers.Dense(2, name="b")(inputs), keras.layers.Dense(1, name="a")(inputs)
    return keras.Model(inputs, {"x": a, "y": b} if named else [b, a])


@pytest.mark.parametrize(
    "named, parts, expected",
    [
        (False, ["for b", "for a"], ["for b", "for a"]),
        (False, {"a": "for a", "b": "for b"}, ["for b", "for a"]),
        (False, {"a": "for a"}, [None, "for a"]),
        (True, {"y": "for b", "x": "for a"}, ["for a", "for b"]),
        (True, {"b": "for b", "a": "for a"}, ["for a", "for b"]),
        (False, "for all", ["for all", "for all"]),
        (False, None, [None, None]),
    ],
)
def test_what_belongs_to_an_output(named, parts, expected):
    assert _keras.by_output(two_outputs(named), parts, shared=True) == expected


def test_losses_of_outputs():
    model = two_outputs()
    assert _keras.losses_of_outputs(model) == [(None, 0.0)] * 2
    model.compile("sgd", ["mse", None], loss_weights=[3.0, 1.0])
    assert _keras.losses_of_outputs(model) == [("mse", 3.0), (None, 0.0)]
    assert _keras.by_output(model, ["for the one with a loss"]) == ["for the one with a loss", None]
    model.compile("sgd", {"a": "mae", "b": "mse"}, loss_weights={"a": 2.0, "b": 1.0})
    assert _keras.losses_of_outputs(model) == [("mse", 1.0), ("mae", 2.0)]
    model.compile("sgd", "mse")
    assert _keras.losses_of_outputs(model) == [("mse", 1.0)] * 2


@pytest.mark.parametrize(
    "loss, shape, expected",
    [
        ("mse", (4, 3), (None,)),
        ("mse", (4, 5, 3), (None, 5)),
        (keras.losses.Dice(axis=(1, 2, 3)), (4, 4, 4, 1), (None,)),
        (keras.losses.Dice(), (4, 4, 4, 1), ()),
        (keras.losses.CosineSimilarity(axis=0), (4, 3), (3,)),
        (lambda y, p: keras.ops.max(y - p, -1), (4, 3), (None,)),
    ],
)
def test_shape_of_the_values_of_a_loss(loss, shape, expected):
    assert _keras.shape_of_values(loss, keras.ops.ones(shape), keras.ops.ones(shape)) == expected


def test_what_a_layer_took_by_keyword():
    class Asking(keras.layers.Layer):
        def call(self, x, *, also=None):
            return x

    x, also = keras.Input((3,)), keras.Input(())
    asking = Asking()
    assert _keras.taken_by_keyword(asking, "also") is None
    asking(x, also=also)
    assert _keras.taken_by_keyword(asking, "also") is also
    assert _keras.taken_by_keyword(asking, "other") is None


@pytest.mark.parametrize(
    "loss, told",
    [
        ("sparse_categorical_crossentropy", True),
        (keras.losses.sparse_categorical_crossentropy, True),
        (keras.losses.SparseCategoricalCrossentropy(), True),
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True), False),
        (keras.losses.BinaryCrossentropy(), True),
        (keras.losses.BinaryFocalCrossentropy(from_logits=True), False),
        ("mse", False),
        (lambda y, y_pred: y_pred - y, False),
    ],
)
def test_losses_of_probabilities(loss, told):
    y, y_pred = np.zeros(2, "int32"), np.full((2, 3), 1 / 3, "float32")
    assert _keras.takes_probabilities(loss, y, y_pred) == told


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="elsewhere a step writes the variables itself")
def test_a_state_is_handed_to_the_variables_at_the_end_of_an_epoch():
    class Setting(keras.Sequential):
        """Leaves behind a state in which everything is 7, in the place of what it has learned."""

        def make_train_function(self, force=False):
            super().make_train_function(force)
            train = self.train_function

            def train_and_set(state, iterator):
                logs, state = train(state, iterator)
                self.left = [[0 * value + 7 for value in values] for values in state]
                return logs, state

            self.train_function = train_and_set

        def state_sync(self):
            self.called = True
            _keras.set_state(self, tuple(self.left))
            super().state_sync()

        def jax_state_sync(self):
            self.called = True
            _keras.set_state(self, tuple(self.left))
            super().jax_state_sync()

    model = Setting([keras.Input((2,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    assert model.called
    for variable in [*model.variables, *model.optimizer.variables]:
        np.testing.assert_array_equal(variable, 7)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="Keras hands over several batches on JAX alone")
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("part", ["whole", "targets"])
@pytest.mark.parametrize("kind", ["arrays", "generator", "data set"])
def test_the_batches_that_are_handed_over_at_once(kind, part, steps):
    class Noting(keras.Sequential):
        def make_train_function(self, force=False):
            super().make_train_function(force)
            train, self.noted = self.train_function, []

            def note(data):
                wanted = [lambda batch: keras.utils.unpack_x_y_sample_weight(batch)[1]]
                self.noted += _keras.batches_of(data, steps, *(wanted if part == "targets" else []))
                return data

            self.train_function = lambda state, iterator: train(state, map(note, iterator))

    x, y = np.arange(20.0, dtype="float32").reshape(10, 2), np.arange(10.0, dtype="float32")[:, None]
    sizes = [4, 4, 2] if kind == "arrays" else [2] * 5
    model = Noting([keras.Input((2,)), layers.Dense(1)])
    model.compile("sgd", "mse", steps_per_execution=steps)
    if kind == "arrays":
        model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    elif kind == "generator":
        batches = ((x[i : i + 2], y[i : i + 2]) for i in range(0, 10, 2))
        model.fit(batches, steps_per_epoch=5, shuffle=False, verbose=0)
    else:
        data = pytest.importorskip("tensorflow").data.Dataset.from_tensor_slices((x, y)).batch(2)
        model.fit(data, shuffle=False, verbose=0)
    found = [batch if part == "targets" else batch[1] for batch in model.noted]
    assert [len(batch) for batch in found] == sizes
    np.testing.assert_array_equal(np.concatenate(found), y)
    if part == "whole":
        np.testing.assert_array_equal(np.concatenate([batch[0] for batch in model.noted]), x)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="only on PyTorch Keras wraps models")
def test_the_model_that_keeps_processes_the_same(tmp_path):
    import torch

    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    model.make_train_function()
    assert _keras.synchronised(model) is None
    if not hasattr(model, "ddp_model"):
        pytest.skip("before Keras 3.16, it wraps no model")
    model.make_train_function(force=True)
    assert _keras.synchronised(model) is None
    group = f"file://{tmp_path / 'group'}"
    torch.distributed.init_process_group("gloo", init_method=group, rank=0, world_size=1)
    try:
        model.make_train_function(force=True)
        assert isinstance(_keras.synchronised(model), torch.nn.parallel.DistributedDataParallel)
    finally:
        torch.distributed.destroy_process_group()


class Own(keras.losses.Loss):
    ignore_class = 2


@pytest.mark.parametrize(
    "loss, expected",
    [
        (keras.losses.SparseCategoricalCrossentropy(ignore_class=-1), -1),
        (keras.losses.SparseCategoricalCrossentropy(ignore_class=0), 0),
        (keras.losses.SparseCategoricalCrossentropy(), None),
        (keras.losses.MeanSquaredError(), None),
        (Own(), 2),
        ("mse", None),
        (None, None),
    ],
    ids=["-1", "0", "none", "another", "own", "name", "no loss"],
)
def test_the_class_that_a_loss_leaves_out(loss, expected):
    assert _keras.ignored_class(loss) == expected
