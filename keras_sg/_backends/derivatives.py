"""A layer called inside code that is differentiated, or branched on, within a training step.

Such code must not write to variables, or what it wrote would refer to the inside of a gradient or a
branch from outside of it. `isolate` runs it on a copy of the layer's state and hands back the new
state; `settle` writes it down where that is allowed. The variables of TensorFlow and PyTorch need none of
this.

Here the backend is asked for: a gradient inside a step is not among Keras's operations.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_sg import _keras
from keras_sg._types import Tensor, Variable

State = tuple[list[Tensor], list[Tensor]]


def value_and_gradient(
    function: Callable[[Tensor], Tensor], h: Tensor, layer: keras.Layer
) -> tuple[Tensor, Tensor]:
    """The values of `function(h)` and the gradient of their sum, which can be differentiated again.

    Args:
        function: from a tensor like `h` to a loss per example, `(batch,)`.
        h: tensor of shape `(batch, ..., features)`.
        layer: the layer that `function` calls.

    Returns:
        Tuple of the values, `(batch,)`, and the gradient per example, shape of `h`.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(h)
            values = function(h)
        return values, tape.gradient(values, h, unconnected_gradients="zero")

    if keras.backend.backend() == "torch":
        import torch

        h = h.detach().requires_grad_()
        values = function(h)
        if not values.requires_grad:
            return values, torch.zeros_like(h)
        ones = torch.ones_like(values)
        (gradient,) = torch.autograd.grad(values, h, ones, create_graph=True, materialize_grads=True)
        return values, gradient

    import jax

    values, back, state = jax.vjp(lambda h: isolate(layer, lambda: function(h)), h, has_aux=True)
    settle(layer, state)
    return values, back(ops.ones_like(values))[0]


def gradient(function: Callable[[Tensor], Tensor], h: Tensor, variables: list[Variable]) -> Tensor:
    """The gradient of `function(h)`, a constant.

    Args:
        function: from a tensor like `h` to a scalar. What it does to variables is dropped.
        h: tensor.
        variables: those that it reads.
    """
    h = ops.stop_gradient(h)
    before = [(variable, _keras.uncast(variable)) for variable in variables]

    def apart(h: Tensor) -> Tensor:
        with _keras.scope_with(before):
            return function(h)

    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(apart)(h)

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(h)
            value = apart(h)
        return ops.stop_gradient(tape.gradient(value, h, unconnected_gradients="zero"))

    import torch

    h = h.detach().requires_grad_()
    value = apart(h)
    if not value.requires_grad:
        return torch.zeros_like(h)
    return torch.autograd.grad(value, h, materialize_grads=True)[0]


def isolate(layer: keras.Layer, function: Callable[[], Any], held: bool = False) -> tuple[Any, State]:
    """Run `function()`, which calls `layer`, without a trace.

    Args:
        layer: a built layer.
        function: of no arguments.
        held: whether nothing that it computes moves the layer: its weights count as constants, and
            its state (statistics, seeds) comes back as it was.

    Returns:
        Tuple of what `function` returns and the layer's state after it, for `settle`: the values of
        its variables that are not trained, and the losses that were added.
    """
    before = [(variable, _keras.uncast(variable)) for variable in layer.variables]
    constant = [(variable, ops.stop_gradient(value)) for variable, value in before]
    with _keras.scope_with(constant if held else before) as scope:
        result = function()
    read = _keras.uncast if held else scope.get_current_value
    return result, ([read(variable) for variable in layer.non_trainable_variables], scope.losses)


def settle(layer: keras.Layer, state: State) -> None:
    """Give a layer the state that `isolate` returned."""
    values, losses = state
    for variable, value in zip(layer.non_trainable_variables, values):
        variable.assign(value)
    for loss in losses:
        layer.add_loss(loss)
