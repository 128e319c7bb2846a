"""A training step on TensorFlow, as its interfaces see it."""

import tensorflow as tf

from keras_sg._interfaces.interface import Interface
from keras_sg._interfaces.step import folded
from keras_sg._trainers.periods import PeriodicStep
from keras_sg._types import Tensor


class TensorFlowStep(PeriodicStep):
    """A step that finds batches of another length also where lengths are not known before it runs."""

    def matching(self, given: Tensor | None, h: Tensor, name: str, what: str) -> Tensor | None:
        given = super().matching(given, h, name, what)
        if given is None or None not in (given.shape[0], h.shape[0]):
            return given
        counts = tf.shape(given)[0], tf.shape(h)[0]
        message = [
            f"{folded(name, what)} Received:",
            counts[0],
            f"{what}, where the interface has",
            counts[1],
            "examples.",
        ]
        # XLA leaves assertions out, and stops at shapes that do not fit.
        with tf.control_dependencies([tf.debugging.Assert(tf.equal(*counts), message)]):
            return tf.identity(given)

    def regressed(self, interface: Interface, synthetic: Tensor) -> Tensor:
        # What learns in some steps only, the trainer teaches by itself, in a branch.
        return tf.stop_gradient(synthetic) if interface.update_period > 1 else synthetic
