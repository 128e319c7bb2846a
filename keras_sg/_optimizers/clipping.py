"""`global_clipnorm` in an optimizer that modules and synthesizers share: each kind by a norm of its own.

In the norm of all, large gradients of synthesizers would shorten the steps of the modules.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator

import keras

from keras_sg import _keras
from keras_sg._optimizers import owners
from keras_sg._types import Tensor, Variable

Gradients = list[Tensor | None]


@contextlib.contextmanager
def apart(
    optimizer: keras.optimizers.Optimizer, updates: Iterable[tuple[Tensor | None, Variable]]
) -> Iterator[None]:
    """Within, modules are clipped as if there were no synthesizers, and synthesizers as if no modules.

    Clipping of each weight by itself (`clipnorm`, `clipvalue`) is what it is.

    Args:
        optimizer: the optimizer of a model; those inside a `MultiOptimizer` or a `LossScaleOptimizer` count.
        updates: pairs of a gradient (or None) and a variable, those that `optimizer` is applied to within.
    """
    taken = [variable for gradient, variable in updates if gradient is not None]
    with contextlib.ExitStack() as stack:
        for single in _keras.single_optimizers(optimizer):
            if single.global_clipnorm:
                kinds = [owners.of_synthesizer(variable) for variable in _clipped(optimizer, single, taken)]
                if len(set(kinds)) > 1:
                    stack.enter_context(_keras.clipping(single, functools.partial(each_kind, kinds)))
        yield


def _clipped(
    optimizer: keras.optimizers.Optimizer, single: keras.optimizers.Optimizer, variables: list[Variable]
) -> list[Variable]:
    """The variables whose gradients `single` clips, one of the optimizers in `optimizer`."""
    inner = _keras.inner_optimizer(optimizer)
    return [
        variable
        for variable in variables
        if not variable.overwrite_with_gradient  # Keras's float8: no gradients that anything descends
        and (inner is single or _keras.optimizer_of(inner, variable) is single)
    ]


def each_kind(kinds: list[bool], clip: Callable[[Gradients], Gradients], gradients: Gradients) -> Gradients:
    """`clip`, called once with the gradients of each kind; `kinds` says of each which it is."""
    clipped = list(gradients)
    for kind in (False, True):
        places = [place for place, found in enumerate(kinds) if found == kind]
        for place, gradient in zip(places, clip([gradients[place] for place in places]), strict=True):
            clipped[place] = gradient
    return clipped
