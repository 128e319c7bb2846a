"""What the replicas of a model under a `tf.distribute` strategy know of one another."""

import keras

from keras_sg._types import Tensor


def mean(value: Tensor) -> Tensor:
    """The mean of a number over all replicas, in each of them; the number itself where there is one."""
    if keras.backend.backend() != "tensorflow":
        return value
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, value)


def distributed(model: keras.Model) -> bool:
    """Whether a model trains on several devices that each hold a copy or a part of all of it."""
    if keras.backend.backend() == "tensorflow":
        return model.distribute_strategy.num_replicas_in_sync > 1
    return keras.distribution.distribution() is not None
