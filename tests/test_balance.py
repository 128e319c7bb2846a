"""`balance`: where modules of equal cost end."""

import itertools
import warnings

import keras
import numpy as np
import pytest
from keras import layers

import keras_sg
from keras_sg._surgery import balance as placement
from keras_sg._surgery.balance import AS_GOOD, OPERATIONS_PER_ELEMENT, partition


def stack(*units, **options):
    """Dense layers `d0`, `d1`, ... of so many units, on 4 features."""
    dense = [layers.Dense(n, name=f"d{i}", **options) for i, n in enumerate(units)]
    return keras.Sequential([keras.Input((4,)), *dense])


def separating(model):
    """The paths of all places where a cut separates."""
    return [stretch.place.path for stretch in placement._stretches(model) if stretch.place]


def places(model, by="operations"):
    """The paths of the places that `balance` chooses from."""
    _, found = placement._places(placement._stretches(model), placement._COSTS[by])
    return [place.path for place in found]


def test_layers_that_cost_the_same():
    model = stack(*[4] * 8)
    assert keras_sg.balance(model, 2) == ["d3"]
    assert keras_sg.balance(model, 4) == ["d1", "d3", "d5"]
    assert keras_sg.balance(model, 8) == [f"d{i}" for i in range(7)]
    assert keras_sg.balance(model, np.int64(4), by="memory") == ["d1", "d3", "d5"]


def test_by_operations_and_by_memory():
    """Multiply-adds 4 * 100, 100 * 100, 100 * 4, 4 * 400, 400 * 4; elements 100, 100, 4, 400, 4."""
    model = stack(100, 100, 4, 400, 4)
    assert OPERATIONS_PER_ELEMENT == 32  # 3600, 13200, 528, 14400 and 1728 in all
    assert keras_sg.balance(model, 2) == ["d2"]  # 17328 and 16128
    assert keras_sg.balance(model, 3) == ["d0", "d2"]  # 3600, 13728 and 16128
    assert keras_sg.balance(model, 4) == ["d0", "d2", "d3"]  # 3600, 13728, 14400 and 1728
    assert keras_sg.balance(model, 2, by="memory") == ["d2"]  # 204 and 404
    assert keras_sg.balance(model, 3, by="memory") == ["d0", "d2"]  # 100, 104 and 404


def test_the_smallest_tensor_between_two_layers_that_learn():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.ZeroPadding2D(name="pad"),
            layers.Conv2D(4, 3, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.MaxPooling2D(name="pool"),
            layers.Dropout(0.1, name="drop"),
            layers.Flatten(name="flat"),
            layers.Dense(6, name="dense"),
            layers.ReLU(name="relu2"),
            layers.RepeatVector(3, name="repeat"),
            layers.Dense(5, name="last"),
            layers.Softmax(name="softmax"),
        ]
    )
    # The pooled picture, not before its Dropout, and not flat, where all positions would be features.
    assert places(model) == ["drop", "relu2"]
    assert keras_sg.balance(model, 3) == ["drop", "relu2"]


def residual(blocks=3):
    """Blocks `x + d(a(x))` on 4 features between a stem and a head."""
    inputs = keras.Input((4,))
    h = layers.Dense(4, name="stem")(inputs)
    for i in range(blocks):
        inside = layers.Dense(16, activation="relu", name=f"a{i}")(h)
        h = layers.Add(name=f"join{i}")([h, layers.Dense(4, name=f"b{i}")(inside)])
    return keras.Model(inputs, layers.Dense(2, name="head")(h), name="residual")


def test_skip_connections():
    model = residual()
    assert places(model) == ["stem", "join0", "join1", "join2"]
    assert keras_sg.balance(model, 3) == ["join0", "join1"]


