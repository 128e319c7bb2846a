"""Keras's Adam, each weight in one kernel of TensorFlow.

Keras writes Adam as some 35 operations for every weight. They are half of the graph of a training step,
which XLA takes time and memory to compile; without XLA, each passes over memory by itself.

For the time of a step `update_step` of the user's optimizer is another function. There is no other place for
it: between an optimizer's `apply`, which does all that is to stay as it is, and its `update_step`, which does
too much, Keras has nothing to override. A subclass, made where the model is compiled, would not be the object
that the user holds, nor what a file says; and a twin that shares its variables would have to be found inside
every `MultiOptimizer` and `LossScaleOptimizer` in place of the first.
"""

import contextlib
import functools
from collections.abc import Iterator

import keras
import tensorflow as tf

from keras_sg import _keras
from keras_sg._types import Tensor


@contextlib.contextmanager
def fused(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Within, updates by Adam are made in one operation for each weight.

    What Keras does around them (learning rates, clipping, decay, averages, accumulation, saving) stays as it
    is. So does every update of another optimizer, of `amsgrad`, of weights that are not float32, from sparse
    gradients, and under a `tf.distribute` strategy.

    Args:
        optimizer: the optimizer of a model; those inside a `MultiOptimizer` or a `LossScaleOptimizer` count.
    """
    single = [] if tf.distribute.has_strategy() else _keras.single_optimizers(optimizer)
    adams = [found for found in single if _is_adam(found)]
    for adam in adams:
        vars(adam)["update_step"] = functools.partial(_update_step, adam, _scalars(adam))
    try:
        yield
    finally:
        for adam in adams:
            vars(adam).pop("update_step", None)  # an optimizer may be in a MultiOptimizer twice


def _is_adam(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether an optimizer updates weights as `keras.optimizers.Adam` does, as AdamW does, too."""
    adam = keras.optimizers.Adam
    if not isinstance(optimizer, adam) or not optimizer.built or optimizer.amsgrad:
        return False
    return type(optimizer).update_step is adam.update_step and "update_step" not in vars(optimizer)


def _scalars(adam: keras.optimizers.Adam) -> dict[str, Tensor]:
    """What is the same for all weights in a step, under the names that the kernel has for it."""
    step = tf.cast(adam.iterations + 1, "float32")
    beta1, beta2, epsilon = (tf.constant(x, "float32") for x in (adam.beta_1, adam.beta_2, adam.epsilon))
    powers = {"beta1_power": tf.pow(beta1, step), "beta2_power": tf.pow(beta2, step)}
    return powers | {"beta1": beta1, "beta2": beta2, "epsilon": epsilon}


def _update_step(
    adam: keras.optimizers.Adam,
    scalars: dict[str, Tensor],
    gradient: Tensor | tf.IndexedSlices,
    variable: tf.Variable,
    learning_rate: Tensor,
) -> None:
    """`Adam.update_step`, in one operation where there is one."""
    if isinstance(gradient, tf.IndexedSlices) or variable.dtype != tf.float32:
        return type(adam).update_step(adam, gradient, variable, learning_rate)
    momentum, velocity = _keras.moments(adam, variable)
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=momentum.value.handle,
        v=velocity.value.handle,
        lr=tf.cast(learning_rate, "float32"),
        grad=tf.cast(gradient, "float32"),
        **scalars,
    )
