"""Class labels as a conditional synthesizer sees them: one-hot features behind the interface's own.

An interface with `num_classes` is *conditional* (cDNI): its synthesizer predicts the gradient
from the activations and the label. References: Jaderberg et al. 2016, section 3.1 and appendix A
(one-hot labels for dense interfaces, constant one-hot channel masks for convolutional ones).
"""

import keras
from keras import ops


def check_num_classes(num_classes):
    """Raise `ValueError` unless `num_classes` is None or an integer of at least 2; return it."""
    if num_classes is None:
        return None
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
        raise ValueError(
            "`num_classes` must be None (unconditional) or an integer of at least 2. "
            f"Received: num_classes={num_classes!r} (of type {type(num_classes).__name__})."
        )
    return num_classes


def is_index(labels):
    """Whether labels are class indices, `(batch,)` or `(batch, 1)`, rather than one-hot rows."""
    return len(labels.shape) == 1 or labels.shape[-1] == 1


def check_labels(labels, num_classes):
    """Raise `ValueError` unless `labels` can be class labels for `num_classes` classes.

    Args:
        labels: integers of shape `(batch,)` or `(batch, 1)`, or one-hot (or soft) rows of
            shape `(batch, num_classes)` of any numeric dtype.
        num_classes: integer of at least 2.
    """
    expected = (
        "A conditional interface needs class labels: integers of shape (batch,) or (batch, 1), "
        f"or one-hot rows of shape (batch, num_classes) with num_classes={num_classes}. "
    )
    if not hasattr(labels, "shape") or not hasattr(labels, "dtype"):
        raise ValueError(f"{expected}Received: {labels!r} (of type {type(labels).__name__}).")
    shape, dtype = tuple(labels.shape), keras.backend.standardize_dtype(labels.dtype)
    received = f"Received: labels of shape {shape} and dtype {dtype}"
    if dtype == "string" or not 1 <= len(shape) <= 2:
        raise ValueError(f"{expected}{received}.")
    if is_index(labels):
        if "float" in dtype:
            raise ValueError(f"{expected}{received}; cast class indices to an integer dtype.")
    elif shape[1] is not None and shape[1] != num_classes:
        raise ValueError(f"{expected}{received}, that is one-hot of width {shape[1]}.")


def check_range(labels, num_classes):
    """Raise `ValueError` unless all class indices in an array lie in `[0, num_classes)`.

    Args:
        labels: array of concrete values; see `check_labels`.
        num_classes: integer of at least 2.
    """
    check_labels(labels, num_classes)
    if is_index(labels) and len(labels):
        values = ops.convert_to_numpy(labels)
        if values.min() < 0 or values.max() >= num_classes:
            raise ValueError(
                f"Labels must lie in [0, {num_classes}), as num_classes={num_classes} says. "
                f"Received: labels from {values.min()} to {values.max()}."
            )


def one_hot(labels, num_classes, dtype):
    """Labels as one-hot rows.

    An index outside `[0, num_classes)` becomes a row of NaN: nothing is learned from it
    unnoticed, even where an assertion cannot be compiled (XLA).

    Args:
        labels: see `check_labels`.
        num_classes: integer of at least 2.
        dtype: float dtype of the result.

    Returns:
        Tensor of shape `(batch, num_classes)`.

    Raises:
        ValueError: `labels` cannot be class labels.
    """
    check_labels(labels, num_classes)
    labels = ops.convert_to_tensor(labels)
    if not is_index(labels):
        return ops.cast(labels, dtype)
    indices = ops.cast(ops.reshape(labels, (-1,)), "int32")
    known = ops.logical_and(indices >= 0, indices < num_classes)
    rows = ops.one_hot(indices, num_classes, dtype=dtype)
    return ops.where(known[:, None], rows, ops.full_like(rows, float("nan")))


def append(h, rows):
    """Concatenate one-hot rows behind the last axis of `h`, the same at every position.

    Args:
        h: interface of shape `(batch, ..., features)`.
        rows: shape `(batch, num_classes)`, dtype of `h`.

    Returns:
        Tensor of shape `(batch, ..., features + num_classes)`.
    """
    middle = (1,) * (len(h.shape) - 2)
    rows = ops.reshape(rows, (-1, *middle, rows.shape[-1]))
    rows = ops.broadcast_to(rows, (*ops.shape(h)[:-1], rows.shape[-1]))
    return ops.concatenate([h, rows], axis=-1)
