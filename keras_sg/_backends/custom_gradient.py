"""A gradient of one's own for a function with several outputs, on every backend.

`keras.ops.custom_gradient`, in a form that hides two differences between backends: how the gradients of
several outputs are handed over, and that Keras's own for PyTorch knows of one output only.
"""

from collections.abc import Callable
from typing import Any

import keras

from keras_sg._types import Tensor

Outputs = tuple[Tensor, ...]
Gradient = Callable[..., Outputs]
Function = Callable[..., tuple[Outputs, Gradient]]

if keras.backend.backend() == "torch":
    import functools

    import torch

    class _CustomGradient(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, function: Function, *inputs: Tensor) -> Outputs:
            outputs, context.gradient = function(*inputs)
            return outputs

        @staticmethod
        def backward(context: Any, *arrived: Tensor) -> Outputs:
            return None, *context.gradient(*arrived)  # the function itself has no gradient


def custom_gradient(function: Function) -> Callable[..., Outputs]:
    """Decorate a function that says itself what its inputs receive.

    Args:
        function: from tensors to a tuple: its outputs, at least two tensors, and a function from
            the gradients that arrive at them, one argument each, to those of the inputs.

    Returns:
        Function from the same tensors to the outputs.
    """
    if keras.backend.backend() == "torch":
        return functools.partial(_CustomGradient.apply, function)

    @keras.ops.custom_gradient
    def with_gradient(*inputs: Tensor) -> tuple[Outputs, Gradient]:
        outputs, gradient = function(*inputs)
        # TensorFlow passes one argument an output, JAX one tuple of all.
        return outputs, lambda *arrived: gradient(*(arrived if len(arrived) > 1 else arrived[0]))

    return with_gradient
