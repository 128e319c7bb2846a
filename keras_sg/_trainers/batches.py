"""One batch, read as `fit` reads it and held against the model that is to take it."""

import numbers
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sg import _keras
from keras_sg._interfaces import weights
from keras_sg._types import Nested, Shape


def read(model: keras.Model, x: Any, y: Nested, sample_weight: Nested) -> tuple[Nested, Nested, Nested]:
    """The batch `(x, y, sample_weight)` in arrays, as `fit` makes it of the same arguments.

    Args:
        model: the `DecoupledModel` that is to take it.
        x: what `fit` takes: arrays, tensors or tables, in lists or dictionaries, all of which are the
            batch; or a data set, a generator and the like, of which the first batch is read.
        y, sample_weight: likewise; None where `x` holds them.

    Raises:
        ValueError: the model is not compiled; or there are not as many examples in each part, at least
            one, or they do not fit the model's inputs, or the labels in `y` not its interfaces.
    """
    if not model.compiled:
        raise ValueError(
            "The true gradient at an interface is that of the loss that a model is compiled with. Call "
            f"compile(...) first. Received: model {model.name!r}, which is not compiled."
        )
    batch: Any = x, y, sample_weight
    fault = ""
    try:
        batch = _keras.one_batch(*map(arrays, batch))
        pairs = list(zip(model.inputs, _keras.inputs_of(model, batch[0])))
        fits = isinstance(batch[0], dict) or len(keras.tree.flatten(batch[0])) == len(pairs)
        fits = fits and all(_fits(symbol.shape, given.shape) for symbol, given in pairs if given is not None)
        sizes = {np.shape(leaf)[:1] for leaf in keras.tree.flatten(batch) if leaf is not None}
        fits = fits and len(sizes) == 1 and not sizes & {(), (0,)}
    except (KeyError, StopIteration, TypeError, ValueError) as error:
        fits, fault = False, f" {error}"
    if not fits:
        expected = [tuple(tensor.shape) for tensor in model.inputs]
        raise ValueError(
            f"The batch does not fit model {model.name!r}. Expected x of shapes {expected} and, in y and "
            f"sample_weight, as many examples, at least one. Received: x of shapes {_shapes(batch[0])}, y of "
            f"shapes {_shapes(batch[1])}, sample_weight of shapes {_shapes(batch[2])}.{fault}"
        )
    check_labels(model, batch[1])
    return batch


def check_labels(model: keras.Model, y: Nested) -> None:
    """Raise `ValueError` unless `y`, in arrays, holds the labels that the interfaces of a model need."""
    kinds = {interface.needed_label for interface in model.interfaces if interface.needed_label}
    found = model.labels_from(y) if kinds else None
    for kind in kinds:
        if hasattr(found, "dtype"):
            kind.check_values(found, weights.ignored(model))
        else:
            kind.check(found)


def arrays(part: Nested) -> Nested:
    """`x`, `y` or `sample_weight` with an array for whatever a step sees as one: tables, lists of numbers.

    Arrays and tensors of the backend stay as they are.
    """
    if isinstance(part, dict):
        return {key: arrays(value) for key, value in part.items()}
    if isinstance(part, (list, tuple)):
        leaves = keras.tree.flatten(part)
        if leaves and all(isinstance(leaf, numbers.Number) for leaf in leaves):
            return np.asarray(part)
        return type(part)(map(arrays, part)) if type(part) in (list, tuple) else part
    if isinstance(part, np.ndarray) or ops.is_tensor(part) or not hasattr(part, "__array__"):
        return part
    return _keras.one_batch(part)[0]


def _fits(expected: Shape, given: Shape) -> bool:
    return len(expected) == len(given) and all(m in (None, n) for m, n in zip(expected, given))


def _shapes(part: Nested) -> list[Any]:
    return [getattr(leaf, "shape", leaf) for leaf in keras.tree.flatten(part)]
