"""Periods: synthesizers that learn in every so many-th step only (`update_period`).

In the steps between, the backward pass of such a synthesizer is left out, and neither its weights
nor the state of their optimizer move (a gradient of zero would still move Adam's).
"""

import abc
import collections
import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops

from keras_sg import _keras
from keras_sg._interfaces.interface import Interface
from keras_sg._interfaces.step import Step
from keras_sg._optimizers import clipping, owners
from keras_sg._optimizers.decoupled import DecoupledOptimizer
from keras_sg._types import Nested, Tensor, Variable

Updates = list[Tensor | None]  # gradients of the trainable variables, in their order


class PeriodicUpdates(abc.ABC):
    """The part of one training step that concerns interfaces with an `update_period` above 1.

    Args:
        model: the model, whose step begins.

    Attributes:
        interfaces: those interfaces; with none of them, all of this is Keras's own update.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model, self.optimizer = model, model.optimizer
        self.interfaces = [interface for interface in model.interfaces if interface.update_period > 1]
        if self.interfaces:
            # The optimizer's count of steps is saved and restored with its state; it moves at the step's end.
            self._count = ops.copy(self.optimizer.iterations)

    def due(self, period: int) -> Tensor:
        """Whether synthesizers of a period learn in this step: in steps 0, `period`, 2 `period`, ..."""
        return ops.equal(self._count % period, 0)

    @abc.abstractmethod
    def predict(self, interface: Interface, inputs: Tensor) -> Tensor:
        """Call the synthesizer of an interface so that none of its state moves in a step of rest."""

    @abc.abstractmethod
    def branch(
        self, period: int, update: Callable[..., None], tensors: list[Any], variables: list[Variable]
    ) -> None:
        """Call `update(*tensors)`, which writes to some of `variables`, if a period is due."""

    @contextlib.contextmanager
    def applying(self, updates: Updates) -> Iterator[None]:
        """Within, the optimizer applies updates: modules clipped by themselves, what is not due unmoved.

        Args:
            updates: the gradients of all trainable variables.
        """
        if self.interfaces:
            with self._resting():
                yield
        else:
            with clipping.apart(self.optimizer, zip(updates, self.model.trainable_variables)):
                yield

    @contextlib.contextmanager
    def _resting(self) -> Iterator[None]:
        """Within, what the optimizer applies leaves the synthesizers that are not due as they are.

        Each of the optimizers that do the work is called once for the variables of each period, in a branch,
        and once for all others. Its calls begin with the same count of steps (and whatever else it has for
        all variables together), so that they make one step.
        """
        optimizers = _keras.single_optimizers(self.optimizer)
        norms = [optimizer.global_clipnorm for optimizer in optimizers]
        for optimizer, norm in zip(optimizers, norms):
            # The norm is that of all gradients of a kind, whatever the calls that apply them.
            vars(optimizer).update(
                apply=functools.partial(self._apply, optimizer, norm), global_clipnorm=None
            )
        try:
            yield
        finally:
            for optimizer, norm in zip(optimizers, norms):
                vars(optimizer).pop("apply", None)
                optimizer.global_clipnorm = norm

    def _apply(
        self,
        optimizer: keras.optimizers.Optimizer,
        norm: float | None,
        grads: Updates,
        trainable_variables: list[Variable] | None = None,
    ) -> None:
        """`optimizer.apply`, period by period."""
        own = _keras.built_for(optimizer) if trainable_variables is None else trainable_variables
        if norm:
            limit = norm * (optimizer.loss_scale_factor or 1.0)
            kinds = [owners.of_synthesizer(variable) for variable in own]
            grads = clipping.each_kind(kinds, lambda part: _clipped(part, limit), grads)
        periods, pairs = self._periods(), collections.defaultdict(list)
        for gradient, variable in zip(grads, own, strict=True):
            pairs[periods[id(variable)]].append((gradient, variable))
        always = pairs.pop(1, [])

        common = _keras.common_state(optimizer)
        before = [ops.copy(variable) for variable in common]

        def update(before: list[Tensor], grads: Updates, variables: list[Variable]) -> None:
            for variable, value in zip(common, before):
                variable.assign(value)
            type(optimizer).apply(optimizer, grads, variables)

        for period, learning in pairs.items():
            gradients, variables = map(list, zip(*learning))
            if any(gradient is not None for gradient in gradients):
                learn = functools.partial(update, variables=variables)
                self.branch(period, learn, [before, gradients], variables + optimizer.variables)
        if any(gradient is not None for gradient, _ in always):
            update(before, *map(list, zip(*always)))
        elif optimizer is _keras.inner_optimizer(self.optimizer):
            optimizer.iterations.assign(self._count + 1)  # every step counts, even if nothing learns in it

    def _periods(self) -> dict[int, int]:
        """The period of each trainable variable, by its id; 1 for those that are not in a synthesizer."""
        periods: dict[int, int] = collections.defaultdict(lambda: 1)
        for interface in self.interfaces:
            for variable in interface.synthesizer.trainable_variables:
                # What several synthesizers share rests as soon as one of them does.
                periods[id(variable)] = math.lcm(periods[id(variable)], interface.update_period)
        return periods


class PeriodicStep(Step):
    """A training step in which synthesizers predict as their periods say.

    Args:
        updates: the step's `PeriodicUpdates`; None where nothing is updated.
        **kwargs: as for `Step`.
    """

    def __init__(self, updates: PeriodicUpdates | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._updates = updates

    def predict(self, interface: Interface, inputs: Nested) -> Tensor:
        if self._updates is None or interface.update_period == 1:
            return super().predict(interface, inputs)
        return self._updates.predict(interface, inputs)


def _clipped(gradients: Updates, limit: float) -> Updates:
    some = any(gradient is not None for gradient in gradients)
    return _keras.clip_by_global_norm(gradients, limit) if some else gradients


def check_optimizer(model: keras.Model) -> None:
    """Raise `ValueError` if synthesizers are to rest and the model's optimizer cannot leave variables out."""
    if all(interface.update_period == 1 for interface in model.interfaces):
        return
    inner = _keras.inner_optimizer(model.optimizer)
    if isinstance(inner, keras.optimizers.MultiOptimizer) and not isinstance(inner, DecoupledOptimizer):
        raise ValueError(
            "keras.optimizers.MultiOptimizer updates all variables in every step, but an interface with an "
            "update_period above 1 does not. Compile with keras_sg.decoupled_optimizer(...) or a single "
            f"optimizer. Received: {inner!r}."
        )
    for single in _keras.single_optimizers(inner):
        if single.gradient_accumulation_steps:
            raise ValueError(
                "An optimizer that accumulates gradients counts steps that are none, so an update_period "
                "above 1 has no meaning with it. Use one of the two. Received: "
                f"gradient_accumulation_steps={single.gradient_accumulation_steps} in {single.name!r}."
            )
        if single.use_ema:
            raise ValueError(
                "An optimizer with use_ema moves the averages of all its variables in every step, those of "
                "resting synthesizers too. Use an update_period above 1 without it. Received: use_ema=True "
                f"in {single.name!r}."
            )
