"""Interfaces: where a network is cut, and what crosses the cut backwards.

`SyntheticGradient` and `SyntheticLoss` wrap the module that ends at the interface. Going
forward they are the module. Going backward, in training, the module learns from what the
interface's synthesizer predicts instead of from what comes down through the rest of the model.
"""

import keras
from keras import ops

from keras_sg import _keras, gradients
from keras_sg.interface import Interface


@keras.saving.register_keras_serializable(package="keras_sg")
class SyntheticGradient(Interface):
    """Wraps a module so that it learns from a predicted gradient, not from the layers above it.

    In training, with `h` the module's output, `g_hat(h)` the synthesizer's prediction of the
    gradient per example and `t` the gradient per example that really arrives at `h`,

        the module receives       mix * g_hat(h) + (1 - mix) * t
        the synthesizer descends  loss(g_hat(h), t)

    Where another interface lies above, `t` is that interface's synthetic gradient carried back
    through the module between (bootstrapping). Outside training the layer is the module.

    The layer works in any `keras.Model` under plain `compile` and `fit`. A conditional one
    (`num_classes`) needs the labels and therefore a `keras_sg.DecoupledModel`.

    Args:
        layer: layer or model that ends at the interface. One float output of shape
            `(batch, ..., features)`.
        synthesizer: `"linear"`, `"mlp"`, a recipe such as
            `keras_sg.synthesizers.MLP(widths=(256,))`, a Keras layer or model, or a callable
            from the interface's shape to a layer. Its output must have the interface's shape. A
            model that is built already is copied, with its weights.
        num_classes: None, or an integer of at least 2: the synthesizer then sees the one-hot
            label behind the features. Labels may be integers `(batch,)` or `(batch, 1)`, or
            one-hot rows `(batch, num_classes)`.
        loss: the synthesizer's regression loss, `"mse"`, `"mae"` or `"huber"`, averaged over
            all elements.
        mix: share of the synthetic gradient in what the module receives, from 0 (plain
            backpropagation) to 1.
        **kwargs: `name` (by default the wrapped layer's), `dtype`, `trainable`.

    Call arguments:
        inputs, *args, **kwargs: handed on to the layer.
        training: boolean; the interface is active when it is True.

    Output shape:
        The layer's.

    Attributes:
        layer: the wrapped layer.
        synthesizer: the synthesizer, a Keras layer once the interface is built.

    Raises:
        ValueError: an argument is not as described; the layer's output cannot be an interface;
            the synthesizer's output has another shape; a conditional interface is trained
            outside a `DecoupledModel`, or with labels that are not class labels.

    Example:

    ```python
    import keras, keras_sg
    import numpy as np

    inputs = keras.Input((8,))
    hidden = keras_sg.SyntheticGradient(keras.layers.Dense(16, activation="relu"))(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    model.compile("adam", "mse")
    model.fit(np.ones((32, 8)), np.ones((32, 1)), verbose=0)
    ```

    References:
        Jaderberg et al. 2016, https://arxiv.org/abs/1608.05343, section 2.1.
    """

    def __init__(self, layer, synthesizer="linear", num_classes=None, loss="mse", mix=1.0, **kwargs):
        super().__init__(layer, synthesizer, num_classes=num_classes, loss=loss, **kwargs)
        self.mix = gradients.check_mix(mix)

    def _check_prediction(self, shape, predicted):
        if predicted != shape:
            raise ValueError(
                f"The synthesizer of interface {self.name!r} must predict a gradient of the "
                f"interface's shape, {shape}. Received: {self.synthesizer.name!r} with output of "
                f"shape {predicted}."
            )

    def call(self, inputs, *args, training=None, decoupled_step=None, **kwargs):
        h = self.layer(inputs, *args, **kwargs)
        if not training:
            return h
        synthetic = self.synthesizer(self._synthesizer_inputs(h, decoupled_step))
        exchanged, anchor = gradients.replace_gradient(h, synthetic, loss=self.loss, mix=self.mix)
        self.add_loss(anchor)
        if decoupled_step is not None:
            decoupled_step.add_gradient(self, exchanged, anchor, synthetic)
        return _keras.copy_mask(h, exchanged)

    def get_config(self):
        return {**super().get_config(), "mix": self.mix}


