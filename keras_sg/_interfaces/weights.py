"""How much an example counts: what its loss is multiplied by, as an interface sees it.

The training loss of a batch is a mean of `w * loss(example)`. The weight `w` comes from `sample_weight`
(which `class_weight` becomes, too); it is 0 for what a loss leaves out (`ignore_class`) and where a mask
is False. What arrives at an interface contains `w`. A synthesizer cannot see it, so it predicts the
gradient of an example *that counts once*, and everything that is exchanged is multiplied by `w`:

    the module receives       w * g_hat(h)     in place of  g_hat(h)
    the synthesizer descends  loss(w * g_hat(h), t), mean over what counts (w is not 0)

Where the interface has the positions that weights are given for, each position has its own; elsewhere, and
in a predicted loss, an example has the mean of the weights of its positions (of those that are there). Where
it leads to several outputs, it is the mean over those that have a loss, each counted as much as its loss
weight.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_sg import _keras
from keras_sg._backends import dtypes, replicas
from keras_sg._types import Nested, Shape, Tensor
from keras_sg.gradients import Counting


class Weight(NamedTuple):
    """The weights of a batch at one interface.

    `value` is that of every position, `(batch, ..., 1)` with as many axes as the interface (and its axis
    of features as the one of length 1); the other axes have the interface's lengths, or 1. `example` is that
    of every example, `(batch,)`. `positions` and `examples` are how many of them count, scalars (in several
    replicas, the mean of theirs). All are float32 or wider.
    """

    value: Tensor
    example: Tensor
    positions: Tensor
    examples: Tensor

    @property
    def counts(self) -> Tensor:
        """Boolean, in the shape of `value`: whether a position counts."""
        return ops.not_equal(self.value, 0.0)

    @property
    def counting_examples(self) -> Tensor:
        """Boolean, `(batch,)`: whether anything of an example counts."""
        return ops.any(ops.reshape(self.counts, (ops.shape(self.value)[0], -1)), axis=1)

    def mask(self, h: Tensor) -> Tensor:
        """`counts` as a Keras mask of the interface (with features last), `(batch, ...)`."""
        return ops.broadcast_to(self.counts[..., 0], ops.shape(h)[:-1])

    def counting_elements(self, features: int) -> Counting:
        """Which elements of the interface count."""
        return Counting(self.counts, self.positions * features)

    def counting_losses(self) -> Counting:
        """Which of the losses, one an example, count."""
        return Counting(self.counting_examples, self.examples)

    def elements(self, features: int) -> Tensor:
        """How many elements of the interface count for an example that does, in the mean; a scalar."""
        return ops.divide_no_nan(self.positions * features, self.examples)

    def times(self, prediction: Tensor) -> Tensor:
        """What is predicted for every position, in the shape of the interface, times its weight."""
        return _where(self.counts, prediction * ops.cast(self.value, prediction.dtype))

    def of_examples(self, prediction: Tensor) -> Tensor:
        """What is predicted for every example, `(batch,)`, times its weight."""
        return _where(self.counting_examples, prediction * ops.cast(self.example, prediction.dtype))

    def of_positions(self, gradient: Tensor) -> Tensor:
        """The gradient of `of_examples`, shape of the interface, for the weights that positions have."""
        example = ops.reshape(self.example, (-1, *(1,) * (len(self.value.shape) - 1)))
        share = ops.divide_no_nan(self.value, example)
        return _where(self.counts, gradient * ops.cast(share, gradient.dtype))


class OutputWeight(NamedTuple):
    """What a model's output has for weights.

    `value` is `(batch,)` or, where positions of the output have their own, `(batch, ...)`; None where all
    count once. `share` is what its loss is multiplied by in the training loss; 0 where it has no loss.
    """

    value: Tensor | None
    share: float


def _where(counts: Tensor, values: Tensor) -> Tensor:
    # Whatever is predicted where nothing counts: 0 * infinity is no zero.
    return ops.where(counts, values, ops.zeros_like(values))


def of_outputs(model: keras.Model, y: Nested, sample_weight: Nested) -> list[OutputWeight]:
    """The weights that the examples of a batch have in the losses of a model's outputs, in their order.

    Args:
        model: a compiled functional model.
        y: targets of the batch, as `fit` received them.
        sample_weight: sample weights, likewise; or None.
    """
    return [
        OutputWeight(_of_output(output.shape, loss, target, given), share)
        for output, (loss, share), target, given in zip(
            model.outputs,
            _keras.losses_of_outputs(model),
            _keras.by_output(model, y),
            _keras.by_output(model, sample_weight, shared=True),
        )
    ]


def _of_output(shape: Shape, loss: Any, target: Tensor | None, given: Tensor | None) -> Tensor | None:
    dtype = keras.config.floatx()
    value = None if given is None else _trimmed(ops.cast(given, dtype), shape)
    ignored = _keras.ignored_class(loss)
    if ignored is None or target is None:
        return value
    kept = ops.cast(ops.not_equal(target, ops.cast(ignored, target.dtype)), dtype)
    kept = _trimmed(kept, shape)
    if value is None:
        return kept
    missing = len(kept.shape) - len(value.shape)
    return kept * ops.reshape(value, (*ops.shape(value), *(1,) * missing)) if missing > 0 else value * kept


def _trimmed(value: Tensor, output: Shape) -> Tensor:
    """Numbers per example, `(batch,)`, or per position of an output, `(batch, ...)`."""
    while (
        len(value.shape) > 1
        and value.shape[-1] == 1
        and (len(value.shape) == 2 or len(value.shape) >= len(output))
    ):
        value = ops.squeeze(value, axis=-1)
    return value


def positions_of(shape: Shape, axis: int) -> Shape:
    """The lengths of an interface's axes but the batch and the features, which are at `axis`."""
    return tuple(length for i, length in enumerate(shape) if i not in (0, axis % len(shape)))


