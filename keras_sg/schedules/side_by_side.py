"""Side by side on several devices: every module on its own, each at work on its own batch."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_sg._modules import Program, part
from keras_sg.schedules.pipeline import Engine, Pipeline, Pipelined
from keras_sg.schedules.schedule import Runner
from keras_sg.schedules.worker import ModuleWorker


class SideBySide(Pipelined):
    """Every module on its own device, in one process, each at work on its own batch; on JAX.

    In tick `t` module `k` runs batch `t - k`; see `keras_sg.schedules.ticks`. A module's forward and backward
    pass on a batch use the same weights, and every target meets the `h` that it belongs to: stale is only the
    lesson of a synthesizer, whose `h` is two updates old. An epoch fills the modules and drains them; between
    epochs nothing is in flight.

    Args:
        devices: list of the devices, one a module, in their order: of `jax.devices()`, or their names as
            `keras.distribution.list_devices()` has them (`"gpu:0"`). A device may be named several times.
            None: all of `jax.devices()`, in turn.
        slack: integer of at least 0: messages travel `1 + slack` ticks, which hides a slow link.
        max_delay: None, or an integer of at least `2 (1 + slack)`: how many ticks after a module ran a target
            may be late. A target that is not there when it is due is not waited for then, and later ones than
            that are dropped.

    Raises:
        ValueError: an argument is not as described; the backend is not JAX; there are not as many devices as
            modules. Or, in `compile`: the model's modules cannot work side by side.

    Example:

    ```python
    import keras, keras_sg
    import numpy as np

    inputs = keras.Input((8,))
    hidden = keras_sg.SyntheticGradient(keras.layers.Dense(16, activation="relu"))(inputs)
    model = keras_sg.DecoupledModel(inputs, keras.layers.Dense(1)(hidden))
    if keras.backend.backend() == "jax":
        model.compile("adam", "mse", schedule=keras_sg.schedules.SideBySide())
        model.fit(np.ones((32, 8)), np.ones((32, 1)), verbose=0)
    ```

    References:
        Jaderberg et al. 2016, https://arxiv.org/abs/1608.05343, section 2 (update unlocking).
    """

    def __init__(
        self, devices: Sequence[Any] | None = None, slack: int = 0, max_delay: int | None = None
    ) -> None:
        super().__init__(slack, max_delay)
        if keras.backend.backend() != "jax":
            raise ValueError(
                "Modules work on several devices of one process on JAX only, which computes behind promises. "
                "Use keras_sg.schedules.OnRay(...), on any backend. Received: the backend "
                f"{keras.backend.backend()!r}."
            )
        import jax

        named = {f"{device.platform}:{device.id}": device for device in jax.devices()}
        found = jax.devices() if devices is None else [named.get(device, device) for device in devices]
        unknown = [device for device in found if not isinstance(device, jax.Device)]
        if unknown or not found:
            raise ValueError(
                f"`devices` are those of jax.devices(), or their names, {sorted(named)}. Received: "
                f"devices={devices!r}."
            )
        self._given, self.devices = devices is not None, list(found)

    def check(self, model: keras.Model) -> None:
        super().check(model)
        modules = len(part(model))
        if self._given and len(self.devices) != modules:
            raise ValueError(
                f"Model {model.name!r} parts into {modules} modules, each of which needs a device; name one "
                f"several times to share it. Received: {len(self.devices)} devices."
            )

    def start(self, model: keras.Model) -> Runner:
        self.check(model)
        return Pipeline(model, self, Engine(self._plan, _fetch, _is_ready))

    def _plan(
        self, model: keras.Model, programs: list[Program], plans: list[Any]
    ) -> Callable[[], list[ModuleWorker]]:
        devices = itertools.cycle(self.devices)
        given = list(zip(programs, plans, devices))
        return lambda: [ModuleWorker(program, plan, model, device) for program, plan, device in given]


def _fetch(promise: Any) -> Any:
    """What is promised, once it is there, on the default device."""
    import jax

    return jax.tree.map(lambda leaf: jax.device_put(leaf, jax.devices()[0]), jax.block_until_ready(promise))


def _is_ready(promise: Any) -> bool:
    return all(leaf.is_ready() for leaf in keras.tree.flatten(promise) if hasattr(leaf, "is_ready"))
