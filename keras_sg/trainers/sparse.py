"""Sparse updates on TensorFlow: synthesizers that learn in every so many-th step only.

In the steps between, the backward pass of such a synthesizer is left out, and neither its weights
nor the state of their optimizer move (a gradient of zero would still move Adam's).
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_sg import _keras
from keras_sg.optimizers import DecoupledOptimizer
from keras_sg.step import Lesson
from keras_sg.types import Tensor, Variable

Updates = list[Tensor | None]  # a gradient for each of the model's trainable variables


class SparseUpdates:
    """The part of one training step that concerns interfaces with an `update_period` above 1.

    Attributes:
        interfaces: those interfaces; with none of them, all of this is Keras's own update.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model, self.optimizer = model, model.optimizer
        self.interfaces = [interface for interface in model.interfaces if interface.update_period > 1]
        self._due: dict[int, Tensor] = {}
        if self.interfaces:
            _check_optimizer(self.optimizer)
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            if replicas > 1 and model.steps_per_execution > 1:
                raise ValueError(
                    "TensorFlow cannot choose a branch (whether a synthesizer learns) on several devices and "
                    "in a loop over several steps at once; Keras's own loss scaling fails there, too. "
                    "Compile with steps_per_execution=1. Received: an update_period above 1 on "
                    f"{replicas} replicas with steps_per_execution={model.steps_per_execution}."
                )
            if not self.optimizer.built:
                # Its variables cannot be made in a branch of the graph.
                with tf.init_scope():
                    self.optimizer.build(model.trainable_variables)

    def due(self, period: int) -> Tensor:
        """Whether synthesizers of a period learn in this step: in steps 0, `period`, 2 `period`, ..."""
        if period not in self._due:
            self._due[period] = self._is_due(period)
        return self._due[period]

    def _is_due(self, period: int) -> Tensor:
        # The optimizer's count of steps is saved and restored with its state.
        return tf.equal(tf.convert_to_tensor(self.optimizer.iterations) % period, 0)

    def teach(self, tape: tf.GradientTape, lessons: list[Lesson], updates: Updates) -> Updates:
        """Add to `updates` the gradients of what synthesizers that are due learn from `lessons`."""
        taught = dict(zip(map(id, self.model.trainable_variables), updates))
        for interface in self.interfaces:
            own = [lesson for lesson in lessons if lesson.interface is interface]
            variables = interface.synthesizer.trainable_variables
            if not own or not variables:
                continue

            def learn(own: list[Lesson] = own, variables: list[Variable] = variables) -> list[Tensor]:
                predictions, signals = zip(*[(lesson.prediction, lesson.signal) for lesson in own])
                found = tape.gradient(
                    predictions, variables, output_gradients=signals, unconnected_gradients="zero"
                )
                return [tf.convert_to_tensor(gradient) for gradient in found]

            def rest(variables: list[Variable] = variables) -> list[Tensor]:
                return [tf.zeros(variable.shape, variable.dtype) for variable in variables]

            for variable, gradient in zip(variables, tf.cond(self.due(interface.update_period), learn, rest)):
                before = taught[id(variable)]
                taught[id(variable)] = gradient if before is None else before + gradient
        return [taught[id(variable)] for variable in self.model.trainable_variables]

    def apply(self, updates: Updates) -> None:
        """Update all variables but those of synthesizers that are not due."""
        if not self.interfaces:
            self.optimizer.apply_gradients(zip(updates, self.model.trainable_variables))
        elif tf.__internal__.distribute.strategy_supports_no_merge_call():
            self._choose(updates, lambda function, *args: function(*args))
        else:
            # A branch that reduces over replicas must be chosen outside of them (as Keras's own
            # LossScaleOptimizer does it).
            def choose(strategy: tf.distribute.Strategy, updates: Updates) -> None:
                self._choose(
                    updates, lambda function, *args: strategy.extended.call_for_each_replica(function, args)
                )

            tf.distribute.get_replica_context().merge_call(choose, args=(updates,))

    def _choose(self, updates: Updates, run: Callable[..., Any]) -> None:
        """Apply `updates` in the branch in which just the synthesizers that are due are updated."""

        def choose(periods: list[int], resting: frozenset[int]) -> Tensor:
            if periods:
                first, *others = periods
                tf.cond(
                    self._is_due(first),
                    lambda: choose(others, resting),
                    lambda: choose(others, resting | {first}),
                )
            else:
                run(self._apply_but, resting, updates)
            return tf.constant(0)  # tf.cond wants a value

        choose(sorted({interface.update_period for interface in self.interfaces}), frozenset())

    def _apply_but(self, resting: frozenset[int], updates: Updates) -> None:
        held = {
            id(variable)
            for interface in self.interfaces
            if interface.update_period in resting
            for variable in interface.synthesizer.variables
        }
        pairs = [pair for pair in zip(updates, self.model.trainable_variables) if id(pair[1]) not in held]
        if pairs:
            self.optimizer.apply_gradients(pairs)
        else:
            self.optimizer.iterations.assign_add(1)


def _check_optimizer(optimizer: keras.optimizers.Optimizer) -> None:
    inner = _keras.inner_optimizer(optimizer)
    if isinstance(inner, keras.optimizers.MultiOptimizer) and not isinstance(inner, DecoupledOptimizer):
        raise ValueError(
            "keras.optimizers.MultiOptimizer updates all variables in every step, but an interface with an "
            "update_period above 1 does not. Compile with keras_sg.decoupled_optimizer(...) or a single "
            f"optimizer. Received: {inner!r}."
        )
    for single in getattr(inner, "optimizers", [inner]):
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
