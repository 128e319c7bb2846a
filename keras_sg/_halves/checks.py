"""What a half of a model must be like to train by itself."""

import keras

from keras_sg.schedules.schedule import check_modules


def check_half(model: keras.Model) -> None:
    """Raise `ValueError` unless a compiled half can train by itself."""
    check_modules(model, f"a {type(model).__name__}", "Train keras_sg.join(lower, upper).")
