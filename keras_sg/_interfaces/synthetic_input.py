"""`SyntheticInput`: what predicts an interface from the network's input, for the module above to train on."""

from typing import Any

import keras
from keras import ops

from keras_sg import _keras, synthesizers
from keras_sg._interfaces import checks
from keras_sg._optimizers import owners
from keras_sg._types import Config, Shape, Tensor
from keras_sg.synthesizers import inputs as recipes


class SyntheticInput(keras.layers.Layer):
    """Maps the network's input to a prediction of `h` at an interface, of the shape of `h`.

    Built by the `DecoupledModel` that the interface is in, which knows that input.

    Args:
        recipe: what `synthesizers.get_input` returns.
        **kwargs: `name`, `dtype`.

    Attributes:
        recipe: as given.
        predictor: the layer that predicts; None until it is built.
        given: the shape of the input that it was built for.
        trainable_parts: of itself and every layer inside it, whether it is trained; a list.
        loss: that of its regression on `h`.
        update_period: it learns in every step.
    """

    loss = "mse"
    update_period = 1

    def __init__(self, recipe: recipes.Recipe, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.recipe: Any = recipe
        self.predictor: keras.Layer = None
        self.given: Shape = ()
        self._restored: list[bool] = []

    def enter(self, model: keras.Model, shape: Shape) -> None:
        """Build it for a model's input and an interface of this shape.

        Raises:
            ValueError: the model has several inputs or one that is not of floats; or what is made does not
                predict that shape; or it was built for another input.
        """
        given = checks.network_input(
            self.name, "predicts an interface from", "leave synthetic_input out", model
        )
        if not self.built:
            self.build(given, shape)
        elif given[1:] != self.given[1:]:
            raise ValueError(
                f"{self.name!r} was built for an input of shape {self.given}. Received: model "
                f"{model.name!r} with an input of shape {given}."
            )

    def build(self, given: Shape, shape: Shape) -> None:
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.dtype_policy)
        try:
            with keras.name_scope(synthesizers.SCOPE):
                self.predictor = self.recipe(given, shape)
                if not isinstance(self.predictor, keras.Layer):
                    raise ValueError(
                        "A callable synthetic_input is to make a Keras layer for the shapes of the "
                        f"network's input and of the interface. Received: {self.predictor!r} (of type "
                        f"{type(self.predictor).__name__}) for {given} and {shape}."
                    )
                predicted = self.predictor(keras.KerasTensor(given, self.compute_dtype))
        finally:
            keras.config.set_dtype_policy(policy)
        if tuple(getattr(predicted, "shape", ())) != tuple(shape):
            raise ValueError(
                f"{self.name!r} must predict the interface, of shape {tuple(shape)}. Received: "
                f"{self.predictor.name!r} with output of shape {tuple(getattr(predicted, 'shape', ()))}."
            )
        if not isinstance(self.recipe, synthesizers.Synthesizer):
            self.recipe = recipes.ExistingInput(self.predictor)  # a plain callable has no configuration
        self.given = given
        owners.claim(self.predictor)
        for part, trainable in zip(_keras.with_sublayers(self), self._restored):
            part.trainable = trainable
        self.built = True

    @property
    def trainable_parts(self) -> list[bool]:
        return [part.trainable for part in _keras.with_sublayers(self)] if self.built else self._restored

    @trainable_parts.setter
    def trainable_parts(self, parts: list[bool]) -> None:
        self._restored = list(parts)

    def call(self, given: Tensor) -> Tensor:
        """What is predicted, in training mode, of an input in whatever float dtype."""
        return self.predictor(ops.cast(given, self.compute_dtype), training=True)

    def get_config(self) -> Config:
        return {**super().get_config(), "recipe": synthesizers.serialize(self.recipe)}