@pytest.mark.parametrize("seed", range(12))
def test_places_are_where_all_paths_meet(seed):
    """Random graphs of Dense layers, each on the sum of up to three tensors below it."""
    rng = np.random.default_rng(seed)
    tensors, paths = [keras.Input((4,))], [[()]]  # of each tensor, the layers on every path to it
    for i in range(10):
        others = rng.choice(len(tensors), min(len(tensors), rng.integers(0, 3)), replace=False)
        below = sorted({*others.tolist(), i})[-3:]
        added, name = tensors[i], ()
        if len(below) > 1:
            added, name = layers.Add(name=f"sum{i}")([tensors[j] for j in below]), (f"sum{i}",)
        tensors.append(layers.Dense(4, name=f"d{i}")(added))
        paths.append([(*path, *name, f"d{i}") for j in below for path in paths[j]])
    model = keras.Model(tensors[0], tensors[-1])
    common = set.intersection(*map(set, paths[-1]))
    found = separating(model)
    assert found == [name for name in paths[-1][0] if name in common][:-1]
    assert set(places(model)) <= set(found)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for place in found:
            keras_sg.decouple(model, place)


def test_a_skip_connection_from_the_data_itself():
    inputs = keras.Input((4,))
    h = layers.Add(name="join")([inputs, layers.Dense(4, name="inside")(inputs)])
    model = keras.Model(inputs, layers.Dense(2)(h))
    assert places(model) == ["join"]


def test_two_towers_are_no_chain():
    inputs = [keras.Input((4,)), keras.Input((4,))]
    towers = [layers.Dense(3, name=f"tower{i}")(x) for i, x in enumerate(inputs)]
    h = layers.Dense(3, name="above")(layers.Concatenate(name="both")(towers))
    assert places(keras.Model(inputs, layers.Dense(2)(h))) == ["both", "above"]


def test_an_output_below_is_a_way_around():
    inputs = keras.Input((4,))
    first = layers.Dense(3, name="first")(inputs)
    second = layers.Dense(3, name="second")(first)
    assert places(keras.Model(inputs, layers.Dense(2)(second))) == ["first", "second"]
    early = keras.Model(inputs, [layers.Dense(1)(first), layers.Dense(2)(second)])
    assert places(early) == ["first"]
    assert places(keras.Model(inputs, [first, layers.Dense(2)(second)])) == []


def test_masks_and_indices_may_go_around():
    tokens = keras.Input((5,), dtype="int32")
    mask = keras.ops.not_equal(tokens, 0)
    h = layers.Embedding(10, 8, name="embedding")(tokens)
    for i in range(2):
        found = layers.MultiHeadAttention(2, 4, name=f"heads{i}")(h, h, attention_mask=mask[:, None])
        h = layers.LayerNormalization(name=f"norm{i}")(layers.Add(name=f"join{i}")([h, found]))
    model = keras.Model(tokens, layers.Dense(2)(h))
    assert places(model) == ["embedding", "norm0", "norm1"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        keras_sg.decouple(model, places(model))


def test_indices_that_are_embedded_again_above():
    tokens = keras.Input((5,), dtype="int32")
    h = layers.Dense(8, name="between")(layers.Embedding(10, 8)(tokens))
    h = layers.Add(name="join")([h, layers.Embedding(10, 8)(tokens)])
    assert separating(keras.Model(tokens, layers.Dense(2)(h))) == ["join"]


def test_a_mask_around_within_a_nested_model():
    """There `decouple` takes what comes in for a gradient's way out, whatever it is."""
    tokens = keras.Input((5,), dtype="int32")
    mask = keras.ops.cast(keras.ops.not_equal(tokens, 0), "float32")[:, :, None]
    h = layers.Multiply(name="join")([layers.Embedding(10, 8, name="embedding")(tokens), mask])
    inner = keras.Model(tokens, layers.Dense(4)(h), name="inner")
    assert separating(inner) == ["embedding", "join"]
    outer = keras.Sequential([keras.Input((5,), dtype="int32"), inner, layers.Dense(2)])
    assert separating(outer) == ["inner/join", "inner"]


def nested():
    return keras.Sequential([keras.Input((4,)), residual(), layers.Dense(2, name="top")], name="outer")


def test_nested_models_by_path():
    model = nested()
    # The nested model as a whole stands for its last layer.
    assert places(model) == [f"residual/{x}" for x in ("stem", "join0", "join1", "join2")] + ["residual"]
    deeper = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="below"), model, layers.Dense(1)])
    assert places(deeper)[:3] == ["below", "outer/residual/stem", "outer/residual/join0"]
    assert keras_sg.balance(deeper, 3) == ["outer/residual/join0", "outer/residual/join1"]


