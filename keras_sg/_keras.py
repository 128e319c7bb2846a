"""The private corners of Keras that this package cannot do without, all in one place.

Each has its own test in `tests/test_keras.py`, so that a Keras release that moves one is
noticed there first.
"""

import contextlib
import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
from keras import ops
from keras.src import backend
from keras.src.backend.common import masking
from keras.src.backend.common.variables import get_autocast_scope
from keras.src.models.functional import Functional
from keras.src.optimizers.base_optimizer import clip_by_global_norm as clip_by_global_norm
from keras.src.trainers import compile_utils
from keras.src.trainers.data_adapters import data_adapter_utils, get_data_adapter
from keras.src.trainers.data_adapters.data_adapter import DataAdapter

from keras_sg._types import Nested, Shape, Tensor, Variable

STEP = "decoupled_step"


def register_step(layer: keras.Layer) -> None:
    """Let `layer` take a `decoupled_step` call argument and hand it to every layer inside it.

    Keras calls these call-context arguments (as `training` is one); registering one of our own
    is documented in Keras, with an underscore.
    """
    layer._register_call_context_args(STEP)


def entry_layer() -> keras.Layer | None:
    """The outermost of the layers that are being called."""
    context = backend.common.global_state.get_global_attribute("current_call_ctx")
    return None if context is None else context.entry_layer


def is_rematerialized(layer: keras.Layer) -> bool:
    """Whether a layer was made in a `keras.RematScope`."""
    return layer._remat_mode is not None


def sublayers(layer: keras.Layer) -> list[keras.Layer]:
    """Every layer inside `layer`, at any depth, in order of construction; not `layer` itself."""
    return layer._flatten_layers(include_self=False)


def with_sublayers(layer: keras.Layer) -> list[keras.Layer]:
    """`layer`, and every layer inside it, each behind what holds it."""
    return [layer, *sublayers(layer)]


def mask_of(tensor: Tensor) -> Tensor | None:
    """The mask that Keras has attached to `tensor`, if any."""
    return masking.get_keras_mask(tensor)


def with_mask(tensor: Tensor, mask: Tensor | None) -> Tensor:
    """Attach a mask to `tensor`; return it."""
    masking.set_keras_mask(tensor, mask)
    return tensor


def copy_mask(source: Tensor, target: Tensor) -> Tensor:
    """Give `target` the mask that Keras has attached to `source`, if any; return `target`."""
    mask = masking.get_keras_mask(source)
    if mask is not None and target is not source:
        masking.set_keras_mask(target, mask)
    return target


def is_graph(layer: keras.Layer) -> bool:
    """Whether a layer is a Functional or Sequential model, whose layers can be rearranged."""
    return isinstance(layer, keras.Sequential) or (
        isinstance(layer, keras.Model) and hasattr(layer, "operations")
    )


def producer(tensor: keras.KerasTensor) -> tuple[keras.Operation, int]:
    """Where a symbolic Keras tensor comes from: the layer or operation, and which of its outputs."""
    return tensor._keras_history.operation, tensor._keras_history.tensor_index


def call_of(tensor: keras.KerasTensor) -> tuple[tuple[int, int], keras.Operation, list[keras.KerasTensor]]:
    """The call that a symbolic tensor comes from: what tells it from others, who was called, what it took."""
    operation, node, _ = tensor._keras_history
    return (id(operation), node), operation, operation._inbound_nodes[node].input_tensors


def made_from(tensor: keras.KerasTensor) -> tuple[keras.Operation, list[keras.KerasTensor]]:
    """The layer or operation that a symbolic tensor comes from, and what it took in that call."""
    return call_of(tensor)[1:]


def run_graph(model: keras.Model, inputs: Nested, call: Callable[..., Nested]) -> Nested:
    """The outputs of a Functional or Sequential model, whose layers are called as `call(layer, *args, ...)`.

    Args:
        model: built Functional or Sequential model.
        inputs: symbolic tensors, as for the model.
        call: from a layer and what the graph has for its call to outputs.
    """
    graph = model._functional if isinstance(model, keras.Sequential) else model
    return graph._run_through_graph(inputs, call_fn=call)


Call = tuple[keras.Operation, tuple[Any, ...], dict[str, Any], list[keras.KerasTensor]]


def calls(model: keras.Model) -> list[Call]:
    """The calls that a functional model is made of, its inputs among them, each behind those it needs.

    Of each: the layer or operation, its arguments with symbolic tensors in them, and its outputs.
    """
    by_depth = model._nodes_by_depth
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    return [(node.operation, node.arguments.args, node.arguments.kwargs, node.outputs) for node in nodes]


