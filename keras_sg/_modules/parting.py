"""Parting a model at its interfaces: which layers make which module.

Everything between two interfaces is a module. The modules are a sequence: what leaves one, at its
interfaces, enters the next, and nothing else of the model passes between them but inputs of the model.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

from keras_sg import _keras
from keras_sg._interfaces.interface import Interface, interfaces_in
from keras_sg._types import Nested, Tensor

Node = tuple[int, int]  # a call of a layer, see `_keras.call_of`

CUT_EVERY_PATH = "Cut every path, or cut behind the layer where the paths join."


class Module(NamedTuple):
    """The layers between two interfaces.

    `network` is a functional model of the *same* layers; it takes a list of tensors and returns the tensors
    at its interfaces, in a list (of the last module: the model's outputs, as the model has them). `inputs`
    and `below` say what it takes: first the model's inputs of these indices, then the tensors of these
    interfaces of the module below, by their index there. `interfaces` are its own, none in the last module.
    """

    network: keras.Model
    inputs: tuple[int, ...]
    below: tuple[int, ...]
    interfaces: tuple[Interface, ...]


def part(model: keras.Model) -> list[Module]:
    """The modules of a model with interfaces, in the order of the forward pass.

    Interfaces inside nested Functional and Sequential models are found. Several interfaces may lie at the
    same boundary, as long as every path from one module to the next is cut.

    Args:
        model: a `keras_sg.DecoupledModel`.

    Returns:
        List of `Module`, one more than there are boundaries.

    Raises:
        ValueError: there is no interface; or one sits where it cannot be told from what is around it, or is
            used several times; a path around a cut carries gradients past it; or two modules share weights.
    """
    if not model.interfaces:
        raise ValueError(
            f"Model {model.name!r} has no interfaces to part it at. Cut it with keras_sg.decouple(model, "
            "after=[...])."
        )
    outputs = _opened(model)
    stages = _Stages(met_in(model))
    for tensor in keras.tree.flatten(outputs):
        stages.place(tensor, 0)
    _check_interfaces(model, [interface for cuts in stages.interfaces.values() for _, interface in cuts])
    modules: list[Module] = []
    for stage in range(min(stages.interfaces), 1):
        below = [tensor for tensor, _ in stages.interfaces.get(stage - 1, [])]
        cuts = stages.interfaces.get(stage, [])
        taken = [i for i, tensor in enumerate(model.inputs) if (stage, id(tensor)) in stages.taken]
        network = _Network(
            [*(model.inputs[i] for i in taken), *below],
            [tensor for tensor, _ in cuts] if stage else outputs,
            name=f"{model.name}_module_{len(modules)}",
        )
        _keras.register_step(network)
        interfaces = tuple(interface for _, interface in cuts)
        modules.append(Module(network, tuple(taken), tuple(range(len(below))), interfaces))
    _check_weights(model, modules)
    return modules


def whole(model: keras.Model, interfaces: Sequence[Interface] = ()) -> Module:
    """A functional model as one module: of no interfaces, or of one that is its only output."""
    outputs = list(model.outputs) if interfaces else model.output
    network = _Network(list(model.inputs), outputs, name=f"{model.name}_module_0")
    _keras.register_step(network)
    return Module(network, tuple(range(len(model.inputs))), (), tuple(interfaces))


@keras.saving.register_keras_serializable(package="keras_sg")
class _Network(keras.Model):
    """A functional model whose layers say what becomes of a mask of its inputs; Keras itself would warn."""

    def compute_mask(self, inputs: Nested, previous_mask: Nested) -> None:
        return None


def met_in(model: keras.Model) -> list[Interface]:
    """The interfaces of a model and of the models nested in it, in the order in which a step meets them."""
    met: list[Interface] = []
    for called in _keras.calls_in_order(model):
        if isinstance(called, Interface):
            met.append(called)
        elif _keras.is_graph(called):
            met += met_in(called)
    return met


class _Stages:
    """Which module each call of a layer belongs to: 0 is the last, -1 the one below it, and so on.

    What is computed from the model's inputs without weights (a mask of tokens, for one) belongs to every
    module that uses it: it is computed there.

    Args:
        order: the model's interfaces.

    Attributes:
        interfaces: by stage, pairs of an interface's tensor and the interface, in that order.
        taken: pairs of a stage and the id of an input of the model that it takes.
    """

    def __init__(self, order: list[Interface]) -> None:
        self._order = [id(interface) for interface in order]
        self._of_node: dict[Node, int] = {}
        self._constants: dict[Node, bool] = {}
        self._seen: set[tuple[Node, int]] = set()
        self.interfaces: dict[int, list[tuple[Tensor, Interface]]] = {}
        self.taken: set[tuple[int, int]] = set()

    def place(self, output: Tensor, stage: int) -> None:
        """Place what a tensor comes from, which a layer of a stage (or the model's caller) takes."""
        waiting = [(output, stage)]
        while waiting:
            tensor, stage = waiting.pop()
            node, layer, inputs = _keras.call_of(tensor)
            if not inputs:  # of the model
                self.taken.add((stage, id(tensor)))
                continue
            stage -= isinstance(layer, Interface)
            if not self._is_constant(tensor):
                self._check(layer, self._of_node.setdefault(node, stage), stage)
            if (node, stage) in self._seen:
                continue
            self._seen.add((node, stage))
            if isinstance(layer, Interface):
                found = self.interfaces.setdefault(stage, [])
                found.append((tensor, layer))
                found.sort(key=lambda pair: self._order.index(id(pair[1])))
            waiting += [(x, stage) for x in inputs]

    def _is_constant(self, tensor: Tensor) -> bool:
        """Whether a tensor is computed from inputs of the model by what has neither weights nor penalties."""
        node, layer, inputs = _keras.call_of(tensor)
        if node not in self._constants:
            plain = not isinstance(layer, keras.Layer) or _is_plain(layer)
            self._constants[node] = not inputs or (plain and all(map(self._is_constant, inputs)))
        return self._constants[node]

    def _check(self, layer: Any, before: int, stage: int) -> None:
        if before != stage:
            few, many = sorted([abs(before), abs(stage)])
            raise ValueError(
                f"The model does not part at its interfaces: from layer {layer.name!r} to the model's "
                f"outputs, one path leads past {few} of them and another past {many}, so what one module "
                f"computes would pass another by. {CUT_EVERY_PATH} Or train with schedule='together'."
            )


def _is_plain(layer: keras.Layer) -> bool:
    """Whether a layer is one of Keras's own, and has neither variables (seeds are some) nor a penalty."""
    own = type(layer).__module__.startswith("keras.") and not _keras.is_graph(layer)
    return own and not layer.variables and layer.activity_regularizer is None


def _opened(model: keras.Model) -> Nested:
    """The model's symbolic outputs, in a graph in which nested models with interfaces are opened."""
    if not any(_keras.is_graph(layer) and interfaces_in(layer) for layer in model.layers):
        return model.output

    def call(layer: keras.Layer, *args: Any, **kwargs: Any) -> Nested:
        given = [*args, *kwargs.values()]
        alone = not any(isinstance(x, keras.KerasTensor) for x in keras.tree.flatten(given[1:]))
        if _keras.is_graph(layer) and interfaces_in(layer) and _keras.runs_its_graph(layer) and alone:
            return _keras.run_graph(layer, given[0], call)
        return layer(*args, **kwargs)

    return _keras.run_graph(model, model.input, call)


def _check_interfaces(model: keras.Model, placed: Sequence[Interface]) -> None:
    for interface in model.interfaces:
        times = sum(interface is other for other in placed)
        if times == 0:
            raise ValueError(
                f"Interface {interface.name!r} sits inside a layer that is neither a Functional nor a "
                "Sequential model (another interface's, for one), or has a call of its own, or is called "
                "with a mask: there the model cannot be parted. Cut it behind layers that the model or a "
                "model nested in it has; behind the last of those inside, for one, rather than what holds "
                "them."
            )
        if times > 1:
            raise ValueError(
                f"Interface {interface.name!r} is used {times} times in model {model.name!r}, so it belongs "
                "to no one module. Cut behind a layer that is used once."
            )


def _check_weights(model: keras.Model, modules: Sequence[Module]) -> None:
    """Raise `ValueError` unless every weight of the model belongs to one module."""
    owners: dict[int, int] = {}
    for k, module in enumerate(modules):
        for variable in module.network.variables:
            if owners.setdefault(id(variable), k) != k:
                raise ValueError(
                    f"Modules {owners[id(variable)]} and {k} of model {model.name!r} share the weight "
                    f"{variable.path!r}, so they cannot be trained apart. Use a layer (or synthesizer) in "
                    "one module only, or train with schedule='together'."
                )
    others = [variable.path for variable in model.trainable_variables if id(variable) not in owners]
    if others:
        raise ValueError(
            f"No module of model {model.name!r} has the weights {others}, so none would train them. Use them "
            "in a layer of the model's graph, or train with schedule='together'."
        )
