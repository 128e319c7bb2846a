"""What travels through a model with one training step, next to the activations.

A `DecoupledModel` makes one `Step` per batch (and replica) and hands it to the model's call.
Interfaces read the labels from it on the way in and leave in it what they predicted; on the
way out the trainer pairs the predictions with their targets.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_sg import gradients
from keras_sg._interfaces.weights import OutputWeight, Weight
from keras_sg._types import Nested, Tensor


class GradientPrediction(NamedTuple):
    """What an interface leaves in a step of the gradient that it predicts.

    `h` is the interface *behind* the exchange of gradients, `(batch, ..., features)`: the gradient
    that arrives there is the target, up to the scale that arrives at `anchor`. `synthetic` is the
    prediction, shape of `h`, times the examples' `weight`, if they have any (None until the error of the
    outputs is there that it is made of); it is regressed on the target with `factor`, or not at all where
    that is None.
    """

    interface: Any
    h: Tensor
    anchor: Tensor
    synthetic: Tensor
    factor: Tensor | None
    weight: Weight | None


class LossPrediction(NamedTuple):
    """What an interface leaves in a step of the loss per example that it predicts, `(batch,)`.

    It is multiplied by the examples' `weight`, if they have any.
    """

    interface: Any
    value: Tensor
    weight: Weight | None


class InputPrediction(NamedTuple):
    """What an interface leaves in a step where the module above trains on a prediction of it.

    `predicted`, from the network's input, and `h`, `(batch, ..., features)`, through which no gradient goes.
    """

    interface: Any
    predicted: Tensor
    h: Tensor
    weight: Weight | None


class Awaiting(NamedTuple):
    """What an interface leaves in a step where the module receives the error of the model's outputs.

    `h` is the interface, `(batch, ..., features)`, `mix` the share of what is made of that error.
    """

    interface: Any
    h: Tensor
    mix: float | Tensor


class Pair(NamedTuple):
    """What a synthesizer predicted and what it should have, in units per example.

    The training loss holds, or would hold, `factor * regression(prediction, target)` over the elements that
    count; `scale` is what it is multiplied by there (loss scale, 1 / replicas). `counts` says which these
    are, `examples` how many examples count; both are None where all do.
    """

    interface: Any
    prediction: Tensor
    target: Tensor
    factor: Tensor
    scale: Tensor
    counts: gradients.Counting | None = None
    examples: Tensor | None = None

    @property
    def loss(self) -> Tensor:
        """The regression loss, a scalar in `floatx`, as Keras's losses are."""
        loss = gradients.regression(self.prediction, self.target, self.interface.loss, self.counts)
        return ops.cast(ops.cast(self.factor, loss.dtype) * loss, keras.config.floatx())

    @property
    def signal(self) -> Tensor:
        """The gradient of the scaled regression loss by the prediction, in its shape and dtype."""
        return gradients.regression_gradient(
            self.prediction, self.target, self.interface.loss, self.scale, self.factor, self.counts
        )


class Step:
    """One training step: labels on the way in, predictions on the way out.

    Args:
        labels: the batch's labels as `fit` received them, or None.
        probing: whether interfaces only predict, and let the true gradient pass.
        forward_only: whether there is no way back, and interfaces exchange nothing.
        inputs: the network's input, a tensor, for interfaces that are predicted from it; else None.
        ignored: classes among the labels that stand for "no label".
        weights: list of the `OutputWeight` of the model's outputs; empty where all
            examples count once.
        reached: by the id of an interface, the indices of the outputs that it leads to; by default, to all.

    Attributes:
        gradients: list of `GradientPrediction`, in the order in which the interfaces were met.
        losses: list of `LossPrediction`, likewise.
        synthetic_inputs: list of `InputPrediction`, likewise.
        awaiting: list of `Awaiting`, likewise.
    """

    def __init__(
        self,
        labels: Nested = None,
        probing: bool = False,
        ignored: tuple[int, ...] = (),
        weights: Sequence[OutputWeight] = (),
        reached: Mapping[int, Sequence[int]] | None = None,
        forward_only: bool = False,
        inputs: Tensor | None = None,
    ) -> None:
        self.labels, self.ignored = labels, ignored
        self.weights, self._reached = weights, reached or {}
        self.probing, self.forward_only = probing, forward_only
        self.gradients: list[GradientPrediction] = []
        self.losses: list[LossPrediction] = []
        self.inputs = inputs
        self.synthetic_inputs: list[InputPrediction] = []
        self.awaiting: list[Awaiting] = []

    @property
    def fits_loss(self) -> bool:
        """Whether a synthesizer regresses on the loss of each example: that of the last predicted loss."""
        return bool(self.losses) and self.losses[-1].interface.fits_loss

    def weights_at(self, interface: Any, h: Tensor) -> list[OutputWeight]:
        """The weights of the outputs that an interface leads to, each a row for an example of `h`."""
        reached = self._reached.get(id(interface))
        found = [weight for i, weight in enumerate(self.weights) if reached is None or i in reached]
        return [
            weight._replace(value=self.matching(weight.value, h, interface.name, "sample weights"))
            for weight in found
        ]

    def matching(self, given: Tensor | None, h: Tensor, name: str, what: str) -> Tensor | None:
        """What is given for the examples of a batch, if an interface has as many.

        Args:
            given: tensor, `(batch, ...)`, or None.
            h: the interface, or what is predicted there, `(batch, ...)`.
            name: the interface's name.
            what: what is given, for the error.

        Raises:
            ValueError: the batch of one is longer than the other's.
        """
        counts = (None, None) if given is None else (given.shape[0], h.shape[0])
        if None not in counts and counts[0] != counts[1]:
            raise ValueError(
                f"{folded(name, what)} Received: {counts[0]} {what}, where the interface has {counts[1]} "
                "examples."
            )
        return given

    def tap(self, tensor: Tensor) -> Tensor:
        """The tensor, so that the gradient that arrives at it can be read."""
        return tensor

    def predict(self, interface: Any, inputs: Nested) -> Tensor:
        """What an interface's synthesizer predicts from its inputs, in training mode."""
        return interface.synthesizer(inputs, training=True)

    def regressed(self, interface: Any, synthetic: Tensor) -> Tensor:
        """The predicted gradient, as the training loss is to regress it on what arrives."""
        return synthetic

    def add_gradient(self, *prediction: Any) -> None:
        """Take the fields of a `GradientPrediction`."""
        self.gradients.append(GradientPrediction(*prediction))

    def add_loss(self, *prediction: Any) -> None:
        """Take the fields of a `LossPrediction`."""
        self.losses.append(LossPrediction(*prediction))

    def add_input(self, *prediction: Any) -> None:
        """Take the fields of an `InputPrediction`."""
        self.synthetic_inputs.append(InputPrediction(*prediction))

    def await_error(self, *waiting: Any) -> None:
        """Take the fields of an `Awaiting`."""
        self.awaiting.append(Awaiting(*waiting))


def folded(name: str, what: str) -> str:
    """What an error says where a batch changed its length below an interface."""
    return (
        f"The batch was folded, repeated or cut below interface {name!r}, so nobody knows which of the "
        f"{what} belongs to which example there. Fold behind the interface, or give it the unfolded tensor "
        "(the synthesizers 'linear' and 'mlp' act on the last axis of any shape)."
    )