def taken_by_keyword(layer: keras.Layer, name: str) -> keras.KerasTensor | None:
    """The symbolic tensor that a layer took by keyword when it was last called with some, if any."""
    nodes = layer._inbound_nodes
    return nodes[-1].arguments.kwargs.get(name) if nodes else None


def runs_its_graph(model: keras.Model) -> bool:
    """Whether the call of a Functional or Sequential model is that of Keras, and not of its own class."""
    return type(model).call in (Functional.call, keras.Sequential.call)


def calls_in_order(model: keras.Model) -> list[keras.Operation]:
    """Who is called in a Functional or Sequential model, call by call, in the order in which it runs them."""
    graph = model._functional if isinstance(model, keras.Sequential) else model
    depths = sorted(graph._nodes_by_depth.items(), reverse=True)
    return [node.operation for _, nodes in depths for node in nodes if not node.is_input]


def consumed(model: keras.Model, tensor: keras.KerasTensor) -> bool:
    """Whether some layer of a functional model takes this symbolic tensor as an input."""
    nodes = [node for operation in getattr(model, "operations", ()) for node in operation._inbound_nodes]
    return any(x is tensor for node in nodes for x in node.input_tensors)


def reductions(model: keras.Model) -> list[str | None]:
    """How the losses that the model was compiled with are reduced; None for those that do not say."""
    losses = model._compile_loss._user_loss if model._compile_loss is not None else None
    return [getattr(loss, "reduction", None) for loss in keras.tree.flatten(losses)]


def losses_of_outputs(model: keras.Model) -> list[tuple[Any, float]]:
    """By output, the loss that a model was compiled with, and what it is multiplied by; or (None, 0)."""
    compiled = model._compile_loss
    if compiled is None:
        # Where the model computes its loss itself, it may be of any output.
        own = type(model).compute_loss is not keras.Model.compute_loss
        return [(None, float(own)) for _ in model.outputs]
    losses = by_output(model, compiled._user_loss, shared=True)
    weights = by_output(model, compiled._user_loss_weights, shared=True)
    return [
        (loss, 0.0 if loss is None else 1.0 if weight is None else float(weight))
        for loss, weight in zip(losses, weights)
    ]


def by_output(model: keras.Model, parts: Nested, shared: bool = False) -> list[Any]:
    """What belongs to each output of a functional model, in their order; None where there is nothing.

    Args:
        model: functional model.
        parts: what `compile` or `fit` take for outputs: one for all, a list, a dictionary by the outputs'
            names or by the keys of the model's own dictionary, or None.
        shared: whether one alone is for all outputs.
    """
    number = len(model.outputs)
    if isinstance(parts, dict):
        keys = [path[-1] for path, _ in keras.tree.flatten_with_path(model._outputs_struct) if path]
        keyed = keys if set(parts) & set(keys) else model.output_names
        return [parts.get(key) for key in keyed]
    if not isinstance(parts, (list, tuple)):
        return [parts if shared or number == 1 else None] * number
    if len(parts) == number:
        return list(parts)
    if number == 1:
        return list(parts[:1])
    # Targets may be left out of outputs that have no loss.
    given = iter(parts)
    return [next(given, None) if share else None for _, share in losses_of_outputs(model)]


def shape_of_values(loss: Any, y: Tensor, y_pred: Tensor) -> Shape:
    """The shape of what a loss is before it is reduced, with None for the batch.

    Args:
        loss: what `compile` takes for an output: a Keras loss, its name, or a function.
        y: targets, `(batch, ...)`.
        y_pred: the output, `(batch, ...)`.
    """
    call = compile_utils.get_loss(loss, y, y_pred).call
    specs = [keras.KerasTensor((None, *part.shape[1:]), keras.config.floatx()) for part in (y, y_pred)]
    return tuple(backend.compute_output_spec(call, *specs).shape)


def takes_probabilities(loss: Any, y: Tensor, y_pred: Tensor) -> bool:
    """Whether a loss could take logits and is told that it does not."""
    found = compile_utils.get_loss(loss, y, y_pred)
    parameters = inspect.signature(found.fn).parameters if hasattr(found, "fn") else {}
    told = getattr(found, "_fn_kwargs", {})
    return "from_logits" in parameters and not told.get("from_logits", parameters["from_logits"].default)


def ignored_class(loss: Any) -> int | None:
    """The class that a loss leaves out, if any: its own attribute, or an option of its function."""
    options = getattr(loss, "_fn_kwargs", {})
    return getattr(loss, "ignore_class", options.get("ignore_class"))


def compute_loss(model: keras.Model, x: Nested, y: Nested, y_pred: Nested, sample_weight: Nested) -> Tensor:
    """The total training loss, as Keras's own `train_step` computes it (overrides included)."""
    return model._compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True)


