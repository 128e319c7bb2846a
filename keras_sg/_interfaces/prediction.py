"""How an interface has its synthesizer made, and what it is called with: labels and masks among it."""

import functools
from typing import Any

import keras
from keras import ops

from keras_sg import _keras, labels, synthesizers
from keras_sg._interfaces import checks
from keras_sg._interfaces.step import Step
from keras_sg._interfaces.weights import Weight
from keras_sg._types import Mixin, Nested, Shape, Tensor

# What an error says to a training call that no training step of ours has made.
WAYS_OUT = (
    "To train, build the model as keras_sg.DecoupledModel(inputs, outputs), or with keras_sg.decouple(...), "
    "and call its fit() or train_on_batch(); a loss of your own (distillation, for one) belongs in the "
    "compute_loss of a subclass. To sample with dropout, call keras_sg.strip(model)(x, training=True)."
)

# Layers that read a mask otherwise than as one boolean for each position.
_OTHER_MASKS = (keras.layers.Softmax, keras.layers.TimeDistributed)


class Predicting(Mixin):
    """Mixed into `Interface`: all that concerns its synthesizer alone."""

    _recipe: Any

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
        seen: Nested
        if self._label_apart:
            seen = [keras.KerasTensor(each, self.compute_dtype) for each in (shape, (None, *label))]
        else:
            features = list(shape)
            features[self.feature_axis] += sum(label)
            seen = keras.KerasTensor(features, self.compute_dtype)
        if not self.sees_input:
            return seen
        return [keras.KerasTensor(self._recipe.shape_at(shape), self.compute_dtype), seen]

    def _check_seen_input(self, model: keras.Model) -> None:
        """Raise `ValueError` unless a model's input is the one that the synthesizer was made to see."""
        way_out = "take a synthesizer that does not see it"
        given = checks.network_input(self.name, "has a synthesizer that sees", way_out, model)
        if not self._recipe.takes(given[1:]):
            raise ValueError(
                f"The synthesizer of interface {self.name!r} was made to see inputs of shape "
                f"{self._recipe.input_shape} (input_shape of WithInput). Received: model {model.name!r} with "
                f"inputs of shape {given[1:]}."
            )

    def _input_rows(self, h: Tensor, weight: Weight | None, step: Step | None) -> Tensor:
        """The network's input as the synthesizer sees it: zero in examples that do not count."""
        if step is None:
            raise ValueError(
                f"The synthesizer of interface {self.name!r} sees the network's input, which nothing but the "
                f"training step of a keras_sg.DecoupledModel hands to it. {WAYS_OUT} Received: a training "
                "call without a training step."
            )
        x = step.matching(step.inputs, h, self.name, "inputs")
        x = ops.stop_gradient(ops.cast(x, self.compute_dtype))
        if weight is None:
            return x
        counts = ops.reshape(weight.counting_examples, (-1, *(1,) * (len(x.shape) - 1)))
        return ops.where(counts, x, ops.zeros_like(x))

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
        if self.sees_input:
            inputs = [self._input_rows(h, weight, step), inputs]
        return self.synthesizer(inputs, training=True) if step is None else step.predict(self, inputs)

    @functools.cached_property
    def _takes_mask(self) -> bool:
        """Whether the synthesizer can be told what counts, by a mask, for the statistics that it takes."""
        # What makes a context of the network's input has positions of its own.
        told = self.synthesizer.synthesizer if self.sees_input else self.synthesizer
        layers = [told, *_keras.sublayers(told)]
        # What holds layers hands the mask on to them; Keras would warn. So does the synthesizer itself.
        holders = [layer for layer in layers if _keras.is_graph(layer) or layer is told]
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
