"""Synthesizers that predict a gradient: linear, dense and convolutional."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
from keras import ops

from keras_sg._types import Config, Nested, Shape, Tensor
from keras_sg.labels import Label
from keras_sg.synthesizers.masks import Conv1D, Conv2D, Conv3D
from keras_sg.synthesizers.recipe import Synthesizer, check_count, check_widths, feature_axis

MakeLayer = Callable[..., keras.Layer]


@keras.saving.register_keras_serializable(package="keras_sg")
class Linear(Synthesizer):
    """A linear synthesizer, `g_hat = h W + y V + b` (with `y V` where conditional).

    The paper's best conditional results use it (Jaderberg et al. 2016, appendix A), and it
    costs one matrix product.

    With a `rank` it costs less: `W` is the product `A B` of two narrow matrices, and so are its
    gradient and what the optimizer keeps. What it says of the label, `y V`, is not narrowed. `A` is
    drawn as the kernels of Dense layers are; `B`, `V` and `b` start at zero.

    Args:
        rank: width of `h A`, a positive integer; None for a `W` of its own. It saves where it is less
            than two fifths of the interface's features.

    Raises:
        ValueError: `rank` is not as described.

    Example:

    ```python
    import keras, keras_sg
    layer = keras_sg.synthesizers.Linear()((None, 256))  # a keras.layers.Dense(256), zeros
    cheap = keras_sg.SyntheticGradient(
        keras.layers.Dense(256), keras_sg.synthesizers.Linear(rank=32), num_classes=10
    )
    ```
    """

    predicts = "gradient"

    def __init__(self, rank: int | None = None) -> None:
        self.rank = None if rank is None else check_count("rank", rank)

    def __call__(self, shape: Shape, label: Label | None = None) -> keras.Layer:
        return _zero_dense(shape[-1], name="linear") if self.rank is None else LowRank(self.rank, shape[-1])

    def get_config(self) -> Config:
        return {"rank": self.rank}


@keras.saving.register_keras_serializable(package="keras_sg")
class LowRank(keras.layers.Layer):
    """`h`, or `[h, label]`, to `(h A) B + y V + b`, with so many features or those of `h`; see `Linear`."""

    label_apart = True
    per_position = True

    def __init__(self, rank: int, features: int | None = None, name: str = "linear", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.rank, self.features = rank, features

    def build(self, input_shape: Any) -> None:
        conditional = isinstance(input_shape[0], (list, tuple))
        shape, label = input_shape if conditional else (input_shape, None)
        self.features = self.features or shape[-1]
        self.reduce = self.add_weight((shape[-1], self.rank), "glorot_uniform", name="reduce")
        self.expand = self.add_weight((self.rank, self.features), "zeros", name="expand")
        self.bias = self.add_weight((self.features,), "zeros", name="bias")
        self.label = label and self.add_weight((label[-1], self.features), "zeros", name="label")

    def call(self, inputs: Nested) -> Tensor:
        h, label = (inputs, None) if self.label is None else inputs
        predicted = ops.matmul(ops.matmul(h, self.reduce), self.expand) + self.bias
        if label is None:
            return predicted
        of_label = ops.matmul(label, self.label)
        if len(label.shape) < len(h.shape):  # the same at every position between the batch and the features
            of_label = ops.reshape(of_label, (-1, *[1] * (len(h.shape) - 2), self.features))
        return predicted + of_label

    def compute_output_shape(self, input_shape: Any) -> Shape:
        shape = input_shape if self.label is None else input_shape[0]
        return (*shape[:-1], self.features or shape[-1])

    def get_config(self) -> Config:
        return {**super().get_config(), "rank": self.rank, "features": self.features}


@keras.saving.register_keras_serializable(package="keras_sg")
class MLP(Synthesizer):
    """Hidden layers Dense - BatchNormalization - ReLU, then a zero-initialised linear read-out.

    Args:
        widths: widths of the hidden layers, positive integers. The default is the paper's and
            r2rt's for MNIST.
        batch_normalization: whether BatchNormalization stands between Dense and ReLU. It only
            ever runs in training mode, for that is when an interface predicts.

    Raises:
        ValueError: `widths` is empty or holds something else than positive integers.

    Example:

    ```python
    import keras_sg
    narrow = keras_sg.synthesizers.MLP(widths=(64,), batch_normalization=False)
    ```
    """

    predicts = "gradient"

    def __init__(self, widths: int | Sequence[int] = (1024, 1024), batch_normalization: bool = True) -> None:
        self.widths = check_widths("widths", widths, least=1)
        self.batch_normalization = batch_normalization

    def __call__(self, shape: Shape, label: Label | None = None) -> keras.Layer:
        hidden = body(keras.layers.Dense, self.widths, self.batch_normalization)
        return keras.Sequential([*hidden, _zero_dense(shape[-1])], name="mlp")

    def get_config(self) -> Config:
        return {"widths": self.widths, "batch_normalization": self.batch_normalization}


@keras.saving.register_keras_serializable(package="keras_sg")
class Conv(Synthesizer):
    """Hidden layers convolution - BatchNormalization - ReLU, then a zero-initialised convolution.

    For interfaces with one to three axes between batch and channels: sequences, images, volumes. All
    convolutions are padded to keep those axes. A conditional one sees the label as channel masks:
    behind the channels of the interface, one constant channel for each number of the label.

    Args:
        depth: number of hidden layers, an integer of at least 0. The default is the paper's and
            r2rt's for CIFAR-10.
        filters: channels of the hidden layers; by default as many as the interface has.
        kernel_size: of every convolution, a positive integer.
        batch_normalization: whether BatchNormalization stands between convolution and ReLU.
        data_format: `"channels_last"` or `"channels_first"`; by default
            `keras.config.image_data_format()`.

    Raises:
        ValueError: an argument is not as described; or, when an interface is built with it, that
            interface has no axes to convolve along.

    Example:

    ```python
    import keras_sg
    small = keras_sg.synthesizers.Conv(depth=1, filters=64, kernel_size=3)
    ```

    References:
        Jaderberg et al. 2016, https://arxiv.org/abs/1608.05343, appendix A (CIFAR-10, channel
        masks); r2rt, "Synthetic Gradients with Tensorflow", section on CIFAR-10.
    """

    predicts = "gradient"

    def __init__(
        self,
        depth: int = 2,
        filters: int | None = None,
        kernel_size: int = 5,
        batch_normalization: bool = True,
        data_format: str | None = None,
    ) -> None:
        self.depth = check_count("depth", depth, least=0)
        self.filters = None if filters is None else check_count("filters", filters)
        self.kernel_size = check_count("kernel_size", kernel_size)
        self.batch_normalization = batch_normalization
        self.data_format = check_data_format(data_format)
        self.axis = feature_axis(self.data_format)

    def __call__(self, shape: Shape, label: Label | None = None) -> keras.Layer:
        convolution = convolution_for(shape, self.kernel_size, self.data_format)
        channels = shape[self.axis]
        widths = [self.filters or channels] * self.depth
        read_out = convolution(channels, kernel_initializer="zeros", bias_initializer="zeros")
        hidden = body(convolution, widths, self.batch_normalization, self.axis)
        return keras.Sequential([*hidden, read_out], name="conv")

    def get_config(self) -> Config:
        names = ("depth", "filters", "kernel_size", "batch_normalization", "data_format")
        return {name: getattr(self, name) for name in names}


def check_data_format(data_format: str | None) -> str:
    """Raise `ValueError` unless it is a Keras data format; return it, or Keras's own for None."""
    if data_format is None:
        return keras.config.image_data_format()
    if data_format not in ("channels_last", "channels_first"):
        raise ValueError(
            "`data_format` must be 'channels_last' or 'channels_first'. "
            f"Received: data_format={data_format!r}."
        )
    return data_format


