"""Recurrent interfaces and windows: what is wrong with them is said in a sentence, with the way out."""

import keras
import numpy as np
import pytest
from keras import layers
from recurrent_models import ROWS, flat, network, windows

import keras_sg
from keras_sg import RecurrentSyntheticGradient, Windows
from keras_sg._recurrent.states import States

LSTM = dict(units=4, return_sequences=True)
WRONG_ARGUMENTS = {
    "no recurrent layer": (
        lambda: RecurrentSyntheticGradient(layers.Dense(3)),
        "A recurrent interface wraps keras.layers.LSTM, GRU, SimpleRNN or RNN.*Received: layer=<Dense",
    ),
    "bidirectional": (
        lambda: RecurrentSyntheticGradient(layers.Bidirectional(layers.LSTM(**LSTM))),
        "One half of a Bidirectional layer would have to see the windows to come first.*type Bidirectional",
    ),
    "stateful": (
        lambda: RecurrentSyntheticGradient(layers.LSTM(**LSTM, stateful=True)),
        "carries the state itself.*stateful=False.*with stateful=True",
    ),
    "returning its state": (
        lambda: RecurrentSyntheticGradient(layers.LSTM(**LSTM, return_state=True)),
        "has one output, the layer's, and keeps the states.*with return_state=True",
    ),
    "backwards": (
        lambda: RecurrentSyntheticGradient(layers.LSTM(**LSTM, go_backwards=True)),
        "goes backwards needs the last window first.*with go_backwards=True",
    ),
    "batch size": (
        lambda: RecurrentSyntheticGradient(layers.LSTM(**LSTM), batch_size=0),
        "`batch_size` says how many rows a batch of windows always has.*Received: batch_size=0",
    ),
    "auxiliary": (
        lambda: RecurrentSyntheticGradient(layers.LSTM(**LSTM), auxiliary="yes"),
        "whether the synthesizer foresees what it will say a window later, True or False.*auxiliary='yes'",
    ),
    "mix": (
        lambda: RecurrentSyntheticGradient(layers.LSTM(**LSTM), mix=2),
        "`mix` is the share.*Received: mix=2",
    ),
}


@pytest.mark.parametrize("make, message", WRONG_ARGUMENTS.values(), ids=WRONG_ARGUMENTS)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_no_batch_size():
    x, ends = keras.Input((3, 2)), keras.Input(())
    with pytest.raises(ValueError, match=r"so it must know how many there are: give it batch_size"):
        RecurrentSyntheticGradient(layers.LSTM(**LSTM))(x, ends=ends)
    batch = keras.Input(batch_shape=(4, 3, 2))
    assert RecurrentSyntheticGradient(layers.LSTM(**LSTM))(batch, ends=ends).shape == (4, 3, 4)


def test_ends_are_missing():
    with pytest.raises(ValueError, match=r"must be told where sequences end.*Received: ends=None"):
        RecurrentSyntheticGradient(layers.LSTM(**LSTM), batch_size=4)(keras.Input((3, 2)))
    layer = RecurrentSyntheticGradient(layers.LSTM(**LSTM), batch_size=4)
    layer(np.ones((4, 3, 2)))  # outside training there is no need
    with pytest.raises(ValueError, match=r"must be told where sequences end.*Received: ends=None"):
        layer(np.ones((4, 3, 2)), training=True)


@pytest.mark.parametrize("shape", [(4, 1), (3,), ()])
def test_ends_of_another_shape(shape):
    layer = RecurrentSyntheticGradient(layers.LSTM(**LSTM), batch_size=4)
    with pytest.raises(
        ValueError, match=r"are one number a row, of the shape \(4,\). Received: ends of shape"
    ):
        layer(np.ones((4, 3, 2)), ends=np.ones(shape), training=True)


@pytest.mark.parametrize("eagerly", [True, False])
def test_a_batch_of_another_size(eagerly):
    """The last one, of one row, which would be broadcast to all."""
    x, y, ends = windows()
    model = network(keras.Model)
    model.compile("sgd", "mse", run_eagerly=eagerly)
    data = [flat(part)[: ROWS + 1] for part in (x, ends, y)]
    # TensorFlow's compiled step may stop elsewhere, at shapes that do not fit, before it says why.
    in_graph = keras.backend.backend() == "tensorflow" and not eagerly
    said = (
        "InvalidArgument|rror" if in_graph else "carries a state for each of 4 rows, so every batch must have"
    )
    with pytest.raises(Exception, match=said):
        model.fit(data[:2], data[2], ROWS, shuffle=False, verbose=0)


