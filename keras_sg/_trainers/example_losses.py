"""The loss of each example, which a training loss is the mean of, whatever losses a model has."""

from typing import Any

import keras
from keras import ops

from keras_sg import _keras
from keras_sg._trainers.common import joined
from keras_sg._types import Nested, Tensor


def weights_of_examples(model: keras.Model, y: Nested, sample_weight: Nested, y_pred: Nested) -> Nested:
    """Sample weights by which the loss of each example can be found, see `shares_of_examples`.

    Args:
        model: the compiled model.
        y: targets, as `fit` received them.
        sample_weight: sample weights as `fit` received them, or None.
        y_pred: the model's outputs.

    Returns:
        The sample weights as floats; ones, in a shape that Keras applies to whole examples, for None.

    Raises:
        ValueError: a loss of the model has no loss per example, or is not their mean.
    """
    losses = [loss for loss, _ in _keras.losses_of_outputs(model)]
    for loss in losses:
        reduction = getattr(loss, "reduction", "mean")
        if reduction not in ("mean", "sum_over_batch_size"):
            raise ValueError(
                f"The synthetic losses of {model.name!r} learn from the loss of each example, which the "
                "training loss must be the mean of; a sum, or one that is divided by the sum of the sample "
                "weights, is not. Use the reduction 'sum_over_batch_size'. "
                f"Received: a loss with reduction={reduction!r} ({loss.name})."
            )

    y, sample_weight, flat = joined(y), joined(sample_weight), keras.tree.flatten(y_pred)
    ones = [_ones(*parts, model.name) for parts in zip(losses, _keras.by_output(model, y), flat)]
    if sample_weight is None:
        return keras.tree.pack_sequence_as(y_pred, ones)
    given = keras.tree.flatten(sample_weight)
    cast = [one if part is None else ops.cast(part, keras.config.floatx()) for part, one in zip(given, ones)]
    return keras.tree.pack_sequence_as(sample_weight, cast)


def _ones(loss: Any, y: Tensor | None, output: Tensor, name: str) -> Tensor:
    """A weight of one for every example and position that an output's loss has one for."""
    shape = tuple(output.shape[:-1]) or (None,)
    if loss is not None and y is not None:
        shape = _keras.shape_of_values(loss, y, output)
        if not shape or shape[0] is not None:
            raise ValueError(
                f"The synthetic losses of {name!r} learn from the loss of each example, and a loss of the "
                "model is one for all of a batch. Give it the axes of an example (axis=(1, 2, 3), say), or "
                "write it so that it returns a loss per example, (batch,). Received: "
                f"{getattr(loss, 'name', loss)!r}, whose values have the shape {shape}."
            )
    # Keras multiplies them by masks, on PyTorch in place: no axis may be broadcast where its length is known.
    return ops.ones((ops.shape(output)[0], *(length or 1 for length in shape[1:])), keras.config.floatx())


def shares_of_examples(
    model: keras.Model, weights: list[Tensor], derivatives: list[Tensor | None], examples: Tensor
) -> Tensor:
    """The share of each example in the training loss, times their number: its own loss, `(batch,)`.

    A training loss is linear in the sample weights, so an example's share of it is its weight times
    the derivative by that weight. This holds for any losses, outputs and loss weights, with no need
    to look inside them.

    Args:
        model: the compiled model.
        weights: list of sample weights, one an output.
        derivatives: list of the derivatives of the training loss by them; None where there is none.
        examples: number of examples that the training loss is the mean of.
    """
    shares = [
        ops.sum(ops.reshape(weight * share, (ops.shape(weight)[0], -1)), axis=1)
        for weight, share in zip(weights, derivatives)
        if share is not None
    ]
    if not shares:
        raise ValueError(
            f"The synthetic losses of {model.name!r} have nothing behind them to learn from: there is "
            "no loss per example. Compile the model with a Keras loss that honours sample weights "
            "(loss='mse', for one). Received: a model whose training loss takes no sample weights."
        )
    return ops.stop_gradient(sum(shares) * ops.cast(examples, shares[0].dtype))
