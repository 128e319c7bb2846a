"""Two optimizers in one: for the modules, and for the synthesizers."""

from typing import Any

import keras

from keras_sg import _keras
from keras_sg._optimizers import owners
from keras_sg._types import Tensor, Variable


@keras.saving.register_keras_serializable(package="keras_sg")
class SynthesizerMap(keras.optimizers.OptimizerMap):
    """Maps the variables of synthesizers to the one optimizer in it, all others to the default one."""

    def __call__(self, variable: Variable) -> keras.optimizers.Optimizer:
        (of_synthesizers,) = self.values()
        return of_synthesizers if owners.of_synthesizer(variable) else self.default_optimizer


@keras.saving.register_keras_serializable(package="keras_sg")
class DecoupledOptimizer(keras.optimizers.MultiOptimizer):
    """A `keras.optimizers.MultiOptimizer` that can leave variables out; see `decoupled_optimizer`."""

    def __init__(self, optimizer_map: keras.optimizers.OptimizerMap, **options: Any) -> None:
        # Older files hold Keras's map, which went by a pattern for the paths of synthesizers.
        super().__init__(SynthesizerMap(optimizer_map.default_optimizer, dict(optimizer_map)), **options)

    def apply(self, grads: list[Tensor | None], trainable_variables: list[Variable] | None = None) -> None:
        """As Keras's, and a part of the variables will do: an optimizer with none of them rests.

        Variables are left out by leaving them out of both lists, or by a gradient that is None.
        """
        if not self.built:
            return super().apply(grads, trainable_variables)
        if trainable_variables is None:
            trainable_variables = _keras.built_for(self)
        for optimizer in self.optimizers:
            own = [
                (gradient, variable)
                for gradient, variable in zip(grads, trainable_variables, strict=True)
                if gradient is not None and _keras.optimizer_of(self, variable) is optimizer
            ]
            if own:
                optimizer.apply(*map(list, zip(*own)))
        self.iterations.assign_add(1)


def decoupled_optimizer(
    optimizer: str | keras.optimizers.Optimizer = "adam",
    synthesizer: str | keras.optimizers.Optimizer = "adam",
) -> DecoupledOptimizer:
    """One optimizer for the modules, another for the synthesizers.

    A `keras.optimizers.MultiOptimizer` that sends the variables of every interface's synthesizer
    to the second optimizer and all others to the first. It saves, loads and resumes as one
    optimizer; learning-rate callbacks act on both.

    Args:
        optimizer: Keras optimizer, or the string id of one, for the modules.
        synthesizer: Keras optimizer, or the string id of one, for the synthesizers.

    Returns:
        A `DecoupledOptimizer`, which is a `keras.optimizers.MultiOptimizer`; its `optimizers` are
        `[synthesizer, optimizer]`.

    Raises:
        ValueError: an argument is not an optimizer, or wraps other optimizers itself; or both are
            the same object.

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
    if modules is synthesizers:
        raise ValueError(
            "`optimizer` and `synthesizer` must be two optimizers, each with a state of its own. To train "
            "all weights with one, pass it to compile() as it is. "
            f"Received: {optimizer!r} twice (of type {type(optimizer).__name__})."
        )
    return DecoupledOptimizer(SynthesizerMap(modules, {"synthesizers": synthesizers}))


def _single(optimizer: str | keras.optimizers.Optimizer, argument: str) -> keras.optimizers.Optimizer:
    wrappers = (keras.optimizers.MultiOptimizer, keras.optimizers.LossScaleOptimizer)
    found = keras.optimizers.get(optimizer) if isinstance(optimizer, str) else optimizer
    if not isinstance(found, keras.optimizers.Optimizer) or isinstance(found, wrappers):
        raise ValueError(
            f"`{argument}` must be a Keras optimizer or its string id, and not one that wraps others "
            "(under mixed_float16, compile() adds the loss scale around both). "
            f"Received: {optimizer!r} (of type {type(optimizer).__name__})."
        )
    return found
