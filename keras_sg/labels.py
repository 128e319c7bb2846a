"""Labels as a conditional synthesizer sees them.

An interface may be *conditional* (cDNI): its synthesizer predicts from the activations and the
label. A label is one of two kinds, each a small object with the same methods:

    Classes(num_classes)   one of so many classes; an index, or a distribution over them
    Vector(size)           a vector of so many numbers: several bits (multi-hot), or a real-valued target

Both become rows of features, `(batch, size)`, that stand behind the interface's own features, or
as constant channel masks behind its channels. At an interface with positions, `(batch, ..., features)`, there
may be a label for each of them; rows are then `(batch, ..., size)`.

A recipe of one's own, a `keras_sg.synthesizers.Synthesizer`, is called with the kind of label at the
interface, and makes a layer that takes `label.size` more features than the interface has; or, with the
attribute `label_apart = True` in that layer, `[h, rows]`.

References: Jaderberg et al. 2016, appendix A (one-hot labels for dense interfaces, channel masks
for convolutional ones).
"""

import abc
import dataclasses
import functools
import numbers
import reprlib
from typing import Self

import keras
import numpy as np
from keras import ops

from keras_sg._types import Nested, Shape, Tensor

Ignored = tuple[int, ...]  # classes that stand for "no label"
# Dtypes that may not hold the number of classes.
_SHORT = ("bool", "int8", "uint8", "int16", "uint16")


def kind(
    num_classes: int | None, label_size: int | None, unit: bool = False, dtype: str = "float32"
) -> "Label | None":
    """The kind of label that an interface's arguments ask for, or None (unconditional).

    Args:
        num_classes: None, or an integer of at least 2.
        label_size: None, or an integer of at least 1.
        unit: whether the numbers of a vector must lie in [0, 1].
        dtype: float dtype in which a vector must be finite.

    Returns:
        `Classes`, `Vector`, or None.

    Raises:
        ValueError: an argument is not as described, or both are given.

    Example:

    ```python
    import keras_sg
    assert keras_sg.labels.kind(10, None) == keras_sg.labels.Classes(10)
    assert keras_sg.labels.kind(None, 3) == keras_sg.labels.Vector(3)
    ```
    """
    for name, value, least in (("num_classes", num_classes, 2), ("label_size", label_size, 1)):
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least
        ):
            raise ValueError(
                f"`{name}` must be None (unconditional) or an integer of at least {least}. "
                f"Received: {name}={value!r} (of type {type(value).__name__})."
            )
    if num_classes is not None and label_size is not None:
        raise ValueError(
            "A label is either one of `num_classes` classes or a vector of `label_size` numbers; give one of "
            f"the two. Received: num_classes={num_classes}, label_size={label_size}."
        )
    if num_classes is not None:
        return Classes(int(num_classes))
    return None if label_size is None else Vector(int(label_size), unit=unit, dtype=dtype)


