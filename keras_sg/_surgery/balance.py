"""`balance`: where to cut a model, so that its modules cost the same.

What a layer costs is in `costs`. A model is taken as a chain of *stretches*, each of which ends at a place
where a cut separates. Two places with nothing to learn between them would make a module of nothing: only the
better one counts. The chain is then parted so that the largest module is as small as can be.
"""

import collections
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras

from keras_sg import _keras
from keras_sg._graphs.graph import Graph
from keras_sg._graphs.plain import check_graph
from keras_sg._interfaces.checks import needed_inputs
from keras_sg._interfaces.interface import interfaces_in
from keras_sg._surgery import costs
from keras_sg._surgery.costs import Call, Cost
from keras_sg._types import Shape
from keras_sg.synthesizers.recipe import check_count

# An element of an activation takes as long as so many multiply-adds. (Seen on a CPU core, forward and back:
# 10 to 25 for a ReLU, 70 to 120 for a BatchNormalization.)
OPERATIONS_PER_ELEMENT = 32

# Counts are not times: a largest module that costs so many times the least possible is as good.
AS_GOOD = 1.05

_COSTS: dict[str, Callable[[Cost], int]] = {
    "memory": lambda cost: cost.elements,
    "operations": lambda cost: cost.operations + OPERATIONS_PER_ELEMENT * cost.elements,
}


class Place(NamedTuple):
    """Where a model can be cut: the path of a layer, and the shape of the tensor that it makes."""

    path: str
    shape: Shape

    @property
    def size(self) -> int:
        return math.prod(self.shape[1:])


class Stretch(NamedTuple):
    """The calls since the last place: their cost, the `id`s of their trainable weights, where they end."""

    cost: Cost
    weights: frozenset[int]
    learns: bool
    place: Place | None


def balance(model: keras.Model, modules: int, by: str = "operations") -> list[str]:
    """Where to cut a model into modules that cost the same.

    The cost of every layer is counted from the model's graph: for a module's time, multiply-adds and
    elements of its activations; for its memory, the elements alone. Places to cut are those where a cut
    separates: no gradient finds a way around. The largest module gets as small as it can, within 5 %:
    among partings as good as that, the tensors at the cuts are as small as they can be, since a
    synthesizer costs the more the larger its interface is. What synthesizers cost is not counted.

    Args:
        model: built Functional or Sequential `keras.Model` without interfaces, for inputs of known
            lengths. It is only looked at.
        modules: how many modules there will be: an integer of at least 2, one more than cuts.
        by: what the modules have the same of. `"operations"`: the time of a step, for modules that
            run side by side. `"memory"`: the activations that training keeps, for modules that run
            one after the other on one device.

    Returns:
        List of the names of `modules - 1` layers, from the model's inputs to its outputs, those
        in nested models by their paths: what `keras_sg.decouple` takes as `after`. Every module
        has a layer with weights to train.

    Raises:
        ValueError: the model is neither Functional nor Sequential, is not built, has interfaces
            already, or has tensors with lengths that are not known; `modules` is not an integer of at
            least 2, or more than the places to cut allow; `by` is neither of the two.

    Example:

    ```python
    import keras, keras_sg

    dense = [keras.layers.Dense(64, activation="relu", name=f"dense{i}") for i in range(8)]
    existing = keras.Sequential([keras.Input((64,)), *dense, keras.layers.Dense(10)])
    after = keras_sg.balance(existing, modules=4)
    print(after)  # ['dense1', 'dense3', 'dense5']
    model = keras_sg.decouple(existing, after=after, num_classes=10)
    ```
    """
    check_graph(model, "balance")
    _check(model, modules, by)
    ends, places = _places(_stretches(model), _COSTS[by])
    if len(places) < modules - 1:
        raise ValueError(
            f"{modules} modules need {modules - 1} places where a cut separates layers that learn, and model "
            f"{model.name!r} has {len(places)}, behind {[place.path for place in places]}. Ask for fewer "
            f"modules, or choose by hand which paths to cut. Received: modules={modules}."
        )
    return [places[i].path for i in partition(ends, [place.size for place in places], modules)]


def partition(ends: list[int], sizes: list[int], modules: int) -> tuple[int, ...]:
    """Part a chain so that its largest module is as small as can be, and so are the tensors between modules.

    Args:
        ends: the cost of everything up to each place, in their order, and of everything.
        sizes: elements of the tensor at each place.
        modules: number of modules.

    Returns:
        Indices of `modules - 1` places. The largest module costs at most `AS_GOOD` times the least that
        it could; of such partings, the sum of the sizes is the least; of these, modules are most even.
    """

    def largest(before: float, cost: int, size: int) -> float:
        return max(before, cost)

    least, _ = _cheapest(ends, sizes, modules, 0, largest)

    def tensors(before: tuple[float, float], cost: int, size: int) -> tuple[float, float]:
        return (before[0] + size, before[1] + cost**2) if cost <= AS_GOOD * least else (math.inf, math.inf)

    return _cheapest(ends, sizes, modules, (0, 0), tensors)[1]


