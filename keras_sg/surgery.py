"""`decouple` and `strip`: put interfaces into a model that exists, and take them out again.

Both rebuild the graph of the model around the *same* layers: weights are shared with the
original, nothing is copied or retrained.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras

from keras_sg import synthesizers
from keras_sg.graph import Graph, is_graph
from keras_sg.interface import Interface
from keras_sg.label_sources import Source
from keras_sg.layers import SyntheticGradient
from keras_sg.models import DecoupledModel, interfaces_in

Rebuild = Callable[[keras.Layer], keras.Layer]


def decouple(
    model: keras.Model,
    after: str | keras.Layer | Iterable[str | keras.Layer],
    interface: type[Interface] = SyntheticGradient,
    labels_from: Source | None = None,
    **options: Any,
) -> DecoupledModel:
    """Cut a Functional or Sequential model behind the named layers.

    Args:
        model: built Functional or Sequential `keras.Model`. It stays usable, and shares its
            weights with the result: training one trains both.
        after: name of a layer (or the layer itself), or a list of them. Layers of nested models
            are named by their path, as in `"backbone/block1"`.
        interface: `keras_sg.SyntheticGradient` or `keras_sg.SyntheticLoss`.
        labels_from: where in `y` the labels are, if it holds more than them: a key, an index or a callable,
            as for `keras_sg.DecoupledModel`.
        **options: arguments of `interface` (`synthesizer`, `num_classes`, ...). Every
            interface gets a synthesizer of its own; of a layer or model, a copy.

    Returns:
        A `keras_sg.DecoupledModel`, not compiled, with the name of `model` and its layers under
        their names: `get_layer("block1")` is the interface around what it was before.

    Raises:
        ValueError: the model is neither Functional nor Sequential, is not built or has
            interfaces already; a name is not there, is used at two places, or is the model's
            output; no names are given; `labels_from` is none of the three.

    Warns:
        UserWarning: a cut does not separate: a path around it, a skip connection for one, still
            carries the true gradient to layers below it. Or the model has a `train_step` or
            `compute_loss` of its own, which the result has not.

    The `output` of a shared layer stays that of the original graph: to make a model of
    intermediate outputs, take the original, or save the result and load it.

    Example:

    ```python
    import keras, keras_sg

    existing = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(16, activation="relu", name="block1"),
            keras.layers.Dense(3, name="logits"),
        ]
    )
    model = keras_sg.decouple(existing, after=["block1"], synthesizer="linear", num_classes=3)
    ```

    References:
        Jaderberg et al. 2016, https://arxiv.org/abs/1608.05343, section 2.
    """
    given = [after] if isinstance(after, (str, keras.Layer)) else after
    names = [layer.name if isinstance(layer, keras.Layer) else layer for layer in given]
    _check_decouple(model, names, interface)
    cut = _insert(model, names, _wrapper(interface, options))
    return _as_model(cut, DecoupledModel, labels_from=labels_from)


def strip(model: keras.Model) -> keras.Model:
    """Take the interfaces out of a model: the plain network, with the same weights.

    Args:
        model: Functional (a `DecoupledModel` among them) or Sequential `keras.Model`, with
            interfaces at any depth.

    Returns:
        A plain `keras.Model`, or a `keras.Sequential` where `model` is one, not compiled. It
        predicts exactly what `model` predicts and knows nothing of `keras_sg`. The `output` of its
        layers stays that of the graph they were made in: to make a model of intermediate
        outputs, save it and load it first.

    Raises:
        ValueError: the model is neither Functional nor Sequential, or hides an interface inside
            a layer of its own making.

    Example:

    ```python
    import keras, keras_sg

    inputs = keras.Input((8,))
    hidden = keras_sg.SyntheticGradient(keras.layers.Dense(16))(inputs)
    model = keras_sg.DecoupledModel(inputs, keras.layers.Dense(3)(hidden))
    plain = keras_sg.strip(model)
    ```
    """
    _check_graph(model, "strip")

    def take_out(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, Interface):
            return take_out(layer.layer)
        if is_graph(layer) and interfaces_in(layer):
            return strip(layer)
        return layer

    stripped = _clone(model, take_out)
    hidden = interfaces_in(stripped)
    if hidden:
        raise ValueError(
            f"Interface {hidden[0].name!r} sits inside a layer that is neither a Functional nor a "
            "Sequential model, where it cannot be taken out. Build that layer without it. "
            f"Received: model {model.name!r} with the layers {sorted(_paths(model))}."
        )
    return stripped


def _insert(model: keras.Model, names: Iterable[str], wrap: Rebuild, nested: bool = False) -> keras.Model:
    """`model` with `wrap(layer)` in the place of every layer named; a plain keras.Model."""
    here = {name for name in names if "/" not in name}
    inside: dict[str, list[str]] = {}
    for name in sorted(set(names) - here):
        outer, inner = name.split("/", 1)
        inside.setdefault(outer, []).append(inner)

    def replace(layer: keras.Layer) -> keras.Layer:
        new = _insert(layer, inside[layer.name], wrap, nested=True) if layer.name in inside else layer
        return wrap(new) if layer.name in here else new

    graph = Graph()
    result = _clone(model, replace, graph.call)
    uses = {name: graph.uses(name) for name in here | set(inside)}
    for name, calls in uses.items():
        if len(calls) > 1:
            raise ValueError(
                f"Layer {name!r} is used {len(calls)} times in model {model.name!r}: a cut behind it "
                "would be several interfaces at once. Cut behind a layer that is used once. "
                f"Received: after={names}."
            )
    cuts = [call for calls in uses.values() for call in calls]
    for cut in sorted(cuts):
        graph.warn_unless_separating(cut, cuts, result.outputs, nested)
    return result


def _wrapper(interface: type[Interface], options: dict[str, Any]) -> Rebuild:
    def wrap(layer: keras.Layer) -> keras.Layer:
        chosen = dict(options)
        if isinstance(chosen.get("synthesizer"), keras.Layer):
            chosen["synthesizer"] = synthesizers.copy_of(chosen["synthesizer"])
        return interface(layer, **chosen)

    return wrap


def _clone(
    model: keras.Model, clone_function: Rebuild, call_function: Callable[..., Any] | None = None
) -> keras.Model:
    """Rebuild the graph of a Functional or Sequential model with layers exchanged."""
    if isinstance(model, keras.Sequential) and call_function is None:
        return keras.Sequential([model.inputs[0], *map(clone_function, model.layers)], name=model.name)
    return keras.models.clone_model(
        _as_model(model), clone_function=clone_function, call_function=call_function
    )


def _as_model(
    model: keras.Model, model_class: type[keras.Model] = keras.Model, **options: Any
) -> keras.Model:
    """The graph of `model` once more, neither compiled nor of a class of its own."""
    if isinstance(model, keras.Sequential):
        return model_class(model.inputs[0], model.outputs[0], name=model.name, **options)
    return model_class(model.input, model.output, name=model.name, **options)


def _paths(model: keras.Model, prefix: str = "") -> Iterator[str]:
    """Every layer that can be named in `after`, nested ones by their path."""
    for layer in model.layers:
        if not isinstance(layer, keras.layers.InputLayer):
            yield prefix + layer.name
            if is_graph(layer):
                yield from _paths(layer, f"{prefix}{layer.name}/")


def _check_graph(model: keras.Model, verb: str) -> None:
    if not is_graph(model):
        raise ValueError(
            f"keras_sg.{verb} works on Functional and Sequential models, whose layers it can rearrange. "
            "In a subclassed model, wrap the layers where they are made, in keras_sg.SyntheticGradient. "
            f"Received: {model!r} (of type {type(model).__name__})."
        )
    if not model.built:
        raise ValueError(
            f"Model {model.name!r} is not built, so its layers have no shapes yet. Start it with a "
            "keras.Input, or call it on a batch. Received: an unbuilt model of type "
            f"{type(model).__name__}."
        )


def _check_decouple(model: keras.Model, names: list[str], interface: type[Interface]) -> None:
    _check_graph(model, "decouple")
    if not (isinstance(interface, type) and issubclass(interface, Interface)):
        raise ValueError(
            "`interface` must be keras_sg.SyntheticGradient or keras_sg.SyntheticLoss. "
            f"Received: interface={interface!r} (of type {type(interface).__name__})."
        )
    if not isinstance(model, DecoupledModel):
        own = [
            x
            for x in ("train_step", "compute_loss")
            if getattr(type(model), x) is not getattr(keras.Model, x)
        ]
        if own:
            warnings.warn(
                f"Model {model.name!r} (of type {type(model).__name__}) has {own} of its own, which the "
                "decoupled model has not. Override them in a subclass of keras_sg.DecoupledModel.",
                stacklevel=3,
            )
    existing = interfaces_in(model)
    if existing:
        raise ValueError(
            f"Model {model.name!r} is decoupled already, at {[layer.name for layer in existing]}. Pass "
            "keras_sg.strip(model) to cut it anew."
        )
    paths = list(_paths(model))
    if not names:
        raise ValueError(
            f"`after` names no layer to cut behind. Name some of {paths}. Received: after={names}."
        )
    unknown = [name for name in names if name not in paths]
    if unknown:
        raise ValueError(
            f"Model {model.name!r} has no layers {unknown}. Its layers are {paths}. Received: after={names}."
        )
