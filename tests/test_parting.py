"""A model parts at its interfaces into modules that together are the model, or it says why not."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from models import Hiding

import keras_sg
from keras_sg._modules import part
from keras_sg._modules.parting import met_in


def dense(units, name, **options):
    return layers.Dense(units, "tanh", name=name, **options)


def cut(layer, interface=keras_sg.SyntheticGradient, **options):
    return interface(layer, **options)


class Doubling(layers.Layer):
    """Somebody's own layer, of which nobody knows what else it does."""

    def call(self, x):
        return 2 * x


def chain(count=3):
    inputs = h = keras.Input((6,), name="x")
    for i in range(count):
        h = cut(dense(5 + i, f"cut{i}"))(dense(4, f"below{i}")(h))
    return keras_sg.DecoupledModel(inputs, layers.Dense(3, name="last")(h), name="whole")


def run(model, modules, x):
    """What the modules make of inputs of the model, one after the other."""
    given, below = [ops.convert_to_tensor(part) for part in keras.tree.flatten(x)], []
    for module in modules:
        found = module.network([*(given[i] for i in module.inputs), *(below[i] for i in module.below)])
        below = keras.tree.flatten(found)
    return keras.tree.map_structure(ops.convert_to_numpy, found)


def names(modules):
    """By module, the names of its layers, but for inputs."""
    kept = lambda layer: not isinstance(layer, layers.InputLayer)
    return [{layer.name for layer in filter(kept, module.network.layers)} for module in modules]


def check(model, *expected):
    """The modules have the layers that are expected, and compute what the model computes."""
    modules = part(model)
    assert names(modules) == [set(each.split()) for each in expected]
    placed = [interface for module in modules for interface in module.interfaces]
    assert {*map(id, placed)} == {*map(id, model.interfaces)} and len(placed) == len(model.interfaces)
    assert [*map(id, met_in(model))] == [*map(id, placed)]
    assert not modules[-1].interfaces and modules[0].below == ()
    owned = [id(variable) for module in modules for variable in module.network.variables]
    assert sorted(owned) == sorted(id(variable) for variable in model.variables)
    rng = np.random.default_rng(0)
    x = [rng.integers(0, 5, (4, *i.shape[1:])).astype(i.dtype) for i in model.inputs]
    whole = keras.tree.map_structure(ops.convert_to_numpy, model(keras.tree.pack_sequence_as(model.input, x)))
    found = run(model, modules, x)
    keras.tree.assert_same_structure(found, whole)
    for a, b in zip(keras.tree.flatten(found), keras.tree.flatten(whole)):
        np.testing.assert_array_equal(a, b)
    return modules


def test_a_chain():
    modules = check(chain(), "below0 cut0", "below1 cut1", "below2 cut2", "last")
    assert [module.inputs for module in modules] == [(0,), (), (), ()]
    assert [len(module.interfaces) for module in modules] == [1, 1, 1, 0]
    assert [module.network.name for module in modules][:2] == ["whole_module_0", "whole_module_1"]


def test_several_interfaces_at_a_boundary():
    """Both branches begin at the same layer, and join behind both cuts."""
    inputs = keras.Input((6,))
    h = dense(5, "stem")(inputs)
    a, b = cut(dense(4, "a"))(h), cut(dense(3, "b"))(h)
    model = keras_sg.DecoupledModel(
        inputs, layers.Dense(3, name="last")(layers.Concatenate(name="join")([a, b]))
    )
    modules = check(model, "stem a b", "join last")
    assert modules[1].below == (0, 1)


def test_parallel_branches_from_inputs_of_their_own():
    """A branch of two layers with a cut in each beside one; and outputs in a dictionary."""
    one, two = keras.Input((6,), name="one"), keras.Input((4,), name="two")
    a = cut(dense(5, "a2"))(cut(dense(4, "a1"))(one))
    b = cut(dense(3, "b"))(two)
    join = layers.Concatenate(name="join")([a, b])
    outputs = {"p": layers.Dense(2, name="p")(join), "q": layers.Dense(1, name="q")(join)}
    model = keras_sg.DecoupledModel({"one": one, "two": two}, outputs)
    modules = part(model)
    assert names(modules) == [{"a1"}, {"a2", "b"}, {"join", "p", "q"}]
    assert [module.inputs for module in modules] == [(0,), (1,), ()]
    assert [[i.name for i in module.interfaces] for module in modules] == [["a1"], ["a2", "b"], []]
    check(model, "a1", "a2 b", "join p q")


