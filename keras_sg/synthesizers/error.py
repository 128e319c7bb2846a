"""A synthesizer in the form of a log loss's gradient: the error of a predicted label, carried back."""

from collections.abc import Sequence
from typing import Any, Self

import keras
from keras import ops

from keras_sg._backends import dtypes
from keras_sg._types import Config, Nested, Shape, Tensor
from keras_sg.labels import Label
from keras_sg.synthesizers.gradient import body
from keras_sg.synthesizers.label_losses import LABEL_LOSSES, check_loss, loss_for
from keras_sg.synthesizers.recipe import Synthesizer, check_widths, deserialize, serialize


@keras.saving.register_keras_serializable(package="keras_sg")
class PredictedError(Synthesizer):
    """Predicts the label, and carries its error back: `g_hat = (p(h) - y) B`.

    Below a softmax, a sigmoid or a linear output with its own loss, a true gradient has this form: it is
    `(p - y) J`, with `p` the label that the network arrives at and `J` the derivative of what it puts out.
    Here `p(h)` is what a small classifier says of the interface, and `B` one matrix for all examples; both
    learn by regression on the gradient alone, as any synthesizer does. So it falls silent where the label is
    predicted, and costs two products with as many columns as a label has numbers. It is conditional by
    nature: the interface must be given `num_classes` or `label_size`.

    Unlike the other read-outs `B` does not start at zero: it is drawn as the kernels of Dense layers are. So
    modules learn from the first step on, by an error and a random matrix (as in `Feedback`, whose error is
    the true one), and need not wait until the gradient has been learned interface by interface from above.
    That counts where there are many.

    It is for dense layers. At an interface with more axes, `(batch, ..., features)`, features last, each
    position is seen by itself, as by `Linear`; behind convolutions that was not tried.

    Args:
        widths: widths of Dense hidden layers of the classifier, positive integers, or `()` for none.
        batch_normalization: whether BatchNormalization stands in the hidden layers.
        loss: the loss of the label whose error `p - y` is carried back (not that by which an interface
            regresses): `"categorical_crossentropy"` (the default for classes: `p` is a softmax),
            `"binary_crossentropy"` (the default for label vectors, which must then lie in [0, 1]: a sigmoid)
            or `"mse"` (for real-valued label vectors: `p` is as it is).

    Raises:
        ValueError: an argument is not as described; or, when an interface is built with it, that
            interface is not conditional, or the loss does not fit its labels.

    Example:

    ```python
    import keras, keras_sg
    block = keras.layers.Dense(64, activation="relu")
    layer = keras_sg.SyntheticGradient(block, synthesizer="error", num_classes=10)
    ```

    References:
        Czarnecki et al. 2017, Understanding Synthetic Gradients and Decoupled Neural Interfaces,
        https://arxiv.org/abs/1703.00522 (for a log loss, a linear synthesizer behind a sigmoid); Nokland
        2016, https://arxiv.org/abs/1609.01596 (errors carried back by random matrices).
    """

    needs_label, predicts = True, "gradient"

    def __init__(
        self,
        widths: int | Sequence[int] = (),
        batch_normalization: bool = True,
        loss: str | None = None,
    ) -> None:
        self.widths = check_widths("widths", widths, least=0)
        self.batch_normalization = batch_normalization
        self.loss = check_loss(loss, "a predicted error")
        self.unit_labels = loss != "mse"

    def __call__(self, shape: Shape, label: Label | None = None) -> keras.Layer:
        if label is None:
            raise ValueError(
                "The synthesizer 'error' carries back how wrong a predicted label is, so its interface must "
                "be conditional: pass num_classes (for class labels) or label_size (for label vectors). "
                f"Received: {self!r} for an unconditional interface."
            )
        hidden = body(keras.layers.Dense, self.widths, self.batch_normalization)
        classifier = keras.Sequential([*hidden, keras.layers.Dense(label.size)], name="classifier")
        return CarriedError(classifier, loss_for(label, self.loss, "a predicted error"))

    def get_config(self) -> Config:
        return {name: getattr(self, name) for name in ("widths", "batch_normalization", "loss")}


@keras.saving.register_keras_serializable(package="keras_sg")
class CarriedError(keras.layers.Layer):
    """`[h, label]` to the error of the label that a classifier predicts from `h`, times a matrix."""

    label_apart = True
    per_position = True

    def __init__(self, classifier: keras.Layer, loss: str, name: str = "error", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.classifier, self.loss = classifier, loss
        self.supports_masking = True

    @property
    def unit_labels(self) -> bool:
        return self.loss == "binary_crossentropy"

    def build(self, input_shape: list[Shape]) -> None:
        shape, label = input_shape
        self.classifier.build(shape)
        self.back = self.add_weight((label[-1], shape[-1]), "glorot_uniform", name="back")

    def call(self, inputs: list[Tensor]) -> Tensor:
        h, label = inputs
        z = self.classifier(h)
        wide = dtypes.wide(z.dtype)
        if len(label.shape) < len(z.shape):  # the same at every position between the batch and the features
            label = ops.reshape(label, (-1, *(1,) * (len(z.shape) - 2), label.shape[-1]))
        error = LABEL_LOSSES[self.loss].predicted(ops.cast(z, wide)) - ops.cast(label, wide)
        return ops.matmul(ops.cast(error, self.compute_dtype), self.back)

    def compute_mask(self, inputs: list[Tensor], previous_mask: Nested) -> None:
        """None: what masks leave out is the interface's to know."""

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        return input_shape[0]

    def get_config(self) -> Config:
        return {**super().get_config(), "classifier": serialize(self.classifier), "loss": self.loss}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        return cls(**{**config, "classifier": deserialize(config["classifier"])})
