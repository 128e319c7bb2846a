"""`strip`: the plain network in a model with interfaces, and how a model is rebuilt.

The graph of a model is rebuilt around the *same* layers: weights are shared with the original,
nothing is copied or retrained.
"""

from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_sg import _keras
from keras_sg._interfaces.interface import Interface, interfaces_in
from keras_sg._types import Nested

Rebuild = Callable[[keras.Layer], keras.Layer]


def strip(model: keras.Model) -> keras.Model:
    """Take the interfaces out of a model: the plain network, with the same weights.

    Args:
        model: Functional (a `DecoupledModel` among them) or Sequential `keras.Model`, with
            interfaces at any depth.

    Returns:
        A plain `keras.Model`, or a `keras.Sequential` where `model` is one, not compiled. It
        predicts exactly what `model` predicts and knows nothing of `keras_sg`. Inputs that only interfaces
        took (`ends` of a `RecurrentSyntheticGradient`) are none of its own. The `output` of its
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
    check_graph(model, "strip")
    stripped = _take_out(model)
    hidden = interfaces_in(stripped)
    if hidden:
        raise ValueError(
            f"Interface {hidden[0].name!r} sits inside a layer that is neither a Functional nor a "
            "Sequential model, where it cannot be taken out. Build that layer without it. "
            f"Received: model {model.name!r} with the layers {sorted(paths_in(model))}."
        )
    pairs = zip(keras.tree.flatten(_inputs(model)), keras.tree.flatten(_inputs(stripped)))
    unused = {id(new) for old, new in pairs if _keras.consumed(model, old) > _keras.consumed(stripped, new)}
    if unused:
        stripped = keras.Model(_without(_inputs(stripped), unused), stripped.output, name=stripped.name)
    stripped(_inputs(stripped))  # some of Keras's formats export no model that was never called
    return stripped


def _take_out(model: keras.Model) -> keras.Model:
    """A model without its interfaces, with all of its inputs."""
    unknown: dict[int, tuple[str, ...]] = {}  # by the id of a layer, what only the interface around it takes

    def take_out(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, Interface):
            unknown[id(layer.layer)] = layer.own_arguments
            return take_out(layer.layer)
        if _keras.is_graph(layer) and interfaces_in(layer):
            return _take_out(layer)
        return layer

    def call(layer: keras.Layer, *args: Any, **kwargs: Any) -> Nested:
        known = {key: value for key, value in kwargs.items() if key not in unknown.get(id(layer), ())}
        return layer(*args, **known)

    return clone(model, take_out, None if isinstance(model, keras.Sequential) else call)


def _without(inputs: Nested, unused: set[int]) -> Nested:
    """A structure of inputs without some of them; of a list of two, the other one."""
    if isinstance(inputs, dict):
        return {key: part for key, part in inputs.items() if id(part) not in unused}
    left = [part for part in keras.tree.flatten(inputs) if id(part) not in unused]
    return left[0] if len(left) == 1 else left


def clone(
    model: keras.Model, clone_function: Rebuild, call_function: Callable[..., Any] | None = None
) -> keras.Model:
    """Rebuild the graph of a Functional or Sequential model with layers exchanged."""
    if isinstance(model, keras.Sequential) and call_function is None:
        return keras.Sequential([model.inputs[0], *map(clone_function, model.layers)], name=model.name)
    return keras.models.clone_model(
        as_model(model), clone_function=clone_function, call_function=call_function
    )


def as_model(model: keras.Model, model_class: type[keras.Model] = keras.Model, **options: Any) -> keras.Model:
    """The graph of `model` once more, neither compiled nor of a class of its own."""
    outputs = model.outputs[0] if isinstance(model, keras.Sequential) else model.output
    return model_class(_inputs(model), outputs, name=model.name, **options)


def _inputs(model: keras.Model) -> Nested:
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def paths_in(model: keras.Model, prefix: str = "") -> Iterator[str]:
    """Every layer that can be named in `after`, nested ones by their path."""
    for layer in model.layers:
        if not isinstance(layer, keras.layers.InputLayer):
            yield prefix + layer.name
            if _keras.is_graph(layer):
                yield from paths_in(layer, f"{prefix}{layer.name}/")


def check_graph(model: keras.Model, verb: str) -> None:
    if not _keras.is_graph(model):
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
