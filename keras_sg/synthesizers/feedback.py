"""Direct feedback alignment: the gradient at an interface is a fixed random image of the outputs' error."""

import math
import numbers
from typing import Any

import keras
from keras import ops

from keras_sg._types import Config, Nested, Shape, Tensor
from keras_sg.labels import Label
from keras_sg.synthesizers.recipe import Synthesizer, check_count


@keras.saving.register_keras_serializable(package="keras_sg")
class Feedback(Synthesizer):
    """`g_hat = e B`: the error `e` of the model's outputs, times a random matrix that never changes.

    `e`, `(batch, outputs)`, is the derivative of the loss by the model's output, for each example; `B` is
    drawn from a normal distribution. It learns nothing, and for the modules below nothing above the interface
    is differentiated but the loss: what a synthesizer that learns has to do better than. It has to wait for
    the whole forward pass, so it unlocks less.

    The interface has to know how many numbers an output has, which `num_classes` says (or `label_size`). The
    output should be what the loss is a function of without an activation before it, logits
    (`from_logits=True`): it is the error there that feedback alignment is about.

    Args:
        scale: `B` has the standard deviation `scale / sqrt(outputs)`, a positive number.
        seed: an integer, from which `B` is drawn; None for another one each time.

    Raises:
        ValueError: `scale` or `seed` is not as described; or, when it is built, the interface does not know
            the size of an output; or, in a model, that has several outputs or one of another size.

    Example:

    ```python
    import keras, keras_sg
    import numpy as np

    inputs = keras.Input((8,))
    module = keras.layers.Dense(16, activation="tanh")
    hidden = keras_sg.SyntheticGradient(module, "feedback", num_classes=3)(inputs)
    model = keras_sg.DecoupledModel(inputs, keras.layers.Dense(3)(hidden))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(np.ones((32, 8)), np.zeros(32, "int32"), verbose=0)
    ```

    References:
        Nokland 2016, Direct Feedback Alignment Provides Learning in Deep Neural Networks,
        https://arxiv.org/abs/1609.01596.
    """

    of_error = needs_label = True
    predicts = "gradient"
    scale: float
    seed: int | None

    def __init__(self, scale: float = 1.0, seed: int | None = None) -> None:
        if isinstance(scale, bool) or not isinstance(scale, numbers.Real) or not 0 < scale < math.inf:
            raise ValueError(f"`scale` of a feedback must be a positive number. Received: scale={scale!r}.")
        self.scale = float(scale)
        self.seed = None if seed is None else check_count("seed", seed, least=0)

    def __call__(self, shape: Shape, label: Label | None = None) -> keras.Layer:
        if label is None:
            raise ValueError(
                "The synthesizer 'feedback' maps the error of the model's output to the interface, so it has "
                "to know how many numbers an output has: pass num_classes (or label_size). Received: an "
                f"interface of shape {tuple(shape)} without."
            )
        return FixedFeedback(self.scale, self.seed)

    def get_config(self) -> Config:
        return {"scale": self.scale, "seed": self.seed}


@keras.saving.register_keras_serializable(package="keras_sg")
class FixedFeedback(keras.layers.Layer):
    """`[h, e]`, `(batch, ..., features)` and `(batch, outputs)`, to `e B` like `h`; see `Feedback`."""

    label_apart = True
    of_error = True

    def __init__(self, scale: float, seed: int | None, name: str = "feedback", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.scale, self.seed = scale, seed

    def build(self, input_shape: Any) -> None:
        shape, error = input_shape
        if None in shape[1:]:
            raise ValueError(
                "The synthesizer 'feedback' has a number for each of an interface, whose axes must be known. "
                f"Received: an interface of shape {tuple(shape)}."
            )
        drawn = keras.initializers.RandomNormal(stddev=self.scale / error[-1] ** 0.5, seed=self.seed)
        self.matrix = self.add_weight(
            (error[-1], math.prod(shape[1:])), drawn, trainable=False, name="feedback"
        )

    def call(self, inputs: Nested) -> Tensor:
        h, error = inputs
        return ops.reshape(ops.matmul(error, self.matrix), (-1, *h.shape[1:]))

    def compute_output_shape(self, input_shape: Any) -> Shape:
        return tuple(input_shape[0])

    def get_config(self) -> Config:
        return {**super().get_config(), "scale": self.scale, "seed": self.seed}