def _cheapest(
    ends: list[int], sizes: list[int], modules: int, zero: Any, add: Callable[[Any, int, int], Any]
) -> tuple[Any, tuple[int, ...]]:
    """The parting with the least value, and the value: `add(value of the modules before, cost, size)`."""
    sizes = [*sizes, 0]  # the last module ends at no interface
    best: dict[int, tuple[Any, tuple[int, ...]]] = {
        j: (add(zero, end, size), ()) for j, (end, size) in enumerate(zip(ends, sizes))
    }
    for done in range(1, modules):
        best = {
            j: min(
                (add(value, ends[j] - ends[i], sizes[j]), (*cuts, i))
                for i, (value, cuts) in best.items()
                if i < j
            )
            for j in range(done, len(ends))
        }
    return best[len(sizes) - 1]


def _places(stretches: list[Stretch], price: Callable[[Cost], int]) -> tuple[list[int], list[Place]]:
    """The best place between any two stretches that learn, and what `partition` takes for `ends`."""
    ends = list(itertools.accumulate(price(stretch.cost) for stretch in stretches))
    learned = list(itertools.accumulate(stretch.learns for stretch in stretches))
    runs: dict[int, list[tuple[int, Place]]] = {}
    for i, stretch in enumerate(stretches):
        below, above = (_weights(part) for part in (stretches[: i + 1], stretches[i + 1 :]))
        # Weights on both sides are no module's.
        if stretch.place and 0 < learned[i] < learned[-1] and not below & above:
            runs.setdefault(learned[i], []).append((ends[i], stretch.place))
    chosen = [_smallest(run) for run in runs.values()]
    return [end for end, _ in chosen] + ends[-1:], [place for _, place in chosen]


def _smallest(run: list[tuple[int, Place]]) -> tuple[int, Place]:
    """The place with the smallest tensor: an activation and not what is before it, but no Flatten."""
    size = min(place.size for _, place in run)
    smallest = [(end, place) for end, place in run if place.size == size]
    return [(end, place) for end, place in smallest if place.shape == smallest[0][1].shape][-1]


def _weights(stretches: Iterable[Stretch]) -> frozenset[int]:
    return frozenset().union(*(stretch.weights for stretch in stretches))


def _stretches(model: keras.Model, prefix: str = "", inner: bool = False) -> list[Stretch]:
    """The model as a chain. What is behind its last place is the last stretch, whose place is None.

    Args:
        model: a Functional or Sequential model.
        prefix: of the paths of its layers.
        inner: whether it sits inside another: there may be weights below its inputs.
    """
    calls = costs.calls_in(model)
    graph = Graph()
    for call in calls:
        graph.add(call.layer, call.inputs, call.outputs)
    uses = collections.Counter(id(call.layer) for call in calls)
    chain: list[Stretch] = []
    done: set[int] = set()
    for narrow in _narrow(graph, calls, model.outputs, inner):
        call, since = calls[narrow], graph.upstream([narrow]) - done
        done |= since
        once, path = uses[id(call.layer)] == 1, prefix + call.layer.name
        if once and _keras.is_graph(call.layer):
            chain.append(_stretch(calls[i] for i in since - {narrow}))
            chain.extend(_stretches(call.layer, f"{path}/", inner=True))
        else:
            chain.append(_stretch(calls[i] for i in since))
        if once and _is_place(call, model.outputs):
            chain[-1] = chain[-1]._replace(place=Place(path, tuple(call.outputs[0].shape)))
    return [*chain, _stretch(call for i, call in enumerate(calls) if i not in done)]


def _narrow(graph: Graph, calls: list[Call], outputs: list[keras.KerasTensor], inner: bool) -> list[int]:
    """The calls that no gradient and no float input finds a way around; masks and indices may."""
    learning = {i for i, node in enumerate(graph.nodes) if node.has_weights}
    entering = {
        i for i, call in enumerate(calls) if not call.inputs and (inner or "float" in call.outputs[0].dtype)
    }
    below = {
        i: graph.upstream([i])
        for i in range(len(calls))
        if not graph.around(i, outputs) & (learning | entering)
    }
    return sorted((i for i in below if inner or below[i] & learning), key=lambda i: len(below[i]))


def _is_place(call: Call, outputs: list[keras.KerasTensor]) -> bool:
    """Whether an interface can wrap the layer: one float tensor `(batch, ..., features)`, no output."""
    made = call.outputs[0]
    return (
        isinstance(call.layer, keras.Layer)
        and not isinstance(call.layer, keras.layers.InputLayer)
        and len(needed_inputs(call.layer)) == 1
        and len(call.outputs) == 1
        and len(made.shape) > 1
        and "float" in made.dtype
        and all(made is not output for output in outputs)
    )


def _stretch(calls: Iterable[Call]) -> Stretch:
    calls = list(calls)
    weights = frozenset(
        id(weight) for call in calls for weight in getattr(call.layer, "trainable_weights", ())
    )
    learns = any(call.learns for call in calls)
    return Stretch(costs.total(map(costs.of_call, calls)), weights, learns, None)


def _check(model: keras.Model, modules: int, by: str) -> None:
    check_count("modules", modules, least=2)
    if by not in _COSTS:
        raise ValueError(
            f"`by` must be one of {sorted(_COSTS)}: what modules have as much of. Received: by={by!r}."
        )
    existing = [interface.name for interface in interfaces_in(model)]
    if existing:
        raise ValueError(
            f"Model {model.name!r} is parted already, by the interfaces {existing}. To balance it anew, pass "
            "keras_sg.strip(model)."
        )
