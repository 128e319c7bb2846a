"""`UpdateSize`: how far the weights really move."""

import keras
import numpy as np

from keras_sg import _keras
from keras_sg._interfaces.interface import Interface
from keras_sg._model import DecoupledModel
from keras_sg._types import Logs, Variable


class UpdateSize(keras.callbacks.Callback):
    """Measures how far the weights of each module and each synthesizer moved, relative to their norm.

    That is not the size of the gradient: with Adam or RMSProp the two have little to do with one
    another. With `w` the trainable weights of a module, all in one vector, into `logs`:

        <module>_update_size               |w after - w before| / |w before|
        <interface>_synthesizer_update_size  the same of the interface's synthesizer

    Where all of `w` was zero before, as in a linear synthesizer that has not learned yet, that is no
    number. There it is relative to `|w after|`, and so 1: all that there is now has just come. (0 if
    nothing moved.)

    A module is named after the interface that it ends at. It holds the layers, in the order of the
    model, behind the interface before; the layers behind the last interface are called `output`.

    Args:
        per: `"epoch"`: from the beginning to the end of every epoch. Or `"step"`: in the first
            step of every epoch (the first execution, where the model is compiled with
            `steps_per_execution`).

    Raises:
        ValueError: `per` is not known.

    Example:

    ```python
    import keras_sg
    moved = keras_sg.callbacks.UpdateSize(per="step")
    ```
    """

    def __init__(self, per: str = "epoch") -> None:
        super().__init__()
        if per not in ("epoch", "step"):
            raise ValueError(f"`per` must be 'epoch' or 'step'. Received: per={per!r}.")
        if per == "step" and keras.backend.backend() == "jax":
            raise ValueError(
                "On JAX, Keras writes a model's variables once an epoch, so a step cannot be measured. "
                "Received: per='step'."
            )
        self.per = per

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._groups = weight_groups(self.model)
        self._before = self._values()
        self._sizes: dict[str, float] | None = None

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if self.per == "step" and self._sizes is None:
            if isinstance(self.model, DecoupledModel):
                self.model.drain()  # or the step is still in flight
            self._sizes = self._measure()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        sizes = self._measure() if self._sizes is None else self._sizes
        if logs is not None:
            logs.update({f"{name}_update_size": size for name, size in sizes.items()})

    def _values(self) -> dict[str, np.ndarray]:
        return {name: _flat(variables) for name, variables in self._groups.items()}

    def _measure(self) -> dict[str, float]:
        sizes = {}
        for name, after in self._values().items():
            before = self._before.pop(name)
            moved = np.linalg.norm(after - before)
            size = np.linalg.norm(before) or np.linalg.norm(after) or 1.0
            sizes[name] = float(moved / size)
        return sizes


def weight_groups(model: keras.Model) -> dict[str, list[Variable]]:
    """The trainable variables of a model by module and synthesizer; see `UpdateSize`.

    Args:
        model: Keras model, with interfaces or without.

    Returns:
        Dictionary from a name to a list of variables; groups without any are left out.
    """
    groups: dict[str, list[Variable]] = {}
    module: list[Variable] = []
    seen: set[int] = set()

    def collect(variables: list[Variable], group: list[Variable]) -> None:
        group.extend(variable for variable in variables if id(variable) not in seen)
        seen.update(map(id, variables))

    def walk(layer: keras.Layer) -> None:
        if isinstance(layer, Interface):
            walk(layer.layer)
            groups[_free(groups, layer.name)] = list(module)
            module.clear()
            synthesizer = groups.setdefault(_free(groups, f"{layer.name}_synthesizer"), [])
            for part in layer.predictors:
                collect(part.trainable_variables, synthesizer)
        elif _keras.contains(layer, Interface):
            for inner in _keras.children(layer):
                walk(inner)
            collect(layer.trainable_variables, module)  # what it holds itself
        else:
            collect(layer.trainable_variables, module)

    walk(model)
    groups[_free(groups, "output")] = module
    return {name: variables for name, variables in groups.items() if variables}


def _free(groups: dict[str, list[Variable]], name: str) -> str:
    """`name`, numbered if there is a group of that name already."""
    key, number = name, 0
    while key in groups:
        number += 1
        key = f"{name}_{number}"
    return key


def _flat(variables: list[Variable]) -> np.ndarray:
    return np.concatenate([np.asarray(keras.ops.convert_to_numpy(v), "float64").ravel() for v in variables])
