"""What the modules' programs need of a backend: gradients of a function, and compilation.

Here the backend is asked for: neither is among Keras's operations.
"""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_sg._types import Nested, Tensor, Variable

Differentiable = Callable[[list[Tensor]], tuple[Tensor, Nested]]
Programs = dict[Any, Any]


def differentiate(function: Differentiable, sources: list[Tensor]) -> tuple[list[Tensor | None], Nested]:
    """The gradients of a function's first output, and its second.

    Args:
        function: from a list of tensors to a scalar and a structure of tensors.
        sources: that list.

    Returns:
        Tuple of a list of gradients, one a source (None where nothing leads to it), and that structure, from
        which nothing can be differentiated any more.
    """
    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(function, has_aux=True)(sources)

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            value, found = function(sources)
        return tape.gradient(value, sources), found

    import torch

    with torch.enable_grad():
        sources = [source.detach().requires_grad_() for source in sources]
        value, found = function(sources)
        gradients: Any = [None] * len(sources)
        if sources and value.requires_grad:
            gradients = torch.autograd.grad(value, sources, allow_unused=True)
    detach = lambda leaf: leaf.detach() if isinstance(leaf, torch.Tensor) else leaf
    return list(gradients), keras.tree.map_structure(detach, found)


def compiled(
    function: Callable[..., Any],
    model: keras.Model,
    donated: tuple[int, ...] = (),
    programs: Programs | None = None,
) -> Any:
    """A function of tensors, compiled as a model's training step is.

    Args:
        function: what it returns depends on nothing but its arguments.
        model: the compiled model.
        donated: on JAX, the indices of arguments whose memory results may take.
        programs: on JAX, where functions that are alike find each other's programs, so that each is
            compiled once; a dictionary, empty at first. None: nothing is shared.
    """
    if model.run_eagerly or keras.backend.backend() == "torch":
        return function
    if keras.backend.backend() == "jax":
        import jax

        if not model.jit_compile:
            return function
        program = jax.jit(function, donate_argnums=donated, keep_unused=True)
        return program if programs is None else _Sharing(program, programs)

    import tensorflow as tf

    # TensorFlow counts the traces of all methods of a class together, and warns, but not those of partials.
    return tf.function(
        functools.partial(function), jit_compile=model.jit_compile, autograph=False, reduce_retracing=True
    )


class _Sharing:
    """A jitted function that calls, for arguments of each kind, the first of its like that was compiled.

    Functions are alike if what JAX makes of them for the compiler is, to the letter, with the numbers that
    are constants in it: nothing that is not in that text plays a part in what they compute.

    Args:
        program: what `jax.jit` returns, with `keep_unused=True`.
        programs: the programs of the others, by that text.
    """

    def __init__(self, program: Any, programs: Programs) -> None:
        self._program, self._programs = program, programs
        self._chosen: dict[Any, Any] = {}

    def __call__(self, *args: Any) -> Any:
        import jax

        leaves, structure = jax.tree.flatten(args)
        kind = (structure, *((leaf.shape, leaf.dtype, leaf.weak_type) for leaf in leaves))
        if kind not in self._chosen:
            lowered = self._program.lower(*args)
            text = lowered.as_text()
            shared = self._program
            if _says_all(text, len(leaves)):
                key = (hashlib.sha256(text.encode()).digest(), structure, lowered.out_tree)
                shared = self._programs.setdefault(key, self._program)
            if self._program not in self._programs.values():
                self._program.clear_cache()  # what was made of it was for the comparison
            self._chosen[kind] = shared
        return self._chosen[kind](*args)


def _says_all(text: str, arguments: int) -> bool:
    """Whether the text of a program says all about it.

    It does not say which function of Python it calls back, nor the constants that JAX may be told to hand to
    it behind its arguments.
    """
    _, _, main = text.partition("@main(")
    taken = main.partition("->")[0].count("%arg")
    return bool(main) and taken == arguments and "callback" not in text


def reader(model: keras.Model, state: Any) -> Callable[[list[Variable]], list[Tensor]]:
    """A function from variables of a model to their values.

    Args:
        model: the compiled model.
        state: on JAX, what Keras hands to a training step: the values of the trainable and of the other
            variables, of the optimizer's and of the metrics'. Elsewhere None: variables have their values.
    """
    if state is None:
        return lambda variables: [variable.value for variable in variables]
    owned = zip(model.owned_variables(), state)
    values = {id(variable): value for owned, values in owned for variable, value in zip(owned, values)}
    return lambda variables: [values[id(variable)] for variable in variables]


def loss_scale(model: keras.Model, read: Callable[[list[Variable]], list[Tensor]]) -> Tensor:
    """What a model's optimizer multiplies losses by, a scalar; `read` is that of `reader`."""
    optimizer = model.optimizer
    scope: Any = contextlib.nullcontext()
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        scope = keras.StatelessScope(zip(optimizer.variables, read(optimizer.variables)))
    with scope:
        return ops.convert_to_tensor(optimizer.scale_loss(1.0), keras.config.floatx())


def descending(
    function: Callable[..., Any], variables: list[Variable], parts: Sequence[Any]
) -> Callable[..., Any]:
    """On JAX: a function of some weights, and what optimizers make of the gradients that it returns, in one.

    Compiled, gradients take no memory of their own.

    Args:
        function: from the values of the weights, and more, to their gradients and whatever else it finds.
        variables: the weights.
        parts: list of the `Part`s that update them.

    Returns:
        A function of the values of the weights, a list of those of each optimizer's variables, and more; it
        returns what else was found, the new values of the weights, and those of the optimizers' variables.
    """

    def descend(values: list[Tensor], states: list[list[Tensor]], *args: Any) -> Any:
        gradients, found = function(values, *args)
        now, slopes = (dict(zip(map(id, variables), given)) for given in (values, gradients))
        moved = []
        for part, state in zip(parts, states):
            own = [slopes[id(variable)] for variable in part.variables]
            if any(gradient is not None for gradient in own):
                before = [now[id(variable)] for variable in part.variables]
                after, state = part.optimizer.stateless_apply(state, own, before)
                now.update(zip(map(id, part.variables), after))
            moved.append(state)
        return found, [now[id(variable)] for variable in variables], moved

    return descend


def applied(
    optimizer: keras.optimizers.Optimizer, variables: list[Variable], model: keras.Model
) -> Callable[[list[Tensor | None]], None]:
    """A function of gradients that updates some weights; not on JAX, where variables have no values."""

    def apply(gradients: list[Tensor | None]) -> None:
        optimizer.apply(gradients, variables)

    if keras.backend.backend() == "torch":
        import torch

        return torch.no_grad()(apply)

    from keras_sg._trainers.tensorflow import adam

    def apply_in_kernels(gradients: list[Tensor | None]) -> None:
        with adam.fused(optimizer):
            apply(gradients)

    return compiled(apply_in_kernels, model)
