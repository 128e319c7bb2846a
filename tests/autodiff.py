"""Gradients on whichever backend the tests run on."""

import keras


def gradients(function, *inputs):
    """Derivatives of the scalar `function(*inputs)` by each of the inputs, as NumPy arrays."""
    tensors = [keras.ops.convert_to_tensor(x) for x in inputs]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(*tensors)
        found = tape.gradient(value, tensors)
    elif keras.backend.backend() == "torch":
        import torch

        sources = [tensor.requires_grad_() for tensor in tensors]
        found = torch.autograd.grad(function(*sources), sources)
    else:
        import jax

        found = jax.grad(function, argnums=tuple(range(len(tensors))))(*tensors)
    return [keras.ops.convert_to_numpy(gradient) for gradient in found]
