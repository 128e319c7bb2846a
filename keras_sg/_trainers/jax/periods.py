"""Periods of synthesizers on JAX."""

from collections.abc import Callable
from typing import Any

import jax
import keras

from keras_sg._backends import derivatives
from keras_sg._interfaces.interface import Interface
from keras_sg._trainers.periods import PeriodicUpdates
from keras_sg._types import Tensor, Variable

Values = list[Tensor]


class JaxPeriodicUpdates(PeriodicUpdates):
    """A synthesizer runs in a branch; in that of rest its weights are constants.

    The backward pass of a branch is a branch too, and the one of rest has nothing to do.
    """

    def __init__(self, model: keras.Model, optimizer_values: Values) -> None:
        # Asked here: the scopes in which synthesizers run know nothing of the optimizer.
        with keras.StatelessScope(zip(model.optimizer.variables, optimizer_values)):
            super().__init__(model)

    def predict(self, interface: Interface, inputs: Tensor) -> Tensor:
        synthesizer = interface.synthesizer

        def run(held: bool) -> tuple[Tensor, derivatives.State]:
            return derivatives.isolate(synthesizer, lambda: synthesizer(inputs, training=True), held)

        prediction, state = jax.lax.cond(
            self.due(interface.update_period), lambda: run(held=False), lambda: run(held=True)
        )
        derivatives.settle(synthesizer, state)
        return prediction

    def apply(self, optimizer_values: Values, updates: Values, values: Values) -> tuple[Values, Values]:
        """Update all variables but those of synthesizers that are not due.

        Args:
            optimizer_values: list of the values of the optimizer's variables.
            updates: list of gradients.
            values: list of the values of the model's trainable variables.

        Returns:
            Tuple of the values and the optimizer's values after the update.
        """
        with self.applying(updates):
            return self.optimizer.stateless_apply(optimizer_values, updates, values)

    def branch(
        self, period: int, update: Callable[..., None], tensors: list[Any], variables: list[Variable]
    ) -> None:
        before = [variable.value for variable in variables]
        moved: list[int] = []

        def learn() -> Values:
            with keras.StatelessScope(zip(variables, before)) as scope:
                given = [scope.get_current_value(variable) for variable in variables]
                update(*tensors)
            after = [scope.get_current_value(variable) for variable in variables]
            moved[:] = [i for i in range(len(variables)) if after[i] is not given[i]]
            return [after[i] for i in moved]

        jax.eval_shape(learn)  # what does not move is kept out of the branch, which would copy it
        values = jax.lax.cond(self.due(period), learn, lambda: [before[i] for i in moved])
        for i, value in zip(moved, values):
            variables[i].assign(value)
