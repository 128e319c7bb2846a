"""Class labels as a conditional synthesizer sees them: one-hot features behind the interface's own.

An interface with `num_classes` is *conditional* (cDNI): its synthesizer predicts the gradient
from the activations and the label. References: Jaderberg et al. 2016, appendix A
(one-hot labels for dense interfaces, constant one-hot channel masks for convolutional ones).
"""

import numbers

import keras
from keras import ops


def check_num_classes(num_classes):
    """Raise `ValueError` unless `num_classes` is None or an integer of at least 2; return it."""
    if num_classes is None:
        return None
    if isinstance(num_classes, bool) or not isinstance(num_classes, numbers.Integral) or num_classes < 2:
        raise ValueError(
            "`num_classes` must be None (unconditional) or an integer of at least 2. "
            f"Received: num_classes={num_classes!r} (of type {type(num_classes).__name__})."
        )
    return int(num_classes)


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
        raise ValueError(
            f"{expected}Where `y` holds more than that, override `DecoupledModel.labels_from(y)`. "
            f"Received: {labels!r} (of type {type(labels).__name__})."
        )
    shape, dtype = tuple(labels.shape), getattr(labels.dtype, "name", str(labels.dtype))
    received = f"Received: labels of shape {shape} and dtype {dtype}"
    if "str" in dtype or dtype == "object" or not 1 <= len(shape) <= 2:
        raise ValueError(f"{expected}{received}.")
    if is_index(labels):
        if "float" in dtype:
            raise ValueError(f"{expected}{received}; cast class indices to an integer dtype.")
    elif shape[1] is not None and shape[1] != num_classes:
        raise ValueError(f"{expected}{received}, that is one-hot of width {shape[1]}.")


def known(labels, num_classes):
    """Where labels are what they should be: indices in `[0, num_classes)`, rows of zeros and ones.

    Rows of floats may hold anything: soft labels are welcome.

    Args:
        labels: tensor or array that passed `check_labels`.
        num_classes: integer of at least 2.

    Returns:
        Boolean tensor, shape of `labels`.
    """
    labels = ops.convert_to_tensor(labels)
    if "float" in keras.backend.standardize_dtype(labels.dtype):
        return ops.ones_like(labels, dtype="bool")
    classes = num_classes if is_index(labels) else 2
    labels = ops.cast(labels, "int32")
    return ops.logical_and(labels >= 0, labels < classes)


def wrong_values(num_classes):
    """What to say of labels that are not `known`."""
    return (
        f"Labels must lie in [0, {num_classes}), as num_classes={num_classes} says; or, in one-hot rows of "
        "integers, be 0 or 1."
    )


def check_values(labels, num_classes):
    """Raise `ValueError` unless all of an array's labels are `known`.

    Args:
        labels: array of concrete values; see `check_labels`.
        num_classes: integer of at least 2.
    """
    check_labels(labels, num_classes)
    if not ops.convert_to_numpy(known(labels, num_classes)).all():
        values = ops.convert_to_numpy(labels)
        raise ValueError(
            f"{wrong_values(num_classes)} Received: labels from {values.min()} to {values.max()}."
        )


def one_hot(labels, num_classes, dtype):
    """Labels as one-hot rows.

    A label that is not `known` becomes NaN: nothing is learned from it unnoticed, even where
    an assertion cannot be compiled (XLA).

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
    fine = known(labels, num_classes)
    if is_index(labels):
        labels, fine = ops.reshape(labels, (-1,)), ops.reshape(fine, (-1, 1))
        labels = ops.one_hot(ops.cast(labels, "int32"), num_classes, dtype=dtype)
    rows = ops.cast(labels, dtype)
    return ops.where(fine, rows, ops.full_like(rows, float("nan")))


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
