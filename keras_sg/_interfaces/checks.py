"""Where an interface can be: behind which layers, and in what model."""

import inspect
import math
import numbers

import keras

from keras_sg._types import Nested, Shape


def check_inputs(layer: keras.Layer) -> None:
    """Raise `ValueError` if a layer is called with several inputs."""
    needed = needed_inputs(layer)
    if len(needed) > 1:
        raise ValueError(
            f"An interface wraps a layer that is called with one input (or one list of inputs). Cut "
            f"behind another layer, or wrap a keras.Model around this one. Received: {layer.name!r} "
            f"(of type {type(layer).__name__}), which is called with {needed}."
        )


def check_output(layer: keras.Layer, output: Nested, feature_axis: int) -> None:
    """Raise `ValueError` unless a layer's symbolic output can be an interface."""
    if not isinstance(output, keras.KerasTensor):
        raise ValueError(
            f"An interface is one tensor, but layer {layer.name!r} has several outputs. "
            f"Wrap a layer that has one. Received: {output!r}."
        )
    if len(output.shape) < 2 or output.shape[feature_axis] is None:
        raise ValueError(
            "An interface has shape (batch, ..., features) with a known number of features. "
            f"Received: layer {layer.name!r} with output of shape {tuple(output.shape)}."
        )
    if "float" not in output.dtype:
        raise ValueError(
            "Gradients only exist for floating point interfaces. "
            f"Received: layer {layer.name!r} with output of dtype {output.dtype}."
        )


def check_error(name: str, size: int, model: keras.Model) -> None:
    """Raise `ValueError` unless the error of a model's outputs is one row of so many numbers an example."""
    sizes = [tuple(output.shape[1:]) for output in model.outputs]
    if len(sizes) != 1 or None in sizes[0] or math.prod(sizes[0]) != size:
        raise ValueError(
            f"Interface {name!r} receives the error of the model's output, of which there has to be "
            f"one, of {size} numbers (num_classes or label_size of the interface). Received: "
            f"model {model.name!r} with outputs of shapes {[(None, *size) for size in sizes]}."
        )


def network_input(name: str, reads: str, way_out: str, model: keras.Model) -> Shape:
    """The shape of a model's input, or a `ValueError` unless that is one tensor of floats.

    Args:
        name: of what reads it.
        reads: what it does with it.
        way_out: what to do where the input is another.
        model: the model.
    """
    dtypes = [keras.backend.standardize_dtype(x.dtype) for x in model.inputs]
    if len(dtypes) != 1 or "float" not in dtypes[0]:
        raise ValueError(
            f"{name!r} {reads} the network's input, which has to be one tensor "
            "of floats. Join several inputs into one; make an embedding of tokens, or whatever turns "
            f"integers into floats, part of the data, or {way_out}. Received: model "
            f"{model.name!r} with inputs {[(tuple(x.shape), x.dtype) for x in model.inputs]}."
        )
    return tuple(model.inputs[0].shape)


def check_period(update_period: int) -> int:
    """Raise `ValueError` unless a period is an integer of at least 1; return it."""
    if (
        isinstance(update_period, bool)
        or not isinstance(update_period, numbers.Integral)
        or update_period < 1
    ):
        raise ValueError(
            "`update_period` says in which steps the synthesizer learns (1: in each, 10: in every tenth), an "
            f"integer of at least 1. Received: update_period={update_period!r} "
            f"(of type {type(update_period).__name__})."
        )
    return int(update_period)


def needed_inputs(layer: keras.Layer) -> list[str]:
    """The arguments that a layer cannot be called without; an interface wraps layers that have one."""
    return [p.name for p in inspect.signature(layer.call).parameters.values() if _is_needed(p)]


def _is_needed(parameter: inspect.Parameter) -> bool:
    positional = parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    return positional and parameter.default is parameter.empty