def test_a_nested_model_with_a_way_around_it_is_one_piece():
    inputs = keras.Input((4,))
    stem = layers.Dense(2, name="stem")(inputs)
    widened = layers.Dense(4, name="widened")(stem)
    h = layers.Add(name="join")([stem, residual()(widened)])
    model = keras.Model(inputs, layers.Dense(1)(h))
    assert places(model) == ["stem", "join"]
    (first, second) = placement._stretches(model)[:2]
    inside = 4 * 4 + 3 * (2 * 4 * 16) + 4 * 2
    assert (first.cost.operations, second.cost.operations) == (4 * 2, 2 * 4 + inside)


def test_layers_that_are_used_twice():
    inputs = h = keras.Input((4,))
    relu = layers.ReLU()
    shared = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.ReLU(), layers.Softmax()])
    for layer in (layers.Dense(4, name="a"), relu, layers.Dense(4, name="b"), relu):
        h = layer(h)
    # Not behind the activation, nor between the uses of a model, nor inside it.
    h = layers.Dense(2, name="c")(layers.Dense(4, name="d")(shared(shared(h))))
    assert places(keras.Model(inputs, h)) == ["a", "b", "d"]


def test_weights_on_both_sides_of_a_cut():
    inputs = keras.Input((4,))
    shared = layers.Dense(4, name="shared")
    h = shared(layers.Dense(4, name="between")(shared(layers.Dense(4, name="below")(inputs))))
    model = keras.Model(inputs, layers.Dense(2, name="head")(layers.Dense(4, name="above")(h)))
    assert places(model) == ["below", "above"]


def test_what_does_not_learn_makes_no_module():
    model = stack(4, 4, 4, 4, 4)
    for i in (0, 2, 4):
        model.get_layer(f"d{i}").trainable = False
    # Below d1 and above d3 nothing learns; of d1 and d2 the tensors are the same.
    assert places(model) == ["d2"]
    model.get_layer("d3").trainable = False
    with pytest.raises(ValueError, match=r"a cut separates layers that learn.* has 0, behind \[\]"):
        keras_sg.balance(model, 2)


def test_a_scale_at_the_input_makes_no_module():
    model = keras.Sequential([keras.Input((4,)), layers.BatchNormalization(), *stack(4, 4, 4).layers])
    assert places(model) == ["d0", "d1"]


class Applied(layers.Layer):
    """A layer that applies a function."""

    def __init__(self, function, **options):
        super().__init__(**options)
        self.function = function

    def call(self, x):
        return self.function(x)


def test_neither_indices_nor_numbers_are_interfaces():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(4, name="first"),
            Applied(lambda x: keras.ops.cast(x, "int32"), name="indices"),
            layers.Embedding(10, 8, name="second"),
            Applied(lambda x: keras.ops.sum(x, axis=(1, 2)), name="numbers"),
            Applied(lambda x: x[:, None] * keras.ops.ones((1, 50)), name="wide"),
            layers.Dense(3),
        ]
    )
    assert places(model) == ["first", "second"]


def test_what_is_no_interface():
    inputs = keras.Input((4, 4))
    several = layers.LSTM(3, return_state=True, return_sequences=True, name="several")
    h = several(layers.Dense(4, name="first")(inputs))[0]
    h = layers.MultiHeadAttention(1, 2, name="heads")(h, h)  # called with two tensors
    model = keras.Model(inputs, layers.Dense(2)(keras.ops.tanh(h)))
    assert places(model) == ["first"]


