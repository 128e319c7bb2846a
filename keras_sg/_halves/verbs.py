"""`split` and `join`: a model in two halves, and back."""

from typing import Any

import keras

from keras_sg import _keras
from keras_sg._halves.lower import LowerModel
from keras_sg._halves.upper import KINDS, UpperModel, modules_of
from keras_sg._interfaces.interface import Interface
from keras_sg._model import DecoupledModel
from keras_sg._modules import part
from keras_sg._types import Nested

LOWER, UPPER = "_lower", "_upper"


def split(model: DecoupledModel, at: str | keras.Layer | None = None) -> tuple[LowerModel, UpperModel]:
    """Part a model at an interface into two, each of which trains, saves and loads by itself.

    Args:
        model: a `DecoupledModel`. It stays usable, and shares its weights with both halves.
        at: the interface, or its name; by default the only one. The lowest, if there are several: those above
            it stay interfaces of the upper half.

    Returns:
        Tuple of a `LowerModel`, from the inputs to the tensor at the cut, and an `UpperModel`, from that
        tensor to the outputs; neither is compiled.

    Raises:
        ValueError: there is no such interface, or another lies below it; a path around it carries gradients
            or inputs past it; several tensors lie at the same cut, or what crosses it has a mask; or its
            synthesizer has an `update_period`, or lets a share of the true gradient pass.

    Example:

    ```python
    import keras, keras_sg
    import numpy as np

    stack = [keras.layers.Dense(8, activation="relu", name="client"), keras.layers.Dense(3, name="server")]
    model = keras_sg.decouple(keras.Sequential([keras.Input((4,)), *stack]), "client", num_classes=3)
    lower, upper = keras_sg.split(model, "client")
    lower.compile("sgd")
    upper.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    x, y = np.ones((32, 4), "float32"), np.zeros(32, "int32")
    for step in range(10):
        sent = lower.advance(x, y)
        if step % 5 == 0:
            lower.learn(sent, y, upper.teach(sent, y))
    model = keras_sg.join(lower, upper)
    ```

    References:
        Jaderberg et al. 2016, https://arxiv.org/abs/1608.05343, section 2; Nair et al. 2025, FSL-SAGE,
        https://arxiv.org/abs/2505.23182.
    """
    cut = _check_cut(model, at)
    modules = part(model)
    first = modules[0]
    if len(first.interfaces) > 1:
        raise ValueError(
            f"At the cut behind {cut.name!r} lie several tensors, those of the interfaces "
            f"{[interface.name for interface in first.interfaces]}, and one message carries one. Join them "
            "in a layer, and cut behind it."
        )
    if first.interfaces != (cut,):
        raise ValueError(
            f"Below interface {cut.name!r} lie others, {[interface.name for interface in first.interfaces]}, "
            "where the lower half would have to be decoupled itself. Split at the lowest. "
            f"Received: at={cut.name!r}."
        )
    (h,) = first.network.outputs
    if _keras.mask_of(h) is not None:
        raise ValueError(
            f"What crosses the cut at interface {cut.name!r} has a mask, which a message does not carry. Cut "
            "behind a layer that no longer has one (behind pooling, or an RNN that returns its last output)."
        )
    past = sorted({model.inputs[i].name for module in modules[1:] for i in module.inputs})
    if past or len(first.inputs) != len(model.inputs):
        raise ValueError(
            f"The cut at interface {cut.name!r} does not separate: the inputs {past} of the model are taken "
            "above it. Only the tensor at the cut crosses a link. Cut where all inputs have been taken."
        )
    sends = [kind for kind, fits in zip(KINDS, (cut.fits_gradient, cut.fits_loss)) if fits]
    reported = {"report_interfaces": model.report_interfaces}
    lower = LowerModel(model.input, h, name=model.name + LOWER, **reported)
    entry = keras.Input(h.shape[1:], h.shape[0], dtype=h.dtype, name=f"{cut.name}_h")
    outputs = _above(modules[1:], entry)
    upper = UpperModel(entry, outputs, name=model.name + UPPER, sends=sends, **reported)
    modules_of(upper)  # which says so if a path leads around an interface
    return lower, upper