@dataclasses.dataclass(frozen=True)
class Label(abc.ABC):
    """What both kinds share, and all that a recipe needs to know of the label.

    Attributes:
        size: the number of features that a label becomes.
        positions: lengths of the interface's axes between batch and features, None where not known.
    """

    size: int
    positions: Shape = dataclasses.field(default=(), kw_only=True)

    def at(self, positions: Shape) -> Self:
        """The same kind at an interface with such positions."""
        return dataclasses.replace(self, positions=tuple(positions))

    @property
    @abc.abstractmethod
    def expected(self) -> str:
        """What an error says of shape and dtype."""

    @property
    @abc.abstractmethod
    def allowed(self) -> str:
        """What an error says of the values."""

    @abc.abstractmethod
    def _wrong_with(self, shape: Shape) -> str:
        """What is wrong with labels of a shape; nothing if nothing is."""

    @abc.abstractmethod
    def _known(self, labels: Tensor) -> Tensor:
        """Boolean, as `known`; of labels of a shape that is right."""

    @abc.abstractmethod
    def _rows(self, labels: Tensor) -> Tensor:
        """Labels as features, as `rows`, in any dtype."""

    @abc.abstractmethod
    def _ignored(self, labels: Tensor, ignored: Ignored) -> Tensor | bool:
        """Boolean, as `known`: where labels say that there is none."""

    def check(self, labels: Nested) -> None:
        """Raise `ValueError` unless shape and dtype of `labels` are those of such labels."""
        if hasattr(labels, "__array__") and not hasattr(labels, "dtype"):
            labels = np.asarray(labels)  # a table
        if not hasattr(labels, "shape") or not hasattr(labels, "dtype"):
            raise ValueError(
                f"{self.expected} Where `y` holds more than that, say where they are: give keras_sg.decouple "
                "or keras_sg.DecoupledModel labels_from=... (a key or an index of `y`, or a function of it), "
                "or override `DecoupledModel.labels_from(y)` in a subclass. "
                f"Received: {reprlib.repr(labels)} (of type {type(labels).__name__})."
            )
        shape, dtype = tuple(labels.shape), str(getattr(labels.dtype, "name", labels.dtype))
        dtype = dtype.removeprefix("torch.")
        wrong = "" if "str" not in dtype and dtype != "object" else "not numbers"
        wrong = wrong or self._wrong_with(shape)
        if wrong:
            raise ValueError(f"{self.expected} Received: labels of shape {shape} and dtype {dtype}; {wrong}.")

    def check_values(self, labels: Nested, ignored: Ignored = ()) -> None:
        """Raise `ValueError` unless all of an array's labels are `known`, too."""
        self.check(labels)
        values = ops.convert_to_numpy(labels)
        known = np.ravel(ops.convert_to_numpy(self.known(_narrow(values), ignored)))
        if not known.all():
            first = values.reshape(known.size, -1)[~known][0]
            raise ValueError(
                f"{self.allowed} Received: {self._range(values)}, {(~known).sum()} of them wrong, as {first}."
            )

    def _range(self, values: np.ndarray) -> str:
        """What an error says of labels of which some are wrong."""
        return f"labels from {values.min()} to {values.max()}"

    def known(self, labels: Tensor, ignored: Ignored = ()) -> Tensor:
        """Boolean tensor, `(batch,)`, or `(batch, ...)` for labels per position: where they are right.

        Args:
            labels: of a shape that `check` lets pass.
            ignored: classes that stand for "no label", as `ignore_class` of Keras's losses does.
        """
        labels = ops.convert_to_tensor(labels)
        return ops.logical_or(self._known(labels), self._ignored(labels, ignored))

    def rows(self, labels: Nested, dtype: str, ignored: Ignored = ()) -> Tensor:
        """Labels as features, `(batch, size)` or `(batch, ..., size)` for labels per position.

        Of an ignored label, zeros. A label that is not `known` becomes NaN: nothing is learned from it
        unnoticed, even where an assertion cannot be compiled (XLA).

        Raises:
            ValueError: see `check`.
        """
        self.check(labels)
        labels = ops.convert_to_tensor(labels)
        rows = ops.cast(self._rows(labels), dtype)
        otherwise = ops.full_like(rows, float("nan"))
        if ignored:
            none = ops.expand_dims(self._ignored(labels, ignored), -1)
            otherwise = ops.where(none, ops.zeros_like(rows), otherwise)
        return ops.where(ops.expand_dims(self._known(labels), -1), rows, otherwise)


