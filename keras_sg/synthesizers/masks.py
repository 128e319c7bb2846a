"""Layers that know which positions of an interface count, where Keras's own do not.

What a batch leaves out (weight 0, or a mask that is False) reaches a synthesizer as a Keras mask on its
input. BatchNormalization keeps such positions out of its statistics by itself. A convolution sees its
neighbours, so they must be zero, as padding is; and a mean over positions is one over those that count.
"""

from typing import Any

import keras
from keras import ops

from keras_sg._types import Config, Mixin, Shape, Tensor


def zero_masked(inputs: Tensor, mask: Tensor | None) -> Tensor:
    """`(batch, ..., features)`, zero where the mask, boolean `(batch, ...)` or None, is False."""
    return inputs if mask is None else ops.where(mask[..., None], inputs, ops.zeros_like(inputs))


def mean_of_counting(inputs: Tensor, mask: Tensor | None, axis: int = -1) -> Tensor:
    """Mean over all axes but the batch and `axis`, of the positions at which the mask is not False.

    Args:
        inputs: `(batch, ..., features)`, or with the features at `axis`, without a mask.
        mask: boolean, `(batch, ...)`, or None.
    """
    axes = sorted(set(range(1, len(inputs.shape))) - {axis % len(inputs.shape)})
    if not axes:
        return inputs
    if mask is None:
        return ops.mean(inputs, axis=axes)
    counts = ops.cast(mask, inputs.dtype)[..., None]
    return ops.divide_no_nan(ops.sum(inputs * counts, axis=axes), ops.sum(counts, axis=axes))


class _SeesWhatCounts(Mixin):
    """Mixed into a convolution with features last that keeps the positions of its input."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.supports_masking = True

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().call(zero_masked(inputs, mask))


@keras.saving.register_keras_serializable(package="keras_sg")
class Conv1D(_SeesWhatCounts, keras.layers.Conv1D):
    """`keras.layers.Conv1D`, to which the input is zero where its mask is False."""


@keras.saving.register_keras_serializable(package="keras_sg")
class Conv2D(_SeesWhatCounts, keras.layers.Conv2D):
    """`keras.layers.Conv2D`, to which the input is zero where its mask is False."""


@keras.saving.register_keras_serializable(package="keras_sg")
class Conv3D(_SeesWhatCounts, keras.layers.Conv3D):
    """`keras.layers.Conv3D`, to which the input is zero where its mask is False."""


@keras.saving.register_keras_serializable(package="keras_sg")
class MaskedFlatten(keras.layers.Flatten):
    """Flatten, zero where the mask is False."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().call(zero_masked(inputs, mask))

    def compute_output_spec(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().compute_output_spec(inputs)

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None) -> None:
        """Nothing: positions are features now."""


@keras.saving.register_keras_serializable(package="keras_sg")
class MaskedMean(keras.layers.Layer):
    """Mean over all axes but the batch and `axis`, of the positions at which the mask is not False.

    Args:
        axis: the axis of the features; with a mask, the last.
    """

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = axis
        self.supports_masking = True

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        return mean_of_counting(inputs, mask, self.axis)

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None) -> None:
        """Nothing: there are no positions any more."""

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], input_shape[self.axis])

    def get_config(self) -> Config:
        return {**super().get_config(), "axis": self.axis}


@keras.saving.register_keras_serializable(package="keras_sg")
class MaskedAveragePooling(keras.layers.Layer):
    """Mean over windows of positions that do not overlap, of those at which the mask is not False.

    Positions that do not fill a window are left out. A window counts if anything in it does.

    Args:
        pool_size: positive integer, the length of a window along each axis.
        data_format: `"channels_last"` or `"channels_first"`; with a mask, the former.
    """

    def __init__(self, pool_size: int, data_format: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pool_size, self.data_format = pool_size, data_format
        self.supports_masking = True

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            return self._pooled(inputs)
        counts = ops.cast(mask, inputs.dtype)[..., None]
        return ops.divide_no_nan(self._pooled(zero_masked(inputs, mask)), self._pooled(counts))

    def _pooled(self, inputs: Tensor) -> Tensor:
        return ops.average_pool(inputs, self.pool_size, strides=self.pool_size, data_format=self.data_format)

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None) -> Tensor | None:
        if previous_mask is None:
            return None
        return self._pooled(ops.cast(previous_mask, "float32")[..., None])[..., 0] > 0

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        last = self.data_format == "channels_last"
        positions = input_shape[1:-1] if last else input_shape[2:]
        pooled = tuple(None if size is None else size // self.pool_size for size in positions)
        return (input_shape[0], *pooled, input_shape[-1]) if last else (*input_shape[:2], *pooled)

    def get_config(self) -> Config:
        return {**super().get_config(), "pool_size": self.pool_size, "data_format": self.data_format}
