"""`MixSchedule`: from true gradients to synthetic ones, as training goes on."""

from collections.abc import Callable

import keras

from keras_sg import gradients
from keras_sg._interfaces.interface import interfaces_in
from keras_sg._types import Logs


class MixSchedule(keras.callbacks.Callback):
    """Moves `mix`, the share of the synthetic gradient in what modules receive.

    With a `mix` of 0 the modules learn by backpropagation while the synthesizers learn to predict
    the gradients they see; then the synthesizers take over. The training step is traced anew
    once, when `mix` becomes a variable, and not again.

    Args:
        schedule: function from the number of the epoch (or of the step, from 0) to `mix`, a number
            from 0 to 1.
        unit: `"epoch"` or `"step"`. Steps are those that the optimizer counts, so a run that
            resumes goes on where it was; with `steps_per_execution`, `mix` moves once an execution.

    Raises:
        ValueError: `unit` is not known; the model has no interfaces; the schedule returns something
            else than a number from 0 to 1. The first two, and the schedule's first value, before
            training starts.

    Adds `mix` to the logs of every epoch.

    Example:

    ```python
    import keras_sg
    warm_up = keras_sg.callbacks.MixSchedule(lambda epoch: 0.0 if epoch < 2 else 1.0)
    ```

    References:
        Czarnecki et al. 2017, https://arxiv.org/abs/1703.00522, on mixing true and synthetic
        gradients.
    """

    def __init__(self, schedule: Callable[[int], float], unit: str = "epoch") -> None:
        super().__init__()
        if unit not in ("epoch", "step"):
            raise ValueError(f"`unit` must be 'epoch' or 'step'. Received: unit={unit!r}.")
        self.schedule, self.unit = schedule, unit

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        self._interfaces = interfaces_in(model)
        if not self._interfaces:
            raise ValueError(
                "MixSchedule moves the mix of interfaces, but there are none in this model. Cut it with "
                f"keras_sg.decouple(...), or leave the callback out. Received: model {model.name!r}."
            )
        if self.unit == "step" and keras.backend.backend() == "jax":
            raise ValueError(
                "On JAX, Keras hands a model's variables to the training step once an epoch, so mix cannot "
                "move from step to step. Received: unit='step'."
            )
        self._move(self.schedule(self._now(0)))

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._move(self.schedule(self._now(epoch)))

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        if self.unit == "step":
            self._move(self.schedule(self._now(0)))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if logs is not None:
            logs["mix"] = self._mix

    def _now(self, epoch: int) -> int:
        if self.unit == "epoch":
            return epoch
        return int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))

    def _move(self, mix: float) -> None:
        try:
            self._mix = gradients.check_mix(mix)
        except ValueError as error:
            raise ValueError(f"The schedule of MixSchedule returned no mix. {error}") from error
        stale = [interface.move_mix(self._mix) for interface in self._interfaces]
        if any(stale):
            # The step was traced with a constant; fit() has it traced anew.
            self.model.train_function = None
