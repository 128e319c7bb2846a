"""Sparse updates: synthesizers that learn in every so many-th step only.

In the steps between, the backward pass of such a synthesizer is left out, and neither its weights
nor the state of their optimizer move (a gradient of zero would still move Adam's).
"""

import abc

import keras

from keras_sg import _keras, clipping
from keras_sg.interface import Interface
from keras_sg.optimizers import DecoupledOptimizer
from keras_sg.types import Tensor

Updates = list[Tensor | None]  # gradients of the trainable variables, in their order


class SparseUpdates(abc.ABC):
    """The part of one training step that concerns interfaces with an `update_period` above 1.

    Attributes:
        interfaces: those interfaces; with none of them, all of this is Keras's own update.
        apart: whether the trainer teaches their synthesizers itself; otherwise the training loss does,
            by what `predict` returns.
    """

    apart = False

    def __init__(self, model: keras.Model) -> None:
        self.model, self.optimizer = model, model.optimizer
        self.interfaces = [interface for interface in model.interfaces if interface.update_period > 1]

    def due(self, period: int) -> Tensor:
        """Whether synthesizers of a period learn in this step: in steps 0, `period`, 2 `period`, ..."""
        # The optimizer's count of steps is saved and restored with its state.
        return keras.ops.equal(keras.ops.convert_to_tensor(self.optimizer.iterations) % period, 0)

    @abc.abstractmethod
    def predict(self, interface: Interface, inputs: Tensor) -> Tensor:
        """Call the synthesizer of an interface so that none of its state moves in a step of rest."""

    def held(self, resting: frozenset[int]) -> set[int]:
        """The ids of the variables that stay as they are while the synthesizers of some periods rest."""
        return {
            id(variable)
            for interface in self.interfaces
            if interface.update_period in resting
            for variable in interface.synthesizer.variables
        }

    def apply_but(self, resting: frozenset[int], updates: Updates) -> None:
        """Update all variables but those that `held` names; at least the count of steps."""
        held = self.held(resting)
        pairs = [pair for pair in zip(updates, self.model.trainable_variables) if id(pair[1]) not in held]
        if pairs:
            with clipping.apart(self.optimizer, pairs):
                self.optimizer.apply_gradients(pairs)
        else:
            self.optimizer.iterations.assign_add(1)

    @property
    def periods(self) -> list[int]:
        return sorted({interface.update_period for interface in self.interfaces})


def check_optimizer(model: keras.Model) -> None:
    """Raise `ValueError` if synthesizers are to rest and the model's optimizer cannot leave variables out."""
    if all(interface.update_period == 1 for interface in model.interfaces):
        return
    inner = _keras.inner_optimizer(model.optimizer)
    if isinstance(inner, keras.optimizers.MultiOptimizer) and not isinstance(inner, DecoupledOptimizer):
        raise ValueError(
            "keras.optimizers.MultiOptimizer updates all variables in every step, but an interface with an "
            "update_period above 1 does not. Compile with keras_sg.decoupled_optimizer(...) or a single "
            f"optimizer. Received: {inner!r}."
        )
    for single in _keras.single_optimizers(inner):
        if single.gradient_accumulation_steps:
            raise ValueError(
                "An optimizer that accumulates gradients counts steps that are none, so an update_period "
                "above 1 has no meaning with it. Use one of the two. Received: "
                f"gradient_accumulation_steps={single.gradient_accumulation_steps} in {single.name!r}."
            )
        if single.use_ema:
            raise ValueError(
                "An optimizer with use_ema moves the averages of all its variables in every step, those of "
                "resting synthesizers too. Use an update_period above 1 without it. Received: use_ema=True "
                f"in {single.name!r}."
            )
