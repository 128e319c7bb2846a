"""Sparse updates on PyTorch."""

from collections.abc import Callable
from typing import Any

from keras_sg import nested
from keras_sg.interface import Interface
from keras_sg.trainers.sparse import SparseUpdates, Updates
from keras_sg.types import Tensor, Variable


class TorchSparseUpdates(SparseUpdates):
    """A synthesizer that is not due predicts with constants for weights: nothing leads back to them."""

    def predict(self, interface: Interface, inputs: Tensor) -> Tensor:
        synthesizer = interface.synthesizer
        if self.due(interface.update_period):
            return synthesizer(inputs, training=True)
        prediction, state = nested.isolate(synthesizer, lambda: synthesizer(inputs, training=True), held=True)
        nested.settle(synthesizer, state)
        return prediction

    def branch(
        self, period: int, update: Callable[..., None], tensors: list[Any], variables: list[Variable]
    ) -> None:
        if self.due(period):
            update(*tensors)

    def apply(self, updates: Updates) -> None:
        """Update all variables but those of synthesizers that are not due."""
        with self.applying(updates):
            self.optimizer.apply_gradients(zip(updates, self.model.trainable_variables))
