"""Synthesizers: what predicts at an interface.

A synthesizer is any Keras layer or model that maps the interface, `(batch, ..., features)`
(with the one-hot label behind it where the interface is conditional: `features + num_classes`),
to a prediction: a gradient of shape `(batch, ..., features)` for `SyntheticGradient`, or a loss
per example of shape `(batch,)` or `(batch, 1)` for `SyntheticLoss`.

What is in this file are *recipes*: like a Keras initializer, a recipe is a small object with a
configuration, called with a shape; it returns a fresh layer for an interface of that shape. Any
callable `shape -> layer` is as good as a recipe.

    "linear"   one Dense, zero kernel and bias
    "mlp"      Dense - BatchNormalization - ReLU, twice 1024 wide, then a zero Dense
    "value"    the body of "mlp", then the square of a scalar Dense: predicts a loss

The read-outs of the gradient synthesizers start at zero, kernel and bias, so a module's first
step below an interface is no step at all rather than a wrong one.

References: Jaderberg et al. 2016, https://arxiv.org/abs/1608.05343, appendix A.
"""

import numbers

import keras
from keras import ops

# The variables of every synthesizer carry this in their path; optimizers tell them apart by it.
SCOPE = "keras_sg_synthesizer"


class Synthesizer:
    """Base of the recipes. Call it with an interface's shape to get a fresh Keras layer.

    Args of the call:
        shape: tuple, the interface's shape `(None, ..., features)`.

    Returns:
        An unbuilt Keras layer or model.
    """

    def __call__(self, shape):
        raise NotImplementedError

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __eq__(self, other):
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __repr__(self):
        options = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({options})"


@keras.saving.register_keras_serializable(package="keras_sg")
class Linear(Synthesizer):
    """A linear synthesizer, `g_hat = h W + y V + b` (the last two terms where conditional).

    The paper's best conditional results use it (Jaderberg et al. 2016, appendix A), and it
    costs one matrix product.

    Example:

    ```python
    import keras, keras_sg
    layer = keras_sg.synthesizers.Linear()((None, 256))  # a keras.layers.Dense(256), zeros
    ```
    """

    def __call__(self, shape):
        return _read_out(shape[-1], name="linear")


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

    def __init__(self, widths=(1024, 1024), batch_normalization=True):
        widths = [widths] if isinstance(widths, numbers.Integral) else list(widths)
        if not widths or not all(isinstance(width, numbers.Integral) and width > 0 for width in widths):
            raise ValueError(
                f"`widths` must be positive integers, at least one. Received: widths={widths!r}."
            )
        self.widths = [int(width) for width in widths]
        self.batch_normalization = batch_normalization

    def __call__(self, shape):
        return keras.Sequential([*self._body(), _read_out(shape[-1])], name="mlp")

    def _body(self):
        for width in self.widths:
            yield keras.layers.Dense(width)
            if self.batch_normalization:
                yield keras.layers.BatchNormalization()
            yield keras.layers.ReLU()

    def get_config(self):
        return {"widths": self.widths, "batch_normalization": self.batch_normalization}


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

    def __call__(self, shape):
        return keras.Sequential([*self._body(), keras.layers.Dense(1), _SquareMean()], name="value")


@keras.saving.register_keras_serializable(package="keras_sg")
class _SquareMean(keras.layers.Layer):
    """`(batch, ..., 1)` to `(batch,)`: square, then mean over all axes but the first."""

    def call(self, inputs):
        return ops.mean(ops.square(inputs), axis=tuple(range(1, len(inputs.shape))))

    def compute_output_shape(self, input_shape):
        return input_shape[:1]


@keras.saving.register_keras_serializable(package="keras_sg")
class Existing(Synthesizer):
    """The recipe of a layer that is there already: the layer itself.

    A layer that is built already is copied, weights included, so that its variables live under
    the one interface they serve (and an optimizer for synthesizers finds them).

    Args:
        layer: Keras layer or model.
    """

    def __init__(self, layer):
        self.layer = layer

    def __call__(self, shape):
        return copy_of(self.layer) if self.layer.built else self.layer

    def get_config(self):
        return {"layer": serialize(self.layer)}

    @classmethod
    def from_config(cls, config):
        return cls(deserialize(config["layer"]))


RECIPES = {"linear": Linear, "mlp": MLP, "value": Value}


def get(identifier):
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
    if isinstance(identifier, dict):
        return get(deserialize(identifier))
    if isinstance(identifier, keras.Layer):
        return Existing(identifier)
    if isinstance(identifier, type) or isinstance(identifier, str) or not callable(identifier):
        raise ValueError(
            f"Unknown synthesizer. Expected one of {sorted(RECIPES)}, a recipe such as "
            "keras_sg.synthesizers.MLP(widths=(256,)), a Keras layer or model, or a callable "
            "from the interface's shape to a layer. "
            f"Received: {identifier!r} (of type {type(identifier).__name__})."
        )
    return identifier


def serialize(synthesizer):
    """Turn a recipe or a layer into a configuration that `deserialize` understands."""
    return keras.saving.serialize_keras_object(synthesizer)


def deserialize(config, custom_objects=None):
    """The inverse of `serialize`."""
    return keras.saving.deserialize_keras_object(config, custom_objects=custom_objects)


def copy_of(layer):
    """A new layer of the same configuration and, where `layer` is built, the same weights."""
    copy = type(layer).from_config(layer.get_config())
    if layer.built:
        if not copy.built:
            copy.build_from_config(layer.get_build_config())
        copy.set_weights(layer.get_weights())
    return copy


def _read_out(units, name=None):
    return keras.layers.Dense(units, kernel_initializer="zeros", bias_initializer="zeros", name=name)
