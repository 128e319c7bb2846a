"""Where in `y` the labels for conditional interfaces are.

A source is the key or the index of the entry of `y` that holds them, or a function from `y` to them.
An interface keeps it, so that it goes wherever the interface goes: into files, clones and other models.
"""

import numbers
import types
from collections.abc import Callable
from typing import Any, TypeAlias

import keras

from keras_sg._types import Config, Nested

Source: TypeAlias = str | int | Callable[[Nested], Nested]


def check(source: Source | None) -> Source | None:
    """Raise `ValueError` unless `source` is a key, an index, a callable or None; return it."""
    if isinstance(source, numbers.Integral) and not isinstance(source, bool):
        return int(source)
    if not (source is None or isinstance(source, str) or callable(source)):
        raise ValueError(
            "`labels_from` says where in `y` the labels for conditional interfaces are: a key (a string) or "
            "an index (an integer) of `y`, or a callable from `y` to the labels. "
            f"Received: labels_from={source!r} (of type {type(source).__name__})."
        )
    return source


def take(source: Source, y: Nested) -> Nested:
    """The labels in `y`.

    Raises:
        ValueError: `source` is a key or an index that `y` does not have.
    """
    if not isinstance(source, (str, int)):
        return source(y)
    if isinstance(y, dict) and source in y:
        return y[source]
    if isinstance(y, (list, tuple)) and isinstance(source, int) and -len(y) <= source < len(y):
        return y[source]
    entries = f"the keys {list(y)}" if isinstance(y, dict) else "no entries"
    if isinstance(y, (list, tuple)):
        entries = f"the indices 0 to {len(y) - 1}"
    raise ValueError(
        f"The labels for conditional interfaces should be entry {source!r} of `y`, as labels_from says, but "
        f"there is none. Received: y of type {type(y).__name__}, with {entries}."
    )


def serialize(source: Source) -> Source | Config:
    """What stands for a source in a configuration.

    Raises:
        ValueError: it is a callable that Keras cannot make anew, for it is not registered.
    """
    if isinstance(source, (str, int)):
        return source
    function = isinstance(source, types.FunctionType)
    kind: Any = source if function else type(source)
    registered = keras.saving.get_registered_object(keras.saving.get_registered_name(kind)) is kind
    if not registered or not (function or hasattr(kind, "from_config")):
        raise ValueError(
            "`labels_from` is a callable that cannot be saved. Decorate the function, or the class (which "
            "then has get_config and from_config), with @keras.saving.register_keras_serializable(); or give "
            "the key or the index of the labels. "
            f"Received: labels_from={source!r} (of type {type(source).__name__})."
        )
    return keras.saving.serialize_keras_object(source)


def deserialize(config: Any) -> Source:
    """The inverse of `serialize`."""
    return keras.saving.deserialize_keras_object(config) if isinstance(config, dict) else config