@contextlib.contextmanager
def adding(model: keras.Model, losses: list[Tensor]) -> Iterator[None]:
    """Within, these are what `compute_loss` of a model adds to the losses that it was compiled with.

    Not those of the model's own layers (of `add_loss`, and regularizers).
    """
    # Of an empty list Keras takes no notice.
    model._losses_override = losses or [ops.zeros((), keras.config.floatx())]
    try:
        yield
    finally:
        model._losses_override = []


def track_loss(model: keras.Model, loss: Tensor, batch: Tensor) -> None:
    """Report `loss`, a mean over `batch` examples, under the key `"loss"`."""
    model._loss_tracker.update_state(loss, sample_weight=batch)


def make_metrics(model: keras.Model, x: Nested, y: Nested, sample_weight: Nested) -> None:
    """Make the metrics that a functional model was compiled with, as its first step else would.

    Each argument is what has a `shape` and a `dtype`, a structure of it, or None.
    """
    x, y, sample_weight = keras.tree.map_structure(
        lambda part: None if part is None else keras.KerasTensor((None, *part.shape[1:]), part.dtype),
        (x, y, sample_weight),
    )
    makers = ((model._compile_loss, model._compute_loss), (model._compile_metrics, model.compute_metrics))
    for made, make in makers:
        if made is not None and not made.built:
            backend.compute_output_spec(make, x, y, model.output, sample_weight)


def inner_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The optimizer that a `LossScaleOptimizer` wraps, or the optimizer itself."""
    return (
        optimizer.inner_optimizer if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) else optimizer
    )


def single_optimizers(optimizer: keras.optimizers.Optimizer) -> list[keras.optimizers.Optimizer]:
    """The optimizers that do the work: those in a `LossScaleOptimizer` or a `MultiOptimizer`, or itself."""
    inner = inner_optimizer(optimizer)
    return inner.optimizers if isinstance(inner, keras.optimizers.MultiOptimizer) else [inner]


def moments(adam: keras.optimizers.Adam, variable: Any) -> tuple[Variable, Variable]:
    """Adam's momentum and velocity of a weight, which is a variable of Keras or of the backend."""
    index = adam._get_variable_index(variable)
    return adam._momentums[index], adam._velocities[index]


def built_for(optimizer: keras.optimizers.Optimizer) -> list[Variable]:
    """The variables that an optimizer was built for, in their order."""
    return optimizer._trainable_variables


def optimizer_of(multi: keras.optimizers.MultiOptimizer, variable: Variable) -> keras.optimizers.Optimizer:
    """The one of a `MultiOptimizer`'s optimizers that updates `variable`."""
    return multi._optimizer_map(variable)


def common_state(optimizer: keras.optimizers.Optimizer) -> list[Variable]:
    """The variables that an optimizer has once, for all weights together: its count of steps among them.

    It has them as attributes, and those of each weight in lists.
    """
    return [found for found in vars(optimizer).values() if isinstance(found, keras.Variable)]


def count_of(optimizer: keras.optimizers.Optimizer) -> Variable:
    """The variable in which an optimizer counts its steps, those in which it accumulates among them."""
    return optimizer._iterations


