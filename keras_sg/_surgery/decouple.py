"""`decouple`: put interfaces into a model that exists. (`strip` takes them out again.)

The graph of the model is rebuilt around the *same* layers: weights are shared with the original,
nothing is copied or retrained.
"""

import warnings
from collections.abc import Iterable
from typing import Any

import keras

from keras_sg import synthesizers
from keras_sg._graphs.graph import Graph
from keras_sg._graphs.plain import Rebuild, as_model, check_graph, clone, paths_in
from keras_sg._interfaces.interface import Interface, interfaces_in
from keras_sg._interfaces.label_sources import Source
from keras_sg._interfaces.synthetic_gradient import SyntheticGradient
from keras_sg._model import DecoupledModel


def decouple(
    model: keras.Model,
    after: str | keras.Layer | Iterable[str | keras.Layer],
    interface: type[Interface] = SyntheticGradient,
    report_interfaces: bool | None = None,
    labels_from: Source | None = None,
    **options: Any,
) -> DecoupledModel:
    """Cut a Functional or Sequential model behind the named layers.

    Args:
        model: built Functional or Sequential `keras.Model`. It stays usable, and shares its
            weights with the result: training one trains both.
        after: name of a layer (or the layer itself), or a list of them. Layers of nested models
            are named by their path, as in `"backbone/block1"`.
        interface: `keras_sg.SyntheticGradient`, `keras_sg.SyntheticLoss` or `keras_sg.LocalLoss`. By
            default the first, whose synthesizer is a linear one. With `num_classes` that is the choice for
            dense layers; behind convolutions ask for `SyntheticLoss`, with `sobolev=True`.
        report_interfaces: as for `keras_sg.DecoupledModel`.
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
    return as_model(
        cut,
        DecoupledModel,
        trainable=model.trainable,
        report_interfaces=report_interfaces,
        labels_from=labels_from,
    )


def _insert(model: keras.Model, names: Iterable[str], wrap: Rebuild, in_another: bool = False) -> keras.Model:
    """`model` with `wrap(layer)` in the place of every layer named; a plain keras.Model."""
    here = {name for name in names if "/" not in name}
    inside: dict[str, list[str]] = {}
    for name in sorted(set(names) - here):
        outer, inner = name.split("/", 1)
        inside.setdefault(outer, []).append(inner)

    def replace(layer: keras.Layer) -> keras.Layer:
        new = _insert(layer, inside[layer.name], wrap, in_another=True) if layer.name in inside else layer
        return wrap(new) if layer.name in here else new

    graph = Graph()
    result = clone(model, replace, graph.call)
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
        graph.warn_unless_separating(cut, cuts, result.outputs, in_another)
    return result


def _wrapper(interface: type[Interface], options: dict[str, Any]) -> Rebuild:
    def wrap(layer: keras.Layer) -> keras.Layer:
        chosen = dict(options)
        for name in ("synthesizer", "head"):
            if isinstance(chosen.get(name), keras.Layer):
                chosen[name] = synthesizers.copy_of(chosen[name])
        return interface(layer, **chosen)

    return wrap


def _check_decouple(model: keras.Model, names: list[str], interface: type[Interface]) -> None:
    check_graph(model, "decouple")
    fits = isinstance(interface, type) and issubclass(interface, Interface) and interface.between_layers
    if not fits:
        raise ValueError(
            "`interface` must be keras_sg.SyntheticGradient, keras_sg.SyntheticLoss or keras_sg.LocalLoss (a "
            "recurrent interface needs an input of its own: write it in, see its example). "
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
    paths = list(paths_in(model))
    if not names:
        raise ValueError(
            f"`after` names no layer to cut behind. Name some of {paths}. Received: after={names}."
        )
    unknown = [name for name in names if name not in paths]
    if unknown:
        raise ValueError(
            f"Model {model.name!r} has no layers {unknown}. Its layers are {paths}. Received: after={names}."
        )