def convolution_for(shape: Shape, kernel_size: int, data_format: str) -> MakeLayer:
    """Function `(filters, **options)` that makes a convolution which keeps an interface's shape."""
    convolutions = {3: Conv1D, 4: Conv2D, 5: Conv3D}
    if len(shape) not in convolutions:
        raise ValueError(
            "A convolutional synthesizer needs an interface with one to three axes between batch and "
            "channels. Take a dense one, 'linear' or 'mlp', for others. "
            f"Received: an interface of shape {tuple(shape)}."
        )

    def convolution(filters: int, **options: Any) -> keras.Layer:
        return convolutions[len(shape)](
            filters, kernel_size, padding="same", data_format=data_format, **options
        )

    return convolution


def body(
    layer: MakeLayer,
    widths: Sequence[int],
    batch_normalization: bool,
    axis: int = -1,
) -> Iterator[keras.Layer]:
    """Hidden layers `layer(width)`, each followed by BatchNormalization (if wanted) and ReLU."""
    for width in widths:
        yield layer(width)
        if batch_normalization:
            yield keras.layers.BatchNormalization(axis=axis)
        yield keras.layers.ReLU()


def _zero_dense(units: int | None, name: str | None = None) -> keras.Layer:
    return keras.layers.Dense(units, kernel_initializer="zeros", bias_initializer="zeros", name=name)
