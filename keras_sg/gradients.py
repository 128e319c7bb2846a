"""The primitive: exchange the gradient that crosses an interface for a synthetic one.

Let `h` leave one module and enter the next. `replace_gradient` is the identity on `h`
going forward. Going backward it hands the module below the *synthetic* gradient and uses
the gradient that really arrived, the target, to teach the synthesizer.

It also returns an *anchor*: a scalar zero that belongs into the training loss. Whatever
scales the loss (a dynamic loss scale, `1 / replicas`, both) arrives at the anchor as its
gradient `s`, so everything can be expressed in units that know nothing of such scales:

    t              = delta * B / s                               target, per example
    to `h`         = s / B * (mix * synthetic + (1 - mix) * t)
    to `synthetic` = s * d loss(synthetic, t) / d synthetic

with `delta` the gradient that arrived at `h` and `B` the batch size of this replica. Where examples or
positions have weights, `synthetic` is the weighted prediction: what arrives contains the weight, too.

This file is arithmetic on tensors: no layers, no variables, no state.

References: Jaderberg et al. 2016, https://arxiv.org/abs/1608.05343, section 2.
"""

import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_sg._backends import dtypes
from keras_sg._backends.custom_gradient import custom_gradient
from keras_sg._types import Tensor


class Regression(NamedTuple):
    """A regression loss, averaged over all elements of its arguments; zero where they are equal.

    `value(prediction, target)` is the scalar loss and `derivative(prediction, target)` is
    `size * d value / d prediction`, elementwise: the derivative before the averaging.
    """

    value: Callable[[Tensor, Tensor], Tensor]
    derivative: Callable[[Tensor, Tensor], Tensor]


class Counting(NamedTuple):
    """Which elements a mean is over.

    `where` is boolean and can be broadcast to their shape; `number` is how many there are, a scalar (of
    several replicas, the mean of theirs).
    """

    where: Tensor
    number: Tensor


def _huber(prediction: Tensor, target: Tensor) -> Tensor:
    size = ops.absolute(prediction - target)
    return ops.mean(ops.where(size <= 1.0, 0.5 * ops.square(size), size - 0.5))


REGRESSIONS = {
    "mse": Regression(
        value=lambda prediction, target: ops.mean(ops.square(prediction - target)),
        derivative=lambda prediction, target: 2.0 * (prediction - target),
    ),
    "mae": Regression(
        value=lambda prediction, target: ops.mean(ops.absolute(prediction - target)),
        derivative=lambda prediction, target: ops.sign(prediction - target),
    ),
    "huber": Regression(
        value=_huber,
        derivative=lambda prediction, target: ops.clip(prediction - target, -1.0, 1.0),
    ),
}


# Of what is to be descended rather than met: a loss, whose target is 0.
DESCENT = Regression(
    value=lambda prediction, target: ops.mean(prediction - target),
    derivative=lambda prediction, target: ops.ones_like(prediction),
)


def get_regression(loss: str | Regression) -> Regression:
    """Return the `Regression` called `loss`.

    Args:
        loss: `"mse"`, `"mae"` or `"huber"` (with its bend at 1); or what is one already.

    Raises:
        ValueError: no regression loss has that name.
    """
    if isinstance(loss, Regression):
        return loss
    if not isinstance(loss, str) or loss not in REGRESSIONS:
        raise ValueError(
            f"Unknown regression loss for an interface. Expected one of {sorted(REGRESSIONS)}. "
            f"Received: loss={loss!r} (of type {type(loss).__name__})."
        )
    return REGRESSIONS[loss]


def check_mix(mix: float) -> float:
    """Raise `ValueError` unless `mix` is a number from 0 to 1; return it as a float."""
    if isinstance(mix, bool) or not isinstance(mix, numbers.Real) or not 0.0 <= mix <= 1.0:
        raise ValueError(
            "`mix` is the share of the synthetic gradient in what a module receives, "
            "a number from 0 (plain backpropagation) to 1 (all synthetic). "
            f"Received: mix={mix!r} (of type {type(mix).__name__})."
        )
    return float(mix)


def per_example(delta: Tensor, scale: Tensor) -> Tensor:
    """Turn an arrived gradient into a target: `delta * B / scale`, in float32 or wider.

    Args:
        delta: gradient at the interface, shape `(batch, ..., features)`, any float dtype.
        scale: scalar; the gradient that arrived at the interface's anchor.

    Returns:
        The target, shape of `delta`: `B * dL/dh` of an unscaled mean loss `L`.
    """
    wide = _wide(delta)
    return ops.cast(delta, wide) * (ops.cast(ops.shape(delta)[0], wide) / _or_one(scale, wide))