def test_an_input_of_the_model_enters_several_modules():
    inputs, extra = keras.Input((6,), name="x"), keras.Input((2,), name="extra")
    h = cut(dense(5, "a"))(layers.Concatenate(name="first")([inputs, extra]))
    h = cut(dense(4, "b"))(layers.Concatenate(name="second")([h, extra]))
    model = keras_sg.DecoupledModel([inputs, extra], [layers.Dense(3, name="last")(h)])
    modules = check(model, "first a", "second b", "last")
    assert [module.inputs for module in modules] == [(0, 1), (1,), ()]


def test_what_is_computed_of_inputs_alone_is_computed_where_it_is_used():
    """As the mask of a transformer is, in every block."""
    tokens = keras.Input((5,), dtype="int32")
    there = layers.Reshape((1, 5), name="row")(ops.not_equal(tokens, 0))
    h = layers.Embedding(9, 4, name="embedding")(tokens)
    for i in range(2):
        attended = layers.MultiHeadAttention(1, 2, name=f"attention{i}")(h, h, attention_mask=there)
        h = cut(layers.Add(name=f"sum{i}"))([h, attended])
    model = keras_sg.DecoupledModel(tokens, layers.Dense(1, name="last")(h))
    modules = check(model, "row embedding attention0 sum0", "row attention1 sum1", "last")
    assert [module.inputs for module in modules] == [(0,), (0,), ()]


@pytest.mark.parametrize(
    "layer",
    [
        layers.Dropout(0.5, name="both"),
        layers.ActivityRegularization(0.1, name="both"),
        layers.BatchNormalization(name="both"),
        Doubling(name="both"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_what_has_a_state_or_a_penalty_is_not_computed_twice(layer):
    inputs = keras.Input((6,))
    both = layer(inputs)
    h = layers.Concatenate()([cut(dense(5, "a"))(both), both])
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3)(h))
    with pytest.raises(ValueError, match="does not part at its interfaces: from layer 'both'"):
        part(model)


@pytest.mark.parametrize("sequential", [True, False])
def test_interfaces_inside_nested_models(sequential):
    stack = [cut(dense(5, "a")), dense(4, "b"), cut(dense(3, "c"))]
    if sequential:
        inner = keras.Sequential([keras.Input((6,)), *stack, dense(2, "d")], name="inner")
    else:
        inner_inputs = h = keras.Input((6,))
        for layer in [*stack, dense(2, "d")]:
            h = layer(h)
        inner = keras.Model(inner_inputs, h, name="inner")
    inputs = keras.Input((6,), name="x")
    middle = keras.Sequential([keras.Input((6,)), dense(6, "e"), inner], name="middle")
    plain = keras.Sequential([keras.Input((2,)), dense(3, "f")], name="plain")
    model = keras_sg.DecoupledModel(inputs, plain(middle(dense(6, "stem")(inputs))))
    modules = part(model)
    assert [[i.name for i in module.interfaces] for module in modules] == [["a"], ["c"], []]
    check(model, "stem e a", "b c", "d plain")


def test_a_model_that_decouple_has_cut_in_nested_models():
    inner = keras.Sequential([keras.Input((6,)), dense(5, "a"), dense(4, "b")], name="inner")
    inputs = keras.Input((6,))
    plain = keras.Model(inputs, layers.Dense(3, name="last")(inner(inputs)))
    check(keras_sg.decouple(plain, ["inner/a", "inner/b"]), "a", "b", "last")
    check(keras_sg.decouple(plain, "inner"), "inner", "last")
    with pytest.raises(
        ValueError, match=r"Cut it behind layers that .* nested in it has; behind the last of those inside"
    ):
        part(keras_sg.decouple(plain, ["inner/a", "inner"]))


def test_a_call_has_its_arguments_in_a_module_too():
    inputs = keras.Input((5,), dtype="int32")
    h = cut(layers.Embedding(9, 4, name="embedding"))(inputs)
    h = layers.BatchNormalization(name="norm")(h, mask=ops.not_equal(inputs, 3))
    h = layers.MultiHeadAttention(1, 2, name="attention")(h, h, use_causal_mask=True)
    h = cut(dense(3, "top"))(h)
    model = keras_sg.DecoupledModel(inputs, layers.Dense(1, name="last")(h))
    check(model, "embedding", "norm attention top", "last")


def test_a_skip_connection_around_a_cut():
    inputs = keras.Input((6,))
    below = dense(5, "below")(inputs)
    joined = layers.Add(name="sum")([cut(dense(5, "a"))(below), below])
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3, name="last")(joined))
    with pytest.raises(
        ValueError,
        match=r"does not part at its interfaces: from layer 'below' to the model's outputs, one path leads "
        r"past 0 of them and another past 1, .*Cut every path, or cut behind the layer where the paths join",
    ):
        part(model)
    # The way out: behind the layer where the paths join.
    below = dense(5, "below")(inputs)
    joined = cut(layers.Add(name="sum"))([dense(5, "a")(below), below])
    check(keras_sg.DecoupledModel(inputs, layers.Dense(3, name="last")(joined)), "below a sum", "last")