@pytest.mark.tensorflow
def test_a_batch_of_another_size_under_xla():
    x, y, ends = windows()
    model = network(keras.Model)
    model.compile("sgd", "mse", jit_compile=True)
    data = [flat(part)[: ROWS + 1] for part in (x, ends, y)]
    with pytest.raises(Exception, match=r"(?i)shape"):
        model.fit(data[:2], data[2], ROWS, shuffle=False, verbose=0)


@pytest.mark.parametrize("rows", [1, 3, 5])
def test_a_batch_of_another_size_whose_size_is_known(rows):
    layer = RecurrentSyntheticGradient(layers.LSTM(**LSTM), batch_size=4)
    with pytest.raises(ValueError, match=rf"Received: a window of shape \({rows}, 3, 2\)"):
        layer(np.ones((rows, 3, 2)), ends=np.ones(rows), training=True)


def test_a_state_that_is_no_vector():
    layer = layers.LSTM(**LSTM)
    layer.state_size = [4, None]
    with pytest.raises(ValueError, match=r"The states of a recurrent interface are vectors.*state_size="):
        States(layer)


@pytest.mark.parametrize("auxiliary, shape", [(False, "(None, 5)"), (True, "(None, 10), the second half")])
def test_a_synthesizer_of_another_shape(auxiliary, shape):
    with pytest.raises(ValueError, match=r"must predict from states, .None, 5., gradients of the shape") as e:
        network(synthesizer=layers.Dense(3), auxiliary=auxiliary)
    assert shape in str(e.value) and "output of shape (None, 3)" in str(e.value)


@pytest.mark.filterwarnings("ignore:Skipping nested container")
@pytest.mark.parametrize("model_class", [keras.Model, keras_sg.DecoupledModel])
def test_going_on_with_another_batch_size(model_class, tmp_path):
    network(model_class).save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(ValueError, match=r"for 4 rows, and this one has batch_size=6. Sequences can only be"):
        network(model_class, batch_size=6).load_weights(tmp_path / "model.weights.h5")


def test_several_replicas(two_devices):
    with two_devices.scope():
        model = network(keras.Model)
        model.compile("sgd", "mse")
    x, y, ends = windows()
    with pytest.raises(
        ValueError, match=r"carries one state, and a tf.distribute strategy splits each batch"
    ):
        model.fit([flat(x), flat(ends)], flat(y), 2 * ROWS, shuffle=False, verbose=0)


def fitted(**options):
    x, y, ends = windows()
    model = network()
    model.compile("sgd", "mse")
    return lambda **given: model.fit(
        **{"x": [flat(x), flat(ends)], "y": flat(y), "batch_size": ROWS, "verbose": 0} | options | given
    )


def test_shuffled_windows_are_found_before_training():
    with pytest.raises(ValueError, match=r"is trained on windows in the order of time, and fit.. shuffles"):
        fitted()()
    x, y, _ = windows()
    data = Windows(np.concatenate(list(x), axis=1), np.concatenate(list(y), axis=1), 3, ROWS)
    with pytest.raises(ValueError, match=r"Pass shuffle=False. Received: shuffle=True"):
        fitted(x=data, y=None, batch_size=None)()
    fitted(x=data, y=None, batch_size=None, shuffle=False)()


def test_shuffled_windows_in_a_plain_model():
    x, y, _ = windows()
    data = Windows(np.concatenate(list(x), axis=1), np.concatenate(list(y), axis=1), 3, ROWS)
    model = network(keras.Model)
    model.compile("sgd", "mse", run_eagerly=True)
    keras.utils.set_random_seed(1)
    # On TensorFlow, it is an InvalidArgumentError with the same text.
    with pytest.raises(Exception, match=r"Windows are to be played in the order of time, and are asked for"):
        model.fit(data, verbose=0)


