"""Whose variables: those of a synthesizer carry a mark, those of the modules none."""

from typing import Any

import keras

MARK = "keras_sg_synthesizer"


def claim(synthesizer: keras.Layer) -> None:
    """Mark the variables of a synthesizer, which has made all of them."""
    for variable in synthesizer.variables:
        setattr(variable, MARK, True)


def of_synthesizer(variable: Any) -> bool:
    """Whether a variable belongs to a synthesizer, wherever it was made and whatever its name."""
    return getattr(variable, MARK, False)