def replace_gradient(
    h: Tensor,
    synthetic: Tensor,
    loss: str | Regression = "mse",
    mix: float | Tensor = 1.0,
    weight: float | Tensor = 1.0,
    counts: Counting | None = None,
) -> tuple[Tensor, Tensor]:
    """Pass `h` on unchanged and send a synthetic gradient back in place of the true one.

    Add the anchor to the training loss. Call the synthesizer on `stop_gradient(h)`, so
    that its regression does not leak into the module below.

    Args:
        h: activations at the interface, shape `(batch, ..., features)`, a float dtype.
        synthetic: the predicted gradient *per example* (`B * dL/dh` of a mean loss), same
            shape as `h`, a float dtype. Of an example or position with a weight, times the weight.
        loss: regression loss between `synthetic` and the target, averaged over all
            elements that count: `"mse"`, `"mae"` or `"huber"`, or a `Regression`.
        mix: share of the synthetic gradient in what `h` receives, a float from 0 to 1, or a
            scalar tensor (which is not checked); the rest is the true gradient.
        weight: factor of the regression loss, a float or a scalar tensor.
        counts: the elements of `h` that the regression is about, a `Counting`; None for all.

    Returns:
        Tuple `(h, anchor)`: `h` with its gradient replaced, and a scalar zero in `floatx`, as
        Keras's losses are.

    Raises:
        ValueError: `loss` is not known, `mix` is not in [0, 1], or the shapes differ.

    Example:

    ```python
    import keras
    from keras_sg.gradients import replace_gradient

    h = keras.ops.ones((4, 3))
    same, anchor = replace_gradient(h, synthetic=keras.ops.zeros((4, 3)))
    ```

    References:
        Jaderberg et al. 2016, https://arxiv.org/abs/1608.05343, section 2.1 (the synthetic
        gradient and its bootstrapped target).
    """
    get_regression(loss)
    mix = mix if keras.ops.is_tensor(mix) else check_mix(mix)
    h, synthetic = ops.convert_to_tensor(h), ops.convert_to_tensor(synthetic)
    if len(h.shape) != len(synthetic.shape) or any(
        None not in pair and pair[0] != pair[1] for pair in zip(h.shape, synthetic.shape)
    ):
        raise ValueError(
            "The synthetic gradient must have the shape of the interface. "
            f"Received: h of shape {tuple(h.shape)}, synthetic of shape {tuple(synthetic.shape)}."
        )

    @custom_gradient
    def exchange(h: Tensor, synthetic: Tensor, mix: Tensor) -> tuple[Any, Callable[..., Any]]:
        def grad(delta: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            wide = _wide(h)
            batch = ops.cast(ops.shape(h)[0], wide)
            prediction = ops.cast(synthetic, wide)
            target = per_example(delta, scale)
            scale = _or_one(scale, wide)

            # At a fixed mix of 1 the module below depends on nothing that lies above the interface.
            share = ops.cast(mix, wide)
            received = prediction
            if not whole:
                mixed = share * prediction + (1.0 - share) * target
                received = ops.where(share == 1.0, prediction, mixed)
                # And at 0 on no synthesizer, whatever it predicts (0 * infinity is no zero).
                received = ops.where(share == 0.0, target, received)
            to_h = received * (scale / batch)
            to_synthetic = regression_gradient(prediction, target, loss, scale, weight, counts)
            return ops.cast(to_h, h.dtype), ops.cast(to_synthetic, synthetic.dtype), ops.zeros_like(mix)

        return (h, ops.zeros((), keras.config.floatx())), grad

    whole = isinstance(mix, float) and mix == 1.0
    return exchange(h, synthetic, ops.convert_to_tensor(mix, _wide(h)))


def regression(
    prediction: Tensor, target: Tensor, loss: str | Regression, counts: Counting | None = None
) -> Tensor:
    """The regression loss called `loss`, averaged over the elements that count; a scalar.

    Args:
        prediction: tensor of any shape and float dtype.
        target: the same shape; its dtype is that of the result.
        loss: `"mse"`, `"mae"` or `"huber"`, or a `Regression`.
        counts: the elements that count, or None for all.
    """
    value, prediction = get_regression(loss).value, ops.cast(prediction, target.dtype)
    if counts is None:
        return value(prediction, target)
    size, number = (ops.cast(n, target.dtype) for n in (ops.size(target), counts.number))
    counting = (ops.where(counts.where, x, ops.zeros_like(x)) for x in (prediction, target))
    return value(*counting) * ops.divide_no_nan(size, number)


def regression_gradient(
    prediction: Tensor,
    target: Tensor,
    loss: str | Regression,
    scale: float | Tensor,
    weight: float | Tensor = 1.0,
    counts: Counting | None = None,
) -> Tensor:
    """What `prediction` receives from `scale * weight * regression(...)`; its dtype and shape."""
    wide = _wide(prediction)
    error = get_regression(loss).derivative(ops.cast(prediction, wide), ops.cast(target, wide))
    factor = ops.cast(scale, wide) * ops.cast(weight, wide)
    if counts is None:
        return ops.cast(error * (factor / ops.cast(ops.size(error), wide)), prediction.dtype)
    error = ops.where(counts.where, error, ops.zeros_like(error))
    return ops.cast(error * ops.divide_no_nan(factor, ops.cast(counts.number, wide)), prediction.dtype)


def widen(tensor: Tensor) -> Tensor:
    """A tensor in float32, or as it is if it is wider."""
    return ops.cast(tensor, _wide(tensor))


def _wide(tensor: Tensor) -> str:
    """The dtype to compute in: float32, or that of the tensor if it is wider."""
    return dtypes.wide(tensor.dtype)


def _or_one(scale: Tensor, dtype: str) -> Tensor:
    """The scale, or one where the anchor never reached a loss (its gradient is then zero)."""
    scale = ops.cast(scale, dtype)
    return ops.where(scale == 0.0, ops.ones_like(scale), scale)
