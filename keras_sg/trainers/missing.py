"""What stands in for a trainer on a backend that has none yet."""

from typing import Any

import keras

from keras_sg.types import Mixin


class MissingTrainer(Mixin):
    """Mixed into `DecoupledModel` where it cannot train: says so at construction."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(
            "keras_sg.DecoupledModel has a trainer for the TensorFlow and JAX backends only. "
            f"Received: the backend {keras.backend.backend()!r}. Set KERAS_BACKEND to one of them; or, "
            "with unconditional SyntheticGradient layers, train a plain keras.Model on this backend."
        )
