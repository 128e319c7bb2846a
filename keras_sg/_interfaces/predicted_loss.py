"""`SyntheticLoss`, and what it shares with other interfaces whose synthesizer predicts a loss an example."""

import math
from typing import Any

import keras
from keras import ops

from keras_sg._backends import derivatives
from keras_sg._interfaces.interface import Interface
from keras_sg._interfaces.prediction import WAYS_OUT
from keras_sg._interfaces.step import Step
from keras_sg._types import Config, Shape, Tensor
from keras_sg.synthesizers import Identifier


class PredictedLoss(Interface):
    """What the interfaces share whose synthesizer predicts a loss per example, which the module descends."""

    predicts_loss = True

    def _check_prediction(self, shape: Shape, predicted: Shape) -> None:
        if predicted not in ((shape[0],), (shape[0], 1)):
            raise ValueError(
                f"The synthesizer of interface {self.name!r} must predict one loss an example, "
                f"shape {(shape[0],)} or {(shape[0], 1)}, at an interface of shape {shape}. Received: "
                f"{self.synthesizer.name!r} with output of shape {predicted}."
            )

    def meet(self, h: Tensor, decoupled_step: Step | None) -> Tensor:
        rows = self._label_rows(decoupled_step, h)
        weight = self._weight(h, decoupled_step)

        def predict(h: Tensor) -> Tensor:
            value = _flat(self._predict(h, rows, weight, decoupled_step))
            return value if weight is None else weight.of_examples(value)

        value, synthetic = derivatives.value_and_gradient(predict, ops.stop_gradient(h), self.synthesizer)
        if weight is not None:
            synthetic = weight.of_positions(synthetic)
        if decoupled_step is not None:
            decoupled_step.add_loss(self, value, weight)
        if self.fits_gradient:
            # The sum over the elements, where the primitive's regression is the mean.
            elements = math.prod(ops.shape(h)[1:])
            if weight is not None:
                elements = weight.elements(h.shape[self.feature_axis])
            return self._exchange(h, synthetic, elements, weight, decoupled_step)
        return self._exchange(h, ops.stop_gradient(synthetic), None, weight, decoupled_step)


@keras.saving.register_keras_serializable(package="keras_sg")
class SyntheticLoss(PredictedLoss):
    """Wraps a module so that it descends a predicted loss.

    In training, with `h` the module's output, the synthesizer predicts one loss per example,
    `l_hat(h)`. The module descends the mean of `l_hat(h)`; nothing else reaches it. The
    synthesizer regresses `l_hat(h)` on the prediction of the next `SyntheticLoss` the model
    meets, and the last one on the example's own loss. Outside training the layer is the module. Of
    an example with the weight `w`, `w * l_hat(h)` takes the place of `l_hat(h)` in all of that.

    It needs a `keras_sg.DecoupledModel`, which makes those pairs.

    Args:
        layer: as for `SyntheticGradient`.
        synthesizer: `"critic"` (which needs `num_classes` or `label_size`), `"value"`, a recipe, a
            Keras layer or model, or a callable from the interface's shape to a layer. Its output
            must be one number an example, shape `(batch,)` or `(batch, 1)`.
        num_classes: as for `SyntheticGradient`.
        label_size: as for `SyntheticGradient`.
        loss: regression loss between predicted losses, and between gradients if `sobolev`:
            `"mse"`, `"mae"` or `"huber"`.
        sobolev: whether the synthesizer also fits the gradient: `d l_hat / d h` is regressed on
            the gradient that arrives at the interface, as a `SyntheticGradient`'s prediction is,
            summed over the elements of `h` and averaged over the batch.
        mix: as for `SyntheticGradient`.
        update_period: as for `SyntheticGradient`.
        **kwargs: as for `SyntheticGradient`.

    Call arguments:
        inputs, *args, **kwargs: handed on to the layer.
        training: boolean; the interface is active when it is True.

    Output shape:
        The layer's.

    Attributes:
        layer: the wrapped layer.
        synthesizer: the synthesizer, a Keras layer once the interface is built.
        trainable: whether the layer is trained. The synthesizer, from which the modules below learn,
            is trained unless its own `trainable` is False.

    Raises:
        ValueError: as for `SyntheticGradient`; or the synthesizer predicts a gradient; or it is trained
            outside a `DecoupledModel`.

    Example:

    ```python
    import keras, keras_sg
    import numpy as np

    inputs = keras.Input((8,))
    hidden = keras_sg.SyntheticLoss(keras.layers.Dense(16, activation="relu"), num_classes=3)(inputs)
    model = keras_sg.DecoupledModel(inputs, keras.layers.Dense(3, activation="softmax")(hidden))
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(np.ones((32, 8)), np.zeros(32, "int32"), verbose=0)
    ```

    References:
        r2rt, "Synthetic Gradients with Tensorflow", section on the synthetic loss; Czarnecki et
        al. 2017, Sobolev Training, https://arxiv.org/abs/1706.04859, section on synthetic
        gradients (the critic).
    """

    fits_loss = True

    def __init__(
        self,
        layer: keras.Layer,
        synthesizer: Identifier = "critic",
        num_classes: int | None = None,
        label_size: int | None = None,
        loss: str = "mse",
        sobolev: bool = False,
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
        if not isinstance(sobolev, bool):
            raise ValueError(f"`sobolev` must be True or False. Received: sobolev={sobolev!r}.")
        self.sobolev = sobolev

    @property
    def fits_gradient(self) -> bool:
        return self.sobolev

    def meet(self, h: Tensor, decoupled_step: Step | None) -> Tensor:
        if decoupled_step is None:
            raise ValueError(
                f"The synthetic loss {self.name!r} learns from the prediction of the next one, or from "
                "the loss, which only the training step of a keras_sg.DecoupledModel hands to it. "
                f"{WAYS_OUT} Received: a training call without a training step."
            )
        return super().meet(h, decoupled_step)

    def get_config(self) -> Config:
        return {**super().get_config(), "sobolev": self.sobolev}


def _flat(predicted: Tensor) -> Tensor:
    return ops.cast(ops.reshape(predicted, (-1,)), keras.config.floatx())
