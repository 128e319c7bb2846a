"""What every interface is made of: a module, a synthesizer, and labels for a conditional one."""

import abc
import functools
import inspect
import math
import numbers
import warnings
from collections.abc import Callable
from typing import Any, Self

import keras
from keras import ops

from keras_sg import _keras, gradients, labels, synthesizers
from keras_sg._interfaces import label_sources, weights
from keras_sg._interfaces.step import Step
from keras_sg._interfaces.synthetic_input import SyntheticInput
from keras_sg._interfaces.weights import Weight
from keras_sg._optimizers import owners
from keras_sg._types import Config, Nested, Shape, Tensor
from keras_sg._version import __version__, check_readable

# What an error says to a training call that no training step of ours has made.
WAYS_OUT = (
    "To train, build the model as keras_sg.DecoupledModel(inputs, outputs), or with keras_sg.decouple(...), "
    "and call its fit() or train_on_batch(); a loss of your own (distillation, for one) belongs in the "
    "compute_loss of a subclass. To sample with dropout, call keras_sg.strip(model)(x, training=True)."
)


# Layers that read a mask otherwise than as one boolean for each position.
_OTHER_MASKS = (keras.layers.Softmax, keras.layers.TimeDistributed)


class Interface(keras.layers.Wrapper):
    """What all kinds of interface share: a layer, a synthesizer, and labels.

    Attributes:
        predicts_loss: whether the synthesizer predicts a loss of each example.
        fits_loss: whether it regresses that on the loss that comes from above.
        layer: the wrapped layer or model.
        synthesizer: the layer that predicts. A recipe becomes a layer when the interface is
            built; until then this is None.
        synthetic_input: the `SyntheticInput` that predicts the interface from the network's input,
            on which the module above trains; None where that trains on the interface.
        labels_from: where in `y` the label is; see `DecoupledModel`, which sets it. None: nowhere else.
        between_layers: whether it is between a module and the next, so that it is of no use as an output of
            a model, and one batch is enough to tell the true gradient at it.
        own_arguments: names of the call arguments that the wrapped layer does not know.
    """

    predicts_loss = False
    fits_loss = False
    between_layers = True
    own_arguments: tuple[str, ...] = ()

    def __init__(
        self,
        layer: keras.Layer,
        synthesizer: synthesizers.Identifier,
        num_classes: int | None = None,
        label_size: int | None = None,
        loss: str = "mse",
        mix: float = 1.0,
        update_period: int = 1,
        labels_from: label_sources.Source | None = None,
        synthetic_input: synthesizers.InputIdentifier | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(layer, keras.Layer):
            raise ValueError(
                f"{type(self).__name__} wraps a Keras layer or model. "
                f"Received: layer={layer!r} (of type {type(layer).__name__})."
            )
        if isinstance(layer, Interface):
            raise ValueError(
                f"Layer {layer.name!r} is an interface already (of type {type(layer).__name__}); "
                f"wrap the layer inside it instead, {layer.layer.name!r}."
            )
        kwargs.setdefault("name", layer.name)
        kwargs.setdefault("dtype", layer.dtype_policy)
        super().__init__(layer, **kwargs)
        self._recipe: Any = synthesizers.get(synthesizer)
        unit_labels = getattr(self._recipe, "unit_labels", False)
        self.label = labels.kind(num_classes, label_size, unit_labels, self.compute_dtype)
        self.num_classes = None if num_classes is None else int(num_classes)
        self.label_size = None if label_size is None else int(label_size)
        self.labels_from = label_sources.check(labels_from)
        gradients.get_regression(loss)
        self.loss: str | gradients.Regression = loss
        self.update_period = _check_period(update_period)
        if getattr(self._recipe, "of_error", False) and self.update_period > 1:
            raise ValueError(
                "Of the synthesizer 'feedback' nothing learns, so it has no period. Leave update_period out. "
                f"Received: update_period={update_period}."
            )
        self.synthesizer: keras.Layer = None
        self.synthetic_input = self._make_synthetic_input(synthetic_input)
        self._trainable_parts: tuple[bool, ...] | None = None  # what to restore of the synthesizer
        if not kwargs.get("trainable", True):
            self.trainable = False
        self.supports_masking = True
        self._initial_mix = gradients.check_mix(mix)
        self._mix: _keras.Knob | None = None
        self._shape: Shape = ()
        self._warned = False
        self._mix_read = ""  # as a constant, where
        self._input_dtypes: Nested = None  # of the module's inputs, once the interface has been called
        _keras.register_step(self)

    @property
    def trainable(self) -> bool:
        """Whether the *module* is trained: `trainable` of the layer, of which it is another name.

        The synthesizer teaches the modules below. So it goes on learning above a frozen module, and has
        a `trainable` of its own.
        """
        return self.layer.trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self.layer.trainable = value

    @property
    def predictors(self) -> list[keras.Layer]:
        """What learns at the interface: the synthesizer, and what predicts the interface, if that is."""
        return [part for part in (self.synthesizer, self.synthetic_input) if part is not None]

    @property
    def fits_gradient(self) -> bool:
        """Whether the synthesizer regresses on the gradient that arrives at the interface."""
        return True

    @property
    def of_error(self) -> bool:
        """Whether the module receives what is made of the error of the model's output, and nothing learns."""
        return getattr(self.synthesizer or self._recipe, "of_error", False)

    @property
    def needed_label(self) -> labels.Label | None:
        """The kind of label that has to come with a batch; None for none."""
        return None if self.of_error else self.label

    @property
    def local(self) -> bool:
        """Whether the synthesizer learns from nothing that comes from above."""
        return not (self.fits_loss or self.fits_gradient)

    @property
    def mix(self) -> float:
        """Share of the predicted gradient in what the module receives, a float from 0 to 1.

        Where it is assigned, the next call of `fit` or `train_on_batch` has it. `MixSchedule` moves it within
        one.
        """
        return self._initial_mix if self._mix is None else float(ops.convert_to_numpy(self._mix.variable))

    @mix.setter
    def mix(self, mix: float) -> None:
        mix = gradients.check_mix(mix)
        if self._mix is None and self._mix_read == "in a plain model":
            raise ValueError(
                f"Training functions hold mix={self.mix} of interface {self.name!r} as a constant. Call "
                f"move_mix({mix}) and compile the model anew, or make it a keras_sg.DecoupledModel, which "
                f"notices. Received: mix={mix} after a training step of a model that is none."
            )
        if self._mix is None and not self._mix_read:
            self._initial_mix = mix
        else:
            self.move_mix(mix)

    @property
    def mix_moves(self) -> bool:
        """Whether `mix` is a variable of the training step, rather than a constant."""
        return self._mix is not None

    def move_mix(self, mix: float) -> bool:
        """Give `mix` another value.

        It is a constant of the training step until it is moved for the first time, and a variable
        from then on. That variable is not saved with the weights; the configuration has its value.
        (Nor is it among the layer's `weights`, but on JAX, where it has to be.)

        Args:
            mix: a float from 0 to 1.

        Returns:
            Whether training functions that exist already still hold the old value as a constant.
        """
        mix = gradients.check_mix(mix)
        stale = self._mix is None
        if self._mix is None:
            self._mix = _keras.Knob(self, "mix", mix)
        self._mix.variable.assign(mix)
        return stale

    def rematerialized_call(self, layer_call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The call as it is: in a `keras.RematScope` the module runs again, the interface does not."""
        return layer_call

    def save_own_variables(self, store: Any) -> None:
        """Nothing: layer and synthesizer save theirs, and `mix` is in the configuration."""

    def load_own_variables(self, store: Any) -> None:
        """Nothing; see `save_own_variables`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.built and args:
            self._input_dtypes = keras.tree.map_structure(_dtype, args[0])
        return super().__call__(*args, **kwargs)

    def get_build_config(self) -> Config | None:
        config = super().get_build_config()
        predicted = self.synthetic_input
        given = {} if predicted is None or not predicted.built else {"network_input": predicted.given}
        return config and {**config, "input_dtypes": self._input_dtypes, **given}

    def build_from_config(self, config: Config | None) -> None:
        self._input_dtypes = (config or {}).get("input_dtypes")
        super().build_from_config(config)
        given = (config or {}).get("network_input")
        if given is not None and self.synthetic_input is not None and not self.synthetic_input.built:
            self.synthetic_input.build(tuple(given), self._shape)

    def build(self, input_shape: Nested) -> None:
        shape = self._shape = self._interface_shape(input_shape)
        if self.label is not None:
            self.label = self.label.at(weights.positions_of(shape, self.feature_axis))
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.dtype_policy)
        try:
            with keras.name_scope(synthesizers.SCOPE):
                self.synthesizer = self._make_synthesizer(shape)
                # A call, which builds it in whatever way it is made to be built.
                predicted = self.synthesizer(self._seen_by_synthesizer(shape))
        finally:
            keras.config.set_dtype_policy(policy)
        owners.claim(self.synthesizer)
        for part, trainable in zip(_keras.with_sublayers(self.synthesizer), self._trainable_parts or ()):
            part.trainable = trainable
        self._check_prediction(shape, tuple(getattr(predicted, "shape", ())))

    def enter(self, model: keras.Model) -> None:
        """Be told what model it is in, as it trains; build what predicts the interface from a model's input.

        Raises:
            ValueError: it cannot be predicted from that model's input, or receive the error of its outputs.
        """
        if self.synthetic_input is not None:
            self.synthetic_input.enter(model, self._shape)
        if not self.of_error or self.label is None:
            return
        sizes = [tuple(output.shape[1:]) for output in model.outputs]
        if len(sizes) != 1 or None in sizes[0] or math.prod(sizes[0]) != self.label.size:
            raise ValueError(
                f"Interface {self.name!r} receives the error of the model's output, of which there has to be "
                f"one, of {self.label.size} numbers (num_classes or label_size of the interface). Received: "
                f"model {model.name!r} with outputs of shapes {[(None, *size) for size in sizes]}."
            )

    @property
    def _label_apart(self) -> bool:
        return self.label is not None and getattr(self.synthesizer, "label_apart", False)

    @property
    def feature_axis(self) -> int:
        """The axis of the interface's features, -1 or 1."""
        return getattr(self._recipe, "axis", -1)

    def _seen_by_synthesizer(self, shape: Shape) -> Nested:
        """What the synthesizer is called with at an interface of this shape, as symbolic tensors."""
        label = () if self.label is None else (self.label.size,)
        if self._label_apart:
            shapes = [shape, (None, *label)]
            return [keras.KerasTensor(shape, self.compute_dtype) for shape in shapes]
        seen = list(shape)
        seen[self.feature_axis] += sum(label)
        return keras.KerasTensor(seen, self.compute_dtype)

    def _make_synthesizer(self, shape: Shape) -> keras.Layer:
        own = isinstance(self._recipe, synthesizers.Synthesizer)
        synthesizer = self._recipe(shape, self.label) if own else self._recipe(shape)
        if not isinstance(synthesizer, keras.Layer):
            raise ValueError(
                "A callable synthesizer must return a Keras layer for the interface's shape. "
                f"Received: {synthesizer!r} (of type {type(synthesizer).__name__}) for shape {shape}."
            )
        if not own:
            # A plain callable has no configuration to save; the layer that it made has.
            self._recipe = synthesizers.Existing(synthesizer)
        return synthesizer

    def _output_spec(self, input_shape: Nested) -> Nested:
        """The layer's symbolic output for inputs of such shapes, and of the dtypes that it is called with."""
        dtypes = iter(keras.tree.flatten(self._input_dtypes))
        inputs = keras.tree.map_shape_structure(
            lambda shape: keras.KerasTensor(shape, dtype=next(dtypes, None) or self.compute_dtype),
            input_shape,
        )
        return self.layer.compute_output_spec(inputs)

    def compute_output_shape(self, input_shape: Nested) -> Shape:
        return self._output_spec(input_shape).shape

    def _interface_shape(self, input_shape: Nested) -> Shape:
        """Build the wrapped layer; the shape of its output, or a `ValueError` if it is no interface."""
        needed = needed_inputs(self.layer)
        if len(needed) > 1:
            raise ValueError(
                f"An interface wraps a layer that is called with one input (or one list of inputs). Cut "
                f"behind another layer, or wrap a keras.Model around this one. Received: {self.layer.name!r} "
                f"(of type {type(self.layer).__name__}), which is called with {needed}."
            )
        super().build(input_shape)
        output = self._output_spec(input_shape)
        if not isinstance(output, keras.KerasTensor):
            raise ValueError(
                f"An interface is one tensor, but layer {self.layer.name!r} has several outputs. "
                f"Wrap a layer that has one. Received: {output!r}."
            )
        if len(output.shape) < 2 or output.shape[self.feature_axis] is None:
            raise ValueError(
                "An interface has shape (batch, ..., features) with a known number of features. "
                f"Received: layer {self.layer.name!r} with output of shape {tuple(output.shape)}."
            )
        if "float" not in output.dtype:
            raise ValueError(
                "Gradients only exist for floating point interfaces. "
                f"Received: layer {self.layer.name!r} with output of dtype {output.dtype}."
            )
        return tuple(output.shape)

    def _check_prediction(self, shape: Shape, predicted: Shape) -> None:
        """Raise `ValueError` unless that shape of a prediction fits an interface of this shape."""

    def call(
        self,
        inputs: Nested,
        *args: Any,
        training: bool | None = None,
        decoupled_step: Step | None = None,
        **kwargs: Any,
    ) -> Tensor:
        h = self.layer(inputs, *args, **kwargs)
        if not training:
            return self._idle(h)
        if decoupled_step is not None and decoupled_step.forward_only:
            return self._hand_up(h, h, None, decoupled_step)
        return self.meet(h, decoupled_step)

    @abc.abstractmethod
    def meet(self, h: Tensor, decoupled_step: Step | None) -> Tensor:
        """What happens at the interface in training, apart from the layer in front of it.

        Args:
            h: the layer's output, `(batch, ..., features)`, with its mask, if it has one.
            decoupled_step: the training step, or None in a plain model.

        Returns:
            `h`, on the way back from which the layer receives what the synthesizer predicts.
        """

    def _idle(self, h: Tensor) -> Tensor:
        """`h`, outside training; warns, once, where a model never says that it trains."""
        model = _keras.entry_layer()
        if isinstance(model, keras.Model) and not self._warned:
            parameters = inspect.signature(model.call).parameters.values()
            if not any(p.name == "training" or p.kind is p.VAR_KEYWORD for p in parameters):
                self._warned = True
                warnings.warn(
                    f"Interface {self.name!r} is idle: the `call` of model {model.name!r} (of type "
                    f"{type(model).__name__}) takes no `training` argument, so Keras does not tell its "
                    "layers that they train, and fit() is plain backpropagation. Write call(self, inputs, "
                    "training=None).",
                    stacklevel=2,
                )
        return h

    def _label_rows(self, step: Step | None, h: Tensor) -> Tensor | None:
        """The label as the synthesizer sees it, `(batch, size)` or `(batch, ..., size)`, or None."""
        if self.label is None:
            return None
        if step is None:
            raise ValueError(
                f"The conditional interface {self.name!r} (num_classes={self.num_classes}, label_size="
                f"{self.label_size}) needs the labels, which only the training step of a "
                f"keras_sg.DecoupledModel hands to it. {WAYS_OUT} Received: a training call without labels."
            )
        rows = self.label.rows(step.labels, h.dtype, step.ignored)
        per_position = getattr(self.synthesizer, "per_position", not self._label_apart)
        if len(rows.shape) > 2 and not per_position:
            raise ValueError(
                f"The synthesizer of interface {self.name!r} takes one label an example, and there is one "
                "for each position. Give it the recipe keras_sg.synthesizers.Critic(per_position=True), or a "
                "synthesizer that sees labels as features. Received: labels of the shape "
                f"{tuple(step.labels.shape)}."
            )
        return step.matching(rows, h, self.name, "labels")

    def _weight(self, h: Tensor, step: Step | None) -> Weight | None:
        """How much each position of the interface counts; None where all of it counts once."""
        outputs = () if step is None else step.weights_at(self, h)
        return weights.at_interface(h, self.feature_axis, outputs, _keras.mask_of(h))

    def _predict(self, h: Tensor, rows: Tensor | None, weight: Weight | None, step: Step | None) -> Tensor:
        """Call the synthesizer, in training mode, on the interface and the label."""
        if weight is not None:
            h = ops.where(weight.counts, h, ops.zeros_like(h))
        if rows is None:
            inputs = h
        else:
            inputs = [h, rows] if self._label_apart else labels.append(h, rows, self.feature_axis)
        if weight is not None and self._takes_mask:
            _keras.with_mask(h if self._label_apart and rows is not None else inputs, weight.mask(h))
        return self.synthesizer(inputs, training=True) if step is None else step.predict(self, inputs)

    @functools.cached_property
    def _takes_mask(self) -> bool:
        """Whether the synthesizer can be told what counts, by a mask, for the statistics that it takes."""
        layers = [self.synthesizer, *_keras.sublayers(self.synthesizer)]
        # What holds layers hands the mask on to them; Keras would warn. So does the synthesizer itself.
        holders = [layer for layer in layers if _keras.is_graph(layer) or layer is self.synthesizer]
        inner = [
            layer
            for layer in layers
            if layer not in holders and not isinstance(layer, keras.layers.InputLayer)
        ]
        # Some have other masks than one that says of every position whether it is there.
        if self.feature_axis != -1 or not all(layer.supports_masking for layer in inner):
            return False
        if any(isinstance(layer, _OTHER_MASKS) for layer in layers):
            return False
        for holder in holders:
            holder.supports_masking = True
        return True

    def _exchange(
        self, h: Tensor, synthetic: Tensor, factor: Tensor | None, weight: Weight | None, step: Step | None
    ) -> Tensor:
        """`h`, on the way back from which the module receives the predicted gradient.

        Args:
            h: the module's output.
            synthetic: the predicted gradient per example, shape of `h`, times the weights.
            factor: factor of its regression, or None for no regression.
            weight: how much each position counts, or None.
            step: the training step, or None.
        """
        counts = None if weight is None else weight.counting_elements(h.shape[self.feature_axis])
        if step is not None and step.probing:
            tapped = step.tap(h)
            step.add_gradient(self, tapped, None, synthetic, factor, weight)
            return _keras.copy_mask(h, tapped)
        mix = self._mix_of(step)
        regressed = synthetic if step is None else step.regressed(self, synthetic)
        exchanged, anchor = gradients.replace_gradient(
            h, regressed, self.loss, mix, 0.0 if factor is None else factor, counts
        )
        if step is not None:
            exchanged, anchor = step.tap(exchanged), step.tap(anchor)
            step.add_gradient(self, exchanged, anchor, synthetic, factor, weight)
        self.add_loss(anchor)
        return self._hand_up(h, _keras.copy_mask(h, exchanged), weight, step)

    def _hand_up(self, h: Tensor, exchanged: Tensor, weight: Weight | None, step: Step | None) -> Tensor:
        """What enters the module above: `exchanged`, or what is predicted of it from the network's input.

        What arrives at the prediction on the way back arrives at `exchanged`, and at nothing that predicts.
        """
        if self.synthetic_input is None:
            return exchanged
        if step is None:
            raise ValueError(
                f"Interface {self.name!r} hands a prediction from the network's input to the module above "
                "(synthetic_input), and that input it only has from the training step of a "
                f"keras_sg.DecoupledModel. {WAYS_OUT} Received: a training call without a training step."
            )
        predicted = step.matching(self.synthetic_input(step.inputs), h, self.name, "inputs")
        step.add_input(self, predicted, ops.stop_gradient(h), weight)
        entering = ops.cast(ops.stop_gradient(predicted), exchanged.dtype)
        entering += exchanged - ops.stop_gradient(exchanged)
        return _keras.copy_mask(h, entering)

    def _mix_of(self, step: Step | None) -> float | Tensor:
        """`mix` in a training step: a constant until it is moved, a tensor from then on."""
        if self._mix is not None:
            return ops.copy(self._mix.variable)
        self._mix_read = "in a plain model" if step is None else self._mix_read or "in a decoupled model"
        return self._initial_mix

    def compute_mask(self, inputs: Nested, previous_mask: Nested) -> Nested:
        return self.layer.compute_mask(inputs, previous_mask) if self.layer.supports_masking else None

    def get_config(self) -> Config:
        parts = self._trainable_parts
        if self.synthesizer is not None:
            parts = tuple(part.trainable for part in _keras.with_sublayers(self.synthesizer))
        source = self.labels_from
        return {
            **super().get_config(),
            **({} if source is None else {"labels_from": label_sources.serialize(source)}),
            **self._serialized_input(),
            "keras_sg_version": __version__,
            "synthesizer": self._serialized_synthesizer(),
            "synthesizer_trainable": parts and list(parts),
            "num_classes": self.num_classes,
            "label_size": self.label_size,
            "loss": self.loss,
            "mix": self.mix,
            "update_period": self.update_period,
        }

    @classmethod
    def from_config(cls, config: Config, custom_objects: dict[str, Any] | None = None) -> Self:
        config = dict(config)
        check_readable(config.pop("keras_sg_version", None))
        config.pop("trainable", None)  # the layer's configuration says it, of each layer inside it
        parts = config.pop("synthesizer_trainable", None)
        parts_of_input = config.pop("synthetic_input_trainable", [])
        if "labels_from" in config:
            config["labels_from"] = label_sources.deserialize(config["labels_from"])
        interface = super().from_config(config, custom_objects=custom_objects)
        interface._trainable_parts = None if parts is None else tuple(parts)
        if interface.synthetic_input is not None:
            interface.synthetic_input.trainable_parts = parts_of_input
        return interface

    def _make_synthetic_input(self, identifier: Any) -> SyntheticInput | None:
        if identifier is None:
            return None
        if not self.between_layers:
            raise ValueError(
                f"Interface {self.name!r} (of type {type(self).__name__}) lies between windows of time: "
                f"no module above waits. Leave synthetic_input out. Received: synthetic_input={identifier!r}."
            )
        if self.update_period > 1:
            raise ValueError(
                f"What predicts interface {self.name!r} from the network's input learns in every step, its "
                f"synthesizer in one of {self.update_period}. Use synthetic_input without update_period. "
                f"Received: synthetic_input={identifier!r}, update_period={self.update_period}."
            )
        recipe = synthesizers.get_input(identifier)
        return SyntheticInput(recipe, name=f"{self.name}_synthetic_input", dtype=self.dtype_policy)

    def _serialized_input(self) -> Config:
        if self.synthetic_input is None:
            return {}
        made = self.synthetic_input
        return {
            "synthetic_input": self._serialized(made.recipe, "synthetic_input", made.predictor),
            "synthetic_input_trainable": made.trainable_parts,
        }

    def _serialized_synthesizer(self) -> Any:
        return self._serialized(self._recipe, "synthesizer", self.synthesizer)

    def _serialized(self, recipe: Any, role: str, made: keras.Layer) -> Any:
        try:
            return synthesizers.serialize(recipe)
        except (NotImplementedError, TypeError, ValueError) as error:
            source = getattr(recipe, "layer", recipe)  # a layer that stands for itself
            raise ValueError(
                f"The {role} of interface {self.name!r} cannot be written to a file. Give its class a "
                "get_config() and decorate it with @keras.saving.register_keras_serializable(). Received: a "
                f"{role} of type {type(source).__name__} ({made!r})."
            ) from error


def interfaces_in(layer: keras.Layer) -> list[Interface]:
    """The interfaces inside `layer`, at any depth, itself among them, each once, in order."""
    found = [inner for inner in (layer, *_keras.sublayers(layer)) if isinstance(inner, Interface)]
    return list({id(interface): interface for interface in found}.values())


def _check_period(update_period: int) -> int:
    if (
        isinstance(update_period, bool)
        or not isinstance(update_period, numbers.Integral)
        or update_period < 1
    ):
        raise ValueError(
            "`update_period` says in which steps the synthesizer learns (1: in each, 10: in every tenth), an "
            f"integer of at least 1. Received: update_period={update_period!r} "
            f"(of type {type(update_period).__name__})."
        )
    return int(update_period)


def _dtype(leaf: Any) -> str | None:
    """The dtype in which a layer sees an input of the interface that is not a float; None for floats."""
    dtype = keras.backend.standardize_dtype(leaf.dtype) if hasattr(leaf, "dtype") else None
    return None if dtype is None or "float" in dtype else dtype


def needed_inputs(layer: keras.Layer) -> list[str]:
    """The arguments that a layer cannot be called without; an interface wraps layers that have one."""
    return [p.name for p in inspect.signature(layer.call).parameters.values() if _is_needed(p)]


def _is_needed(parameter: inspect.Parameter) -> bool:
    positional = parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    return positional and parameter.default is parameter.empty
