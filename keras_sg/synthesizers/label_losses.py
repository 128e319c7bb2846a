"""The losses by which a synthesizer that predicts the label measures how wrong it is."""

from collections.abc import Callable
from typing import NamedTuple

from keras import ops

from keras_sg import labels
from keras_sg._types import Tensor


class LabelLoss(NamedTuple):
    """A loss of the numbers `z` that a synthesizer puts out for a label, `(batch, ..., label features)`."""

    value: Callable[[Tensor, Tensor], Tensor]  # of the label and `z`: `(batch, ...)`
    predicted: Callable[[Tensor], Tensor]  # of `z`: the label; its difference to the true one is the error


LABEL_LOSSES = {
    "categorical_crossentropy": LabelLoss(
        value=lambda label, z: -ops.sum(label * ops.log_softmax(z), axis=-1),
        predicted=ops.softmax,
    ),
    "binary_crossentropy": LabelLoss(
        value=lambda label, z: ops.mean(ops.softplus(z) - label * z, axis=-1),
        predicted=ops.sigmoid,
    ),
    "mse": LabelLoss(
        value=lambda label, z: ops.mean(ops.square(z - label), axis=-1),
        predicted=lambda z: z,
    ),
}


def check_loss(loss: str | None, whose: str) -> str | None:
    """Raise `ValueError` unless it is the name of a loss, or None; return it."""
    if loss is not None and (not isinstance(loss, str) or loss not in LABEL_LOSSES):
        raise ValueError(
            f"The loss of {whose} must be None or one of {sorted(LABEL_LOSSES)}. Received: loss={loss!r}."
        )
    return loss


def loss_for(label: labels.Label, loss: str | None, whose: str) -> str:
    """The loss of a name, if it fits the kind of label; for None, the one that does.

    Raises:
        ValueError: it does not fit.
    """
    classes = isinstance(label, labels.Classes)
    loss = loss or ("categorical_crossentropy" if classes else "binary_crossentropy")
    if classes != (loss == "categorical_crossentropy"):
        raise ValueError(
            f"Of the losses of {whose}, 'categorical_crossentropy' is for class labels (num_classes), the "
            f"others are for label vectors (label_size). Received: loss={loss!r} for {label}."
        )
    return loss
