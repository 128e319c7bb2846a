"""`decouple` and `strip` on toys and on real networks."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import keras_sg

RNG = np.random.default_rng(0)


def sequential():
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(6, activation="relu", name="block1"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(5, activation="relu", name="block2"),
            layers.Dense(3, name="logits"),
        ],
        name="toy",
    )


def functional():
    inputs = keras.Input((8,))
    h = layers.Dense(6, activation="relu", name="block1")(inputs)
    h = keras.ops.tanh(h)
    h = layers.Dense(5, activation="relu", name="block2")(h)
    return keras.Model(inputs, layers.Dense(3, name="logits")(h), name="toy")


def nested(inner):
    inputs = keras.Input((8,))
    return keras.Model(inputs, layers.Dense(3, name="head")(inner(inputs)), name="outer")


X = RNG.normal(size=(4, 8)).astype("float32")


def check_shared_and_reversible(model, x, after, **options):
    """Cut, compare, train a step, strip, compare; returns the cut and the stripped model."""
    before = model.predict(x, verbose=0)
    cut = keras_sg.decouple(model, after=after, **options)
    np.testing.assert_array_equal(cut.predict(x, verbose=0), before)
    assert {id(v) for v in model.variables} <= {id(v) for v in cut.variables}

    cut.compile("adam", "mse")
    cut.train_on_batch(x, np.zeros_like(before))
    trained = cut.predict(x, verbose=0)
    assert not np.array_equal(trained, before)

    plain = keras_sg.strip(cut)
    np.testing.assert_array_equal(plain.predict(x, verbose=0), trained)
    np.testing.assert_array_equal(model.predict(x, verbose=0), trained)
    assert {id(v) for v in plain.variables} == {id(v) for v in model.variables}
    assert "keras_sg" not in plain.to_json()
    assert not isinstance(plain, keras_sg.DecoupledModel)
    return cut, plain


@pytest.mark.parametrize("make", [sequential, functional])
def test_toys(make):
    model = make()
    cut, plain = check_shared_and_reversible(model, X, ["block1", "block2"], synthesizer="linear")
    assert [interface.name for interface in cut.interfaces] == ["block1", "block2"]
    assert cut.name == plain.name == "toy"
    assert cut.get_layer("block1").layer is model.get_layer("block1")
    assert [layer.name for layer in plain.layers][1:] == [
        layer.name for layer in functional_of(model).layers
    ][1:]


def functional_of(model):
    return keras.Model(model.inputs, model.outputs) if isinstance(model, keras.Sequential) else model


@pytest.mark.parametrize("inner", [sequential, functional])
def test_nested_models_by_path(inner):
    model = nested(inner())
    cut, plain = check_shared_and_reversible(model, X, ["toy/block1", "toy"])
    assert {interface.name for interface in cut.interfaces} == {"block1", "toy"}
    assert plain.get_layer("toy").get_layer("block1") is model.get_layer("toy").get_layer("block1")


def test_deeper_nesting():
    inner = nested(sequential())
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layers.Dense(2)(inner(inputs)))
    check_shared_and_reversible(model, X, ["outer/toy/block2"])


def test_which_kind_it_takes_by_itself():
    """What its docstring and the guide say: a linear synthesizer, that sees the label if there is one."""
    for options, labels in (({"num_classes": 3}, 3), ({"label_size": 3}, 3), ({}, None)):
        for cut in keras_sg.decouple(sequential(), ["block1", "block2"], **options).interfaces:
            assert type(cut) is keras_sg.SyntheticGradient
            config = cut.get_config()
            assert config["synthesizer"]["class_name"] == "Linear"
            assert (config["num_classes"] or config["label_size"]) == labels
    # Asked for another kind, that kind's own choice.
    critics = keras_sg.decouple(sequential(), "block1", keras_sg.SyntheticLoss, num_classes=3, sobolev=True)
    assert critics.interfaces[0].get_config()["synthesizer"]["class_name"] == "Critic"


def test_a_compiled_model_and_a_single_name():
    model = functional()
    model.compile("adam", "mse")
    cut = keras_sg.decouple(model, after="block1")
    assert not cut.compiled and not keras_sg.strip(cut).compiled


def test_inputs_and_outputs_keep_their_structure():
    a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
    h = layers.Dense(6, name="block")(layers.Add(name="sum")([a, b]))
    model = keras.Model({"a": a, "b": b}, {"p": layers.Dense(2)(h), "q": layers.Dense(1)(h)})
    cut = keras_sg.decouple(model, after=["block"])
    for network in (cut, keras_sg.strip(cut)):
        predicted = network.predict({"a": X, "b": X}, verbose=0)
        np.testing.assert_array_equal(predicted["p"], model.predict({"a": X, "b": X}, verbose=0)["p"])


def test_mask_and_other_call_arguments_are_handed_on():
    inputs = keras.Input((5,), dtype="int32")
    h = layers.Embedding(10, 4, mask_zero=True, name="embedding")(inputs)
    h = layers.BatchNormalization(name="norm")(h, mask=keras.ops.not_equal(inputs, 3))
    h = layers.LSTM(4, return_sequences=True, name="lstm")(h)
    model = keras.Model(inputs, layers.Dense(1)(layers.LSTM(3, name="last")(h)))
    x = np.array([[1, 2, 3, 0, 0], [3, 4, 5, 6, 7]])
    check_shared_and_reversible(model, x, ["embedding", "norm", "lstm"])


def test_every_cut_has_a_synthesizer_of_its_own():
    given = layers.Dense(6, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((8,))] + [layers.Dense(6, name=f"d{i}") for i in range(3)])
    cut = keras_sg.decouple(model, after=["d0", "d1"], synthesizer=given)
    first, second = (interface.synthesizer for interface in cut.interfaces)
    assert first is not second and first is not given


def test_synthetic_losses():
    cut = keras_sg.decouple(
        sequential(), after=["block1", "block2"], interface=keras_sg.SyntheticLoss, num_classes=3
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    cut.compile("adam", loss)
    assert "sg_loss" in cut.fit(X, np.arange(4) % 3, verbose=0).history
    keras_sg.strip(cut)


def test_strip_of_plain_models_with_interfaces():
    model = keras.Sequential(
        [keras.Input((8,)), keras_sg.SyntheticGradient(layers.Dense(6, name="block")), layers.Dense(3)]
    )
    plain = keras_sg.strip(model)
    assert isinstance(plain, keras.Sequential) and plain.layers[0] is model.layers[0].layer
    np.testing.assert_array_equal(plain.predict(X, verbose=0), model.predict(X, verbose=0))
    assert keras_sg.strip(plain).layers == plain.layers


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "network, after",
    [
        (lambda **k: keras.applications.MobileNetV2(alpha=0.35, **k), ["block_2_add", "block_9_add"]),
        (lambda **k: keras.applications.MobileNetV2(alpha=0.35, **k), ["block_3_depthwise_BN"]),
        (lambda **k: keras.applications.ResNet50V2(**k), ["conv3_block4_out", "conv4_block2_out"]),
        (lambda **k: keras.applications.DenseNet121(**k), ["pool2_pool", "pool3_pool"]),
    ],
    ids=["MobileNetV2", "MobileNetV2-BatchNormalization", "ResNet50V2", "DenseNet121"],
)
def test_applications(network, after):
    """Real networks with residual connections: cut where the paths join, nothing warns."""
    model = network(weights=None, input_shape=(32, 32, 3), classes=10)
    x = RNG.normal(size=(2, 32, 32, 3)).astype("float32")
    before = keras.ops.convert_to_numpy(model(x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cut = keras_sg.decouple(model, after=after)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(cut(x)), before)
    plain = keras_sg.strip(cut)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(plain(x)), before)
    assert len(plain.layers) == len(model.layers) and "keras_sg" not in plain.to_json()


@pytest.mark.tensorflow
def test_a_real_network_trains():
    model = keras.applications.MobileNetV2(alpha=0.35, weights=None, input_shape=(32, 32, 3), classes=10)
    cut = keras_sg.decouple(model, after=["block_2_add"], num_classes=10)
    cut.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    first, last = model.get_layer("Conv1"), model.get_layer("predictions")
    before = first.get_weights()[0].copy(), last.get_weights()[0].copy()
    x = RNG.normal(size=(4, 32, 32, 3)).astype("float32")
    logs = cut.train_on_batch(x, np.arange(4), return_dict=True)
    assert np.isfinite(logs["sg_loss"])
    # The synthetic gradient is zero in the first step: below the cut nothing moves.
    np.testing.assert_array_equal(first.get_weights()[0], before[0])
    assert not np.array_equal(last.get_weights()[0], before[1])


def residual():
    inputs = keras.Input((8,))
    stem = layers.Dense(8, name="stem")(inputs)
    branch = layers.Dense(8, name="branch")(stem)
    h = layers.Dense(8, name="after_join")(layers.Add(name="join")([stem, branch]))
    return keras.Model(inputs, layers.Dense(1, name="last")(h))


@pytest.mark.parametrize("after", [["branch"], ["branch", "after_join"]])
def test_a_cut_with_a_way_around_warns(after):
    with pytest.warns(UserWarning, match="cut after layer 'branch' does not separate.*'join'.*'stem'"):
        keras_sg.decouple(residual(), after=after)


@pytest.mark.parametrize("after", [["join"], ["stem"], ["stem", "branch"], ["join", "after_join"]])
def test_cuts_that_separate_do_not_warn(after):
    keras_sg.decouple(residual(), after=after)


def test_parallel_branches_need_a_cut_each():
    inputs = keras.Input((8,))
    stem = layers.Dense(8, name="stem")(inputs)
    left, right = layers.Dense(4, name="left")(stem), layers.Dense(4, name="right")(stem)
    model = keras.Model(inputs, layers.Dense(1)(layers.Concatenate(name="join")([left, right])))
    with pytest.warns(UserWarning, match="'left' does not separate.*'right'.*'stem'"):
        keras_sg.decouple(model, after=["left"])
    keras_sg.decouple(model, after=["left", "right"])


def test_an_output_below_the_cut_is_a_way_around():
    inputs = keras.Input((8,))
    stem = layers.Dense(8, name="stem")(inputs)
    h = layers.Dense(4, name="block")(stem)
    for early, through in ((stem, "stem"), (layers.Dense(2, name="early")(stem), "early")):
        model = keras.Model(inputs, [early, layers.Dense(1)(h)])
        with pytest.warns(UserWarning, match=f"'block' does not separate.*through layer '{through}'.*'stem'"):
            keras_sg.decouple(model, after=["block"])


def test_a_way_around_inside_a_nested_model():
    inner = keras.Model(*(lambda m: (m.inputs, m.get_layer("join").output))(residual()), name="inner")
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layers.Dense(1)(inner(layers.Dense(8, name="below")(inputs))))
    with pytest.warns(UserWarning, match="'branch' does not separate"):
        keras_sg.decouple(model, after=["inner/branch"])


def test_layers_called_by_keyword_and_named_by_themselves():
    class Doubled(layers.Layer):
        def call(self, features):
            return 2 * features

    inputs = keras.Input((8,))
    doubled = Doubled(name="doubled")
    model = keras.Model(inputs, layers.Dense(3)(doubled(features=layers.Dense(6)(inputs))))
    check_shared_and_reversible(model, X, doubled)


def test_a_training_step_of_its_own_is_not_lost_silently():
    class Own(keras.Model):
        def train_step(self, data):
            return {}

    inputs = keras.Input((8,))
    model = Own(inputs, layers.Dense(3)(layers.Dense(6, name="block")(inputs)))
    with pytest.warns(UserWarning, match=r"of type Own. has \['train_step'\]"):
        keras_sg.decouple(model, after="block")


def test_intermediate_outputs_of_a_stripped_model(tmp_path):
    plain = keras_sg.strip(keras_sg.decouple(sequential(), after=["block1"]))
    plain.save(tmp_path / "plain.keras")
    loaded = keras.models.load_model(tmp_path / "plain.keras")
    features = keras.Model(loaded.inputs, loaded.get_layer("block1").output)
    assert features.predict(X, verbose=0).shape == (4, 6)


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore")  # of the converter
@pytest.mark.parametrize("make", [sequential, functional])
@pytest.mark.parametrize("cut", [True, False], ids=["cut", "stripped"])
@pytest.mark.parametrize("signed", [True, False], ids=["signature", "no signature"])
def test_onnx(make, cut, signed, tmp_path):
    model = keras_sg.decouple(make(), after="block1")
    signature = [keras.InputSpec(shape=X.shape, dtype="float32", name="x")] if signed else None
    network, path = model if cut else keras_sg.strip(model), tmp_path / "model.onnx"
    try:
        network.export(path, format="onnx", input_signature=signature, verbose=False)
    except ImportError as error:
        pytest.skip(f"Keras needs tf2onnx to write ONNX files: {error}")
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    (served,) = session.run(None, {session.get_inputs()[0].name: X})
    np.testing.assert_allclose(served, model.predict(X, verbose=0), rtol=0, atol=1e-6)
