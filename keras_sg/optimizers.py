"""Two optimizers in one: for the modules, and for the synthesizers."""

import keras

from keras_sg.synthesizers import SCOPE


def decoupled_optimizer(optimizer="adam", synthesizer="adam"):
    """One optimizer for the modules, another for the synthesizers.

    A `keras.optimizers.MultiOptimizer` that sends the variables of every synthesizer (those
    with `keras_sg_synthesizer` in their path) to the second optimizer and all others to the
    first. It saves, loads and resumes as one optimizer; learning-rate callbacks act on both.

    Args:
        optimizer: Keras optimizer, or the string id of one, for the modules.
        synthesizer: Keras optimizer, or the string id of one, for the synthesizers.

    Returns:
        A `keras.optimizers.MultiOptimizer`; its `optimizers` are `[synthesizer, optimizer]`.

    Raises:
        ValueError: an argument is not an optimizer, or wraps other optimizers itself.

    Example:

    ```python
    import keras, keras_sg
    optimizer = keras_sg.decoupled_optimizer("sgd", synthesizer=keras.optimizers.Adam(1e-4))
    ```

    References:
        Czarnecki et al. 2017, Sobolev Training, https://arxiv.org/abs/1706.04859, section on
        synthetic gradients (SGD for the network, Adam for the synthesizers).
    """
    modules, synthesizers = _single(optimizer, "optimizer"), _single(synthesizer, "synthesizer")
    return keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(modules, {f"(.*/)?{SCOPE}/.*": synthesizers})
    )


def _single(optimizer, argument):
    wrappers = (keras.optimizers.MultiOptimizer, keras.optimizers.LossScaleOptimizer)
    found = keras.optimizers.get(optimizer) if isinstance(optimizer, str) else optimizer
    if not isinstance(found, keras.optimizers.Optimizer) or isinstance(found, wrappers):
        raise ValueError(
            f"`{argument}` must be a Keras optimizer or its string id, and not one that wraps others "
            "(under mixed_float16, compile() adds the loss scale around both). "
            f"Received: {optimizer!r} (of type {type(optimizer).__name__})."
        )
    return found