def ignored(model: keras.Model) -> tuple[int, ...]:
    """The classes that the losses of a compiled model leave out."""
    found = [_keras.ignored_class(loss) for loss, _ in _keras.losses_of_outputs(model)]
    return tuple(sorted({number for number in found if number is not None}))


def at_interface(
    h: Tensor,
    axis: int,
    outputs: Sequence[OutputWeight],
    mask: Tensor | None,
) -> Weight | None:
    """The weights at an interface, or None where all of it counts once.

    Args:
        h: the interface, `(batch, ..., features)`.
        axis: its axis of features.
        outputs: the weights of the outputs that it leads to.
        mask: boolean, `(batch, ...)`: which positions of `h` are there at all; or None.
    """
    positions = positions_of(h.shape, axis)
    dtype = dtypes.wide(h.dtype)
    value = _mean_of_outputs([(_fitted(w.value, positions), w.share) for w in outputs], dtype)
    if value is None and mask is None:
        return None
    batch = ops.shape(h)[0]
    if value is None:
        value = ops.ones((batch, *(1,) * len(positions)), dtype)
    there = ops.ones_like(value)
    if mask is not None and len(mask.shape) <= 1 + len(positions):
        mask = ops.reshape(mask, (*ops.shape(mask), *(1,) * (1 + len(positions) - len(mask.shape))))
        there = there * ops.cast(mask, dtype)
        value = ops.where(there > 0, value, ops.zeros_like(value))
    # The mean over what is there: the length of the padding is no matter.
    total, number = (ops.sum(ops.reshape(part, (batch, -1)), axis=1) for part in (value, there))
    example = ops.divide_no_nan(total, number)
    value = ops.expand_dims(value, axis)
    shape = [1 if i == axis % len(h.shape) else length for i, length in enumerate(ops.shape(h))]
    found = Weight(value, example, value, example)  # which says what counts
    positions = _number(ops.broadcast_to(found.counts, shape), dtype)
    found = found._replace(positions=positions, examples=_number(found.counting_examples, dtype))
    return Weight(*map(ops.stop_gradient, found))


def _number(counts: Tensor, dtype: str) -> Tensor:
    return replicas.mean(ops.sum(ops.cast(counts, dtype)))


def _fitted(value: Tensor | None, positions: Shape) -> Tensor | None:
    """Weights of an output for an interface's positions: one each, `(batch, ...)`, or one an example."""
    if value is None:
        return None
    given = tuple(value.shape[1:])
    if (
        given
        and len(given) == len(positions)
        and all(None in p or p[0] == p[1] for p in zip(given, positions))
    ):
        return value
    per_example = ops.mean(ops.reshape(value, (ops.shape(value)[0], -1)), axis=1) if given else value
    return ops.reshape(per_example, (-1, *(1,) * len(positions)))


def _mean_of_outputs(weights: list[tuple[Tensor | None, float]], dtype: str) -> Tensor | None:
    found = [(value, abs(share)) for value, share in weights if share]
    if all(value is None for value, _ in found):
        return None
    total = sum(share for _, share in found)
    terms = [(1.0 if value is None else ops.cast(value, dtype)) * (share / total) for value, share in found]
    return sum(terms[1:], terms[0])
