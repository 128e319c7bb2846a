"""A training step on PyTorch, as its interfaces see it."""

from keras_sg._trainers.periods import PeriodicStep
from keras_sg._types import Tensor


class TorchStep(PeriodicStep):
    """A step in which a gradient arrives at every tapped tensor, whatever is frozen below it."""

    def tap(self, tensor: Tensor) -> Tensor:
        return tensor if tensor.requires_grad else tensor.detach().requires_grad_()
