"""Recipes of what predicts an interface from the network's input, so that the module above need not wait.

    "mlp"    Dense - BatchNormalization - ReLU, then a Dense read-out
    "conv"   the picture averaged to the interface's size, convolution - BatchNormalization - ReLU, then a
             convolution

Nothing starts at zero here: what is predicted are activations, not gradients.

References: Jaderberg et al. 2016, https://arxiv.org/abs/1608.05343, complete unlock; appendix A (one
hidden layer).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras

from keras_sg._types import Config, Shape
from keras_sg.synthesizers.gradient import Conv, body, convolution_for
from keras_sg.synthesizers.recipe import Existing, Synthesizer, check_widths, copy_of, deserialize

InputIdentifier: TypeAlias = str | Synthesizer | keras.Layer | Callable[[Shape, Shape], keras.Layer] | Config
Recipe: TypeAlias = Callable[[Shape, Shape], keras.Layer]


@keras.saving.register_keras_serializable(package="keras_sg")
class InputMLP(Synthesizer):
    """Hidden layers Dense - BatchNormalization - ReLU on the network's input, then a Dense read-out.

    Called with the shapes of the network's input and of the interface, `(None, ..., features)` both, it makes
    a layer from the one to the other. Where the two have the same positions between batch and features, that
    acts on the last axis; else on all numbers of an example at once.

    Args:
        widths: widths of the hidden layers, positive integers. By default one, as wide as the interface.
        batch_normalization: whether BatchNormalization stands between Dense and ReLU.

    Raises:
        ValueError: `widths` is not as described; or, when it is built, a length of input or interface that it
            has to know is unknown.

    Example:

    ```python
    import keras, keras_sg
    module = keras.layers.Dense(256, activation="relu")
    cut = keras_sg.SyntheticGradient(module, synthetic_input=keras_sg.synthesizers.InputMLP((512,)))
    ```

    References:
        Jaderberg et al. 2016, https://arxiv.org/abs/1608.05343, complete unlock; appendix A (one hidden
        layer).
    """

    def __init__(self, widths: int | Sequence[int] | None = None, batch_normalization: bool = True) -> None:
        self.widths = None if widths is None else check_widths("widths", widths, least=1)
        self.batch_normalization = batch_normalization

    def __call__(self, inputs: Shape, shape: Shape) -> keras.Layer:  # type: ignore[override]
        widths = [shape[-1]] if self.widths is None else self.widths
        hidden = list(body(keras.layers.Dense, widths, self.batch_normalization))
        if len(inputs) == len(shape) and tuple(inputs[1:-1]) == tuple(shape[1:-1]):
            return keras.Sequential([*hidden, keras.layers.Dense(shape[-1])], name="input_mlp")
        if None in (*inputs[1:], *shape[1:]):
            raise ValueError(
                "To predict an interface from an input with other positions, a dense layer has to know how "
                f"long both are. Received: an input of shape {tuple(inputs)} and an interface of shape "
                f"{tuple(shape)}."
            )
        read_out = [keras.layers.Dense(math.prod(shape[1:])), keras.layers.Reshape(shape[1:])]
        return keras.Sequential([keras.layers.Flatten(), *hidden, *read_out], name="input_mlp")

    def get_config(self) -> Config:
        return {"widths": self.widths, "batch_normalization": self.batch_normalization}


@keras.saving.register_keras_serializable(package="keras_sg")
class InputConv(Conv):
    """Hidden layers convolution - BatchNormalization - ReLU on the network's input, then a convolution.

    Called with the shapes of the network's input and of the interface, it makes a layer from the one to the
    other. The input is averaged to the interface's positions first, so that convolutions are as cheap as
    there.

    Args:
        depth: number of hidden layers, an integer of at least 0.
        filters: channels of the hidden layers; by default as many as the interface has.
        kernel_size: of every convolution, a positive integer.
        batch_normalization: whether BatchNormalization stands between convolution and ReLU.
        data_format: `"channels_last"` or `"channels_first"`, of input and interface; by default
            `keras.config.image_data_format()`.

    Raises:
        ValueError: an argument is not as described; or, when it is built, input or interface has no axes to
            convolve along, or another number of them than the other has, or one of unknown length.

    Example:

    ```python
    import keras, keras_sg
    module = keras.layers.Conv2D(32, 3, strides=2, padding="same")
    cut = keras_sg.SyntheticGradient(
        module, "conv", synthetic_input=keras_sg.synthesizers.InputConv(kernel_size=3)
    )
    ```

    References:
        Jaderberg et al. 2016, https://arxiv.org/abs/1608.05343, complete unlock (dense there).
    """

    def __init__(
        self,
        depth: int = 1,
        filters: int | None = None,
        kernel_size: int = 5,
        batch_normalization: bool = True,
        data_format: str | None = None,
    ) -> None:
        super().__init__(depth, filters, kernel_size, batch_normalization, data_format)

    def __call__(self, inputs: Shape, shape: Shape) -> keras.Layer:  # type: ignore[override]
        convolution = convolution_for(shape, self.kernel_size, self.data_format)
        at = slice(1, -1) if self.axis == -1 else slice(2, None)
        sizes = [tuple(part[at]) for part in (inputs, shape)]
        if len(inputs) != len(shape) or None in (*sizes[0], *sizes[1]):
            raise ValueError(
                "To predict an interface from the network's input, convolutions want both to have as many "
                "axes, of known lengths. Take 'mlp' where the input is a vector. Received: an input of shape "
                f"{tuple(inputs)} and an interface of shape {tuple(shape)}."
            )
        pooling: Any = {
            3: keras.layers.AdaptiveAveragePooling1D,
            4: keras.layers.AdaptiveAveragePooling2D,
            5: keras.layers.AdaptiveAveragePooling3D,
        }[len(shape)]
        same = sizes[0] == sizes[1]
        averaged = [] if same else [pooling(sizes[1], data_format=self.data_format)]
        channels = shape[self.axis]
        widths = [self.filters or channels] * self.depth
        hidden = body(convolution, widths, self.batch_normalization, self.axis)
        return keras.Sequential([*averaged, *hidden, convolution(channels)], name="input_conv")


RECIPES = {"mlp": InputMLP, "conv": InputConv}


def get_input(identifier: InputIdentifier) -> Recipe:
    """Return what a `synthetic_input` stands for.

    Args:
        identifier: `"mlp"`, `"conv"`, a recipe (`InputMLP` or `InputConv`), a Keras layer or model from the
            network's input to the interface's shape, a callable `(input_shape, shape) -> layer`, or a
            configuration made by `serialize`.

    Returns:
        Something that makes a layer of the shape of the network's input and that of the interface.

    Raises:
        ValueError: nothing of that name or kind is known.

    Example:

    ```python
    import keras_sg
    keras_sg.synthesizers.get_input("mlp")  # InputMLP(widths=None, batch_normalization=True)
    ```
    """
    if isinstance(identifier, str) and identifier in RECIPES:
        return RECIPES[identifier]()
    if isinstance(identifier, dict) and {"class_name", "config"} <= identifier.keys():
        return get_input(deserialize(identifier))
    if isinstance(identifier, keras.Layer):
        return ExistingInput(identifier)
    given: Any = identifier
    own = isinstance(identifier, OF_INPUTS)
    if (isinstance(identifier, (type, str, Synthesizer)) and not own) or not callable(identifier):
        raise ValueError(
            "`synthetic_input` says what predicts an interface from the network's input. Expected one of "
            f"{sorted(RECIPES)}, a recipe such as keras_sg.synthesizers.InputMLP(widths=(256,)), a Keras "
            "layer or model, or a callable from the shapes of input and interface to a layer. "
            f"Received: {identifier!r} (of type {type(identifier).__name__})."
        )
    return given


@keras.saving.register_keras_serializable(package="keras_sg")
class ExistingInput(Existing):
    """As `Existing`, of what predicts from the network's input."""

    def __call__(self, inputs: Shape, shape: Shape) -> keras.Layer:  # type: ignore[override]
        return copy_of(self.layer) if self.layer.built else self.layer


OF_INPUTS = (InputMLP, InputConv, ExistingInput)
