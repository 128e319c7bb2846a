"""What a recipe is: a small object that, called with an interface's shape, makes a synthesizer."""

import numbers
from collections.abc import Sequence
from typing import Any, Self

import keras

from keras_sg._types import Config, Shape
from keras_sg.labels import Label

# The variables of a synthesizer carry this in their path, for people to read.
SCOPE = "keras_sg_synthesizer"


class Synthesizer:
    """Base of the recipes. Call it with an interface's shape to get a fresh Keras layer.

    Args of the call:
        shape: tuple, the interface's shape `(None, ..., features)`.
        label: None, or the kind of label of a conditional interface, `keras_sg.labels.Classes` or
            `keras_sg.labels.Vector`.

    Returns:
        An unbuilt Keras layer or model.

    Attributes:
        axis: the axis of the interface's features, -1 or (channels-first) 1.
        unit_labels: whether label vectors must lie in [0, 1].
        needs_label: whether it is for conditional interfaces only.
        predicts: `"gradient"` or `"loss"`; None where it is not known.
    """

    axis = -1
    unit_labels = False
    needs_label = False
    predicts: str | None = None

    def __call__(self, shape: Shape, label: Label | None = None) -> keras.Layer:
        raise NotImplementedError(
            "A recipe is called with the shape of an interface and returns a Keras layer: implement "
            f"__call__(self, shape, label=None). Received: a recipe of type {type(self).__name__} without it."
        )

    def get_config(self) -> Config:
        return {}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        return cls(**config)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({options})"


@keras.saving.register_keras_serializable(package="keras_sg")
class Existing(Synthesizer):
    """The recipe of a layer that is there already: the layer itself.

    A layer that is built already is copied, weights included, so that its variables live under
    the one interface they serve.

    Args:
        layer: Keras layer or model.
    """

    def __init__(self, layer: keras.Layer) -> None:
        self.layer = layer
        self.axis = feature_axis(getattr(layer, "data_format", None))
        self.unit_labels = getattr(layer, "unit_labels", False)

    def __call__(self, shape: Shape, label: Label | None = None) -> keras.Layer:
        return copy_of(self.layer) if self.layer.built else self.layer

    def get_config(self) -> Config:
        return {"layer": serialize(self.layer)}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        return cls(deserialize(config["layer"]))


def serialize(synthesizer: Synthesizer | keras.Layer) -> Config:
    """Turn a recipe or a layer into a configuration that `deserialize` understands."""
    return keras.saving.serialize_keras_object(synthesizer)


def deserialize(config: Config, custom_objects: dict[str, Any] | None = None) -> Synthesizer | keras.Layer:
    """The inverse of `serialize`."""
    return keras.saving.deserialize_keras_object(config, custom_objects=custom_objects)


def copy_of(layer: keras.Layer) -> keras.Layer:
    """A new layer of the same configuration and, where `layer` is built, the same weights."""
    copy = type(layer).from_config(layer.get_config())
    if layer.built:
        if not copy.built:
            copy.build_from_config(layer.get_build_config())
        copy.set_weights(layer.get_weights())
    return copy


def feature_axis(data_format: str | None) -> int:
    """The axis of the features in a Keras `data_format`; None stands for channels-last."""
    return 1 if data_format == "channels_first" else -1


def check_count(name: str, value: int, least: int = 1) -> int:
    """Raise `ValueError` unless `value` is an integer of at least `least`; return it."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}. Received: {name}={value!r}.")
    return int(value)


def check_widths(name: str, widths: int | Sequence[int], least: int) -> list[int]:
    """Raise `ValueError` unless `widths` are positive integers, so many at least; return a list."""
    found: Any = widths if isinstance(widths, (list, tuple)) else [widths]
    fine = [isinstance(w, numbers.Integral) and not isinstance(w, bool) and int(w) > 0 for w in found]
    if len(fine) < least or not all(fine):
        raise ValueError(
            f"`{name}` must be positive integers, at least {least} of them. Received: {name}={widths!r}."
        )
    return [int(width) for width in found]
