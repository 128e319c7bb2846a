"""`LocalLoss`: an interface at which nothing comes from above."""

from typing import Any

import keras

from keras_sg import gradients, synthesizers
from keras_sg._interfaces.predicted_loss import PredictedLoss
from keras_sg._types import Config


@keras.saving.register_keras_serializable(package="keras_sg")
class LocalLoss(PredictedLoss):
    """Wraps a module so that it descends the loss of a small head, which is trained on the label.

    In training, with `h` the module's output and `y` the label, the head predicts the label from `h`; both
    the module and the head descend the mean of its loss `l(h, y)`. Nothing comes from the layers above: the
    interface is a `SyntheticLoss` with a critic, whose teacher is the label itself instead of the loss of
    the network above. Outside training the layer is the module. An example with the weight `w` counts
    `w * l(h, y)`.

    An interface below it learns from it as from any other: a `SyntheticGradient` from its gradient, carried
    back through the module between, a `SyntheticLoss` from its loss.

    It needs the labels and therefore a `keras_sg.DecoupledModel`. The loss of the head is reported as the
    interface's `sg_loss`.

    Args:
        layer: as for `SyntheticGradient`.
        head: `"critic"`, the recipe `keras_sg.synthesizers.Critic`, a Keras layer or model, or a callable
            from the interface's shape to a layer. Its output must be a loss per example, of shape `(batch,)`
            or `(batch, 1)`.
        num_classes: an integer of at least 2: labels are classes, see `SyntheticGradient`.
        label_size: an integer of at least 1, in place of `num_classes`: labels are vectors.
        mix: share of the head's gradient in what the module receives, from 0 (plain backpropagation) to 1.
        update_period: as for `SyntheticGradient`, of the head.
        **kwargs: as for `SyntheticGradient`.

    Call arguments:
        inputs, *args, **kwargs: handed on to the layer.
        training: boolean; the interface is active when it is True.

    Output shape:
        The layer's.

    Attributes:
        layer: the wrapped layer.
        head: the head, a Keras layer once the interface is built; `synthesizer` is another name of it.
        trainable: whether the layer is trained. The head is trained unless its own `trainable` is False.

    Raises:
        ValueError: as for `SyntheticGradient`; or there are no labels, or the head is no loss of them.

    Example:

    ```python
    import keras, keras_sg
    import numpy as np

    inputs = keras.Input((8,))
    hidden = keras_sg.LocalLoss(keras.layers.Dense(16, activation="relu"), num_classes=3)(inputs)
    model = keras_sg.DecoupledModel(inputs, keras.layers.Dense(3, activation="softmax")(hidden))
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(np.ones((32, 8)), np.zeros(32, "int32"), verbose=0)
    ```

    References:
        Belilovsky et al. 2020, Decoupled Greedy Learning of CNNs, https://arxiv.org/abs/1901.08164, section
        3; Nokland and Eidnes 2019, Training Neural Networks with Local Error Signals,
        https://arxiv.org/abs/1901.06656, section 2.
    """

    def __init__(
        self,
        layer: keras.Layer,
        head: synthesizers.Identifier = "critic",
        num_classes: int | None = None,
        label_size: int | None = None,
        mix: float = 1.0,
        update_period: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            layer,
            head,
            num_classes=num_classes,
            label_size=label_size,
            mix=mix,
            update_period=update_period,
            **kwargs,
        )
        if self.label is None:
            raise ValueError(
                f"The head of local loss {self.name!r} learns from the label alone, so it has to know what "
                "labels are: pass num_classes or label_size. Without labels, use keras_sg.SyntheticGradient. "
                f"Received: num_classes={num_classes!r}, label_size={label_size!r}."
            )
        if isinstance(self._recipe, synthesizers.Value):
            raise ValueError(
                "The output of a local loss's head is how far its guess at the label is off; 'value' "
                "predicts a loss, which it has to be told. Use 'critic', or keras_sg.SyntheticLoss. "
                f"Received: head={head!r} for interface {self.name!r}."
            )
        self.loss = gradients.DESCENT

    @property
    def fits_gradient(self) -> bool:
        return False

    @property
    def head(self) -> keras.Layer:
        """The head, a Keras layer once the interface is built."""
        return self.synthesizer

    def get_config(self) -> Config:
        config = super().get_config()
        del config["loss"]
        head = config.pop("synthesizer")
        return {**config, "head": head}
