"""What travels through a model with one training step, next to the activations.

A `DecoupledModel` makes one `Step` per batch (and replica) and hands it to the model's call.
Interfaces read the labels from it on the way in and leave in it what they predicted; on the
way out the trainer pairs the predictions with their targets.
"""

from typing import Any, NamedTuple


class GradientPrediction(NamedTuple):
    """What a `SyntheticGradient` leaves in a step.

    `h` is the interface *behind* the exchange of gradients, `(batch, ..., features)`: the gradient
    that arrives there is the target, up to the scale that arrives at `anchor`. `synthetic` is the
    prediction, shape of `h`.
    """

    interface: Any
    h: Any
    anchor: Any
    synthetic: Any


class LossPrediction(NamedTuple):
    """What a `SyntheticLoss` leaves in a step: its predicted loss per example, `(batch,)`."""

    interface: Any
    value: Any


class Step:
    """One training step: labels on the way in, predictions on the way out.

    Args:
        labels: the batch's labels as `fit` received them, or None.

    Attributes:
        gradients: list of `GradientPrediction`, in the order in which the interfaces were met.
        losses: list of `LossPrediction`, likewise.
    """

    def __init__(self, labels=None):
        self.labels = labels
        self.gradients = []
        self.losses = []

    def add_gradient(self, interface, h, anchor, synthetic):
        self.gradients.append(GradientPrediction(interface, h, anchor, synthetic))

    def add_loss(self, interface, value):
        self.losses.append(LossPrediction(interface, value))
