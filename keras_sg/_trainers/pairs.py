"""From what interfaces predicted in a step, and what arrived there, to pairs of prediction and target."""

from keras import ops

from keras_sg import gradients
from keras_sg._interfaces.step import GradientPrediction, Pair, Step
from keras_sg._interfaces.weights import Weight
from keras_sg._types import Tensor
from keras_sg.gradients import Counting


def inner_pairs(step: Step, example_loss: Tensor | None, scale: Tensor) -> list[Pair]:
    """What learns through the training loss: see `_of_losses` and `_of_inputs`.

    Args:
        step: the training step, after the forward pass.
        example_loss: the loss of each example, `(batch,)`; None where no synthesizer regresses on it.
        scale: what the optimizer multiplies losses by.

    Raises:
        ValueError: the batch of one is longer than the other's.
    """
    return _of_losses(step, example_loss, scale) + _of_inputs(step, scale)


def _of_inputs(step: Step, scale: Tensor) -> list[Pair]:
    """Every predicted input of a module is to be what leaves the module below."""
    found = []
    for interface, predicted, h, weight in step.synthetic_inputs:
        target = gradients.widen(h)
        counting = _counting(weight, target, interface.feature_axis)
        found.append(Pair(interface.synthetic_input, predicted, target, 1.0, scale, *counting))
    return found


def _of_losses(step: Step, example_loss: Tensor | None, scale: Tensor) -> list[Pair]:
    """Every predicted loss is to be the next, the last the example's own loss; a local loss is to be 0."""
    targets = [ops.stop_gradient(prediction.value) for prediction in step.losses[1:]] + [example_loss]
    targets = [
        step.matching(target, prediction.value, prediction.interface.name, "losses")
        if prediction.interface.fits_loss
        else ops.zeros_like(prediction.value)
        for prediction, target in zip(step.losses, targets)
    ]
    return [
        Pair(
            prediction.interface, prediction.value, target, 1.0, scale, *_counting(prediction.weight, target)
        )
        for prediction, target in zip(step.losses, targets)
    ]


def _counting(weight: Weight | None, target: Tensor, axis: int = -1) -> tuple[Counting | None, Tensor | None]:
    """Which elements of a target count, and how many examples of it; None for all."""
    if weight is None:
        return None, None
    losses = len(target.shape) == 1
    counts = weight.counting_losses() if losses else weight.counting_elements(target.shape[axis])
    return counts, weight.examples


def gradient_pairs(
    predictions: list[GradientPrediction], arrived: list[tuple[Tensor | None, Tensor | None]]
) -> list[Pair]:
    """Every predicted gradient that is regressed is to be the one that arrived at its interface.

    Args:
        predictions: list of `GradientPrediction`.
        arrived: list of pairs: the gradients that arrived at the interface and at its anchor; None
            where there was none.
    """
    pairs = []
    for prediction, (delta, scale) in zip(predictions, arrived):
        interface = prediction.interface
        if prediction.factor is None:
            continue
        if delta is not None:
            scale = ops.ones(()) if scale is None else scale
            target = gradients.per_example(delta, scale)
            counting = _counting(prediction.weight, target, interface.feature_axis)
            if counting[0] is not None:
                # Where layers above mix positions, something may arrive at one that does not count.
                target = ops.where(counting[0].where, target, ops.zeros_like(target))
            pairs.append(Pair(interface, prediction.synthetic, target, prediction.factor, scale, *counting))
        elif interface.synthesizer.trainable_variables:
            raise ValueError(
                f"No gradient arrives at interface {interface.name!r}: nothing behind it leads to a loss, so "
                "its synthesizer has nothing to learn from. Compile the model with a loss for the output "
                "that it leads to."
            )
    return pairs
