"""Labels as a conditional synthesizer sees them.

An interface may be *conditional* (cDNI): its synthesizer predicts from the activations and the
label. A label is one of two kinds, each a small object with the same methods:

    Classes(num_classes)   one of so many classes; an index, or a distribution over them
    Vector(size)           a vector of so many numbers: several bits (multi-hot), or a real-valued target

Both become rows of features, `(batch, size)`, that stand behind the interface's own features, or
as constant channel masks behind its channels.

References: Jaderberg et al. 2016, appendix A (one-hot labels for dense interfaces, channel masks
for convolutional ones).
"""

import abc
import dataclasses
import numbers
import reprlib

import numpy as np
from keras import ops

from keras_sg.types import Nested, Shape, Tensor


def kind(
    num_classes: int | None, label_size: int | None, unit: bool = False, dtype: str = "float32"
) -> "Label | None":
    """The kind of label that an interface's arguments ask for, or None (unconditional).

    Args:
        num_classes: None, or an integer of at least 2.
        label_size: None, or an integer of at least 1.
        unit: whether the numbers of a vector must lie in [0, 1].
        dtype: float dtype in which a vector must be finite.

    Raises:
        ValueError: an argument is not as described, or both are given.
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
    return None if label_size is None else Vector(int(label_size), unit, dtype)


class Label(abc.ABC):
    """What both kinds share.

    Attributes:
        size: the number of features that a label becomes.
    """

    size: int

    @property
    @abc.abstractmethod
    def expected(self) -> str:
        """What an error says of shape and dtype."""

    @property
    @abc.abstractmethod
    def allowed(self) -> str:
        """What an error says of the values."""

    @abc.abstractmethod
    def known(self, labels: Tensor) -> Tensor:
        """Boolean tensor `(batch,)`: where labels are what they should be."""

    @abc.abstractmethod
    def _wrong_with(self, shape: Shape, dtype: str) -> str:
        """What is wrong with labels of a shape and dtype; nothing if nothing is."""

    @abc.abstractmethod
    def _rows(self, labels: Tensor) -> Tensor:
        """Labels as features, `(batch, size)`, in any dtype."""

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
        wrong = wrong or self._wrong_with(shape, dtype)
        if wrong:
            raise ValueError(f"{self.expected} Received: labels of shape {shape} and dtype {dtype}; {wrong}.")

    def check_values(self, labels: Nested) -> None:
        """Raise `ValueError` unless all of an array's labels are `known`, too."""
        self.check(labels)
        if not ops.convert_to_numpy(self.known(labels)).all():
            values = ops.convert_to_numpy(labels)
            raise ValueError(f"{self.allowed} Received: labels from {values.min()} to {values.max()}.")

    def rows(self, labels: Nested, dtype: str) -> Tensor:
        """Labels as features, `(batch, size)`.

        A label that is not `known` becomes NaN: nothing is learned from it unnoticed, even where
        an assertion cannot be compiled (XLA).

        Raises:
            ValueError: see `check`.
        """
        self.check(labels)
        labels = ops.convert_to_tensor(labels)
        rows = ops.cast(self._rows(labels), dtype)
        fine = ops.reshape(self.known(labels), (-1, 1))
        return ops.where(fine, rows, ops.full_like(rows, float("nan")))


