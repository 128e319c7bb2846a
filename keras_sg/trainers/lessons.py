"""What the training steps of all backends share: from predictions and what arrived to lessons."""

import warnings
from typing import Any

import keras
from keras import ops

from keras_sg import _keras, gradients
from keras_sg.step import GradientPrediction, Lesson, Step
from keras_sg.types import Nested, Tensor


def loss_lessons(step: Step, example_loss: Tensor, scale: Tensor) -> list[Lesson]:
    """Every predicted loss is to be the next one, and the last the example's own loss."""
    targets = [ops.stop_gradient(prediction.value) for prediction in step.losses[1:]] + [example_loss]
    return [
        Lesson(prediction.interface, prediction.value, target, 1.0, scale)
        for prediction, target in zip(step.losses, targets)
    ]


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
        if prediction.weight is None:
            continue
        if delta is not None:
            scale = ops.ones(()) if scale is None else scale
            target = gradients.per_example(delta, scale)
            lessons.append(Lesson(interface, prediction.synthetic, target, prediction.weight, scale))
        elif interface.synthesizer.trainable_variables:
            raise ValueError(
                f"No gradient arrives at interface {interface.name!r}: nothing behind it leads to a loss, so "
                "its synthesizer has nothing to learn from. Compile the model with a loss for the output "
                "that it leads to."
            )
    return lessons


def weights_of_examples(model: keras.Model, sample_weight: Nested, y_pred: Nested) -> Nested:
    """Sample weights by which the loss of each example can be found, see `shares_of_examples`.

    Args:
        model: the compiled model.
        sample_weight: sample weights as `fit` received them, or None.
        y_pred: the model's outputs.

    Returns:
        The sample weights as floats; ones, in a shape that Keras applies to whole examples, for None.
    """
    if "mean_with_sample_weight" in _keras.reductions(model):
        raise ValueError(
            f"The synthetic losses of {model.name!r} learn from the loss of each example, which a loss "
            "that is divided by the sum of the sample weights does not have. Use the reduction "
            "'sum_over_batch_size'. Received: a loss with reduction='mean_with_sample_weight'."
        )

    def weights_of(output: Tensor, given: Tensor | None = None) -> Tensor:
        if given is not None:
            return ops.cast(given, keras.config.floatx())
        # Keras fits (batch, 1) to losses of shape (batch,) as well as (batch, positions).
        flat = ops.reshape(output, (ops.shape(output)[0], -1))[:, :1]
        return ops.ones_like(output[..., 0] if len(output.shape) > 3 else flat, dtype=keras.config.floatx())

    if sample_weight is None:
        return keras.tree.map_structure(weights_of, y_pred)
    if not any(getattr(weight, "shape", ()) for weight in keras.tree.flatten(sample_weight)):
        sample_weight = ops.convert_to_tensor(sample_weight)  # a list of numbers
    pairs = zip(keras.tree.flatten(y_pred), keras.tree.flatten(sample_weight))
    return keras.tree.pack_sequence_as(sample_weight, [weights_of(*pair) for pair in pairs])


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
    predictions: list[Any] = [*step.gradients, *step.losses]
    met = {id(prediction.interface) for prediction in predictions}
    idle = [interface.name for interface in model.interfaces if id(interface) not in met]
    if idle:
        warnings.warn(
            f"The interfaces {idle} of model {model.name!r} took no part in the training step, so nothing "
            "is reported of them. Is a layer around them called with training=False, or does it call "
            "them other than by layer(inputs)?",
            stacklevel=2,
        )