@dataclasses.dataclass(frozen=True)
class Classes(Label):
    """One of `size` classes.

    Indices, whole numbers of shape `(batch,)` or `(batch, 1)`; or rows `(batch, size)` that sum to one:
    one-hot, of any numeric dtype, or soft. Per position, indices `(batch, ...)` or `(batch, ..., 1)`, or rows
    `(batch, ..., size)`.

    Args:
        size: integer of at least 2, the number of classes.
        positions: lengths of the interface's axes between batch and features, None where not known.

    Example:

    ```python
    import keras, keras_sg
    import numpy as np

    label = keras_sg.labels.Classes(3)
    rows = label.rows(keras.ops.convert_to_tensor([0, 2]), "float32")
    assert np.array_equal(rows, [[1, 0, 0], [0, 0, 1]])
    ```

    References:
        Jaderberg et al. 2016, https://arxiv.org/abs/1608.05343, appendix A.
    """

    @property
    def expected(self) -> str:
        return (
            "A conditional interface needs class labels: integers of shape (batch,) or (batch, 1), or "
            f"one-hot rows of shape (batch, num_classes) with num_classes={self.size}"
            f"{_or_per_position(self.positions, '', ', num_classes')}."
        )

    @property
    def allowed(self) -> str:
        return (
            f"Labels must lie in [0, {self.size}), as num_classes={self.size} says; or be one-hot (or soft) "
            "rows that sum to one. For rows with several ones, or other numbers, pass label_size instead."
        )

    def _wrong_with(self, shape: Shape) -> str:
        if self._are_indices(shape) is not None:
            return ""
        if not 1 <= len(shape) <= 2 + len(self.positions):
            return "of another rank"
        if len(shape) == 2:
            return f"rows of {shape[1]} numbers, where there are {self.size} classes"
        return "of other positions"

    def _range(self, values: np.ndarray) -> str:
        if self._are_indices(values.shape):
            return super()._range(values)
        sums = values.sum(axis=-1)
        hint = ""
        if values.shape[1:] == self.positions:
            hint = f" (indices per position would have the shape (batch, {self.positions[0]}, 1))"
        return f"rows with sums from {sums.min()} to {sums.max()}{hint}"

    def _are_indices(self, shape: Shape) -> bool | None:
        """Whether labels of a shape are indices, rather than rows; None where they are neither."""
        if len(shape) == 1 or shape[1:] == (1,):
            return True
        if shape[1:] == (self.size,):
            return False
        if self.positions and _fits(shape[1:], self.positions):
            return True
        if self.positions and _fits(shape[1:-1], self.positions) and shape[-1] in (1, self.size, None):
            return shape[-1] == 1
        return False if shape[1:] == (None,) else None

    def _index(self, labels: Tensor) -> Tensor:
        if keras.backend.standardize_dtype(labels.dtype) in _SHORT:
            labels = ops.cast(labels, "int32")
        if labels.shape[-1] == 1 and len(labels.shape) != 1 + len(self.positions):
            return ops.squeeze(labels, axis=-1)
        return ops.reshape(labels, (-1,)) if labels.shape[1:] == (1,) else labels

    def _known(self, labels: Tensor) -> Tensor:
        if self._are_indices(tuple(labels.shape)):
            index = self._index(labels)
            fine = ops.logical_and(index >= 0, index < self.size)
            return ops.logical_and(fine, ops.equal(index, ops.floor(index))) if _is_float(index) else fine
        rows = ops.cast(labels, "float32")
        return ops.logical_and(ops.all(rows >= 0, axis=-1), ops.absolute(ops.sum(rows, axis=-1) - 1.0) < 1e-2)

    def _ignored(self, labels: Tensor, ignored: Ignored) -> Tensor | bool:
        if not ignored or not self._are_indices(tuple(labels.shape)):
            return ops.zeros_like(self._known(labels))
        index = ops.cast(self._index(labels), "float32")
        return functools.reduce(ops.logical_or, [ops.equal(index, float(number)) for number in ignored])

    def _rows(self, labels: Tensor) -> Tensor:
        if not self._are_indices(tuple(labels.shape)):
            return labels
        # On PyTorch, one out of range would be an error in the middle of a step.
        return ops.one_hot(ops.cast(ops.clip(self._index(labels), 0, self.size - 1), "int32"), self.size)


