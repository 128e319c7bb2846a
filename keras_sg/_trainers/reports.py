"""What a training step says of its synthesizers: how far they are from their targets.

    sg_loss     the regression loss
    sg_cosine   the cosine between predicted gradients and targets, of the whole batch
    input_loss  of what predicts the interface from the network's input, its regression loss

Each over all interfaces and, under the interface's own name, of each. What does not count (weight 0, a mask
that is False) is in none of them.
"""

from typing import NamedTuple

import keras
from keras import ops

from keras_sg._interfaces.interface import Interface
from keras_sg._interfaces.step import Pair
from keras_sg._interfaces.synthetic_input import SyntheticInput
from keras_sg._types import Tensor

Metrics = dict[str, keras.metrics.Mean]
# What is reported: an interface's key, the value, and how many examples count, where not all do.
Values = list[tuple[str, Tensor, Tensor | None]]


class Measure(NamedTuple):
    """What a pair is worth: `loss` and `cosine` (None of predicted losses), and how many examples count.

    All are scalars; `examples` is None where all of the batch count. Of an interface that is predicted
    from the network's input, `input` is the loss, and both others are None.
    """

    loss: Tensor | None
    cosine: Tensor | None
    examples: Tensor | None
    input: Tensor | None = None


Measures = list[tuple[str, Measure]]  # with the key of the pair's interface, see `keys_of`


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine between `a` and `b`, each as one vector of all its elements; a scalar, 0 where either is zero.

    Of a batch, that weighs examples by the size of their gradients, as the update of the weights does.
    A mean over the examples would be pulled to zero by those that are fitted already.
    """
    norms = [ops.sqrt(ops.sum(ops.square(x))) for x in (a, b)]
    return ops.divide_no_nan(ops.sum(a * b), norms[0] * norms[1])


def keys_of(interfaces: list[Interface]) -> dict[int, str]:
    """What the metrics of each interface begin with, by its id: its name, numbered where several share it.

    What predicts an interface from the network's input has the interface's.
    """
    keys: dict[int, str] = {}
    for interface in interfaces:
        key, number = interface.name, 0
        while key in keys.values():
            number += 1
            key = f"{interface.name}_{number}"
        keys[id(interface)] = keys[id(interface.synthetic_input or interface)] = key
    return keys


def metrics_of(interfaces: list[Interface], keys: dict[int, str], each: bool) -> Metrics:
    """The metrics of a model with these interfaces, by name: of all together and, if `each`, of each."""
    gradients_only = [interface for interface in interfaces if interface.fits_gradient]
    learning = [interface for interface in interfaces if not interface.of_error]
    names = (["sg_loss"] if learning else []) + (["sg_cosine"] if gradients_only else [])
    predicted = [interface for interface in interfaces if interface.synthetic_input is not None]
    names += ["input_loss"] if predicted else []
    if len(interfaces) > 1 and each:
        names += [f"{keys[id(interface)]}_sg_loss" for interface in learning]
        names += [f"{keys[id(interface)]}_sg_cosine" for interface in gradients_only]
        names += [f"{keys[id(interface)]}_input_loss" for interface in predicted]
    return {name: keras.metrics.Mean(name=name) for name in names}


def measure(pair: Pair) -> Measure:
    """What there is to report of a pair, in the dtype of reports."""
    if isinstance(pair.interface, SyntheticInput):
        return Measure(None, None, pair.examples, _float(pair.loss))
    met = None
    if len(pair.target.shape) > 1:
        met = _float(cosine(ops.cast(pair.prediction, pair.target.dtype), pair.target))
    return Measure(_float(pair.loss), met, pair.examples)


def update(metrics: Metrics, measures: Measures, batch: Tensor, finite: bool) -> None:
    """Update the metrics from the pairs of a step.

    Args:
        metrics: those of `metrics_of`.
        measures: pairs of an interface's key, see `keys_of`, and what `measure` found of a pair there.
        batch: number of examples.
        finite: whether a value that is not finite is left out.
    """
    losses: dict[str, tuple[Tensor, Tensor | None]] = {}
    cosines: Values = []
    inputs: Values = []
    for key, found in measures:
        if found.input is not None:
            inputs.append((key, found.input, found.examples))
        if found.loss is None:
            continue
        before = losses[key][0] if key in losses else 0.0
        losses[key] = (before + found.loss, found.examples)
        if found.cosine is not None:
            cosines.append((key, found.cosine, found.examples))
    _report(metrics, "sg_loss", [(key, *values) for key, values in losses.items()], batch, finite)
    _report(metrics, "sg_cosine", cosines, batch, finite)
    _report(metrics, "input_loss", inputs, batch, finite)


def _report(metrics: Metrics, what: str, found: Values, batch: Tensor, finite: bool) -> None:
    """Update the metrics called `what`: of all interfaces together, and of each that has its own."""
    if not found:
        return
    keys, values, examples = zip(*found)
    counting = batch
    if any(number is not None for number in examples):
        counting = ops.stack([_float(batch if number is None else number) for number in examples])
    values = ops.stack(values)
    # A replica may go without examples; there is nothing to report then.
    counts = ops.broadcast_to(ops.convert_to_tensor(counting) > 0, ops.shape(values))
    if finite:
        counts = ops.logical_and(counts, ops.isfinite(values))
    values, examples = ops.where(counts, values, 0.0), ops.where(counts, counting, 0)
    metrics[what].update_state(values, sample_weight=examples)
    for index, key in enumerate(keys):
        if f"{key}_{what}" in metrics:
            metrics[f"{key}_{what}"].update_state(values[index], sample_weight=examples[index])


def _float(value: Tensor) -> Tensor:
    """A scalar in the dtype of reports, whatever precision its interface computes in."""
    return ops.cast(value, keras.config.floatx())
