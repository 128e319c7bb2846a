"""A synthesizer of gradients that sees the network's input next to the interface.

What a synthesizer without the label can say of a gradient is its mean over the labels that examples like this
one have. It knows them from what it sees; and the input does not change while the network learns.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import keras
from keras import ops

from keras_sg import _keras
from keras_sg._types import Config, Nested, Shape, Tensor
from keras_sg.labels import Label
from keras_sg.synthesizers.gradient import MLP, Conv, Linear
from keras_sg.synthesizers.inputs import InputIdentifier, get_input
from keras_sg.synthesizers.loss import Value
from keras_sg.synthesizers.recipe import Existing, Synthesizer, check_count, deserialize, serialize

RECIPES = {"linear": Linear, "mlp": MLP, "conv": Conv}
Seeing: TypeAlias = str | Synthesizer | keras.Layer | Config


@keras.saving.register_keras_serializable(package="keras_sg")
class WithInput(Synthesizer):
    """A synthesizer that sees the network's input `x`, too: `g_hat = synthesizer([h, context(x)])`.

    For interfaces without the label: what they can predict is the mean of a gradient over the labels that an
    example may have, and from `x` there is more to know of these than from `h` alone. With the label, nothing
    of it is left to guess. The module below has no more to wait for, since `x` was there before `h`.

    It is for a `SyntheticGradient` in a `keras_sg.DecoupledModel` whose input is one tensor of floats.

    Args:
        synthesizer: what predicts: `"linear"`, `"mlp"`, `"conv"`, a recipe of one of these, or a Keras layer
            that takes as many more features as the context has.
        input_shape: shape of one example of the network's input, a tuple of integers (None where a length is
            not known).
        context: what is made of `x` to stand behind the features of `h`, learned with the synthesizer:
            `"mlp"`, `"conv"`, or what else `keras_sg.synthesizers.get_input` takes, in the shape of `h`. By
            default nothing is: all numbers of `x` as they are, at an interface `(batch, features)`; at one
            that has the positions of `x`, its features there. Examples that do not count are zeros to it;
            BatchNormalization in a context counts them.

    Raises:
        ValueError: an argument is not as described; or, when an interface is built with it, that has other
            positions than the input, and there is no context; or, in a model, that has another input.

    Example:

    ```python
    import keras, keras_sg
    import numpy as np

    inputs = keras.Input((8,))
    recipe = keras_sg.synthesizers.WithInput(keras_sg.synthesizers.MLP((32,)), input_shape=(8,))
    hidden = keras_sg.SyntheticGradient(keras.layers.Dense(16, activation="relu"), recipe)(inputs)
    model = keras_sg.DecoupledModel(inputs, keras.layers.Dense(1)(hidden))
    model.compile("adam", "mse")
    model.fit(np.ones((32, 8)), np.ones((32, 1)), verbose=0)
    ```

    References:
        Jaderberg et al. 2016, https://arxiv.org/abs/1608.05343, section 2: a synthetic gradient may be
        conditioned on any context, of which the label is theirs.
    """

    sees_input = True

    def __init__(
        self,
        synthesizer: Seeing = "mlp",
        input_shape: Sequence[int | None] = (),
        context: InputIdentifier | None = None,
    ) -> None:
        self.synthesizer = _get(synthesizer)
        if not isinstance(input_shape, (tuple, list)) or not input_shape:
            raise ValueError(
                "`input_shape` is the shape of one example of the network's input, a tuple such as (784,) or "
                f"(32, 32, 3). Received: input_shape={input_shape!r}."
            )
        self.input_shape: Shape = tuple(
            length if length is None else check_count("input_shape", length) for length in input_shape
        )
        self.context: Any = None if context is None else get_input(context)
        self.axis, self.unit_labels = self.synthesizer.axis, self.synthesizer.unit_labels

    def __call__(self, shape: Shape, label: Label | None = None) -> keras.Layer:
        given = (None, *self.input_shape)
        made = self.synthesizer(shape, label)
        if self.context is not None:
            return SeesInput(made, self.context(given, shape), self.axis)
        if len(shape) > 2 and not _same(_positions(given, self.axis), _positions(shape, self.axis)):
            raise ValueError(
                "A synthesizer sees an input as it is where that has the positions of the interface. For "
                "others, say what makes them of it: context='conv' or 'mlp', or a layer. Received: an input "
                f"of shape {given} and an interface of shape {tuple(shape)}."
            )
        if len(shape) == 2 and None in given[1:]:
            raise ValueError(
                "A synthesizer sees all numbers of an input at once, of which it has to know how many. Give "
                f"input_shape in full, or a context. Received: input_shape={self.input_shape!r}."
            )
        return SeesInput(made, None, self.axis)

    def takes(self, shape: Shape) -> bool:
        """Whether examples of the network's input may have this shape."""
        return _same(shape, self.input_shape)

    def shape_at(self, shape: Shape) -> Shape:
        """The shape of the network's input, as far as it is known at an interface of a shape."""
        given = (None, *self.input_shape)
        if self.context is not None or len(shape) == 2:
            return given
        features = self.axis % len(shape)
        return tuple(given[at] if at == features else length for at, length in enumerate(shape))

    def get_config(self) -> Config:
        context = None if self.context is None else serialize(self.context)
        return {
            "synthesizer": serialize(self.synthesizer),
            "input_shape": self.input_shape,
            "context": context,
        }


