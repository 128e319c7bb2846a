"""Periods of synthesizers on TensorFlow."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_sg import _keras
from keras_sg._interfaces.interface import Interface
from keras_sg._interfaces.step import Pair
from keras_sg._trainers.periods import PeriodicUpdates, Updates
from keras_sg._types import Tensor, Variable


class TensorFlowPeriodicUpdates(PeriodicUpdates):
    """The synthesizers' backward pass is a branch of the graph, apart from that of the modules."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__(model)
        if self.interfaces:
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

    def predict(self, interface: Interface, inputs: Tensor) -> Tensor:
        state = interface.synthesizer.non_trainable_variables
        before = [ops.copy(_keras.uncast(variable)) for variable in state]
        prediction = interface.synthesizer(inputs, training=True)
        for variable, value in zip(state, before):
            now = _keras.uncast(variable)
            variable.assign(ops.where(self.due(interface.update_period), now, value))
        return prediction

    def teach(self, tape: tf.GradientTape, pairs: list[Pair], updates: Updates) -> Updates:
        """Add to `updates` the gradients of what synthesizers that are due learn from `pairs`."""
        taught = dict(zip(map(id, self.model.trainable_variables), updates))
        for interface in self.interfaces:
            own = [pair for pair in pairs if pair.interface is interface]
            variables = interface.synthesizer.trainable_variables
            if not own or not variables:
                continue

            def learn(own: list[Pair] = own, variables: list[Variable] = variables) -> list[Tensor]:
                predictions, signals = zip(*[(pair.prediction, pair.signal) for pair in own])
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
        with self.applying(updates):
            self.optimizer.apply_gradients(zip(updates, self.model.trainable_variables))

    def branch(
        self, period: int, update: Callable[..., None], tensors: list[Any], variables: list[Variable]
    ) -> None:
        def choose(due: Tensor, run: Callable[..., Any], tensors: list[Any]) -> None:
            # tf.cond wants values
            def learn() -> Tensor:
                run(update, tensors)
                return tf.constant(0)

            tf.cond(due, learn, lambda: tf.constant(0))

        if tf.__internal__.distribute.strategy_supports_no_merge_call():
            return choose(self.due(period), lambda function, tensors: function(*tensors), tensors)

        # A branch that reduces over replicas must be chosen outside of them (as Keras's own
        # LossScaleOptimizer does it).
        def choose_outside(strategy: tf.distribute.Strategy, due: Tensor, tensors: list[Any]) -> None:
            due_for_all = strategy.experimental_local_results(due)[0]
            choose(due_for_all, strategy.extended.call_for_each_replica, tensors)

        tf.distribute.get_replica_context().merge_call(choose_outside, args=(self.due(period), tensors))
