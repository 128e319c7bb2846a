"""Synthesizers that predict a loss per example, for `SyntheticLoss`."""

from collections.abc import Sequence
from typing import Any, Self

import keras
from keras import ops

from keras_sg import labels
from keras_sg._backends import dtypes
from keras_sg._types import Config, Nested, Shape, Tensor
from keras_sg.synthesizers.gradient import MLP, body, check_data_format, convolution_for
from keras_sg.synthesizers.label_losses import LABEL_LOSSES, check_loss, loss_for
from keras_sg.synthesizers.masks import MaskedAveragePooling, MaskedFlatten, MaskedMean, mean_of_counting
from keras_sg.synthesizers.recipe import (
    Synthesizer,
    check_count,
    check_widths,
    deserialize,
    feature_axis,
    serialize,
)


@keras.saving.register_keras_serializable(package="keras_sg")
class Value(MLP):
    """Predicts a loss per example: the body of `MLP`, then the square of a scalar read-out.

    For `SyntheticLoss`. The read-out starts as Dense layers ordinarily do: from zero, the
    square could not learn. The prediction of an interface with more axes is the mean over them.

    Args:
        widths: as for `MLP`.
        batch_normalization: as for `MLP`.

    References:
        r2rt, "Synthetic Gradients with Tensorflow", section on the synthetic loss.
    """

    predicts = "loss"

    def __call__(self, shape: Shape, label: labels.Label | None = None) -> keras.Layer:
        hidden = body(keras.layers.Dense, self.widths, self.batch_normalization)
        return keras.Sequential([*hidden, keras.layers.Dense(1), _SquareMean()], name="value")


