"""An optimizer's share of one module: one of the same kind, with the state that belongs to its weights."""

from collections.abc import Iterator
from typing import NamedTuple

import keras

from keras_sg import _keras
from keras_sg._types import Config, Variable

State = dict[str, list[Variable]]


class Part:
    """The share that one of a model's optimizers has of some weights.

    Args:
        plan: what it is made of.
        variables: the weights that it may have a share of.

    Attributes:
        optimizer: an optimizer of the same configuration, built for its weights.
        variables: list of its weights.
        slots: its state, see `slots`.
    """

    def __init__(self, plan: "Plan", variables: list[Variable]) -> None:
        self.optimizer = keras.optimizers.deserialize(plan.config)
        self.variables = [variables[i] for i in plan.indices]
        self.optimizer.build(self.variables)
        self.slots = slots(self.optimizer, self.variables)
        self._periods = plan.periods

    def counts(self, steps: int) -> bool:
        """Whether the optimizer counts a step, `steps` after the first, in which these weights rest."""
        return any(steps % period == 0 for period in self._periods)


class Plan(NamedTuple):
    """What a `Part` is made of.

    `config` is that of the optimizer, `indices` which of some weights it updates, and `periods` the periods
    in which it updates weights of the model, these and others.
    """

    config: Config
    indices: tuple[int, ...]
    periods: frozenset[int]


def slots(optimizer: keras.optimizers.Optimizer, variables: list[Variable]) -> State:
    """The variables that a built optimizer has for some weights, and those that it has for all together.

    Args:
        optimizer: an optimizer that wraps no others.
        variables: weights that it was built for, some of them or all.

    Returns:
        Dictionary from the optimizer's own name for them to lists: of one a weight, or of a single one.

    Raises:
        ValueError: it has some that belong to no one weight.
    """
    places = {id(variable): i for i, variable in enumerate(_keras.built_for(optimizer))}
    state = {id(variable) for variable in optimizer.variables}
    found: State = {}
    told: set[int] = set()
    for name, value in vars(optimizer).items():
        if id(value) in state:
            found[name] = [value]
            told.add(id(value))
        elif name != "_variables" and isinstance(value, list) and len(value) == len(places):
            if all(id(part) in state for part in value):
                found[name] = [value[places[id(variable)]] for variable in variables]
                told.update(map(id, value))
    missing = [variable.path for variable in optimizer.variables if id(variable) not in told]
    if missing:
        raise ValueError(
            f"The state of optimizer {optimizer.name!r} (of type {type(optimizer).__name__}) cannot "
            "be parted "
            "among modules, for some of it belongs to no one weight. Use another, such as Adam or SGD, or a "
            f"schedule that keeps it whole ('together', 'in_turn'). Received: the state {missing}."
        )
    return found


def split(
    optimizer: keras.optimizers.Optimizer, variables: list[Variable]
) -> Iterator[tuple[keras.optimizers.Optimizer, list[Variable]]]:
    """The optimizers in a model's that update some weights, each with those that it updates."""
    inner = _keras.inner_optimizer(optimizer)
    for single in _keras.single_optimizers(optimizer):
        own = [v for v in variables if single is inner or _keras.optimizer_of(inner, v) is single]
        if own:
            yield single, own
