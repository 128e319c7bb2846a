"""What a schedule is."""

import abc
from typing import Any

import keras

from keras_sg import _keras
from keras_sg._backends import replicas
from keras_sg._trainers import Trainer
from keras_sg._types import Logs, Nested


class Runner:
    """Trains one model by a schedule; made anew whenever training functions are.

    Attributes:
        logs: what `fit` reports next to the model's metrics.
    """

    logs: Logs = {}

    @abc.abstractmethod
    def step(self, state: Any, data: Nested) -> tuple[Logs, Any]:
        """Take one batch.

        Args:
            state: on JAX, what Keras hands to a training step: the values of the model's variables. Elsewhere
                None: the variables have their values.
            data: the batch, as Keras hands it to a training step.

        Returns:
            Tuple of the logs and, on JAX, the state after the step.
        """

    def drain(self) -> Any:
        """Wait until nothing is in flight.

        Returns:
            On JAX the state, if something was in flight; else None. Elsewhere the variables have their
            values.
        """

    def abandon(self) -> None:
        """Drop what is still in flight, as it is after an error."""


class Schedule:
    """When and where the modules of a model run."""

    def check(self, model: keras.Model) -> None:
        """Raise `ValueError` if the schedule cannot serve a compiled model."""

    def start(self, model: keras.Model) -> Runner | None:
        """What trains a model by this schedule; None: the model's own training step."""
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Together(Schedule):
    """One program holds the whole network, forward and back."""


def check_modules(model: keras.Model, received: str, out: str = "Train with schedule='together'.") -> None:
    """Raise `ValueError` unless the modules of a compiled model can each run by themselves.

    Args:
        model: the compiled model.
        received: what was asked for, for the error.
        out: the way out, likewise.
    """
    out = f"{out} Received: {received} "
    for interface in model.interfaces:
        if not interface.between_layers:
            raise ValueError(
                f"Interface {interface.name!r} (of type {type(interface).__name__}) lies between "
                "windows of time, "
                f"not between modules, and is served in one program only. {out}and such an interface."
            )
        if interface.of_error:
            raise ValueError(
                f"Interface {interface.name!r} receives the error of the model's output ('feedback'), for "
                "which the module below would have to wait until the whole network has run. "
                f"{out}and such an interface."
            )
        if interface.mix_moves or interface.mix != 1.0:
            raise ValueError(
                f"At interface {interface.name!r} a share of the true gradient passes (mix={interface.mix}"
                f"{', and it moves' if interface.mix_moves else ''}), for which the module below would have "
                f"to wait; modules run by themselves at mix=1. {out}and a mix below 1, or one that moved."
            )
    if replicas.distributed(model):
        raise ValueError(
            "Modules that run by themselves are not replicated: neither tf.distribute nor keras.distribution "
            f"goes with them. {out}under a strategy."
        )
    own = [] if type(model).train_step is Trainer.train_step else ["train_step"]
    own += [] if _keras.runs_its_graph(model) else ["call"]
    if own:
        raise ValueError(
            f"Model {model.name!r} (of type {type(model).__name__}) has {own} of its own, which takes the "
            f"whole network through a batch. Override compute_loss or compute_metrics instead. {out}and "
            "such a model."
        )