@keras.saving.register_keras_serializable(package="keras_sg")
class SyntheticLoss(Interface):
    """Wraps a module so that it descends a predicted loss.

    In training, with `h` the module's output, the synthesizer predicts one loss per example,
    `l_hat(h)`. The module descends the mean of `l_hat(h)`; nothing else reaches it. The
    synthesizer regresses `l_hat(h)` on the prediction of the next `SyntheticLoss` the model
    meets, and the last one on the example's own loss. Outside training the layer is the module.

    It needs a `keras_sg.DecoupledModel`, which makes those pairs.

    Args:
        layer: as for `SyntheticGradient`.
        synthesizer: `"value"`, a recipe, a Keras layer or model, or a callable from the
            interface's shape to a layer. Its output must be one number an example, shape
            `(batch,)` or `(batch, 1)`.
        num_classes: as for `SyntheticGradient`.
        loss: regression loss between predicted losses: `"mse"`, `"mae"` or `"huber"`.
        **kwargs: `name` (by default the wrapped layer's), `dtype`, `trainable`.

    Call arguments:
        inputs, *args, **kwargs: handed on to the layer.
        training: boolean; the interface is active when it is True.

    Output shape:
        The layer's.

    Attributes:
        layer: the wrapped layer.
        synthesizer: the synthesizer, a Keras layer once the interface is built.

    Raises:
        ValueError: as for `SyntheticGradient`; or it is trained outside a `DecoupledModel`.

    Example:

    ```python
    import keras, keras_sg
    import numpy as np

    inputs = keras.Input((8,))
    hidden = keras_sg.SyntheticLoss(keras.layers.Dense(16, activation="relu"))(inputs)
    model = keras_sg.DecoupledModel(inputs, keras.layers.Dense(1)(hidden))
    model.compile("adam", "mse")
    model.fit(np.ones((32, 8)), np.ones((32, 1)), verbose=0)
    ```

    References:
        r2rt, "Synthetic Gradients with Tensorflow", section on the synthetic loss; Czarnecki et
        al. 2017, Sobolev Training, https://arxiv.org/abs/1706.04859, section on synthetic
        gradients (the critic).
    """

    def __init__(self, layer, synthesizer="value", num_classes=None, loss="mse", **kwargs):
        super().__init__(layer, synthesizer, num_classes=num_classes, loss=loss, **kwargs)

    def _check_prediction(self, shape, predicted):
        if predicted not in ((shape[0],), (shape[0], 1)):
            raise ValueError(
                f"The synthesizer of interface {self.name!r} must predict one loss an example, "
                f"shape {(shape[0],)} or {(shape[0], 1)}, at an interface of shape {shape}. Received: "
                f"{self.synthesizer.name!r} with output of shape {predicted}."
            )

    def regression(self, predicted, target):
        """The synthesizer's regression loss, a scalar; both arguments `(batch,)`."""
        return self._regression.value(predicted, ops.stop_gradient(target))

    def call(self, inputs, *args, training=None, decoupled_step=None, **kwargs):
        h = self.layer(inputs, *args, **kwargs)
        if not training:
            return h
        if decoupled_step is None:
            raise ValueError(
                f"The synthetic loss {self.name!r} learns from the prediction of the next one, or from "
                "the loss, which only a keras_sg.DecoupledModel hands to it in training. Build the model "
                "as keras_sg.DecoupledModel(inputs, outputs), or with keras_sg.decouple(...), and train "
                "it with fit(). Received: a training call without a training step."
            )
        features = self._synthesizer_inputs(h, decoupled_step)
        decoupled_step.add_loss(self, _flat(self.synthesizer(features)))
        self.add_loss(self._descent(h, features))
        return _keras.copy_mask(h, ops.stop_gradient(h))

    def _descent(self, h, features):
        """A scalar that is zero and whose gradient moves the module, only the module, down `l_hat`."""
        # A second run of the synthesizer with its weights held still. Its BatchNormalization
        # statistics advanced in the first run; what this one makes of them is dropped.
        held = [ops.stop_gradient(variable) for variable in self.synthesizer.trainable_variables]
        others = [ops.stop_gradient(variable) for variable in self.synthesizer.non_trainable_variables]
        if self.num_classes is not None:
            h = ops.concatenate([h, features[..., h.shape[-1] :]], axis=-1)
        predicted, _ = self.synthesizer.stateless_call(held, others, h, training=True)
        mean = ops.mean(_flat(predicted))
        return mean - ops.stop_gradient(mean)


def _flat(predicted):
    return ops.cast(ops.reshape(predicted, (-1,)), keras.config.floatx())
