"""A training step on JAX, as its interfaces see it."""

from typing import Any

from keras_sg._trainers.periods import PeriodicStep
from keras_sg._types import Tensor


class JaxStep(PeriodicStep):
    """A step in which to every tapped tensor a zero is added: what arrives at it is the zero's gradient.

    Args:
        taps: the zeros, in the order of the tensors; None to find out which there are.

    Attributes:
        tapped: the tensors.
    """

    def __init__(self, taps: list[Tensor] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.taps = taps
        self.tapped: list[Tensor] = []

    def tap(self, tensor: Tensor) -> Tensor:
        self.tapped.append(tensor)
        return tensor if self.taps is None else tensor + self.taps[len(self.tapped) - 1]
