"""What a training step of every backend begins and ends with."""

import warnings
from typing import Any

import keras
from keras import ops

from keras_sg import _keras, gradients
from keras_sg._interfaces import weights
from keras_sg._interfaces.step import GradientPrediction, Step
from keras_sg._types import Nested, Tensor


def given(model: keras.Model, x: Nested, y: Nested, sample_weight: Nested) -> dict[str, Any]:
    """What a batch hands down to the interfaces, as arguments of `Step`: labels, what counts, the input."""
    seen = any(interface.needs_input for interface in model.interfaces)
    y, sample_weight = joined(y), joined(sample_weight)
    return {
        "labels": model.labels_from(y),
        "ignored": weights.ignored(model),
        "weights": weights.of_outputs(model, y, sample_weight),
        "reached": model.outputs_of_interfaces,
        "inputs": _keras.inputs_of(model, x)[0] if seen else None,
    }


def joined(part: Nested) -> Nested:
    """Targets or weights, of which a list of numbers is one tensor."""
    numbers = isinstance(part, (list, tuple)) and not any(
        getattr(leaf, "shape", ()) for leaf in keras.tree.flatten(part)
    )
    return ops.convert_to_tensor(part) if numbers else part


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


def probed(
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