@keras.saving.register_keras_serializable(package="keras_sg")
class _SquareMean(MaskedMean):
    """`(batch, ..., 1)` to `(batch,)`: square, then mean over all axes but the first."""

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        return ops.squeeze(super().call(ops.square(inputs), mask), axis=-1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape[:1]


@keras.saving.register_keras_serializable(package="keras_sg")
class Critic(Synthesizer):
    """Predicts the label from the interface; the prediction is its loss against the true label.

    A miniature of the rest of the network and of its loss: with `p(h)` the predicted distribution
    over the classes, `l_hat(h, y) = cross-entropy(y, p(h))`. What comes down is the gradient of that,
    which has the form of a true gradient from the first step on. It is conditional by nature: the
    interface must be given `num_classes` or `label_size`.

    Hidden layers are Dense at an interface `(batch, features)`, convolutions at one with more axes
    (which are then flattened; averaged where their length is not known). Behind convolutions, a
    `pool_size` leaves the read-out fewer numbers, as the network's own pooling does.

    Args:
        widths: widths of the hidden layers, or their channels: positive integers, or `()` for none.
        kernel_size: of the convolutions, a positive integer.
        batch_normalization: whether BatchNormalization stands in the hidden layers.
        loss: `"categorical_crossentropy"` (the default for classes), `"binary_crossentropy"` (the
            default for label vectors, which must then lie in [0, 1]; mean over the numbers) or
            `"mse"` (for real-valued label vectors; mean over the numbers).
        data_format: `"channels_last"` or `"channels_first"`; by default
            `keras.config.image_data_format()`.
        per_position: whether it predicts a label for each position of the interface, `(batch, ..., features)`
            with features last, rather than one an example; its loss is the mean over the positions that
            count.
        pool_size: positive integer: behind the convolutions, means over windows of so many positions along
            each axis take their place; those that do not fill a window are left out. 1 for none. Where
            lengths are not known, the mean is over all positions anyway.

    Raises:
        ValueError: an argument is not as described; or, when an interface is built with it, that
            interface is not conditional, or the loss does not fit its labels.

    Example:

    ```python
    import keras, keras_sg
    block = keras.layers.Dense(64, activation="relu")
    critic = keras_sg.synthesizers.Critic(widths=(128,))
    layer = keras_sg.SyntheticLoss(block, synthesizer=critic, num_classes=10)
    ```

    References:
        Czarnecki et al. 2017, Sobolev Training, https://arxiv.org/abs/1706.04859, section on
        synthetic gradients. `pool_size`: Nokland and Eidnes 2019, Training Neural Networks with Local
        Error Signals, https://arxiv.org/abs/1901.06656 (its prediction loss).
    """

    needs_label, predicts = True, "loss"

    def __init__(
        self,
        widths: int | Sequence[int] = (128,),
        kernel_size: int = 3,
        batch_normalization: bool = True,
        loss: str | None = None,
        data_format: str | None = None,
        per_position: bool = False,
        pool_size: int = 1,
    ) -> None:
        self.widths = check_widths("widths", widths, least=0)
        self.kernel_size = check_count("kernel_size", kernel_size)
        self.batch_normalization = batch_normalization
        self.loss = check_loss(loss, "a critic")
        self.data_format = check_data_format(data_format)
        self.axis = feature_axis(self.data_format)
        self.unit_labels = loss != "mse"
        self.per_position = per_position
        self.pool_size = check_count("pool_size", pool_size)
        if per_position and pool_size > 1:
            raise ValueError(
                "A critic predicts a label for each position, or pools positions. Received: "
                f"per_position={per_position!r} with pool_size={pool_size!r}."
            )
        if per_position and self.axis != -1:
            raise ValueError(
                "A critic that predicts a label for each position needs the features last. Received: "
                f"per_position={per_position!r} with data_format={self.data_format!r}."
            )

    def __call__(self, shape: Shape, label: labels.Label | None = None) -> keras.Layer:
        if label is None:
            raise ValueError(
                "A critic predicts the label, so its interface must be conditional: pass num_classes (for "
                "class labels) or label_size (for label vectors). "
                f"Received: {self!r} for an unconditional interface."
            )
        loss = loss_for(label, self.loss, "a critic")
        layers: list[keras.Layer] = []
        if len(shape) == 2:
            layers += body(keras.layers.Dense, self.widths, self.batch_normalization)
        else:
            convolution = convolution_for(shape, self.kernel_size, self.data_format)
            layers += body(convolution, self.widths, self.batch_normalization, self.axis)
            if not self.per_position:
                layers += [_Mean(self.axis)] if None in shape[1:] else self._flattening(shape)
        body_of_it = keras.Sequential([*layers, keras.layers.Dense(label.size)], name="body")
        return CriticLayer(body_of_it, loss, self.per_position)

    def _flattening(self, shape: Shape) -> list[keras.Layer]:
        positions = shape[1:-1] if self.axis == -1 else shape[2:]
        if min(positions) < self.pool_size:
            raise ValueError(
                "A critic pools windows that fit into the interface: `pool_size` must not exceed its "
                f"lengths, {positions}. Received: pool_size={self.pool_size} at an interface of shape "
                f"{tuple(shape)}."
            )
        pooling = [MaskedAveragePooling(self.pool_size, self.data_format)] if self.pool_size > 1 else []
        return [*pooling, MaskedFlatten()]

    def get_config(self) -> Config:
        sizes = ("widths", "kernel_size", "pool_size")
        names = ("batch_normalization", "loss", "data_format", "per_position")
        return {name: getattr(self, name) for name in (*sizes, *names)}


@keras.saving.register_keras_serializable(package="keras_sg")
class CriticLayer(keras.layers.Layer):
    """`[h, label]` to the loss per example, `(batch,)`, of the label that its body predicts from `h`.

    Where `per_position`, of the labels that it predicts for the positions of `h`: the mean of their losses.
    """

    label_apart = True

    def __init__(
        self, body: keras.Layer, loss: str, per_position: bool = False, name: str = "critic", **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.body, self.loss, self.per_position = body, loss, per_position
        self.supports_masking = True

    @property
    def unit_labels(self) -> bool:
        return self.loss == "binary_crossentropy"

    def build(self, input_shape: list[Shape]) -> None:
        self.body.build(input_shape[0])

    def call(self, inputs: list[Tensor], mask: Nested = None) -> Tensor:
        h, label = inputs
        predicted = self.body(h)
        if len(label.shape) < len(predicted.shape):  # one label for all positions
            label = ops.reshape(label, (-1, *(1,) * (len(predicted.shape) - 2), label.shape[-1]))
        wide = dtypes.wide(predicted.dtype)
        losses = LABEL_LOSSES[self.loss].value(ops.cast(label, wide), ops.cast(predicted, wide))
        return mean_of_counting(losses[..., None], None if mask is None else mask[0])[..., 0]

    def compute_mask(self, inputs: list[Tensor], previous_mask: Nested) -> None:
        """Nothing: a loss per example has no positions."""

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        return input_shape[0][:1]

    def get_config(self) -> Config:
        own = {"body": serialize(self.body), "loss": self.loss, "per_position": self.per_position}
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        return cls(**{**config, "body": deserialize(config["body"])})


@keras.saving.register_keras_serializable(package="keras_sg")
class _Mean(MaskedMean):
    """Mean over all axes but the batch and the features; the name that it has in files."""
