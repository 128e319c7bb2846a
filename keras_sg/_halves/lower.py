"""The half below the cut: `LowerModel`."""

from typing import Any

import keras
from keras import ops

from keras_sg import _keras
from keras_sg._halves.checks import check_half
from keras_sg._halves.messages import Sent, Target, Taught, check_pair
from keras_sg._interfaces.interface import Interface
from keras_sg._model import DecoupledModel
from keras_sg._modules import Batch, Passed, Program, Ran, common_of, whole
from keras_sg._optimizers.decoupled import DecoupledOptimizer, decoupled_optimizer
from keras_sg._trainers import batches
from keras_sg._types import Config, Logs, Nested, Tensor
from keras_sg.schedules.in_turn import END, Found, Shared, TurnLesson, Turns
from keras_sg.schedules.schedule import Schedule


@keras.saving.register_keras_serializable(package="keras_sg")
class LowerModel(DecoupledModel):
    """The half of a model below a cut, which ends at an interface; `keras_sg.split` makes it.

    It trains without anything from above: `fit(x, y)`, `train_on_batch` and `advance` have the module descend
    what the synthesizer at the cut predicts, and leave the synthesizer as it is (the head of a `LocalLoss`
    learns, from the labels). The synthesizer learns when a target is there: in `learn`, or in `fit` on
    `keras_sg.Pairs`. With a target for every batch that is what the undivided `DecoupledModel` does; with one
    for every k-th, what it does with `update_period=k`.

    In `fit`, `loss` is the module's own penalties and, where the synthesizer predicts losses, their mean;
    the metrics of a `DecoupledModel` are reported of what the synthesizer learned from.

    Attributes:
        cut: the interface at which it ends.

    Raises:
        ValueError: it is to be evaluated, or asked for true gradients: the loss is in the upper half.

    Example:

    ```python
    import keras, keras_sg
    import numpy as np

    stack = [keras.layers.Dense(8, activation="relu", name="client"), keras.layers.Dense(3, name="server")]
    model = keras_sg.decouple(keras.Sequential([keras.Input((4,)), *stack]), "client", num_classes=3)
    lower, upper = keras_sg.split(model, "client")
    lower.compile("sgd")
    lower.fit(np.ones((32, 4)), np.zeros(32, "int32"), verbose=0)
    ```

    References:
        Jaderberg et al. 2016, https://arxiv.org/abs/1608.05343, section 2.
    """

    ends_in_loss = False

    @property
    def cut(self) -> Interface:
        """The interface at which the model ends."""
        (interface,) = self.interfaces
        return interface

    def compile(  # type: ignore[override]
        self, optimizer: Any = "adam", loss: None = None, **kwargs: Any
    ) -> None:
        """Compile, as `keras.Model.compile` does, without loss and metrics.

        Args:
            optimizer: a Keras optimizer or its string id; or `keras_sg.decoupled_optimizer(...)`. Of a single
                one, the synthesizer has a copy: module and synthesizer do not step together.
            loss: None: it is the upper half's.
            **kwargs: `run_eagerly`, `jit_compile`, `steps_per_execution`, as for `keras.Model.compile`.

        Raises:
            ValueError: there is a loss, or whatever else the lower half has no use for; the optimizer is
                neither a single one nor a decoupled one; or the interface lets a share of the true gradient
                pass.
        """
        given = {"loss": loss, **kwargs}
        idle = sorted(name for name, value in given.items() if name not in _OPTIONS and value)
        if idle:
            raise ValueError(
                "The lower half ends at an interface: the loss and all that is measured on outputs is the "
                f"upper half's. Compile it with an optimizer and {sorted(_OPTIONS)}. Received: {idle}."
            )
        optimizer = keras.optimizers.get(optimizer)
        inner = _keras.inner_optimizer(optimizer)
        if inner is optimizer and not isinstance(inner, keras.optimizers.MultiOptimizer):
            optimizer = decoupled_optimizer(optimizer, type(optimizer).from_config(optimizer.get_config()))
        elif not isinstance(inner, DecoupledOptimizer):
            raise ValueError(
                "The module and the synthesizer of a lower half do not step together, so each has an "
                "optimizer of its own. Pass a single one, which is copied, or "
                "keras_sg.decoupled_optimizer(...); compile() adds a loss scale where one is needed. "
                f"Received: {optimizer!r}."
            )
        keras.Model.compile(self, optimizer, **{k: v for k, v in kwargs.items() if k in _OPTIONS})
        check_half(self)
        self.schedule, self.runner = _Alone(), None

    def compile_from_config(self, config: Config) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Tensor:
        """Nothing: the loss is the upper half's."""
        return ops.zeros((), keras.config.floatx())

    def labels_from(self, y: Nested) -> Nested:
        return y.given[0] if isinstance(y, Taught) else super().labels_from(y)

    def advance(self, x: Any, y: Nested = None, sample_weight: Nested = None) -> Sent:
        """Train on a batch without waiting for a target, and return what is to be sent up of it.

        Args:
            x: inputs of the batch, as for `fit`.
            y: its labels; None if the synthesizer sees none.
            sample_weight: weights of its examples, `(batch,)`, or None.

        Returns:
            The `Sent`: the tensor at the cut from before the update, in the forward pass of which the module
            was trained.

        Raises:
            ValueError: there are no labels, and the synthesizer sees some.
        """
        self._check_compiled()
        self._check_labelled(y)
        step = self._updates
        self.train_on_batch(x, y, sample_weight)
        return Sent(ops.convert_to_numpy(self._worked.h), step)

    def learn(
        self,
        sent: Sent,
        y: Nested,
        target: Target,
        sample_weight: Nested = None,
        max_age: int | None = None,
    ) -> Logs:
        """Have the synthesizer at the cut learn from a target, once; the module is left as it is.

        Args:
            sent: what `advance` returned for the batch.
            y: the batch's labels, as for `advance`.
            target: what `UpperModel.teach` returned for it.
            sample_weight: weights of its examples, as for `advance`.
            max_age: None, or how many updates the lower half may have made since `advance` began.

        Returns:
            Dictionary of `sg_loss` and, where it regresses on gradients, `sg_cosine`.

        Raises:
            ValueError: the target is not that of what was sent, or too old, or lacks what the synthesizer
                learns from; or there are no labels, and it sees some.
        """
        self._check_compiled()
        self._check_labelled(y)
        labels = None if self.cut.label is None else self.labels_from(batches.arrays(y))
        check_pair(sent, target, labels, sample_weight)
        self._check_age(sent, max_age)
        self.reset_metrics()
        taught = Taught.of(labels, target.gradient, target.loss)
        return self.train_on_batch(sent.h, taught, sample_weight, return_dict=True)

    @property
    def _worked(self) -> Any:
        """What trains it, or something that has not trained anything yet."""
        return self.runner or _Lower

    @property
    def _updates(self) -> int:
        return int(ops.convert_to_numpy(self.optimizer.iterations))

    def _check_compiled(self) -> None:
        if not self.compiled:
            raise ValueError(
                "The lower half has no optimizer to train with. Call compile(optimizer) first. "
                f"Received: model {self.name!r}, which is not compiled."
            )

    def _check_labelled(self, y: Nested) -> None:
        if y is None and self.cut.label is not None:
            raise ValueError(
                f"The synthesizer of interface {self.cut.name!r} sees the label, so the lower half needs the "
                "labels of every batch. Pass y; or cut the model without num_classes and label_size, if the "
                "labels are the upper half's alone. Received: y=None."
            )

    def _check_age(self, sent: Sent, max_age: int | None) -> None:
        if sent.step is None:
            return
        age = self._updates - sent.step
        if age < 0 or (max_age is not None and age > max_age):
            raise ValueError(
                "The target is of another age than it may be: the lower half has made "
                f"{self._updates} updates, and max_age={max_age}. Drop it, or send the batch anew. Received: "
                f"the target of what was sent after {sent.step} updates."
            )

    def get_metrics_result(self) -> Logs:
        logs = super().get_metrics_result()
        worked, reports = self._worked, {metric.name for metric in self.interface_metrics}
        unknown = (set() if worked.learned else reports) | (set() if worked.ran else {"loss"})
        return {key: value for key, value in logs.items() if key not in unknown}

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Train, as `keras.Model.fit` does, on batches or on `Pairs`; there is nothing to validate."""
        if kwargs.get("validation_data") is not None or kwargs.get("validation_split"):
            self.evaluate()
        return super().fit(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        raise ValueError(
            "The lower half has no loss to evaluate. Evaluate keras_sg.join(lower, upper), or the upper half "
            f"on lower.predict(x). Received: model {self.name!r}, a lower half."
        )

    test_on_batch = evaluate

    def probe_gradients(self, *args: Any, **kwargs: Any) -> Any:
        raise ValueError(
            "The true gradient is not known in the lower half. Ask keras_sg.join(lower, upper). "
            f"Received: model {self.name!r}, a lower half."
        )


_OPTIONS = {"run_eagerly", "jit_compile", "steps_per_execution", "auto_scale_loss"}


class _Alone(Schedule):
    """The schedule of a lower half."""

    def start(self, model: keras.Model) -> "_Lower":
        return _Lower(model)


class _Lower(Turns):
    """Trains a lower half: its module by a batch, or its synthesizer by a target.

    Attributes:
        h: the tensor at the cut, of the last batch that the module ran.
        ran, learned: whether the module ran in the last step, and the synthesizer learned.
    """

    h: Tensor = None
    ran = learned = False

    def __init__(self, model: LowerModel) -> None:
        module = whole(model, [model.cut])
        super().__init__(model, [Program(module, (), common_of(model), None)])

    def step(self, state: Any, data: Nested) -> tuple[Logs, Any]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if not isinstance(y, Taught):
            self.ran, self.learned = True, self._model.cut.local
            return super().step(state, data)
        self.ran, self.learned = False, True
        return self._learn_from(state, x, y, sample_weight)

    def _check(self) -> None:
        check_half(self._model)

    def _leaving(self, k: int, ran: Ran, batch: Shared, found: Found) -> None:
        (output,), (value,) = ran.outputs, ran.values
        self.h = output.tensor
        if value is not None:
            found.losses.append(ops.cast(ops.mean(value), keras.config.floatx()))
        if self._model.cut.local:
            self._taught(TurnLesson(0, 0, output, None), batch, found)

    def _learn_from(self, state: Any, h: Tensor, y: Taught, sample_weight: Nested) -> tuple[Logs, Any]:
        cut = self._model.cut
        convert = lambda part: None if part is None else ops.convert_to_tensor(part)
        h, y, sample_weight = keras.tree.map_structure(convert, (h, y, sample_weight))
        labels, gradient, loss = y.given
        self._check()
        batches.check_labels(self._model, y)
        for name, needed, part in (
            ("gradient", cut.fits_gradient, gradient),
            ("loss", cut.fits_loss, loss),
        ):
            if needed and part is None:
                raise ValueError(
                    f"The synthesizer of interface {cut.name!r} (of type {type(cut).__name__}) learns from "
                    f"the {name} of each example, which the target has not. Was it made by the upper half of "
                    f"another model? Received: a target without {name}."
                )
        batch = self._shared(state, Batch(h, None if labels is None else y, sample_weight), [])
        found = Found()
        found.predicted[END] = loss
        arrived = None
        if cut.fits_gradient:  # as it arrives in an undivided model
            share = batch.scale / ops.cast(ops.shape(h)[0], batch.scale.dtype)
            arrived = ops.cast(ops.cast(gradient, batch.scale.dtype) * share, h.dtype)
        self._taught(TurnLesson(0, 0, Passed(h, None), arrived), batch, found)
        return self._ended(state, found, batch, None, [])
