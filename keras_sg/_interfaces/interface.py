"""What every interface is made of: a module, a synthesizer, and labels for a conditional one."""

import abc
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_sg import _keras, gradients, labels, synthesizers
from keras_sg._interfaces import checks, label_sources, weights
from keras_sg._interfaces.files import InFiles
from keras_sg._interfaces.mix import Mix
from keras_sg._interfaces.prediction import WAYS_OUT, Predicting
from keras_sg._interfaces.step import Step
from keras_sg._interfaces.synthetic_input import SyntheticInput
from keras_sg._interfaces.weights import Weight
from keras_sg._optimizers import owners
from keras_sg._types import Nested, Shape, Tensor


class Interface(InFiles, Predicting, keras.layers.Wrapper):
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
        may_see_input: whether its synthesizer may see the network's input, too.
        between_layers: whether it is between a module and the next, so that it is of no use as an output of
            a model, and one batch is enough to tell the true gradient at it.
        own_arguments: names of the call arguments that the wrapped layer does not know.
    """

    predicts_loss = False
    fits_loss = False
    may_see_input = False
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
        if self.sees_input and not self.may_see_input:
            raise ValueError(
                f"What predicts at a {type(self).__name__} sees the interface, not the network's input: its "
                "gradient by the interface is what the module learns from. WithInput is for a "
                f"keras_sg.SyntheticGradient. Received: {synthesizer!r}."
            )
        if self.predicts_loss and getattr(self._recipe, "predicts", None) == "gradient":
            raise ValueError(
                f"What predicts at a {type(self).__name__} predicts a loss, as 'critic' and 'value' do. This "
                f"one predicts a gradient, for a keras_sg.SyntheticGradient. Received: {synthesizer!r}."
            )
        unit_labels = getattr(self._recipe, "unit_labels", False)
        self.label = labels.kind(num_classes, label_size, unit_labels, self.compute_dtype)
        self.num_classes = None if num_classes is None else int(num_classes)
        self.label_size = None if label_size is None else int(label_size)
        self.labels_from = label_sources.check(labels_from)
        gradients.get_regression(loss)
        self.loss: str | gradients.Regression = loss
        self.update_period = checks.check_period(update_period)
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
        self._mix = Mix(self, mix)
        self._shape: Shape = ()
        self._warned = False
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
    def sees_input(self) -> bool:
        """Whether the synthesizer sees the network's input next to the interface."""
        return getattr(self._recipe, "sees_input", False)

    @property
    def needs_input(self) -> bool:
        """Whether anything at the interface is predicted from the network's input."""
        return self.sees_input or self.synthetic_input is not None

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
        return self._mix.value

    @mix.setter
    def mix(self, mix: float) -> None:
        self._mix.assign(mix)

    @property
    def mix_moves(self) -> bool:
        """Whether `mix` is a variable of the training step, rather than a constant."""
        return self._mix.moves

    def move_mix(self, mix: float) -> bool:
        """Give `mix` another value; it is a variable of the training step from then on.

        Args:
            mix: a float from 0 to 1.

        Returns:
            Whether training functions that exist already still hold the old value as a constant.
        """
        return self._mix.move(mix)

    def rematerialized_call(self, layer_call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The call as it is: in a `keras.RematScope` the module runs again, the interface does not."""
        return layer_call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.built and args:
            self._input_dtypes = keras.tree.map_structure(_dtype, args[0])
        return super().__call__(*args, **kwargs)

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
            ValueError: it cannot be predicted from that model's input, or receive the error of its outputs;
                or its synthesizer sees another input.
        """
        if self.sees_input:
            self._check_seen_input(model)
        if self.synthetic_input is not None:
            self.synthetic_input.enter(model, self._shape)
        if not self.of_error or self.label is None:
            return
        checks.check_error(self.name, self.label.size, model)

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
        checks.check_inputs(self.layer)
        super().build(input_shape)
        output = self._output_spec(input_shape)
        checks.check_output(self.layer, output, self.feature_axis)
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

    def _weight(self, h: Tensor, step: Step | None) -> Weight | None:
        """How much each position of the interface counts; None where all of it counts once."""
        outputs = () if step is None else step.weights_at(self, h)
        return weights.at_interface(h, self.feature_axis, outputs, _keras.mask_of(h))

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
        mix = self._mix.in_step(plain=step is None)
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

    def compute_mask(self, inputs: Nested, previous_mask: Nested) -> Nested:
        return self.layer.compute_mask(inputs, previous_mask) if self.layer.supports_masking else None

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


def interfaces_in(layer: keras.Layer) -> list[Interface]:
    """The interfaces inside `layer`, at any depth, itself among them, each once, in order."""
    found = [inner for inner in (layer, *_keras.sublayers(layer)) if isinstance(inner, Interface)]
    return list({id(interface): interface for interface in found}.values())


def _dtype(leaf: Any) -> str | None:
    """The dtype in which a layer sees an input of the interface that is not a float; None for floats."""
    dtype = keras.backend.standardize_dtype(leaf.dtype) if hasattr(leaf, "dtype") else None
    return None if dtype is None or "float" in dtype else dtype
