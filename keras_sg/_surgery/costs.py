"""What a call of a layer costs, counted from shapes: multiply-adds, and the activations that it makes.

Both are of one example going forward. A layer multiplies each of its kernels with every position of its
output; some do otherwise, and are counted one by one:

    Dense, Conv, DepthwiseConv, SeparableConv    kernels * positions of the output
    Conv...Transpose                             kernel * positions of the input
    LSTM, GRU, SimpleRNN, ConvLSTM, ...          kernels * steps (* positions)
    EinsumDense                                  kernel * what it is summed and repeated over
    MultiHeadAttention, GroupQueryAttention      projections, and queries * keys, scores * values
    Attention, AdditiveAttention                 queries * keys, scores * values
    Embedding                                    0
    normalization, PReLU                         one for every element and weight (scale, mean, ...)

Anything else, a layer of your own for one, counts as the first of these does: all weights that have several
axes, times the positions of its output.
"""

import inspect
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import keras

from keras_sg import _keras
from keras_sg._graphs.plain import as_model
from keras_sg._types import Shape

layers = keras.layers

_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_HEADS = (layers.MultiHeadAttention, layers.GroupQueryAttention)
_ATTENTION = (layers.Attention, layers.AdditiveAttention)
_VIEWS = (layers.InputLayer, layers.Flatten, layers.Reshape)
_PER_ELEMENT = (
    layers.BatchNormalization,
    layers.GroupNormalization,
    layers.LayerNormalization,
    layers.Normalization,
    layers.PReLU,
    layers.RMSNormalization,
)


class Cost(NamedTuple):
    """Multiply-adds and elements of activations, of one example."""

    operations: int
    elements: int

    def times(self, number: int) -> "Cost":
        return Cost(number * self.operations, number * self.elements)


class Call(NamedTuple):
    """A call of a layer (or operation) in a model: what it took and what it gave, as symbolic tensors."""

    layer: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[keras.KerasTensor]

    @property
    def inputs(self) -> list[keras.KerasTensor]:
        flat = keras.tree.flatten((self.args, self.kwargs))
        return [x for x in flat if isinstance(x, keras.KerasTensor)]

    @property
    def learns(self) -> bool:
        """Whether it has weights to train, other than what goes with the layer before it."""
        return bool(getattr(self.layer, "trainable_weights", ())) and not isinstance(self.layer, _PER_ELEMENT)


def calls_in(model: keras.Model) -> list[Call]:
    """The calls of layers and operations that a Functional or Sequential model is made of, in their order."""
    return [Call(*call) for call in _keras.calls(as_model(model))]


def of_call(call: Call) -> Cost:
    """What a call costs.

    Raises:
        ValueError: a length is not known.
    """
    layer, outputs = call.layer, [output.shape for output in call.outputs]
    if _keras.is_graph(layer):
        return total(map(of_call, calls_in(layer)))
    for shape in outputs:
        if None in shape[1:]:
            raise ValueError(
                f"What layer {layer.name!r} costs depends on lengths that are not known. Make the model, and "
                "models inside it, for inputs of fixed lengths, such as keras.Input((128, 8)). "
                f"Received: an output of shape {tuple(shape)}."
            )
    if isinstance(layer, layers.TimeDistributed):
        one = Call(layer.layer, tuple(map(_frame, call.inputs)), {}, list(map(_frame, call.outputs)))
        return of_call(one).times(outputs[0][1])
    elements = 0 if isinstance(layer, _VIEWS) else sum(map(_size, outputs))
    if isinstance(layer, _HEADS + _ATTENTION):
        return _attention(call, elements)
    if isinstance(layer, _PER_ELEMENT):
        return Cost(elements * len(layer.weights), elements)
    weights = [weight for weight in getattr(layer, "weights", ()) if weight.name != "bias"]
    kernels = [weight.shape for weight in weights if len(weight.shape) > 1]
    looks_up = isinstance(layer, layers.Embedding) and "int" in call.inputs[0].dtype
    if not kernels or looks_up:
        return Cost(0, elements)
    if isinstance(layer, layers.EinsumDense):
        return Cost(math.prod(kernels[0]) * _einsum_positions(layer, kernels[0], outputs[0]), elements)
    if isinstance(layer, _TRANSPOSED):
        return Cost(math.prod(kernels[0]) * _size(call.inputs[0].shape) // kernels[0][-1], elements)
    positions = _positions(layer, outputs[0])
    if hasattr(layer, "return_sequences"):
        positions *= 1 if layer.return_sequences else call.inputs[0].shape[1]
        # What a step keeps: every product, of what comes in and of the state.
        elements = positions * sum(kernel[-1] for kernel in kernels)
    return Cost(sum(map(math.prod, kernels)) * positions, elements)


def _attention(call: Call, elements: int) -> Cost:
    layer = call.layer
    if isinstance(layer, _ATTENTION):
        query, value = (x.shape for x in call.inputs[:2])
    else:
        given = inspect.signature(layer.call).bind(*call.args, **call.kwargs).arguments
        query, value = given["query"].shape, given["value"].shape
    queries, values = math.prod(query[1:-1]), math.prod(value[1:-1])
    if isinstance(layer, _ATTENTION):
        scores = queries * values
        kept = scores * (query[-1] if isinstance(layer, layers.AdditiveAttention) else 1)
        return Cost(scores * (query[-1] + value[-1]), kept + elements)
    if isinstance(layer, layers.MultiHeadAttention):
        heads, sources = layer.num_heads, layer.num_heads
        key_dim, value_dim, axes = layer.key_dim, layer.value_dim, layer.attention_axes
    else:
        heads, sources = layer.num_query_heads, layer.num_key_value_heads
        key_dim, value_dim, axes = layer.head_dim, layer.head_dim, (1,)
    scores = heads * queries * math.prod(value[axis] for axis in axes)
    projections = sum(
        math.prod(weight.shape) * (values if weight.path.split("/")[-2] in ("key", "value") else queries)
        for weight in layer.weights
        if weight.name == "kernel"
    )
    # Queries and what they found, keys and values, scores.
    kept = (heads * queries + sources * values) * (key_dim + value_dim) + scores
    return Cost(projections + scores * (key_dim + value_dim), kept + elements)


def _einsum_positions(layer: keras.layers.EinsumDense, kernel: Shape, output: Shape) -> int:
    """How often the kernel is used: what the output has besides the axes that it has from the kernel."""
    operands, result = layer.equation.split("->")
    letters = operands.split(",")[1]
    return _size(output) // math.prod(n for letter, n in zip(letters, kernel) if letter in result)


def _positions(layer: keras.Layer, shape: Shape) -> int:
    axis = 1 if getattr(layer, "data_format", None) == "channels_first" else -1
    return _size(shape) // shape[axis] if len(shape) > 1 else 1


def _frame(sequence: keras.KerasTensor) -> keras.KerasTensor:
    return keras.KerasTensor((sequence.shape[0], *sequence.shape[2:]), sequence.dtype)


def _size(shape: Shape) -> int:
    return math.prod(shape[1:])


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of some costs."""
    return Cost(*map(sum, zip(Cost(0, 0), *costs)))
