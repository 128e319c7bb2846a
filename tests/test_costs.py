"""What calls of layers cost, against numbers counted by hand."""

import keras
import pytest
from keras import layers

from keras_sg._surgery import costs
from keras_sg._surgery.costs import Cost


class Own(layers.Layer):
    """A layer of somebody's own making, with a kernel `(features, 7)` and a bias."""

    def build(self, shape):
        self.mixing = self.add_weight(shape=(shape[-1], 7), name="mixing")
        self.shift = self.add_weight(shape=(7,), name="bias")

    def call(self, x):
        return x @ self.mixing + self.shift


def of_call(layer, *shapes, dtype="float32", **kwargs):
    """What it costs to call `layer` on inputs of these shapes."""
    inputs = [keras.Input(shape, dtype=dtype) for shape in shapes]
    outputs = keras.tree.flatten(layer(*inputs, **kwargs))
    return costs.of_call(costs.Call(layer, tuple(inputs), kwargs, outputs))


@pytest.mark.parametrize(
    "layer, shape, operations, elements",
    [
        (layers.Dense(3), (5,), 5 * 3, 3),
        (layers.Dense(3), (4, 5), 5 * 3 * 4, 4 * 3),
        (layers.Conv2D(6, 3, strides=2, padding="same"), (8, 8, 3), (9 * 3 * 6) * (4 * 4), 4 * 4 * 6),
        (layers.Conv1D(4, 3, groups=2, padding="same"), (10, 6), (3 * 3 * 4) * 10, 10 * 4),
        (
            layers.Conv2D(6, 3, padding="same", data_format="channels_first"),
            (3, 4, 8),
            (9 * 3 * 6) * (4 * 8),
            6 * 4 * 8,
        ),
        # Every position of the input is spread over the kernel.
        (layers.Conv2DTranspose(6, 3, strides=2, padding="same"), (4, 4, 2), 9 * 6 * 2 * 16, 8 * 8 * 6),
        (layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), (8, 8, 3), 9 * 6 * 64, 64 * 6),
        (layers.SeparableConv2D(4, 3, padding="same"), (8, 8, 3), (9 * 3 + 3 * 4) * 64, 64 * 4),
        (layers.EinsumDense("abc,cd->abd", (4, 7)), (4, 5), 5 * 7 * 4, 4 * 7),
        (layers.EinsumDense("...c,cd->...d", (7,)), (5,), 5 * 7, 7),
        (
            layers.EinsumDense("abc,cde->abde", (4, 2, 3), bias_axes="de"),
            (4, 5),
            5 * 2 * 3 * 4,
            4 * 2 * 3,
        ),
        (layers.EinsumDense("abc,bcd->abd", (4, 7)), (4, 5), 4 * 5 * 7, 4 * 7),  # a kernel a position
        # Of every step are kept the products with what comes in and with the state, four or three gates each.
        (layers.LSTM(3), (6, 8), (8 * 12 + 3 * 12) * 6, 6 * (12 + 12)),
        (layers.LSTM(3, return_sequences=True), (6, 8), (8 * 12 + 3 * 12) * 6, 6 * (12 + 12)),
        (layers.GRU(3, return_state=True), (6, 8), (8 * 9 + 3 * 9) * 6, 6 * (9 + 9)),
        (layers.Bidirectional(layers.LSTM(3)), (6, 8), 2 * (8 * 12 + 3 * 12) * 6, 2 * 6 * (12 + 12)),
        (
            layers.ConvLSTM2D(4, 3, padding="same"),
            (5, 8, 8, 3),
            9 * (3 * 16 + 4 * 16) * 64 * 5,
            5 * 64 * (16 + 16),
        ),
        (layers.BatchNormalization(), (4, 4, 3), 4 * 48, 48),
        (layers.BatchNormalization(axis=1), (3, 4, 4), 4 * 48, 48),
        (layers.LayerNormalization(), (4, 6), 2 * 24, 24),
        (layers.PReLU(), (4, 4, 3), 48, 48),
        (layers.Dropout(0.5), (4, 6), 0, 24),
        (layers.MaxPooling2D(), (4, 4, 3), 0, 2 * 2 * 3),
        (layers.Flatten(), (4, 6), 0, 0),
        (Own(), (4, 5), 5 * 7 * 4, 4 * 7),
        (layers.TimeDistributed(layers.Conv2D(2, 3, padding="same")), (5, 4, 4, 3), 5 * 9 * 6 * 16, 5 * 32),
        (layers.TimeDistributed(layers.MaxPooling1D()), (5, 4, 3), 0, 5 * 6),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_layers(layer, shape, operations, elements):
    assert of_call(layer, shape) == Cost(operations, elements)


def test_embeddings_look_up_and_read_out():
    layer = layers.ReversibleEmbedding(100, 8)
    assert of_call(layer, (6,), dtype="int32") == Cost(0, 6 * 8)
    assert of_call(layers.Embedding(100, 8), (6,), dtype="int32") == Cost(0, 6 * 8)
    assert of_call(layer, (6, 8), reverse=True) == Cost(8 * 100 * 6, 6 * 100)


def test_attention():
    def heads():
        return layers.MultiHeadAttention(2, key_dim=3, value_dim=5)

    # Kernels: queries 8 * 6, keys 8 * 6, values 8 * 10, output 10 * 8. Kept: queries, keys, values, scores,
    # what was found, output.
    itself = of_call(heads(), (6, 8), (6, 8))
    assert itself.operations == (48 + 48 + 80 + 80) * 6 + 2 * 6 * 6 * (3 + 5)
    assert itself.elements == 6 * (6 + 6 + 10) + 2 * 36 + 6 * 10 + 6 * 8

    other = of_call(heads(), (6, 8), (4, 8))
    assert other.operations == (48 + 80) * 6 + (48 + 80) * 4 + 2 * 6 * 4 * (3 + 5)
    assert other.elements == 6 * 6 + 4 * (6 + 10) + 2 * 24 + 6 * 10 + 6 * 8

    query, value = keras.Input((6, 8)), keras.Input((4, 8))
    layer = heads()
    kwargs = {"value": value, "query": query}
    assert costs.of_call(costs.Call(layer, (), kwargs, [layer(**kwargs)])) == other

    # Positions of a picture, each of which attends to its row.
    rows = of_call(layers.MultiHeadAttention(1, key_dim=2, attention_axes=2), (3, 4, 8), (3, 4, 8))
    assert rows.operations == (4 * 16) * 12 + 12 * 4 * (2 + 2)


def test_attention_of_grouped_queries():
    cost = of_call(layers.GroupQueryAttention(4, 6, 2), (5, 8), (5, 8))
    assert cost.operations == (2 * 8 * 24 + 2 * 8 * 8) * 5 + 6 * 25 * (4 + 4)
    assert cost.elements == 5 * (24 + 8 + 8) + 6 * 25 + 5 * 24 + 5 * 8


@pytest.mark.parametrize("kind, kept", [(layers.Attention, 24), (layers.AdditiveAttention, 24 * 8)])
def test_attention_without_projections(kind, kept):
    query, value = keras.Input((6, 8)), keras.Input((4, 8))
    layer = kind()
    cost = costs.of_call(costs.Call(layer, ([query, value],), {}, [layer([query, value])]))
    assert cost == Cost(6 * 4 * (8 + 8), kept + 6 * 8)


def picture_network():
    return keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            layers.Conv2D(2, 3, padding="same"),
            layers.Flatten(),
            layers.Dense(5),
        ]
    )


