"""What a sweep varies: ranges, choices, and how keras-tuner is asked for them."""

import contextlib
import dataclasses
import numbers
from collections.abc import Iterator
from typing import Any

import keras_tuner


@dataclasses.dataclass(frozen=True)
class LogRange:
    """All numbers from `low` to `high`, each decade as likely as the next.

    Args:
        low: a positive number.
        high: a larger one.

    Raises:
        ValueError: they are not.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        are_numbers = all(isinstance(end, numbers.Real) for end in (self.low, self.high))
        if not are_numbers or not 0 < self.low < self.high:
            raise ValueError(
                "A range of learning rates goes from a positive number to a larger one. "
                f"Received: low={self.low!r}, high={self.high!r}."
            )


class Choice:
    """One of several values.

    Args:
        *values: two or more different ones.

    Raises:
        ValueError: they are not.
    """

    def __init__(self, *values: Any) -> None:
        self.values = values
        if len(values) < 2 or any(value in values[:at] for at, value in enumerate(values)):
            raise ValueError(
                f"A choice has two or more different values, as in Choice(1, 10). Received: Choice{values!r}."
            )


def named(argument: str, value: Any) -> dict[str, Any]:
    """The values of an argument, by the names that they have in keras-tuner: it knows no others."""
    values = value.values if isinstance(value, Choice) else (value,)
    names = [_name(value) for value in values]
    if len(set(names)) < len(names):
        raise ValueError(
            f"keras-tuner tells the choices of `{argument}` apart by their names, and two are the same: "
            f"{names}. Received: {argument}=Choice{values!r}."
        )
    return dict(zip(names, values))


def _name(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return ", ".join(value) or "nowhere"
    return getattr(value, "name", None) or getattr(value, "__name__", None) or repr(value)


def one_of(names: dict[str, Any]) -> Choice | str:
    """What to ask keras-tuner for, to get one of these names."""
    return Choice(*names) if len(names) > 1 else next(iter(names))


def ask(hp: keras_tuner.HyperParameters | None, name: str, value: Any) -> Any:
    """The value of a hyperparameter in a trial; None in a trial that it is no part of."""
    if hp is None or value is None:
        return None
    if isinstance(value, LogRange):
        return hp.Float(name, value.low, value.high, sampling="log")
    if not isinstance(value, Choice):
        return hp.Fixed(name, value)
    if all(isinstance(option, bool) for option in value.values):
        return hp.Boolean(name)
    return hp.Choice(name, list(value.values))


@contextlib.contextmanager
def only_for(
    hp: keras_tuner.HyperParameters | None, parent: str, values: list[str]
) -> Iterator[keras_tuner.HyperParameters | None]:
    """Whom to `ask` for what only trials with one of these values of another hyperparameter have."""
    if hp is None or not values:
        # Without values there is no such trial, and keras-tuner would look for one without end.
        yield None
        return
    with hp.conditional_scope(parent, values):
        yield hp
