"""The half above the cut: `UpperModel`."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sg import gradients
from keras_sg._halves.checks import check_half
from keras_sg._halves.messages import Sent, Target
from keras_sg._model import DecoupledModel
from keras_sg._modules import Module, Passed, Program, Ran, common_of, needed_of, part, whole
from keras_sg._types import Config, Nested, Tensor
from keras_sg.schedules.in_turn import Found, Shared, Turns
from keras_sg.schedules.schedule import Schedule

KINDS = ("gradient", "loss")


@keras.saving.register_keras_serializable(package="keras_sg")
class UpperModel(DecoupledModel):
    """The half of a model above a cut, which begins with the tensor there; `keras_sg.split` makes it.

    It is a model of that tensor: `fit(h, y)`, `evaluate` and `predict` are what they are. `teach` trains it
    on a batch and hands back the target for the synthesizer below.

    Args:
        inputs: the symbolic tensor at the cut.
        outputs: symbolic outputs, as for `keras.Model`.
        name: string, the model's name.
        sends: what the synthesizer below learns from, some of `"gradient"` and `"loss"`.
        **kwargs: as for `DecoupledModel`.

    Raises:
        ValueError: as for `DecoupledModel`.

    Example:

    ```python
    import keras, keras_sg
    import numpy as np

    stack = [keras.layers.Dense(8, activation="relu", name="client"), keras.layers.Dense(3, name="server")]
    model = keras_sg.decouple(keras.Sequential([keras.Input((4,)), *stack]), "client", num_classes=3)
    lower, upper = keras_sg.split(model, "client")
    upper.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    target = upper.teach(keras_sg.Sent(np.ones((32, 8), "float32")), np.zeros(32, "int32"))
    ```

    References:
        Jaderberg et al. 2016, https://arxiv.org/abs/1608.05343, section 2.
    """

    def __init__(
        self, inputs: Nested, outputs: Nested, name: str | None = None, *, sends: Any = KINDS, **kwargs: Any
    ) -> None:
        super().__init__(inputs, outputs, name=name, **kwargs)
        self.sends = tuple(sends)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile, as `keras.Model.compile` does.

        Raises:
            ValueError: there is a `schedule`; or interfaces of its own let a share of true gradients pass.
        """
        schedule = kwargs.pop("schedule", "together")
        if schedule != "together":
            raise ValueError(
                "The upper half runs its modules in turn. Compile it without a schedule. "
                f"Received: schedule={schedule!r}."
            )
        keras.Model.compile(self, *args, **kwargs)
        check_half(self)
        self.schedule, self.runner = _Alone(), None

    def compile_from_config(self, config: Config) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def teach(self, sent: Sent, y: Nested, sample_weight: Nested = None) -> Target:
        """Train on a batch, and return the target for the synthesizer below.

        Args:
            sent: what `LowerModel.advance` returned for it.
            y: targets of the batch, as for `fit`.
            sample_weight: weights of its examples, as for `fit`.

        Returns:
            The `Target`: the gradient that arrived at `h`, per example, and the loss of each example, of the
            weights before the update; each None if the synthesizer below learns from none.

        Raises:
            ValueError: what was sent is no `Sent`, or does not have the shape of the cut.
        """
        expected = tuple(self.inputs[0].shape)
        found = np.shape(sent.h) if isinstance(sent, Sent) else None
        fits = found is not None and len(found) == len(expected)
        if not fits or any(None not in pair and pair[0] != pair[1] for pair in zip(found, expected)):
            raise ValueError(
                "The upper half is taught by what LowerModel.advance returned, a Sent with h of the shape "
                f"{expected}. Received: {found or type(sent).__name__}."
            )
        self.train_on_batch(sent.h, y, sample_weight)
        runner: Any = self.runner
        return runner.target._replace(step=sent.step)

    def get_config(self) -> Config:
        return {**super().get_config(), "sends": list(self.sends)}


class _Alone(Schedule):
    """The schedule of an upper half."""

    def start(self, model: keras.Model) -> "_Upper":
        return _Upper(model)


def modules_of(model: keras.Model) -> list[Module]:
    """The modules of an upper half, the first of which takes the tensor at the cut as from a module below."""
    modules = part(model) if model.interfaces else [whole(model)]
    past = [module for module in modules[1:] if module.inputs]
    if past:
        names = [interface.name for module in modules[:-1] for interface in module.interfaces]
        raise ValueError(
            f"Model {model.name!r} does not part at its interfaces {names}: a path leads around them from "
            "the tensor at the cut. Cut every path, or cut behind the layer where the paths join."
        )
    return [modules[0]._replace(inputs=(), below=(0,)), *modules[1:]]


class _Upper(Turns):
    """Trains an upper half by a batch, and keeps what arrived at its input.

    Attributes:
        target: that of the last batch.
    """

    def __init__(self, model: UpperModel) -> None:
        common = common_of(model)
        common = common._replace(fits_losses=common.fits_losses or "loss" in model.sends)
        modules = modules_of(model)
        needed = [("gradient" in model.sends,), *(needed_of(module.interfaces) for module in modules[:-1])]
        programs = [
            Program(module, needs, common, None if module.interfaces else model)
            for module, needs in zip(modules, needed)
        ]
        super().__init__(model, programs)
        self.target = Target(None, None)

    def _check(self) -> None:
        check_half(self._model)

    def _entering(self, batch: Shared) -> list[Passed]:
        return [Passed(batch.inputs[0], None)]

    def _leaving(self, k: int, ran: Ran, batch: Shared, found: Found) -> None:
        gradient, loss = self.target[:2] if k else (None, None)
        if not k and "gradient" in self._model.sends:
            (arrived,) = ran.arrived
            if arrived is None:
                raise ValueError(
                    f"No gradient arrives at the input of {self._model.name!r}: nothing in the upper half "
                    "leads from it to a loss, so the synthesizer below has nothing to learn from. Compile "
                    "the upper half with a loss for the output that its input leads to."
                )
            gradient = _numpy(gradients.per_example(arrived, batch.scale))
        if "loss" in self._model.sends and loss is None:  # the next that is predicted, or the example's own
            values = [value for value in (*ran.values, ran.example_loss) if value is not None]
            loss = _numpy(values[0]) if values else None
        self.target = Target(gradient, loss)


def _numpy(tensor: Tensor) -> np.ndarray:
    return ops.convert_to_numpy(tensor)
