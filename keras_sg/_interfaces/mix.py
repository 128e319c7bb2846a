"""The share of the predicted gradient in what a module receives: a constant, until it is moved."""

import keras
from keras import ops

from keras_sg import _keras, gradients
from keras_sg._types import Tensor


class Mix:
    """A constant of the training step until it is moved for the first time, and a variable from then on.

    That variable is not saved with the weights; the interface's configuration has its value. (Nor is it among
    the interface's `weights`, but on JAX, where it has to be.)

    Args:
        interface: the interface whose it is.
        value: a float from 0 to 1.
    """

    def __init__(self, interface: keras.Layer, value: float) -> None:
        self._interface = interface
        self._constant = gradients.check_mix(value)
        self._knob: _keras.Knob | None = None
        self._read = ""  # as a constant, where

    @property
    def value(self) -> float:
        """A float from 0 to 1."""
        return self._constant if self._knob is None else float(ops.convert_to_numpy(self._knob.variable))

    @property
    def moves(self) -> bool:
        """Whether it is a variable of the training step, rather than a constant."""
        return self._knob is not None

    def assign(self, value: float) -> None:
        """Have the next call of `fit` or `train_on_batch` find another value.

        Raises:
            ValueError: a function that nothing makes anew holds the old value.
        """
        value = gradients.check_mix(value)
        if self._knob is None and self._read == "in a plain model":
            raise ValueError(
                f"Training functions hold mix={self.value} of interface {self._interface.name!r} as a "
                f"constant. Call move_mix({value}) and compile the model anew, or make it a "
                f"keras_sg.DecoupledModel, which notices. Received: mix={value} after a training step of a "
                "model that is none."
            )
        if self._knob is None and not self._read:
            self._constant = value
        else:
            self.move(value)

    def move(self, value: float) -> bool:
        """Make it a variable, of another value; whether functions still hold the old one as a constant."""
        value = gradients.check_mix(value)
        stale = self._knob is None
        if self._knob is None:
            self._knob = _keras.Knob(self._interface, "mix", value)
        self._knob.variable.assign(value)
        return stale

    def in_step(self, plain: bool) -> float | Tensor:
        """As a training step reads it: a constant until it is moved, a tensor from then on.

        Args:
            plain: whether the step is that of a plain `keras.Model`.
        """
        if self._knob is not None:
            return ops.copy(self._knob.variable)
        self._read = "in a plain model" if plain else self._read or "in a decoupled model"
        return self._constant