def test_ends_that_are_never_1():
    x, _, ends = windows()
    with pytest.raises(ValueError, match=r"are never 1: every row would be one sequence without an end"):
        fitted(shuffle=False, x=[flat(x), 0 * flat(ends)])()


@pytest.mark.parametrize("batch_size", [ROWS + 1, None])
def test_another_batch_size_in_fit(batch_size):
    with pytest.raises(ValueError, match=r"goes on with 4 rows, so fit.. must make batches of 4"):
        fitted(shuffle=False, batch_size=batch_size)()


def test_a_row_is_left_over():
    x, y, ends = windows()
    parts = [flat(part)[:-1] for part in (x, ends, y)]
    with pytest.raises(ValueError, match=r"none may be left over. Received: batch_size=4 and 47 rows"):
        fitted(shuffle=False, x=parts[:2], y=parts[2])()


def test_it_is_no_interface_for_decouple():
    model = keras.Sequential([keras.Input((3, 2)), layers.LSTM(4, name="lstm"), layers.Dense(1)])
    with pytest.raises(ValueError, match=r"a recurrent interface needs an input of its own: write it in"):
        keras_sg.decouple(model, after="lstm", interface=RecurrentSyntheticGradient)


def test_there_is_nothing_to_align():
    x, y, ends = windows()
    probe = keras_sg.callbacks.GradientAlignment([x[0], ends[0]], y[0])
    with pytest.raises(ValueError, match=r"what comes after a window is not there to compare with"):
        fitted(shuffle=False, callbacks=[probe])()


X = [np.ones((length, 2), "float32") for length in (7, 4, 9)]
Y = [np.ones((length, 1), "float32") for length in (7, 4, 9)]
WRONG_WINDOWS = {
    "steps": (lambda: Windows(X, Y, 0, 2), "`steps` of Windows must be an integer of at least 1.*steps=0"),
    "batch size": (lambda: Windows(X, Y, 3, 2.0), "`batch_size` of Windows must be.*batch_size=2.0"),
    "too few": (lambda: Windows(X, Y, 3, 4), "so there must be as many as rows, at least.*3 sequences"),
    "no arrays": (lambda: Windows(1.0, Y, 3, 2), r"Windows are made of arrays.*Received: \[1.0, 3\]"),
    "other number of targets": (lambda: Windows(X, Y[:2], 3, 2), r"as many of targets.*\[3, 2\] of them"),
    "other length of targets": (
        lambda: Windows(X, Y[::-1], 3, 2),
        r"one entry a step, and at least one.*sequence 0: \[\(7, 2\), \(9, 1\), \(7,\)\]",
    ),
    "empty": (lambda: Windows([np.ones((0, 2))], [np.ones((0, 1))], 3, 1), "at least one, of the shapes"),
    "weights": (lambda: Windows(X, Y, 3, 2, Y), "Inputs, targets and weights of a sequence have one entry"),
    "other features": (
        lambda: Windows([X[0], X[1][:, :1]], Y[:2], 3, 1),
        "may differ in their length, and in nothing else",
    ),
    "no function": (
        lambda: Windows.from_generator(iter([]), 3, 2, 5),
        "`make` is a function that returns a new iterator.*type list_iterator",
    ),
    "no tuples": (
        lambda: Windows.from_generator(lambda: iter([1.0]), 3, 2, 5)[0],
        "A sequence is a tuple .x, y. or .x, y, weights. of arrays.*as number 0: float",
    ),
    "nothing": (
        lambda: Windows.from_generator(lambda: iter([]), 3, 2, 5)[0],
        "The generator of Windows yields no sequence",
    ),
    "text of floats": (lambda: Windows.from_text(np.ones(9), 3, 2), "A text is a vector of tokens.*float64"),
    "short text": (
        lambda: Windows.from_text(np.arange(6), 3, 2),
        "A text of 6 tokens is too short for 2 streams of one window of 3 steps",
    ),
}


@pytest.mark.parametrize("make, message", WRONG_WINDOWS.values(), ids=WRONG_WINDOWS)
def test_wrong_windows(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("index", [1, 3, -1])
def test_windows_out_of_order(index):
    data = Windows(X, Y, 3, 2)
    with pytest.raises(ValueError, match=r"Windows are to be played in the order of time.*0 is the next of"):
        data[index]
