"""Sparse updates on JAX."""

import warnings

import jax
import keras

from keras_sg import clipping, nested
from keras_sg.interface import Interface
from keras_sg.trainers.sparse import SparseUpdates
from keras_sg.types import Tensor

Values = list[Tensor]


class JaxSparseUpdates(SparseUpdates):
    """A synthesizer runs in a branch; in that of rest its weights are constants.

    The backward pass of a branch is a branch too, and the one of rest has nothing to do.
    """

    def __init__(self, model: keras.Model, optimizer_values: Values) -> None:
        super().__init__(model)
        # Asked once: the scopes in which synthesizers run know nothing of the optimizer.
        with keras.StatelessScope(zip(self.optimizer.variables, optimizer_values)):
            self._due = {period: super(JaxSparseUpdates, self).due(period) for period in self.periods}

    def due(self, period: int) -> Tensor:
        return self._due[period]

    def predict(self, interface: Interface, inputs: Tensor) -> Tensor:
        synthesizer = interface.synthesizer

        def run(held: bool) -> tuple[Tensor, nested.State]:
            return nested.isolate(synthesizer, lambda: synthesizer(inputs, training=True), held)

        prediction, state = jax.lax.cond(
            self.due(interface.update_period), lambda: run(held=False), lambda: run(held=True)
        )
        nested.settle(synthesizer, state)
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

        def choose(periods: list[int], resting: frozenset[int]) -> tuple[Values, Values]:
            if not periods:
                return self._apply_but(resting, optimizer_values, updates, values)
            first, *others = periods
            return jax.lax.cond(
                self.due(first), lambda: choose(others, resting), lambda: choose(others, resting | {first})
            )

        return choose(self.periods, frozenset())

    def _apply_but(
        self, resting: frozenset[int], optimizer_values: Values, updates: Values, values: Values
    ) -> tuple[Values, Values]:
        held = self.held(resting)
        variables = self.model.trainable_variables
        kept = [None if id(variable) in held else update for variable, update in zip(variables, updates)]
        if any(update is not None for update in kept):
            with warnings.catch_warnings(), clipping.apart(self.optimizer, zip(kept, variables)):
                # Keras leaves out variables without a gradient, and warns of them.
                warnings.filterwarnings("ignore", "Gradients do not exist for variables")
                return self.optimizer.stateless_apply(optimizer_values, kept, values)
        with keras.StatelessScope(zip(self.optimizer.variables, optimizer_values)) as scope:
            self.optimizer.iterations.assign_add(1)
        return values, [scope.get_current_value(variable) for variable in self.optimizer.variables]
