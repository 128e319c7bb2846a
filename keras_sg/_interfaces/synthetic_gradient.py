"""`SyntheticGradient`: an interface whose synthesizer predicts the gradient."""

from typing import Any

import keras
from keras import ops

from keras_sg import _keras
from keras_sg._interfaces.interface import Interface
from keras_sg._interfaces.prediction import WAYS_OUT
from keras_sg._interfaces.step import Step
from keras_sg._types import Shape, Tensor
from keras_sg.synthesizers import Identifier


@keras.saving.register_keras_serializable(package="keras_sg")
class SyntheticGradient(Interface):
    """Wraps a module so that it learns from a predicted gradient, not from the layers above it.

    In training, with `h` the module's output, `g_hat(h)` the synthesizer's prediction of the
    gradient per example and `t` the gradient per example that really arrives at `h`,

        the module receives       mix * g_hat(h) + (1 - mix) * t
        the synthesizer descends  loss(g_hat(h), t)

    Where another interface lies above, `t` is that interface's synthetic gradient carried back
    through the module between (bootstrapping). Outside training the layer is the module.

    Of an example (or position) with the weight `w`, `w * g_hat(h)` takes the place of `g_hat(h)`, for `t`
    contains `w`, too; means are over what counts. A mask at `h` is a weight of 0
    where it is False; what else counts how much only a `DecoupledModel` knows.

    The layer works in any `keras.Model` under plain `compile` and `fit`. A conditional one
    (`num_classes`) needs the labels and therefore a `keras_sg.DecoupledModel`.

    Args:
        layer: layer or model that ends at the interface. One float output of shape
            `(batch, ..., features)`.
        synthesizer: `"linear"`, `"mlp"`, `"conv"`, `"error"`, `"feedback"`, a recipe such as
            `keras_sg.synthesizers.MLP(widths=(256,))`, a Keras layer or model, or a callable
            from the interface's shape to a layer. Its output must have the interface's shape. A
            model that is built already is copied, with its weights.
        num_classes: None, or an integer of at least 2: the synthesizer then sees the one-hot
            label behind the features. Labels may be whole numbers `(batch,)` or `(batch, 1)`, or
            one-hot (or soft) rows `(batch, num_classes)`; or one for each position of the interface,
            `(batch, ...)`, `(batch, ..., 1)` or `(batch, ..., num_classes)`.
        label_size: None, or an integer of at least 1, in place of `num_classes`: the synthesizer
            then sees the label vector, `(batch, label_size)`, behind the features: several bits
            (multi-hot), or real-valued targets.
        loss: the synthesizer's regression loss, `"mse"`, `"mae"` or `"huber"`, averaged over
            all elements.
        mix: share of the synthetic gradient in what the module receives, from 0 (plain
            backpropagation) to 1. `keras_sg.callbacks.MixSchedule` moves it during training.
        update_period: the synthesizer learns in every so many-th step, beginning with the first;
            in the others its backward pass is left out, and its weights and the state of its
            optimizer stay as they are. More than 1 needs a `DecoupledModel`.
        **kwargs: `name` (by default the wrapped layer's), `dtype`, `trainable` (False freezes the layer);
            `labels_from`, see `DecoupledModel`; and `synthetic_input`: what predicts the layer's output from
            the network's input, on which prediction the module above then trains, `"mlp"`, `"conv"`, or what
            else `keras_sg.synthesizers.get_input` takes. It needs a `DecoupledModel`.

    Call arguments:
        inputs, *args, **kwargs: handed on to the layer.
        training: boolean; the interface is active when it is True.

    Output shape:
        The layer's.

    Attributes:
        layer: the wrapped layer.
        synthesizer: the synthesizer, a Keras layer once the interface is built.
        synthetic_input: the layer that predicts the interface from the network's input, or None.
        trainable: whether the layer is trained. The synthesizer, from which the modules below learn,
            is trained unless its own `trainable` is False.

    Raises:
        ValueError: an argument is not as described; the layer's output cannot be an interface;
            the synthesizer's output has another shape; a conditional interface, or one with a
            `synthetic_input` or with `"feedback"`, is trained outside a `DecoupledModel`; or a conditional
            one with labels that are not class labels.

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
        Jaderberg et al. 2016, https://arxiv.org/abs/1608.05343, section 2.1; appendix A (complete unlock).
    """

    may_see_input = True

    def __init__(
        self,
        layer: keras.Layer,
        synthesizer: Identifier = "linear",
        num_classes: int | None = None,
        label_size: int | None = None,
        loss: str = "mse",
        mix: float = 1.0,
        update_period: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            layer,
            synthesizer,
            num_classes=num_classes,
            label_size=label_size,
            loss=loss,
            mix=mix,
            update_period=update_period,
            **kwargs,
        )

    def _check_prediction(self, shape: Shape, predicted: Shape) -> None:
        if predicted != shape:
            raise ValueError(
                f"The synthesizer of interface {self.name!r} must predict a gradient of the "
                f"interface's shape, {shape}. Received: {self.synthesizer.name!r} with output of "
                f"shape {predicted}."
            )

    @property
    def fits_gradient(self) -> bool:
        return not self.of_error

    def meet(self, h: Tensor, decoupled_step: Step | None) -> Tensor:
        if self.of_error:
            return self._await_error(h, decoupled_step)
        rows = self._label_rows(decoupled_step, h)
        if decoupled_step is None and self.update_period > 1:
            raise ValueError(
                f"The synthesizer of interface {self.name!r} learns in one of {self.update_period} steps "
                "(update_period), which only the training step of a keras_sg.DecoupledModel can arrange. "
                f"{WAYS_OUT} Received: a training call without a training step."
            )
        weight = self._weight(h, decoupled_step)
        synthetic = self._predict(ops.stop_gradient(h), rows, weight, decoupled_step)
        synthetic = synthetic if weight is None else weight.times(synthetic)
        return self._exchange(h, synthetic, 1.0, weight, decoupled_step)

    def _await_error(self, h: Tensor, step: Step | None) -> Tensor:
        """`h`, on the way back from which the module receives no more than `1 - mix` of the true gradient.

        The rest is made of the error of the outputs, once that is there.
        """
        if step is None:
            raise ValueError(
                f"Interface {self.name!r} receives the error of the model's output (synthesizer 'feedback'), "
                "which only the training step of a keras_sg.DecoupledModel hands to it. "
                f"{WAYS_OUT} Received: a training call without a training step."
            )
        if step.probing:
            tapped = step.tap(h)
            step.add_gradient(self, tapped, None, None, None, self._weight(h, step))
            return _keras.copy_mask(h, tapped)
        mix = self._mix.in_step(plain=step is None)
        step.await_error(self, h, mix)
        constant = ops.stop_gradient(h)
        share = ops.cast(1.0 - mix, h.dtype)
        passed = constant if isinstance(mix, float) and mix == 1.0 else constant + share * (h - constant)
        return self._hand_up(h, _keras.copy_mask(h, passed), self._weight(h, step), step)
