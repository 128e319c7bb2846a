"""Periods of synthesizers on PyTorch."""

from collections.abc import Callable
from typing import Any

from keras_sg._backends import derivatives
from keras_sg._interfaces.interface import Interface
from keras_sg._trainers.periods import PeriodicUpdates, Updates
from keras_sg._types import Tensor, Variable


class TorchPeriodicUpdates(PeriodicUpdates):
    """A synthesizer that is not due predicts with constants for weights: nothing leads back to them."""

    def predict(self, interface: Interface, inputs: Tensor) -> Tensor:
        synthesizer = interface.synthesizer
        if self.due(interface.update_period):
            return synthesizer(inputs, training=True)
        prediction, state = derivatives.isolate(
            synthesizer, lambda: synthesizer(inputs, training=True), held=True
        )
        derivatives.settle(synthesizer, state)
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
