"""The graph of a model, and whether a cut in it separates."""

import inspect
import warnings
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import keras

from keras_sg import _keras
from keras_sg._types import Nested, Tensor


class Node(NamedTuple):
    """One call of a layer (or operation): who was called, and the nodes whose outputs it took."""

    layer: Any
    parents: tuple[int, ...]

    @property
    def has_weights(self) -> bool:
        return bool(getattr(self.layer, "trainable_weights", None))


class Graph:
    """Records the calls of a model's layers while the model is rebuilt.

    Attributes:
        nodes: list of `Node`, in the order of the calls; inputs of the model stand before their
            first use.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        # id of a symbolic tensor -> (the tensor, kept alive; its node's index)
        self._sources: dict[int, tuple[Tensor, int]] = {}

    def call(self, layer: keras.Layer, *args: Any, **kwargs: Any) -> Nested:
        """Call a layer; the `call_function` of `keras.models.clone_model`."""
        if isinstance(layer, keras.layers.Wrapper) and not args:
            # Called by keyword: a wrapper does not know the name that its layer has for the input.
            name = next(iter(inspect.signature(layer.layer.call).parameters))
            args = (kwargs.pop(name),) if name in kwargs else args
        tensors = [x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, keras.KerasTensor)]
        outputs = layer(*args, **kwargs)
        self.add(layer, tensors, keras.tree.flatten(outputs))
        return outputs

    def uses(self, name: str) -> list[int]:
        """Indices of the calls of the layer called `name`."""
        return [i for i, node in enumerate(self.nodes) if node.layer.name == name]

    def leak(
        self, cut: int, cuts: list[int], outputs: Nested, inner: bool
    ) -> tuple[keras.Layer, keras.Layer] | None:
        """A way for the gradient around a cut, or None.

        Args:
            cut: index of the node with the interface.
            cuts: indices of all nodes with interfaces.
            outputs: symbolic outputs of the model.
            inner: whether the model sits inside another: there may be weights below its inputs.

        Returns:
            Tuple of two layers: one below the cut that a gradient still reaches unreplaced, and
            the one that it comes through.
        """
        below = self.upstream(self.nodes[cut].parents)
        # A cut beside this one closes a path; one above it does not, it is on this one's way out.
        closed = [other for other in cuts if cut not in self.upstream(self.nodes[other].parents)]
        open_nodes = self.upstream([self._source(x) for x in keras.tree.flatten(outputs)], closed)
        leaking = [
            i
            for i in sorted(below & open_nodes)
            if self.nodes[i].has_weights or (inner and not self.nodes[i].parents)
        ]
        if not leaking:
            return None
        last = max(below & open_nodes)
        # The last of them leads on past the cut, unless it is an output itself.
        around = next((i for i in sorted(open_nodes - below) if last in self.nodes[i].parents), last)
        return self.nodes[leaking[-1]].layer, self.nodes[around].layer

    def warn_unless_separating(self, cut: int, cuts: list[int], outputs: Nested, inner: bool) -> None:
        """Warn where `leak` finds a way around the cut."""
        leak = self.leak(cut, cuts, outputs, inner)
        if leak:
            below, around = leak
            warnings.warn(
                f"The cut after layer {self.nodes[cut].layer.name!r} does not separate: past it, through "
                f"layer {around.name!r}, the true gradient still reaches layer {below.name!r} below. Cut "
                "behind the layer where the paths join, or cut every path.",
                stacklevel=4,
            )

    def upstream(self, start: Iterable[int], without: Collection[int] = ()) -> set[int]:
        """Indices of the nodes in `start` and above them towards the inputs, not past `without`."""
        found: set[int] = set()
        waiting = list(start)
        while waiting:
            i = waiting.pop()
            if i not in found and i not in without:
                found.add(i)
                waiting.extend(self.nodes[i].parents)
        return found

    def around(self, cut: int, outputs: Nested) -> set[int]:
        """Indices of the nodes, but those above the cut, that lead to the outputs without it."""
        above = {cut}
        for i, node in enumerate(self.nodes):
            if above.intersection(node.parents):
                above.add(i)
        ends = [self._source(x) for x in keras.tree.flatten(outputs)]
        return self.upstream(ends, without=[cut]) - above

    def add(self, layer: Any, inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> None:
        """Record a call that has been made: what it took and what it gave, symbolic tensors."""
        self._add(Node(layer, tuple(self._source(tensor) for tensor in inputs)), outputs)

    def _source(self, tensor: Tensor) -> int:
        if id(tensor) not in self._sources:
            self._add(Node(_keras.producer(tensor)[0], ()), [tensor])
        return self._sources[id(tensor)][1]

    def _add(self, node: Node, outputs: Iterable[Tensor]) -> None:
        self.nodes.append(node)
        for tensor in outputs:
            self._sources[id(tensor)] = tensor, len(self.nodes) - 1


def layers_behind(output: Tensor) -> list[keras.Layer]:
    """The layers (and operations) of a functional model that one of its outputs comes from."""
    found: dict[int, keras.Layer] = {}
    waiting, seen = [output], set()
    while waiting:
        tensor = waiting.pop()
        if id(tensor) not in seen:
            seen.add(id(tensor))
            layer, inputs = _keras.made_from(tensor)
            found[id(layer)] = layer
            waiting.extend(inputs)
    return list(found.values())