@dataclasses.dataclass(frozen=True)
class Classes(Label):
    """One of `size` classes.

    Indices, integers of shape `(batch,)` or `(batch, 1)`; or rows `(batch, size)` that sum to one:
    one-hot, of any numeric dtype, or soft.
    """

    size: int

    @property
    def expected(self) -> str:
        return (
            "A conditional interface needs class labels: integers of shape (batch,) or (batch, 1), or "
            f"one-hot rows of shape (batch, num_classes) with num_classes={self.size}."
        )

    @property
    def allowed(self) -> str:
        return (
            f"Labels must lie in [0, {self.size}), as num_classes={self.size} says; or be one-hot (or soft) "
            "rows that sum to one. For rows with several ones, or other numbers, pass label_size instead."
        )

    def _wrong_with(self, shape: Shape, dtype: str) -> str:
        if not 1 <= len(shape) <= 2:
            return "of another rank"
        if _is_index(shape):
            return "cast class indices to an integer dtype" if "float" in dtype else ""
        return "" if shape[1] in (None, self.size) else f"that is one-hot of width {shape[1]}"

    def known(self, labels: Tensor) -> Tensor:
        """Boolean tensor `(batch,)`: where labels are what they should be."""
        labels = ops.convert_to_tensor(labels)
        if _is_index(labels.shape):
            labels = ops.cast(ops.reshape(labels, (-1,)), "int32")
            return ops.logical_and(labels >= 0, labels < self.size)
        labels = ops.cast(labels, "float32")
        return ops.logical_and(
            ops.all(labels >= 0, axis=1), ops.absolute(ops.sum(labels, axis=1) - 1.0) < 1e-2
        )

    def _rows(self, labels: Tensor) -> Tensor:
        if _is_index(labels.shape):
            index = ops.cast(ops.reshape(labels, (-1,)), "int32")
            # On PyTorch, one out of range would be an error in the middle of a step.
            return ops.one_hot(ops.clip(index, 0, self.size - 1), self.size)
        return labels


@dataclasses.dataclass(frozen=True)
class Vector(Label):
    """A vector of `size` numbers, `(batch, size)`, of any numeric dtype; `(batch,)` where `size` is 1.

    They must be finite in `dtype`, the one that they are computed with. Where `unit`, they must lie in
    [0, 1], as bits and probabilities do.
    """

    size: int
    unit: bool = False
    dtype: str = "float32"

    @property
    def expected(self) -> str:
        return (
            "A conditional interface needs label vectors: numbers of shape (batch, label_size) with "
            f"label_size={self.size}. For class indices, pass num_classes instead."
        )

    @property
    def allowed(self) -> str:
        limits = " from 0 to 1" if self.unit else ""
        return f"Label vectors must hold numbers{limits} that are finite in {self.dtype}."

    def _wrong_with(self, shape: Shape, dtype: str) -> str:
        if shape[1:] in ((self.size,), (None,)) or (len(shape) == 1 and self.size == 1):
            return ""
        return "a class index?" if len(shape) == 1 or shape[1:] == (1,) else "of another shape"

    def known(self, labels: Tensor) -> Tensor:
        """Boolean tensor `(batch,)`: where labels are what they should be."""
        labels = ops.cast(ops.convert_to_tensor(labels), self.dtype)
        fine = ops.isfinite(labels)
        if self.unit:
            fine = ops.logical_and(fine, ops.logical_and(labels >= 0.0, labels <= 1.0))
        return ops.all(self._rows(fine), axis=1)

    def _rows(self, labels: Tensor) -> Tensor:
        return ops.reshape(labels, (ops.shape(labels)[0], self.size))


def _is_index(shape: Shape) -> bool:
    """Whether labels of a shape are class indices, `(batch,)` or `(batch, 1)`, rather than rows."""
    return len(shape) == 1 or shape[-1] == 1


def append(h: Tensor, rows: Tensor, axis: int = -1) -> Tensor:
    """Concatenate rows behind the features of `h`, the same at every position.

    Args:
        h: interface of shape `(batch, ..., features)`, or `(batch, features, ...)` with `axis=1`.
        rows: shape `(batch, size)`, dtype of `h`.
        axis: the axis of the features, -1 or 1.

    Returns:
        Tensor of the shape of `h`, with `size` more features.
    """
    middle = (1,) * (len(h.shape) - 2)
    last = axis == -1 or axis == len(h.shape) - 1
    rows = ops.reshape(rows, (-1, *middle, rows.shape[-1]) if last else (-1, rows.shape[-1], *middle))
    shape = list(ops.shape(h))
    shape[axis] = rows.shape[axis]
    return ops.concatenate([h, ops.broadcast_to(rows, shape)], axis=axis)
