"""What modules receive that descend the error of the model's output: see `keras_sg.synthesizers.Feedback`."""

import keras
from keras import ops

from keras_sg import _keras, gradients
from keras_sg._backends import derivatives
from keras_sg._interfaces.step import Step
from keras_sg._types import Nested, Tensor


def error_at_outputs(
    model: keras.Model, x: Nested, y: Nested, y_pred: Nested, sample_weight: Nested
) -> Tensor:
    """The derivative of the training loss by the model's one output, for each example: `(batch, outputs)`.

    Raises:
        ValueError: the loss is of probabilities.
    """
    ((loss, _),), (output,) = _keras.losses_of_outputs(model), keras.tree.flatten(y_pred)
    if loss is not None and _keras.takes_probabilities(loss, keras.tree.flatten(y)[0], output):
        raise ValueError(
            "Feedback alignment is of the error at the output before its activation. Have the model put out "
            "logits, and compile it with a loss that has from_logits=True. Received: model "
            f"{model.name!r} with a loss of probabilities ({getattr(loss, 'name', loss)})."
        )

    def loss_of(constant: Tensor) -> Tensor:
        packed = keras.tree.pack_sequence_as(y_pred, [_keras.copy_mask(output, constant)])
        weights = keras.tree.map_structure(lambda w: None if w is None else ops.copy(w), sample_weight)
        return _keras.compute_loss(model, x, y, packed, weights)

    error = derivatives.gradient(loss_of, output, [*model.variables, *model.metrics_variables])
    batch = ops.shape(output)[0]
    return ops.reshape(gradients.widen(error), (batch, -1)) * ops.cast(batch, gradients.widen(error).dtype)


def fed_back(
    model: keras.Model, step: Step, x: Nested, y: Nested, y_pred: Nested, sample_weight: Nested
) -> list[Tensor]:
    """Zeros to be added to the training loss, through which modules descend the error of the outputs."""
    if not step.awaiting:
        return []
    error = error_at_outputs(model, x, y, y_pred, sample_weight)
    found = []
    for interface, h, mix in step.awaiting:
        received = gradients.widen(ops.stop_gradient(interface.synthesizer([h, error])))
        through = gradients.widen(h - ops.stop_gradient(h)) * received
        share = ops.cast(mix, through.dtype) / ops.cast(ops.shape(h)[0], through.dtype)
        found.append(ops.cast(ops.sum(through) * share, keras.config.floatx()))
    return found


def probed(
    model: keras.Model, step: Step, x: Nested, y: Nested, y_pred: Nested, sample_weight: Nested
) -> None:
    """Fill in, among the gradients that interfaces predicted, those made of the error of the outputs."""
    if all(met.synthetic is not None for met in step.gradients):
        return
    error = error_at_outputs(model, x, y, y_pred, sample_weight)
    step.gradients = [
        met
        if met.synthetic is not None
        else met._replace(synthetic=met.interface.synthesizer([met.h, error]))
        for met in step.gradients
    ]