class SeesInput(keras.layers.Layer):
    """`[x, h]`, or `[x, [h, label]]`, to what a synthesizer says of `[h, context(x)]`; see `WithInput`."""

    def __init__(
        self,
        synthesizer: keras.Layer,
        context: keras.Layer | None,
        axis: int,
        name: str = "with_input",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.synthesizer, self.context, self.axis = synthesizer, context, axis
        self.label_apart = getattr(synthesizer, "label_apart", False)
        self.per_position = getattr(synthesizer, "per_position", not self.label_apart)
        self.supports_masking = True

    def call(self, inputs: Nested, training: bool | None = None) -> Tensor:
        x, seen = inputs  # `training` reaches the layers inside as Keras's call context
        h, *label = seen if isinstance(seen, (list, tuple)) else [seen]
        context = x
        if self.context is not None:
            context = self.context(x)
        elif len(h.shape) == 2:
            context = ops.reshape(x, (-1, math.prod(x.shape[1:])))
        joined = ops.concatenate([h, ops.cast(context, h.dtype)], axis=self.axis)
        _keras.copy_mask(h, joined)
        return self.synthesizer([joined, *label] if label else joined)

    def compute_mask(self, inputs: Nested, previous_mask: Nested) -> None:
        return None


def _positions(shape: Shape, axis: int) -> Shape:
    """The lengths of all axes but that of the batch and that of the features."""
    return tuple(length for at, length in enumerate(shape) if at not in (0, axis % len(shape)))


def _same(one: Shape, other: Shape) -> bool:
    """Whether lengths are the same, as far as they are known."""
    pairs = zip(one, other)
    return len(one) == len(other) and all(None in pair or pair[0] == pair[1] for pair in pairs)


def _get(identifier: Seeing) -> Synthesizer:
    """Raise `ValueError` unless it stands for something that predicts a gradient; return its recipe."""
    if isinstance(identifier, str) and identifier in RECIPES:
        return RECIPES[identifier]()
    if isinstance(identifier, dict) and {"class_name", "config"} <= identifier.keys():
        return _get(deserialize(identifier))
    if isinstance(identifier, keras.Layer):
        return Existing(identifier)
    if isinstance(identifier, (Linear, MLP, Conv, Existing)) and not isinstance(identifier, Value):
        return identifier
    raise ValueError(
        f"What sees the network's input next to an interface predicts a gradient. Expected one of "
        f"{sorted(RECIPES)}, a recipe such as keras_sg.synthesizers.MLP((256,)), or a Keras layer. "
        f"Received: synthesizer={identifier!r} (of type {type(identifier).__name__})."
    )
