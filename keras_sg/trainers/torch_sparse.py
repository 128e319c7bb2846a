"""Sparse updates on PyTorch."""

from keras_sg import nested
from keras_sg.interface import Interface
from keras_sg.trainers.sparse import SparseUpdates, Updates
from keras_sg.types import Tensor


class TorchSparseUpdates(SparseUpdates):
    """A synthesizer that is not due predicts with constants for weights: nothing leads back to them."""

    def predict(self, interface: Interface, inputs: Tensor) -> Tensor:
        synthesizer = interface.synthesizer
        if self.due(interface.update_period):
            return synthesizer(inputs, training=True)
        prediction, state = nested.isolate(synthesizer, lambda: synthesizer(inputs, training=True), held=True)
        nested.settle(synthesizer, state)
        return prediction

    def apply(self, updates: Updates) -> None:
        """Update all variables but those of synthesizers that are not due."""
        self.apply_but(frozenset(period for period in self.periods if not self.due(period)), updates)
