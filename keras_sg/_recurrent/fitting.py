"""What `fit` would do to windows, found before it does."""

import inspect
from typing import Any

import keras
import numpy as np

from keras_sg import _keras
from keras_sg._interfaces.interface import Interface
from keras_sg._trainers import batches
from keras_sg._types import Nested


def check_windows(model: keras.Model, *args: Any, **kwargs: Any) -> None:
    """Raise `ValueError` where `fit` is told to train recurrent interfaces in a way that they cannot be.

    Args:
        model: the `DecoupledModel`.
        *args, **kwargs: what `keras.Model.fit` takes.
    """
    recurrent = [interface for interface in model.interfaces if not interface.between_layers]
    if not recurrent:
        return
    told = inspect.signature(keras.Model.fit).bind(model, *args, **kwargs).arguments
    x, y = told.get("x"), told.get("y")
    arrays = y is not None
    finite = isinstance(x, keras.utils.PyDataset) and x.num_batches is not None
    if told.get("shuffle", True) and (arrays or finite):
        raise ValueError(
            f"Recurrent interface {recurrent[0].name!r} is trained on windows in the order of time, and "
            "fit() shuffles arrays and data sets of Keras unless it is told not to. Pass shuffle=False. "
            f"Received: shuffle={told.get('shuffle', True)!r}."
        )
    if arrays:
        _check_arrays(model, recurrent, batches.arrays(x), told)


def _check_arrays(model: keras.Model, recurrent: list[Interface], x: Nested, told: dict[str, Any]) -> None:
    rows = told.get("batch_size") or 32
    count = len(keras.tree.flatten(x)[0])
    for interface in recurrent:
        left = 0 if told.get("validation_split") else count % interface.rows
        if rows != interface.rows or left:
            raise ValueError(
                f"Recurrent interface {interface.name!r} goes on with {interface.rows} rows, so fit() "
                f"must make batches of {interface.rows} of them, and none may be left over. Received: "
                f"batch_size={rows} and {count} rows."
            )
        ends = _ends_of(model, interface, x)
        if ends is not None and not np.any(ends):
            raise ValueError(
                f"The `ends` of recurrent interface {interface.name!r} are never 1: every row would be one "
                "sequence without an end, from epoch to epoch. They are 1 where a row's sequence ends with "
                f"the window; let it end with the data, at least. Received: ends of shape {np.shape(ends)}, "
                "all 0."
            )


def _ends_of(model: keras.Model, interface: Interface, x: Nested) -> Any:
    """The array for that input of a model which a recurrent interface takes as `ends`; None where unknown."""
    taken = _keras.taken_by_keyword(interface, "ends")
    found = [array for symbol, array in zip(model.inputs, _keras.inputs_of(model, x)) if symbol is taken]
    return np.asarray(keras.ops.convert_to_numpy(found[0])) if found else None