@pytest.mark.parametrize("seed", range(20))
def test_as_good_as_the_best_of_all_partings(seed):
    rng = np.random.default_rng(seed)
    number = int(rng.integers(2, 9))
    costs, sizes = rng.integers(1, 30, number + 1).tolist(), rng.integers(1, 9, number).tolist()
    ends = np.cumsum(costs).tolist()
    for modules in range(2, number + 2):

        def modules_of(cuts):
            edges = [0, *(ends[i] for i in cuts), ends[-1]]
            return [b - a for a, b in itertools.pairwise(edges)]

        every = list(itertools.combinations(range(number), modules - 1))
        least = min(max(modules_of(cuts)) for cuts in every)
        good = [cuts for cuts in every if max(modules_of(cuts)) <= AS_GOOD * least]
        best = min((sum(sizes[i] for i in cuts), sum(c**2 for c in modules_of(cuts))) for cuts in good)
        cuts = partition(ends, sizes, modules)
        assert cuts in good
        assert (sum(sizes[i] for i in cuts), sum(c**2 for c in modules_of(cuts))) == best


def test_ties_go_to_smaller_tensors():
    # 100 and 100 at most, whichever of the two places is taken.
    assert partition([100, 100, 200], [5, 3], 2) == (1,)
    assert partition([100, 100, 200], [3, 5], 2) == (0,)
    # 104 against 100 is as good, 106 is not.
    assert partition([100, 104, 200], [5, 3], 2) == (1,)
    assert partition([100, 106, 200], [5, 3], 2) == (0,)
    assert partition([100, 104, 200], [5, 5], 2) == (0,)


@pytest.mark.parametrize("by", ["operations", "memory"])
def test_a_real_network(by):
    model = keras.applications.MobileNetV2(weights=None, input_shape=(96, 96, 3), classes=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for modules in (2, 4, 6):
            after = keras_sg.balance(model, modules, by=by)
            assert len(after) == modules - 1
            assert not any("expand_BN" in name or name.endswith("depthwise_BN") for name in after)
            keras_sg.decouple(model, after, synthesizer=keras_sg.synthesizers.Conv(depth=1, kernel_size=1))
    ends, found = placement._places(placement._stretches(model), placement._COSTS[by])
    four = keras_sg.balance(model, 4, by=by)
    edges = [0, *(ends[[place.path for place in found].index(name)] for name in four), ends[-1]]
    assert max(b - a for a, b in itertools.pairwise(edges)) < 0.31 * ends[-1]


def test_it_only_looks():
    model = nested()
    before = [len(layer._inbound_nodes) for layer in model.get_layer("residual").layers]
    assert keras_sg.balance(model, 3) == keras_sg.balance(model, 3)
    assert [len(layer._inbound_nodes) for layer in model.get_layer("residual").layers] == before


@pytest.mark.parametrize("make", [nested, residual, lambda: stack(4, 4, 4)])
def test_the_result_is_what_decouple_takes(make):
    model = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for place in places(model):
            keras_sg.decouple(model, place)
        after = keras_sg.balance(model, 3)
        cut = keras_sg.decouple(model, after)
    assert {interface.name for interface in cut.interfaces} == {path.split("/")[-1] for path in after}
    cut.compile("sgd", "mse", run_eagerly=True)
    y = np.zeros((2, *model.output_shape[1:]))
    assert np.isfinite(cut.train_on_batch(np.ones((2, 4)), y, return_dict=True)["sg_loss"])


def test_errors():
    model = stack(4, 4, 4)
    for modules in (1, 0, -2, 2.0, "4", True, None):
        with pytest.raises(
            ValueError, match=r"`modules` must be an integer of at least 2. Received: modules="
        ):
            keras_sg.balance(model, modules)
    with pytest.raises(ValueError, match=r"one of \['memory', 'operations'\].*what modules have as much of"):
        keras_sg.balance(model, 2, by="time")
    with pytest.raises(ValueError, match=r"4 modules need 3 places .* has 2, behind \['d0', 'd1'\]"):
        keras_sg.balance(model, 4)
    with pytest.raises(ValueError, match=r"is parted already, by the interfaces \['d0'\].*strip"):
        keras_sg.balance(keras_sg.decouple(model, "d0"), 2)
    with pytest.raises(ValueError, match="balance works on Functional and Sequential models"):
        keras_sg.balance(layers.Dense(3), 2)
    with pytest.raises(ValueError, match="is not built"):
        keras_sg.balance(keras.Sequential([layers.Dense(3), layers.Dense(3)]), 2)
