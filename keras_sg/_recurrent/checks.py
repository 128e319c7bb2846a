"""What can be wrong with a recurrent interface, its batches and its files: one sentence each."""

import numbers
from typing import Any, NoReturn

import keras
from keras import ops

from keras_sg._types import Shape, Tensor


def check_layer(layer: keras.Layer) -> None:
    """Raise `ValueError` unless a recurrent interface can go around a layer."""
    if not isinstance(layer, keras.layers.RNN):
        hint = ""
        if isinstance(layer, keras.layers.Bidirectional):
            hint = " One half of a Bidirectional layer would have to see the windows to come first: wrap a "
            hint += "layer that goes forward."
        raise ValueError(
            "A recurrent interface wraps keras.layers.LSTM, GRU, SimpleRNN or RNN (of a cell or a list of "
            f"cells).{hint} Received: layer={layer!r} (of type {type(layer).__name__})."
        )
    if layer.stateful:
        raise ValueError(
            "A recurrent interface carries the state itself, so that gradients can be exchanged at it; make "
            f"the layer with stateful=False. Received: {layer.name!r} with stateful=True."
        )
    if layer.return_state:
        raise ValueError(
            "A recurrent interface has one output, the layer's, and keeps the states: make the layer with "
            f"return_state=False. Received: {layer.name!r} with return_state=True."
        )
    if layer.go_backwards:
        raise ValueError(
            "A layer that goes backwards needs the last window first, and windows come in the order of time; "
            "make the layer with go_backwards=False, or turn whole sequences around. "
            f"Received: {layer.name!r} with go_backwards=True."
        )


def refuse_labels(given: dict[str, Any]) -> None:
    """Raise `ValueError` where an interface is given what is for those between layers."""
    if given:
        raise ValueError(
            "A recurrent interface predicts from states alone, in every window: no label goes with a state, "
            "and no period with what is handed on. Take 'linear', 'mlp' or a layer. Received: "
            + ", ".join(f"{name}={value!r}" for name, value in given.items())
            + "."
        )


def check_batch_size(batch_size: int | None) -> int | None:
    """Raise `ValueError` unless it is None or an integer of at least 1; return it."""
    if batch_size is None:
        return None
    if isinstance(batch_size, bool) or not isinstance(batch_size, numbers.Integral) or batch_size < 1:
        raise ValueError(
            "`batch_size` says how many rows a batch of windows always has, an integer of at least 1, or "
            f"None where the model's input says it. Received: batch_size={batch_size!r}."
        )
    return int(batch_size)


def batch_size(given: int | None, input_shape: Shape, name: str) -> int:
    """The number of rows of a batch, from the argument or the shape of the input.

    Raises:
        ValueError: neither says it.
    """
    found = input_shape[0]
    if given is None and found is None:
        raise ValueError(
            f"Recurrent interface {name!r} carries a state for each row of a batch, so it must know how many "
            "there are: give it batch_size=..., or make the input keras.Input(batch_shape=(rows, steps, "
            f"features)). Received: batch_size=None and an input of shape {tuple(input_shape)}."
        )
    return int(found if given is None else given)


def refuse_missing_ends(name: str) -> NoReturn:
    """Raise `ValueError`: there are no `ends`."""
    raise ValueError(
        f"Recurrent interface {name!r} must be told where sequences end. Call it as layer(inputs, "
        "ends=ends), where `ends` is an input of the model, keras.Input(()): 1 for each row whose sequence "
        "ends with the window, else 0 (keras_sg.Windows makes them). Received: ends=None."
    )


def check_ends(ends: Tensor | None, rows: int, name: str) -> Tensor:
    """`ends` as booleans, `(rows,)`; `ValueError` where they are missing or of another shape."""
    if ends is None:
        refuse_missing_ends(name)
    if len(ends.shape) != 1 or ends.shape[0] not in (None, rows):
        raise ValueError(
            f"The `ends` of recurrent interface {name!r} are one number a row, of the shape ({rows},). "
            f"Received: ends of shape {tuple(ends.shape)}."
        )
    return ops.cast(of_size(ends, rows, name), "bool")


def of_size(inputs: Tensor, rows: int, name: str) -> Tensor:
    """A tensor of a batch, if it has as many rows as there are states to go on with.

    Raises:
        ValueError: it has not; or there are several replicas. Where TensorFlow knows the length of a batch
            only when it is there, `tf.errors.InvalidArgumentError` with the same text.
    """
    wrong = (
        f"Recurrent interface {name!r} carries a state for each of {rows} rows, so every batch must have "
        f"{rows}; leave out the last one if it is smaller (keras_sg.Windows fills it), or make the model "
        "with another batch_size."
    )
    if inputs.shape[0] not in (None, rows):
        raise ValueError(f"{wrong} Received: a window of shape {tuple(inputs.shape)}.")
    if keras.backend.backend() != "tensorflow":
        return inputs
    import tensorflow as tf

    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        raise ValueError(
            f"Recurrent interface {name!r} carries one state, and a tf.distribute strategy splits each batch "
            "over replicas; train it on one device, or on JAX with keras.distribution. Received: "
            f"{tf.distribute.get_strategy().num_replicas_in_sync} replicas."
        )
    if inputs.shape[0] is not None:
        return inputs
    found = tf.shape(inputs)[0]
    # XLA leaves assertions out, and stops where the ends of other rows are written down.
    with tf.control_dependencies([tf.debugging.Assert(tf.equal(found, rows), [wrong, "Received:", found])]):
        inputs = tf.identity(inputs)
    inputs.set_shape((rows, *inputs.shape[1:]))
    return inputs


def check_saved(store: Any, rows: int, name: str) -> None:
    """Raise `ValueError` unless a file holds the states of so many rows."""
    found = tuple(store["fresh"].shape)
    if found != (rows, 1):
        raise ValueError(
            f"The file holds what recurrent interface {name!r} carried for {found[0]} rows, and this one has "
            f"batch_size={rows}. Sequences can only be gone on with in batches of {found[0]}; to take the "
            "weights alone, load the file into a model of that batch size, and hand on what "
            "keras_sg.strip(model) has with get_weights and set_weights."
        )