def join(lower: LowerModel, upper: UpperModel) -> DecoupledModel:
    """The whole model again, of two halves.

    Args:
        lower: the lower half that `split` returned, or what was loaded of it.
        upper: the upper half.

    Returns:
        A `DecoupledModel`, not compiled, which shares its weights with both.

    Raises:
        ValueError: the halves do not fit each other.

    Example:

    ```python
    import keras, keras_sg

    stack = [keras.layers.Dense(8, name="client"), keras.layers.Dense(3, name="server")]
    model = keras_sg.decouple(keras.Sequential([keras.Input((4,)), *stack]), "client")
    whole = keras_sg.join(*keras_sg.split(model, "client"))
    ```
    """
    for half, kind in ((lower, LowerModel), (upper, UpperModel)):
        if not isinstance(half, kind):
            raise ValueError(
                "keras_sg.join takes the halves that keras_sg.split returned, the lower one first. "
                f"Received: {half!r} (of type {type(half).__name__}) in the place of a {kind.__name__}."
            )
    (h,), (entry,) = lower.outputs, upper.inputs
    if tuple(h.shape) != tuple(entry.shape):
        raise ValueError(
            "The halves do not fit: the upper one begins with the tensor at which the lower one ends. "
            f"Received: a lower half that ends with the shape {tuple(h.shape)} and an upper one that begins "
            f"with {tuple(entry.shape)}."
        )
    outputs = _keras.run_graph(upper, h, _call)
    return DecoupledModel(
        lower.input,
        outputs,
        name=lower.name.removesuffix(LOWER),
        report_interfaces=lower.report_interfaces,
    )


def _call(layer: keras.Layer, *args: Any, **kwargs: Any) -> Nested:
    return layer(*args, **kwargs)


def _above(modules: list[Any], entry: keras.KerasTensor) -> Nested:
    """The symbolic outputs of modules, one on top of the other."""
    outputs: Nested = [entry]
    for module in modules:
        outputs = _keras.run_graph(module.network, outputs, _call)
    return outputs


def _check_cut(model: keras.Model, at: Any) -> Interface:
    if not isinstance(model, DecoupledModel) or not model.interfaces:
        raise ValueError(
            "keras_sg.split parts a keras_sg.DecoupledModel at one of its interfaces. Cut the model first: "
            f"keras_sg.decouple(model, after=[...]). Received: {model!r} (of type {type(model).__name__})."
        )
    names = [interface.name for interface in model.interfaces]
    wanted = at.name if isinstance(at, keras.Layer) else at
    if wanted is None and len(names) == 1:
        wanted = names[0]
    if wanted not in names:
        raise ValueError(
            f"`at` names the interface at which model {model.name!r} is split, one of {names}. "
            f"Received: at={at!r}."
        )
    cut = model.interfaces[names.index(wanted)]
    if not cut.between_layers:
        raise ValueError(
            f"Interface {cut.name!r} (of type {type(cut).__name__}) lies between windows of time, not "
            f"between layers. Split at another. Received: at={at!r}."
        )
    seeing = [interface.name for interface in model.interfaces if interface.needs_input]
    if seeing:
        raise ValueError(
            f"At the interfaces {seeing} something is predicted from the network's input (synthetic_input, "
            "or a synthesizer WithInput), which the upper half has not. Leave synthetic_input out, for a "
            "message has to come anyhow, and take synthesizers that see no input. "
            f"Received: at={at!r}."
        )
    if told := [interface.name for interface in model.interfaces if interface.of_error]:
        raise ValueError(
            f"The interfaces {told} receive the error of the model's output ('feedback'), for which the "
            "lower half would have to wait in every step. Use a synthesizer that learns. "
            f"Received: at={at!r}."
        )
    if cut.update_period > 1:
        raise ValueError(
            f"The synthesizer at {cut.name!r} has an update_period of {cut.update_period}, but in two halves "
            "it learns whenever a target is given to it. Make it 1, and send targets as seldom as you like. "
            f"Received: at={at!r}."
        )
    if cut.mix != 1.0 or cut.mix_moves:
        raise ValueError(
            f"Interface {cut.name!r} mixes in the true gradient (mix={cut.mix}), for which the lower half "
            f"would have to wait. Make it 1. Received: at={at!r}."
        )
    return cut
