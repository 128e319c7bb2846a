"""What a sweep is to find."""

import keras_tuner

# What the last word of a metric's name says about it.
DIRECTIONS = {"accuracy": "max", "cosine": "max", "sign": "max", "loss": "min", "error": "min"}


def objective(name: str, direction: str | None = None) -> keras_tuner.Objective:
    """What a sweep is to find, as a `keras_tuner.Objective`.

    keras-tuner knows the direction of Keras's own metrics only. This knows those of keras_sg, too:
    `sg_cosine` and `block1_sg_cosine` are to be high, `sg_loss` and an alignment's `error` low.
    Synthesizers are measured in training, so there is no `val_sg_cosine`. Beware of `sg_loss` where
    learning rates are swept: it is also low where gradients are small because nothing is learned.

    Args:
        name: key of the logs, such as `"val_accuracy"` or `"sg_cosine"`.
        direction: `"max"` or `"min"`; by default, what the name says.

    Returns:
        A `keras_tuner.Objective`.

    Raises:
        ValueError: the name does not say a direction, or is one that is never logged.

    Example:

    ```python
    from keras_sg import tuning
    tuning.objective("sg_cosine").direction  # "max"
    ```
    """
    if name.startswith("val_") and name.endswith(("sg_loss", "sg_cosine")):
        raise ValueError(
            "Interfaces are closed outside training, so what is logged of synthesizers is logged in "
            f"training. Use {name.removeprefix('val_')!r}. Received: name={name!r}."
        )
    found = direction or DIRECTIONS.get(name.rsplit("_", 1)[-1])
    if found not in ("max", "min"):
        raise ValueError(
            f"Expected direction='max' or 'min' for {name!r}; only names that end in one of "
            f"{sorted(DIRECTIONS)} do without. Received: direction={direction!r}."
        )
    return keras_tuner.Objective(name, found)
