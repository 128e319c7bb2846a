"""The search space of a decoupled network."""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import keras_tuner
import numpy as np

from keras_sg import synthesizers
from keras_sg._interfaces.predicted_loss import SyntheticLoss
from keras_sg._interfaces.synthetic_gradient import SyntheticGradient
from keras_sg._optimizers.decoupled import decoupled_optimizer
from keras_sg._surgery.decouple import decouple
from keras_sg.tuning.space import Choice, LogRange, ask, named, one_of, only_for

# The recipe of a string id at one width; "linear" has none.
WIDE: dict[str, Callable[[int], synthesizers.Synthesizer]] = {
    "mlp": lambda width: synthesizers.MLP(widths=(width, width)),
    "conv": lambda width: synthesizers.Conv(filters=width),
    "value": lambda width: synthesizers.Value(widths=(width, width)),
    "critic": lambda width: synthesizers.Critic(widths=(width,)),
    "error": lambda width: synthesizers.PredictedError(widths=(width,)),
}


class DecoupledHyperModel(keras_tuner.HyperModel):
    """The search space of a decoupled network.

    Every argument but `build_model` is one value for all trials or something to sweep: a `Choice`
    or, for learning rates, a `LogRange`. What cannot matter in a trial is no part of it: nothing
    of a synthesizer where the network is not cut, no width where the synthesizer is `"linear"`.

    A trial whose loss is NaN or infinite is a failed one, whatever its accuracy was until then. A
    tuner stops after three failures in a row, which a sweep of learning rates meets at its upper end: pass it
    `max_consecutive_failed_trials`, more than there will be trials.

    Args:
        build_model: function without arguments that builds a plain Functional or Sequential
            model; it need not be compiled. For trials that differ in nothing but their
            hyperparameters, let it call `keras.utils.set_random_seed`.
        after: where to cut: the names of layers, as for `keras_sg.decouple`, or a `Choice` of
            such lists. With `[]` the model is trained by backpropagation.
        learning_rate: of the modules; number, `Choice` or `LogRange`.
        synthesizer_learning_rate: of the synthesizers, likewise; or None for the same optimizer.
        synthesizer: string id, a recipe or what else `keras_sg.decouple` takes, or a `Choice` of
            them. Those that predict a loss (`"critic"`, `"value"`, or their recipes) make their
            interfaces `SyntheticLoss`.
        width: of the hidden layers of the string ids `"mlp"`, `"conv"`, `"value"`, `"critic"` and
            `"error"`, integer or `Choice`; None for their own default.
        update_period: integer or `Choice`; see `keras_sg.SyntheticGradient`.
        num_classes: the number of classes, for conditional interfaces; or
        label_size: the size of a label vector.
        conditional: whether synthesizers see the label, boolean or `Choice(True, False)`; by
            default they do where `num_classes` or `label_size` is given. A `"critic"` always
            does, as do `"error"` and `"feedback"`.
        interface: dictionary of further arguments of every interface, such as `sobolev`.
        optimizer: function from a learning rate to a Keras optimizer.
        **compile: arguments of `compile`: `loss`, `metrics`, ...

    Raises:
        ValueError: an argument is not as described.

    Example:

    ```python
    import keras, keras_tuner
    from keras_sg import tuning

    def network():
        inputs = keras.Input((8,))
        hidden = keras.layers.Dense(16, activation="relu", name="block1")(inputs)
        return keras.Model(inputs, keras.layers.Dense(3, name="logits")(hidden))

    hypermodel = tuning.DecoupledHyperModel(
        network,
        after=tuning.Choice([], ["block1"]),
        learning_rate=tuning.LogRange(1e-5, 1e-1),
        synthesizer=tuning.Choice("linear", "mlp"),
        width=tuning.Choice(64, 256),
        num_classes=3,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model = hypermodel.build(keras_tuner.HyperParameters())
    ```

    References:
        O'Malley et al. 2019, KerasTuner, https://github.com/keras-team/keras-tuner.
    """

    def __init__(
        self,
        build_model: Callable[[], keras.Model],
        after: str | list[str] | Choice,
        *,
        learning_rate: float | Choice | LogRange,
        synthesizer_learning_rate: float | Choice | LogRange | None = None,
        synthesizer: synthesizers.Identifier | Choice = "linear",
        width: int | Choice | None = None,
        update_period: int | Choice = 1,
        num_classes: int | None = None,
        label_size: int | None = None,
        conditional: bool | Choice | None = None,
        interface: dict[str, Any] | None = None,
        optimizer: Callable[[float], keras.optimizers.Optimizer] = keras.optimizers.Adam,
        **compile: Any,
    ) -> None:
        super().__init__()
        self.build_model = build_model
        # Hyperparameters are numbers and strings: everything else goes by a name.
        self.places = named("after", after)
        self.synthesizers = named("synthesizer", synthesizer)
        self.needing_label = [
            name
            for name, kind in self.synthesizers.items()
            if getattr(synthesizers.get(kind), "needs_label", False)
        ]
        self.learning_rate = learning_rate
        self.synthesizer_learning_rate = synthesizer_learning_rate
        self.width = width
        self.update_period = update_period
        self.labels = {"num_classes": num_classes, "label_size": label_size}
        known = any(value is not None for value in self.labels.values())
        self.conditional = known if conditional is None else conditional
        self.interface = interface or {}
        self.optimizer = optimizer
        self.compile = compile
        if not known and (conditional not in (None, False) or self.needing_label):
            raise ValueError(
                "Conditional synthesizers need num_classes (for class labels) or label_size (for label "
                f"vectors). Received: conditional={conditional!r}, synthesizer={synthesizer!r} and neither."
            )
        if width is not None and not WIDE.keys() & self.synthesizers.keys():
            raise ValueError(
                f"`width` is for the synthesizers {sorted(WIDE)}, given by their string id. "
                f"Received: width={width!r} for synthesizer={synthesizer!r}."
            )

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """The network of one trial, compiled. Called by the tuner."""
        model = self.build_model()
        optimizer = self.optimizer(ask(hp, "learning_rate", self.learning_rate))
        place = ask(hp, "after", one_of(self.places))
        with only_for(hp, "after", [name for name, layers in self.places.items() if layers]) as cut:
            synthesizer_rate = ask(cut, "synthesizer_learning_rate", self.synthesizer_learning_rate)
            options = self._options(cut)
        if self.places[place]:
            try:
                model = decouple(model, self.places[place], **options)
            except ValueError as error:  # of the search space, so of more trials than this one
                raise keras_tuner.errors.FatalValueError(str(error)) from error
            if synthesizer_rate is not None:
                optimizer = decoupled_optimizer(optimizer, self.optimizer(synthesizer_rate))
        model.compile(optimizer, **self.compile)
        if model.built:
            # Tuners load weights into it; what is saved with them of the optimizer wants a place.
            model.optimizer.build(model.trainable_variables)
        return model

    def _options(self, hp: keras_tuner.HyperParameters | None) -> dict[str, Any]:
        """What `decouple` is to be told of the interfaces, if the network is cut."""
        kind = ask(hp, "synthesizer", one_of(self.synthesizers))
        with only_for(hp, "synthesizer", [name for name in self.synthesizers if name in WIDE]) as wide:
            width = ask(wide, "width", self.width)
        with only_for(
            hp, "synthesizer", [name for name in self.synthesizers if name not in self.needing_label]
        ) as free:
            conditional = ask(free, "conditional", self.conditional)
        update_period = ask(hp, "update_period", self.update_period)
        if kind is None:
            return {}
        recipe = self.synthesizers[kind] if width is None else WIDE[kind](width)
        predicts_loss = getattr(synthesizers.get(recipe), "predicts", None) == "loss"
        return {
            "interface": SyntheticLoss if predicts_loss else SyntheticGradient,
            "synthesizer": recipe,
            "update_period": update_period,
            **(self.labels if conditional or kind in self.needing_label else {}),
            **self.interface,
        }

    def fit(
        self,
        hp: keras_tuner.HyperParameters,
        model: keras.Model,
        *args: Any,
        callbacks: Iterable[keras.callbacks.Callback] = (),
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Train the network of one trial. Called by the tuner, with what `search` was given.

        Returns:
            The `keras.callbacks.History`.

        Raises:
            keras_tuner.errors.FailedTrialError: a loss was NaN or infinite. The tuner marks the
                trial as failed, and goes on.
        """
        stop = keras.callbacks.TerminateOnNaN()
        history = model.fit(*args, callbacks=[*callbacks, stop], **kwargs)
        losses = {name: series for name, series in history.history.items() if name.endswith("loss")}
        diverged = sorted(name for name, series in losses.items() if not np.isfinite(series).all())
        if diverged:
            raise keras_tuner.errors.FailedTrialError(
                f"The trial diverged: not finite after {len(history.epoch)} epochs: {diverged}. "
                f"Received: the hyperparameters {hp.values}."
            )
        return history
