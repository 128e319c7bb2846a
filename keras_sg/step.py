"""What travels through a model with one training step, next to the activations.

A `DecoupledModel` makes one `Step` per batch (and replica) and hands it to the model's call.
Interfaces read the labels from it on the way in and leave in it what they predicted; on the
way out the trainer pairs the predictions with their targets.
"""

from typing import Any, NamedTuple

from keras import ops

from keras_sg import gradients
from keras_sg.types import Nested, Tensor


class GradientPrediction(NamedTuple):
    """What an interface leaves in a step of the gradient that it predicts.

    `h` is the interface *behind* the exchange of gradients, `(batch, ..., features)`: the gradient
    that arrives there is the target, up to the scale that arrives at `anchor`. `synthetic` is the
    prediction, shape of `h`; it is regressed on the target with the factor `weight`, or not at all
    where that is None.
    """

    interface: Any
    h: Tensor
    anchor: Tensor
    synthetic: Tensor
    weight: Tensor


class LossPrediction(NamedTuple):
    """What a `SyntheticLoss` leaves in a step: its predicted loss per example, `(batch,)`."""

    interface: Any
    value: Tensor


class Lesson(NamedTuple):
    """What a synthesizer predicted and what it should have, in units per example.

    The training loss holds, or would hold, `weight * regression(prediction, target)`; `scale` is what
    it is multiplied by there (loss scale, 1 / replicas).
    """

    interface: Any
    prediction: Tensor
    target: Tensor
    weight: Tensor
    scale: Tensor

    @property
    def loss(self) -> Tensor:
        """The regression loss, a scalar in the dtype of the target."""
        regression = gradients.get_regression(self.interface.loss)
        return self.weight * regression.value(ops.cast(self.prediction, self.target.dtype), self.target)

    @property
    def signal(self) -> Tensor:
        """The gradient of the scaled regression loss by the prediction, in its shape and dtype."""
        return gradients.regression_gradient(
            self.prediction, self.target, self.interface.loss, self.scale, self.weight
        )


class Step:
    """One training step: labels on the way in, predictions on the way out.

    Args:
        labels: the batch's labels as `fit` received them, or None.
        sparse: the step's `keras_sg.trainers.sparse.SparseUpdates`, or None where every synthesizer
            learns, or none does.
        observed: whether interfaces only predict, and let the true gradient pass.

    Attributes:
        gradients: list of `GradientPrediction`, in the order in which the interfaces were met.
        losses: list of `LossPrediction`, likewise.
    """

    def __init__(self, labels: Nested = None, sparse: Any = None, observed: bool = False) -> None:
        self.labels = labels
        self.sparse = sparse
        self.observed = observed
        self.gradients: list[GradientPrediction] = []
        self.losses: list[LossPrediction] = []

    def tap(self, tensor: Tensor) -> Tensor:
        """The tensor, so that the gradient that arrives at it can be read."""
        return tensor

    def add_gradient(
        self, interface: Any, h: Tensor, anchor: Tensor, synthetic: Tensor, weight: Tensor = 1.0
    ) -> None:
        self.gradients.append(GradientPrediction(interface, h, anchor, synthetic, weight))

    def add_loss(self, interface: Any, value: Tensor) -> None:
        self.losses.append(LossPrediction(interface, value))
