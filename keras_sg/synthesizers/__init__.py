"""Synthesizers: what predicts at an interface.

A synthesizer is any Keras layer or model that maps the interface, `(batch, ..., features)`, to a
prediction: a gradient of the interface's shape for `SyntheticGradient`, or a loss per example of
shape `(batch,)` or `(batch, 1)` for `SyntheticLoss`. Where the interface is conditional, the label
stands behind its features, `(batch, ..., features + label features)`; a layer with the attribute
`label_apart = True` is called with the list `[interface, label]` instead; if there may be a label for each
position of the interface, it says so by `per_position = True`.

What is in this package are *recipes*: like a Keras initializer, a recipe is a small object with a
configuration, called with a shape; it returns a fresh layer for an interface of that shape. Any
callable `shape -> layer` is as good as a recipe.

    "linear"   one Dense, zero kernel and bias
    "mlp"      Dense - BatchNormalization - ReLU, twice 1024 wide, then a zero Dense
    "conv"     5 x 5 convolution - BatchNormalization - ReLU, twice, then a zero convolution
    "value"    the body of "mlp", then the square of a scalar Dense: predicts a loss
    "critic"   predicts the label; its prediction is the cross-entropy with the true one, a loss
    "error"    predicts the label; carries the error of it back by a matrix that learns
    "feedback" the error of the model's output times a fixed random matrix; learns nothing

The read-outs of "linear", "mlp" and "conv" start at zero, kernel and bias, so a module's first
step below an interface is no step at all rather than a wrong one. That of "error" starts at random, so
that no module waits for those above.

References: Jaderberg et al. 2016, https://arxiv.org/abs/1608.05343, appendix A.
"""

from collections.abc import Callable
from typing import TypeAlias

import keras

from keras_sg._types import Config, Shape
from keras_sg.synthesizers.error import PredictedError as PredictedError
from keras_sg.synthesizers.feedback import Feedback as Feedback
from keras_sg.synthesizers.gradient import MLP as MLP
from keras_sg.synthesizers.gradient import Conv as Conv
from keras_sg.synthesizers.gradient import Linear as Linear
from keras_sg.synthesizers.inputs import OF_INPUTS as OF_INPUTS
from keras_sg.synthesizers.inputs import InputConv as InputConv
from keras_sg.synthesizers.inputs import InputIdentifier as InputIdentifier
from keras_sg.synthesizers.inputs import InputMLP as InputMLP
from keras_sg.synthesizers.inputs import get_input as get_input
from keras_sg.synthesizers.loss import Critic as Critic
from keras_sg.synthesizers.loss import Value as Value
from keras_sg.synthesizers.recipe import SCOPE as SCOPE
from keras_sg.synthesizers.recipe import Existing as Existing
from keras_sg.synthesizers.recipe import Synthesizer as Synthesizer
from keras_sg.synthesizers.recipe import copy_of as copy_of
from keras_sg.synthesizers.recipe import deserialize as deserialize
from keras_sg.synthesizers.recipe import serialize as serialize
from keras_sg.synthesizers.with_input import WithInput as WithInput

# What `get` understands.
Identifier: TypeAlias = str | Synthesizer | keras.Layer | Callable[[Shape], keras.Layer] | Config

RECIPES = {
    "linear": Linear,
    "mlp": MLP,
    "conv": Conv,
    "value": Value,
    "critic": Critic,
    "error": PredictedError,
    "feedback": Feedback,
}


def get(identifier: Identifier) -> Synthesizer | Callable[[Shape], keras.Layer]:
    """Return what `identifier` stands for.

    Args:
        identifier: a string id, a recipe, a Keras layer or model, a callable
            `shape -> layer`, or a configuration made by `serialize`.

    Returns:
        A recipe, or the callable itself: something to call with an interface's shape.

    Raises:
        ValueError: nothing of that name or kind is known.

    Example:

    ```python
    import keras_sg
    keras_sg.synthesizers.get("mlp")  # MLP(widths=[1024, 1024], batch_normalization=True)
    ```
    """
    if isinstance(identifier, str) and identifier in RECIPES:
        return RECIPES[identifier]()
    if isinstance(identifier, dict) and {"class_name", "config"} <= identifier.keys():
        return get(deserialize(identifier))
    if isinstance(identifier, keras.Layer):
        return Existing(identifier)
    of_inputs = isinstance(identifier, OF_INPUTS)
    if isinstance(identifier, (type, str)) or of_inputs or not callable(identifier):
        raise ValueError(
            f"Unknown synthesizer. Expected one of {sorted(RECIPES)}, a recipe such as "
            "keras_sg.synthesizers.MLP(widths=(256,)), a Keras layer or model, or a callable "
            "from the interface's shape to a layer. "
            f"Received: {identifier!r} (of type {type(identifier).__name__})."
        )
    return identifier