def weights_without_decay(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether an optimizer was told to leave some weights out of its decay, which is in no configuration."""
    names = ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern")
    return any(getattr(optimizer, name, None) for name in names)


def metrics_of_batches(model: keras.Model, others: Iterable[keras.metrics.Metric]) -> list[Variable]:
    """The variables of the metrics that see a batch's targets: those a model was compiled with, and its own.

    Neither that of the total loss, nor those of its layers, nor `others`.
    """
    out = {id(model._loss_tracker), *map(id, others)}
    own = [metric for metric in model._get_own_metrics() if id(metric) not in out]
    return [variable for metric in own for variable in metric.variables]


def set_state(model: keras.Model, state: tuple[list[Tensor], ...]) -> None:
    """On JAX, have a model's variables get the values in a state when Keras next hands them out.

    Args:
        model: the model, in a training step.
        state: the values of the trainable and the other variables, the optimizer's and the metrics'.
    """
    kinds = ("trainable", "non_trainable", "optimizer", "metrics")
    model._jax_state = {f"{kind}_variables": values for kind, values in zip(kinds, state)}


def synchronised(model: keras.Model) -> Any:
    """On PyTorch, what Keras has wrapped a model in to keep it the same in several processes, if it has.

    Keras from 3.16 on does it where it makes a training function, in every process of a group.
    """
    return getattr(model, "ddp_model", None)


# Keras from 3.16 on hands several batches at once to JAX: as one stack, or as a list where they do not fit
# together.
_STACKS = "super_batch" in inspect.signature(DataAdapter.get_jax_iterator).parameters
_List: Any = getattr(data_adapter_utils, "PartialBatchList", type(None))


def batches_of(
    data: Nested, steps: int, part: Callable[[Nested], Nested] = lambda batch: batch
) -> list[Nested]:
    """The batches in what Keras on JAX hands to a training function at once, in their order.

    Args:
        data: what comes out of the iterator of `fit`.
        steps: the `steps_per_execution` that `fit` was given.
        part: what is wanted of each: a function of a batch, that takes a stack of them as well.
    """
    if isinstance(data, _List):
        return [part(batch) for batch in data]
    wanted = part(data)
    if not _STACKS or steps == 1:
        return [wanted]
    number = next(len(leaf) for leaf in keras.tree.flatten(data) if leaf is not None)
    return [
        keras.tree.map_structure(lambda leaf, i=i: None if leaf is None else leaf[i], wanted)
        for i in range(number)
    ]


@contextlib.contextmanager
def clipping(optimizer: keras.optimizers.Optimizer, clip: Callable[..., list[Tensor]]) -> Iterator[None]:
    """Within, an optimizer clips gradients as `clip` does.

    Args:
        optimizer: an optimizer that wraps no others.
        clip: from the optimizer's own way to clip, a function of a list, and a list of gradients to
            a list: those of the variables that it is applied to and that have one, in their order,
            unscaled and, where it accumulates them, accumulated.
    """
    own = functools.partial(type(optimizer)._clip_gradients, optimizer)
    vars(optimizer)["_clip_gradients"] = functools.partial(clip, own)
    try:
        yield
    finally:
        vars(optimizer).pop("_clip_gradients", None)  # another replica may have been here


class Knob:
    """A variable that a layer reads in training and that is turned from outside.

    On JAX it must be among the layer's weights, to be handed to the compiled step; a layer that is
    built already is opened for it (as Keras's LoRA does it). Elsewhere it is kept away from them,
    so that whatever copies or restores weights does not turn it.
    """

    def __init__(self, layer: keras.Layer, name: str, value: float) -> None:
        options = {"shape": (), "initializer": keras.initializers.Constant(value), "trainable": False}
        if keras.backend.backend() != "jax":
            self.variable = keras.Variable(**options, name=name)
        elif not layer.built:
            self.variable = layer.add_weight(**options, name=name)
        else:
            layer._tracker.unlock()
            try:
                self.variable = layer.add_weight(**options, name=name)
            finally:
                layer._tracker.lock()


@contextlib.contextmanager
def uncasting() -> Iterator[None]:
    """Within, variables are what they are, whatever precision a layer around the caller computes in.

    In an `AutocastScope(None)` they would have their values, but say that their dtype is `floatx`.
    """
    around = get_autocast_scope()
    backend.common.global_state.set_global_attribute("autocast_scope", None)
    try:
        yield
    finally:
        backend.common.global_state.set_global_attribute("autocast_scope", around)


def uncast(variable: Variable) -> Tensor:
    """A variable's value here and now, whatever precision a layer around the caller computes in."""
    with uncasting():
        return variable.value


def scope_with(values: Iterable[tuple[Variable, Tensor]]) -> keras.StatelessScope:
    """A `StatelessScope` in which variables have other values; pairs of both.

    Made inside a layer that computes in another precision, Keras's own would round the values to it.
    """
    with uncasting():
        return keras.StatelessScope(values, collect_losses=True)


def compilation(model: keras.Model) -> Any:
    """An object that `compile` makes anew."""
    return model._compile_config


def one_batch(x: Any, y: Nested = None, sample_weight: Nested = None) -> tuple[Nested, Nested, Nested]:
    """A batch as `fit` reads it, in NumPy arrays: all of what is given, or the first of a data set."""
    data = get_data_adapter(x, y, sample_weight, batch_size=sys.maxsize)
    return keras.utils.unpack_x_y_sample_weight(next(iter(data.get_numpy_iterator())))


def inputs_of(model: keras.Model, x: Nested) -> list[Tensor | None]:
    """What a functional model takes for its inputs, in their order, when it is called with `x`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the call itself warns of another structure
        return model._standardize_inputs(x)


def children(layer: keras.Layer) -> list[keras.Layer]:
    """The layers directly inside `layer`, in order of construction."""
    return layer._flatten_layers(include_self=False, recursive=False)


def contains(layer: keras.Layer, kind: type[keras.Layer]) -> bool:
    """Whether some layer inside `layer`, at any depth, is of a class."""
    return any(isinstance(inner, kind) for inner in sublayers(layer))
