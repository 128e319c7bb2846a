"""What the training steps of all backends share: from predictions and what arrived to lessons."""

import warnings
from typing import Any

import keras
from keras import ops

from keras_sg import _keras, gradients
from keras_sg._interfaces import weights
from keras_sg._interfaces.step import GradientPrediction, Lesson, Step
from keras_sg._interfaces.weights import Weight
from keras_sg._types import Nested, Tensor
from keras_sg.gradients import Counting


def given(model: keras.Model, x: Nested, y: Nested, sample_weight: Nested) -> dict[str, Any]:
    """What a batch hands down to the interfaces, as arguments of `Step`: labels, what counts, the input."""
    predicted = any(interface.synthetic_input is not None for interface in model.interfaces)
    y, sample_weight = _joined(y), _joined(sample_weight)
    return {
        "labels": model.labels_from(y),
        "ignored": weights.ignored(model),
        "weights": weights.of_outputs(model, y, sample_weight),
        "reached": model.outputs_of_interfaces,
        "inputs": _keras.inputs_of(model, x)[0] if predicted else None,
    }


def _joined(part: Nested) -> Nested:
    """Targets or weights, of which a list of numbers is one tensor."""
    numbers = isinstance(part, (list, tuple)) and not any(
        getattr(leaf, "shape", ()) for leaf in keras.tree.flatten(part)
    )
    return ops.convert_to_tensor(part) if numbers else part


def inner_lessons(step: Step, example_loss: Tensor | None, scale: Tensor) -> list[Lesson]:
    """What learns through the training loss: see `_of_losses` and `_of_inputs`.

    Args:
        step: the training step, after the forward pass.
        example_loss: the loss of each example, `(batch,)`; None where no synthesizer regresses on it.
        scale: what the optimizer multiplies losses by.

    Raises:
        ValueError: the batch of one is longer than the other's.
    """
    return _of_losses(step, example_loss, scale) + _of_inputs(step, scale)


def _of_inputs(step: Step, scale: Tensor) -> list[Lesson]:
    """Every predicted input of a module is to be what leaves the module below."""
    found = []
    for interface, predicted, h, weight in step.synthetic_inputs:
        target = gradients.widen(h)
        counting = _counting(weight, target, interface.feature_axis)
        found.append(Lesson(interface.synthetic_input, predicted, target, 1.0, scale, *counting))
    return found


def _of_losses(step: Step, example_loss: Tensor | None, scale: Tensor) -> list[Lesson]:
    """Every predicted loss is to be the next, the last the example's own loss; a local loss is to be 0."""
    targets = [ops.stop_gradient(prediction.value) for prediction in step.losses[1:]] + [example_loss]
    targets = [
        step.matching(target, prediction.value, prediction.interface.name, "losses")
        if prediction.interface.fits_loss
        else ops.zeros_like(prediction.value)
        for prediction, target in zip(step.losses, targets)
    ]
    return [
        Lesson(
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


def gradient_lessons(
    predictions: list[GradientPrediction], arrived: list[tuple[Tensor | None, Tensor | None]]
) -> list[Lesson]:
    """Every predicted gradient that is regressed is to be the one that arrived at its interface.

    Args:
        predictions: list of `GradientPrediction`.
        arrived: list of pairs: the gradients that arrived at the interface and at its anchor; None
            where there was none.
    """
    lessons = []
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
            lessons.append(
                Lesson(interface, prediction.synthetic, target, prediction.factor, scale, *counting)
            )
        elif interface.synthesizer.trainable_variables:
            raise ValueError(
                f"No gradient arrives at interface {interface.name!r}: nothing behind it leads to a loss, so "
                "its synthesizer has nothing to learn from. Compile the model with a loss for the output "
                "that it leads to."
            )
    return lessons


def observed(
    model: keras.Model, predictions: list[GradientPrediction], true: list[Tensor | None]
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """By the key of each interface: the synthetic and the true gradient, and which elements count."""
    found = {}
    for met, target in zip(predictions, true):
        shape = ops.shape(met.synthetic)
        counts = ops.ones((1,) * len(shape), "bool") if met.weight is None else met.weight.counts
        found[model.key_of(met.interface)] = (
            gradients.widen(met.synthetic),
            gradients.widen(ops.zeros_like(met.synthetic) if target is None else target),
            ops.broadcast_to(counts, shape),
        )
    return found


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

    y, sample_weight, flat = _joined(y), _joined(sample_weight), keras.tree.flatten(y_pred)
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


def batch_size(x: Nested) -> Tensor:
    """The number of examples in a batch of inputs."""
    first = next(leaf for leaf in keras.tree.flatten(x) if leaf is not None)
    # What is no batch is for the model's call to find.
    return ops.shape(first)[0] if getattr(first, "shape", ()) else 1


def warn_of_idle(model: keras.Model, step: Step) -> None:
    """Warn of a model that has nothing to train, and of interfaces that the step did not meet.

    Where an interface was not met, a true gradient may have passed.
    """
    if not model.trainable_variables:
        warnings.warn("The model does not have any trainable weights.", stacklevel=2)
    predictions: list[Any] = [*step.gradients, *step.losses, *step.awaiting]
    met = {id(prediction.interface) for prediction in predictions}
    idle = [interface.name for interface in model.interfaces if id(interface) not in met]
    if idle:
        warnings.warn(
            f"The interfaces {idle} of model {model.name!r} took no part in the training step, so nothing "
            "is reported of them, and they know neither labels nor weights. Is a layer around them called "
            "with training=False (then true gradients pass), or does it call them other than by "
            "layer(inputs), as keras.layers.TimeDistributed does?",
            stacklevel=2,
        )
