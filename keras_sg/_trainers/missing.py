"""What stands in for a trainer on a backend that has none."""

from typing import Any

import keras

from keras_sg._types import Mixin


class MissingTrainer(Mixin):
    """Mixed into `DecoupledModel` where it cannot train: says so at construction."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(
            "keras_sg trains on the backends 'tensorflow', 'jax' and 'torch'. "
            f"Received: the backend {keras.backend.backend()!r}, which has no trainer for "
            "keras_sg.DecoupledModel. Set KERAS_BACKEND to one of the three before Keras is imported."
        )
