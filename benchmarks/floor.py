"""The least that a training step has to do, and the time that this takes on the device at hand.

What counts is the matrix products, of Dense layers and convolutions, and what Adam reads and writes. A
layer has up to three products in a step: its outputs, and the gradients of its weights and of its inputs.
Each of them takes the same,

    operations = 2 * batch * positions * numbers in the kernel
    bytes      = itemsize * (batch * (inputs + outputs) + numbers in the kernel)

where `positions` is 1 but for convolutions, and every operand is read, and every result written, once. How
many of them there are:

    layers of a module           outputs; weights, if they learn; inputs, if anything below learns
    of a gradient synthesizer    the same, beginning at the interface
    of a synthetic loss          the same, and the inputs once more: its gradient at the interface
    with Sobolev's term          and two more, for the derivatives of that gradient

Adam reads a weight, its gradient and two moments and writes the weight and the moments: 7 * 4 bytes for every
number that learns. Activations, BatchNormalization and pooling are taken to cost nothing.

With the ceilings `R` (operations a second in a large matrix product) and `W` (bytes a second in a pass over a
large array) that the same device reaches in the same precision,

    floor = max(operations / R, bytes / W)

No step is much faster, unless what it moves stays in the device's cache.
"""

import math
import time
from typing import NamedTuple

import keras
from keras import ops

import keras_sg

ITEMSIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


class Product(NamedTuple):
    """A layer's matrix product, for one example."""

    numbers: int  # in the kernel
    positions: int
    inputs: int
    outputs: int
    itemsize: int
    learns: bool


def of_step(model, batch):
    """Operations and bytes of a training step.

    Args:
        model: `keras_sg.DecoupledModel`, its layers in a chain, to be trained with Adam.
        batch: number of examples.
    """
    counted, below = [], False
    shape = (None, *model.input_shape[1:])
    for layer in model.layers[1:]:  # the first is the input
        cut = layer in model.interfaces
        products, shape = _products(layer.layer if cut else layer, shape)
        counted += _times(products, below)
        below = below or any(product.learns for product in products)
        if cut:
            more = isinstance(layer, keras_sg.SyntheticLoss) + 2 * getattr(layer, "sobolev", False)
            products, _ = _products(*_synthesizer(layer, shape))
            counted += [(product, times + more) for product, times in _times(products, below=False)]
    learning = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    return {
        "operations": sum(times * 2 * batch * p.positions * p.numbers for p, times in counted),
        "bytes": 7 * 4 * learning
        + sum(times * p.itemsize * (batch * (p.inputs + p.outputs) + p.numbers) for p, times in counted),
    }


def _times(products, below):
    """Each of a chain's products and how often a step makes it; `below`: whether something below learns."""
    counted = []
    for product in products:
        counted.append((product, 1 + product.learns + below))
        below = below or product.learns
    return counted


def _products(layer, shape):
    """The products inside a layer with inputs of a shape, in order, and the shape of its output."""
    if isinstance(layer, keras.Sequential):
        found = []
        for inner in layer.layers:
            products, shape = _products(inner, shape)
            found += products
        return found, shape
    after = tuple(layer.compute_output_shape(shape))
    if not hasattr(layer, "kernel"):
        return [], after
    numbers, inputs, outputs = (math.prod(sizes) for sizes in (layer.kernel.shape, shape[1:], after[1:]))
    itemsize = ITEMSIZES[layer.compute_dtype]
    return [
        Product(numbers, math.prod(after[1:-1]), inputs, outputs, itemsize, layer.kernel.trainable)
    ], after


def _synthesizer(interface, shape):
    """The layers of an interface's synthesizer, and the shape of what they see."""
    if hasattr(interface.synthesizer, "body"):  # a critic's, which does not see the label
        return interface.synthesizer.body, shape
    features = shape[-1] + (interface.label.size if interface.label else 0)
    return interface.synthesizer, (*shape[:-1], features)


def ceilings(size, mib):
    """Operations and bytes a second that the device reaches, in the global precision.

    Args:
        size: rows and columns of the matrices that are multiplied.
        mib: of the array that is passed over, which is read and written: MiB.
    """
    dtype = keras.config.dtype_policy().compute_dtype
    a, b = (keras.random.normal((size, size), dtype=dtype) for _ in range(2))
    array = keras.random.normal((mib * 2**18,), dtype="float32")
    return {
        "operations": 2 * size**3 / _seconds(lambda: ops.matmul(a, b)),
        "bytes": 2 * mib * 2**20 / _seconds(lambda: ops.negative(array)),
    }


def milliseconds(work, ceilings):
    """The time that the operations and the bytes of `of_step` take at the ceilings, each on its own."""
    return {name: 1e3 * work[name] / ceilings[name] for name in ("operations", "bytes")}


def _seconds(function, rounds=5, repeats=5):
    """Of one call, in the fastest of some rounds after a first."""
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        for _ in range(repeats):
            result = function()
        ops.convert_to_numpy(result[(0,) * len(result.shape)])  # waits for the device
        times.append((time.perf_counter() - began) / repeats)
    return min(times[1:])
