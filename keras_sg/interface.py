"""What every interface is made of: a module, a synthesizer, and labels for a conditional one."""

import keras
from keras import ops

from keras_sg import _keras, gradients, labels, synthesizers


class Interface(keras.layers.Wrapper):
    """What the two kinds of interface share: a layer, a synthesizer, and labels.

    Attributes:
        layer: the wrapped layer or model.
        synthesizer: the layer that predicts. A recipe becomes a layer when the interface is
            built; until then this is None.
    """

    def __init__(self, layer, synthesizer, num_classes=None, loss="mse", **kwargs):
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
        self.num_classes = labels.check_num_classes(num_classes)
        self.loss = loss
        self._regression = gradients.get_regression(loss)
        self.synthesizer = None
        self._recipe = synthesizers.get(synthesizer)
        self.supports_masking = True
        _keras.register_step(self)

    def build(self, input_shape):
        shape = self._interface_shape(input_shape)
        features = (*shape[:-1], shape[-1] + (self.num_classes or 0))
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.dtype_policy)
        try:
            with keras.name_scope(synthesizers.SCOPE):
                self.synthesizer = self._make_synthesizer(shape)
                if not self.synthesizer.built:
                    self.synthesizer.build(features)
        finally:
            keras.config.set_dtype_policy(policy)
        predicted = self.synthesizer.compute_output_spec(keras.KerasTensor(features, self.compute_dtype))
        self._check_prediction(shape, tuple(getattr(predicted, "shape", ())))

    def _make_synthesizer(self, shape):
        synthesizer = self._recipe(shape)
        if not isinstance(synthesizer, keras.Layer):
            raise ValueError(
                "A callable synthesizer must return a Keras layer for the interface's shape. "
                f"Received: {synthesizer!r} (of type {type(synthesizer).__name__}) for shape {shape}."
            )
        if not isinstance(self._recipe, synthesizers.Synthesizer):
            # A plain callable has no configuration to save; the layer that it made has.
            self._recipe = synthesizers.Existing(synthesizer)
        return synthesizer

    def _output_spec(self, input_shape):
        inputs = keras.tree.map_shape_structure(
            lambda shape: keras.KerasTensor(shape, dtype=self.compute_dtype), input_shape
        )
        return self.layer.compute_output_spec(inputs)

    def compute_output_shape(self, input_shape):
        return self._output_spec(input_shape).shape

    def _interface_shape(self, input_shape):
        """Build the wrapped layer; the shape of its output, or a `ValueError` if it is no interface."""
        try:
            super().build(input_shape)
            output = self._output_spec(input_shape)
        except TypeError as error:
            raise ValueError(
                f"An interface wraps a layer that is called with one input (or one list of inputs). Cut "
                f"behind another layer, or wrap a keras.Model around this one. Received: {self.layer.name!r} "
                f"(of type {type(self.layer).__name__}) with inputs of shape {input_shape}: {error}"
            ) from error
        if not isinstance(output, keras.KerasTensor):
            raise ValueError(
                f"An interface is one tensor, but layer {self.layer.name!r} has several outputs. "
                f"Wrap a layer that has one. Received: {output!r}."
            )
        if len(output.shape) < 2 or output.shape[-1] is None:
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

    def _check_prediction(self, shape, predicted):
        raise NotImplementedError

    def _synthesizer_inputs(self, h, step):
        """The interface as the synthesizer sees it: cut off from the module, label behind it."""
        h = ops.stop_gradient(h)
        if self.num_classes is None:
            return h
        if step is None:
            raise ValueError(
                f"The conditional interface {self.name!r} (num_classes={self.num_classes}) needs the "
                "labels, which only a keras_sg.DecoupledModel hands to it in training. Build the model "
                "as keras_sg.DecoupledModel(inputs, outputs), or with keras_sg.decouple(...), and train "
                "it with fit(). Received: a training call without labels."
            )
        return labels.append(h, labels.one_hot(step.labels, self.num_classes, h.dtype))

    def compute_mask(self, inputs, previous_mask):
        return self.layer.compute_mask(inputs, previous_mask) if self.layer.supports_masking else None

    def get_config(self):
        return {
            **super().get_config(),
            "synthesizer": synthesizers.serialize(self._recipe),
            "num_classes": self.num_classes,
            "loss": self.loss,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return super().from_config(dict(config), custom_objects=custom_objects)