def test_a_skip_connection_within_a_module_and_one_that_is_cut():
    inputs = keras.Input((6,))
    below = dense(5, "below")(inputs)
    h, skipped = cut(dense(5, "a"))(below), cut(layers.Activation("linear", name="skip"))(below)
    h = layers.Add(name="sum")([dense(5, "b")(h), skipped])
    h = layers.Add(name="inner")([h, dense(5, "c")(h)])
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3, name="last")(h))
    check(model, "below a skip", "b sum c inner last")


def test_an_interface_that_is_used_twice():
    inputs = keras.Input((5,))
    twice = cut(dense(5, "twice"))
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3)(twice(twice(inputs))))
    with pytest.raises(
        ValueError, match=r"'twice' is used 2 times in model .*belongs to no one module\. Cut behind"
    ):
        part(model)


def test_an_interface_inside_another_layer():
    inputs = keras.Input((6,))
    hiding = Hiding(cut(dense(5, "hidden")))
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3)(cut(dense(4, "seen"))(hiding(inputs))))
    expected = r"'hidden' sits inside a layer that is neither a Functional nor a Sequential model"
    with pytest.raises(ValueError, match=expected):
        part(model)


class Own(keras.Model):
    """A functional model with a call of its own, which its graph does not tell."""

    def call(self, inputs, **kwargs):
        return 2 * super().call(inputs, **kwargs)


def test_an_interface_inside_a_model_with_a_call_of_its_own():
    inner_inputs, inputs = keras.Input((6,)), keras.Input((6,))
    inner = Own(inner_inputs, dense(4, "above")(cut(dense(5, "hidden"))(inner_inputs)))
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3)(inner(inputs)))
    with pytest.raises(ValueError, match=r"'hidden' sits inside a layer .* or has a call of its own"):
        part(model)


@pytest.mark.filterwarnings("ignore:Layer 'masked'")
def test_an_interface_inside_a_model_that_is_called_with_a_mask():
    stack = [keras.Input((5, 4)), cut(layers.LSTM(3, name="hidden")), dense(4, "above")]
    inner, inputs = keras.Sequential(stack, name="masked"), keras.Input((5, 4))
    h = inner(inputs, mask=layers.Lambda(lambda x: x[..., 0] > 0)(inputs))
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3)(h))
    with pytest.raises(ValueError, match=r"'hidden' sits inside a layer .* or is called with a mask"):
        part(model)


def test_an_interface_inside_another():
    inputs = keras.Input((6,))
    inner = keras.Sequential([keras.Input((6,)), cut(dense(5, "hidden")), dense(4, "above")], name="outer")
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3)(cut(inner)(inputs)))
    with pytest.raises(ValueError, match=r"'hidden' sits inside a layer .*\(another interface's, for one\)"):
        part(model)


@pytest.mark.parametrize("synthesizer", [False, True])
def test_weights_that_modules_share(synthesizer):
    inputs = keras.Input((5,))
    shared = dense(5, "shared")
    if synthesizer:
        a, b = (cut(dense(5, name), synthesizer=lambda shape: shared) for name in "ab")
        h = b(a(inputs))
    else:
        h = shared(cut(dense(5, "a"))(shared(inputs)))
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3)(h))
    expected = r"Modules 0 and 1 of model .* share the weight '.*shared/kernel'.*Use a layer \(or synth"
    with pytest.raises(ValueError, match=expected):
        part(model)


def test_weights_that_no_module_has():
    """A model may hold layers that are not in its graph."""
    model = chain(1)
    model.aside = dense(2, "aside")
    model.aside.build((None, 2))
    with pytest.raises(
        ValueError, match=r"No module of model .* has the weights \['aside/kernel', 'aside/bias'\]"
    ):
        part(model)
    model.aside.trainable = False
    assert len(part(model)) == 2


def test_a_model_without_interfaces():
    inputs = keras.Input((6,))
    model = keras_sg.DecoupledModel(inputs, layers.Dense(3)(inputs), name="plain")
    with pytest.raises(ValueError, match=r"Model 'plain' has no interfaces to part it at\. Cut it with"):
        part(model)


def test_parting_leaves_the_model_as_it_is():
    model = chain()
    before = [layer.name for layer in model.layers], model.to_json(), [w.path for w in model.weights]
    for _ in range(2):
        part(model)
    assert before == (
        [layer.name for layer in model.layers],
        model.to_json(),
        [w.path for w in model.weights],
    )
    keras.models.clone_model(model)