def test_models_are_the_sum_of_their_layers():
    expected = Cost(9 * 3 * 2 * 16 + 32 * 5, 32 + 5)
    assert of_call(picture_network(), (4, 4, 3)) == expected
    assert of_call(layers.TimeDistributed(picture_network()), (7, 4, 4, 3)) == expected.times(7)


def test_operations_cost_their_elements():
    inputs = keras.Input((4, 6))
    model = keras.Model(inputs, keras.ops.tanh(inputs) + 1.0)
    assert costs.total(map(costs.of_call, costs.calls_in(model))) == Cost(0, 2 * 24)


def test_a_known_network():
    """MobileNetV2 is said to have 300 million multiply-adds, without those of its normalization."""
    model = keras.applications.MobileNetV2(weights=None)
    found = [
        costs.of_call(call).operations
        for call in costs.calls_in(model)
        if not isinstance(call.layer, layers.BatchNormalization)
    ]
    assert sum(found) == 300_774_272


def test_unknown_lengths():
    inputs = keras.Input((None, 8))
    for layer in (layers.Dense(3), layers.LSTM(3)):
        model = keras.Model(inputs, layer(inputs))
        with pytest.raises(ValueError, match=r"depends on lengths that are not known.*\(None, None, 8\)"):
            costs.total(map(costs.of_call, costs.calls_in(model)))
