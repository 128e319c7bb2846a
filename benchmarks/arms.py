"""R2rt's MNIST network as the benchmarks train it: batches, models, and bursts of steps."""

import itertools

import keras
import numpy as np
import tensorflow as tf

import keras_sg
from examples import images, mnist
from examples.data import prefetched


def batches(batch_size=256, features=784, count=8):
    """A few batches of random pictures and labels, to be used over and over."""
    rng = np.random.default_rng(0)
    pictures = rng.random((count, batch_size, features)).astype("float32")
    return pictures, rng.integers(0, 10, (count, batch_size))


def cut(args=None, **interface):
    """The network of `examples.mnist`, with interfaces of another kind than it has.

    Args:
        args: what its command line sets.
        **interface: arguments of `keras_sg.decouple`; none for plain backpropagation.
    """
    plain = mnist.build("backprop", args)
    if not interface:
        return plain
    return images.compile(
        keras_sg.decouple(plain, after=["block1", "block2"], **interface),
        "sg",
        args or mnist.PARSER.parse_args([]),
        jit_compile=plain.jit_compile,
        steps_per_execution=plain.steps_per_execution,
    )


def not_compiled(arm):
    """The network of an arm of `examples.mnist`, without XLA."""
    model = mnist.build(arm)
    return images.compile(
        model,
        arm,
        mnist.PARSER.parse_args([]),
        jit_compile=False,
        steps_per_execution=model.steps_per_execution,
    )


def in_bfloat16(build):
    """What `build()` returns under the policy `mixed_bfloat16`."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        return build()
    finally:
        keras.config.set_dtype_policy(policy)


def fitting(model, data, steps):
    """A burst of so many steps of `fit`."""
    dataset = prefetched(tf.data.Dataset.from_tensor_slices(data).repeat().take(steps))
    return lambda: model.fit(dataset, shuffle=False, verbose=0)


def stepping(peer, data, steps):
    """A burst of so many calls of `peer.step(x, y)`."""

    def burst():
        for x, y in itertools.islice(itertools.cycle(zip(*data)), steps):
            peer.step(x, y)

    return burst