@dataclasses.dataclass(frozen=True)
class Vector(Label):
    """A vector of `size` numbers, `(batch, size)`, of any numeric dtype; `(batch,)` where `size` is 1.

    Per position, `(batch, ..., size)`. They must be finite in `dtype`, the one that they are computed with.
    Where `unit`, they must lie in [0, 1], as bits and probabilities do.

    Args:
        size: integer of at least 1, how many numbers.
        unit: whether they must lie in [0, 1].
        dtype: float dtype, its name.
        positions: lengths of the interface's axes between batch and features, None where not known.

    Example:

    ```python
    import keras, keras_sg

    label = keras_sg.labels.Vector(2)
    rows = label.rows(keras.ops.convert_to_tensor([[0.5, -1.0]]), "float32")
    assert tuple(rows.shape) == (1, 2)
    ```
    """

    unit: bool = False
    dtype: str = "float32"

    @property
    def expected(self) -> str:
        return (
            "A conditional interface needs label vectors: numbers of shape (batch, label_size) with "
            f"label_size={self.size}{_or_per_position(self.positions, ', label_size')}. For class indices, "
            "pass num_classes instead."
        )

    @property
    def allowed(self) -> str:
        limits = " from 0 to 1" if self.unit else ""
        return f"Label vectors must hold numbers{limits} that are finite in {self.dtype}."

    def _wrong_with(self, shape: Shape) -> str:
        per_position = bool(self.positions) and _fits(shape[1:-1], self.positions)
        if (len(shape) == 2 or per_position) and shape[-1] in (self.size, None):
            return ""
        if len(shape) == 1:
            return "" if self.size == 1 else "a class index?"
        return "a class index?" if shape[1:] == (1,) else "of another shape"

    def _known(self, labels: Tensor) -> Tensor:
        labels = ops.cast(labels, self.dtype)
        fine = ops.isfinite(labels)
        if self.unit:
            fine = ops.logical_and(fine, ops.logical_and(labels >= 0.0, labels <= 1.0))
        return ops.all(self._rows(fine), axis=-1)

    def _ignored(self, labels: Tensor, ignored: Ignored) -> Tensor | bool:
        return ops.zeros_like(self._known(labels))

    def _rows(self, labels: Tensor) -> Tensor:
        leading = ops.shape(labels)[:-1] if len(labels.shape) > 1 else ops.shape(labels)
        return ops.reshape(labels, (*leading, self.size))  # the last length may not have been known


def _is_float(tensor: Tensor) -> bool:
    return "float" in keras.backend.standardize_dtype(tensor.dtype)


def _narrow(values: np.ndarray) -> np.ndarray:
    """Integers that fit into 32 bits, where JAX would let larger ones wrap around."""
    wide = values.dtype.kind in "iu" and values.dtype.itemsize > 4
    return np.clip(values, -(2**31), 2**31 - 1) if wide else values


def _fits(given: Shape, positions: Shape) -> bool:
    return len(given) == len(positions) and all(
        None in pair or pair[0] == pair[1] for pair in zip(given, positions)
    )


def _or_per_position(positions: Shape, *ends: str) -> str:
    """What an error says of labels per position, at an interface that has some."""
    if not positions:
        return ""
    shape = ", ".join("steps" if n is None else str(n) for n in positions)
    return "; or a label for each position, of shape " + " or ".join(f"(batch, {shape}{end})" for end in ends)


def append(h: Tensor, rows: Tensor, axis: int = -1) -> Tensor:
    """Concatenate rows behind the features of `h`, the same at every position or one for each.

    Args:
        h: interface of shape `(batch, ..., features)`, or `(batch, features, ...)` with `axis=1`.
        rows: shape `(batch, size)`, or `(batch, ..., size)` for each position; dtype of `h`.
        axis: the axis of the features, -1 or 1.

    Returns:
        Tensor of the shape of `h`, with `size` more features.

    Example:

    ```python
    import keras, keras_sg

    h, rows = keras.ops.zeros((2, 5, 8)), keras.ops.ones((2, 3))
    assert tuple(keras_sg.labels.append(h, rows).shape) == (2, 5, 11)
    ```
    """
    if len(rows.shape) == len(h.shape) and len(h.shape) > 2:
        return ops.concatenate([h, ops.moveaxis(rows, -1, axis)], axis=axis)
    middle = (1,) * (len(h.shape) - 2)
    last = axis == -1 or axis == len(h.shape) - 1
    rows = ops.reshape(rows, (-1, *middle, rows.shape[-1]) if last else (-1, rows.shape[-1], *middle))
    shape = list(ops.shape(h))
    shape[axis] = rows.shape[axis]
    return ops.concatenate([h, ops.broadcast_to(rows, shape)], axis=axis)
