"""`Windows`: which step of which sequence is where, and what `fit` sees of it."""

import itertools

import keras
import numpy as np
import pytest
import recurrent_models as rm

import keras_sg
from keras_sg import Windows

LENGTHS = (7, 4, 9, 3, 3)


def numbered(lengths=LENGTHS, at=1):
    """Sequences of steps that say which they are: step 2 of sequence 3 is 302."""
    return [np.arange(n, dtype="float32")[:, None] + 100 * (i + at) for i, n in enumerate(lengths)]


def played(windows):
    """By row, the list of sequences that it plays, each a list of (step, weight) without padding."""
    rows = [[[]] for _ in range(windows.batch_size)]
    for (x, ends), y, weight in windows:
        np.testing.assert_array_equal(x, y)
        assert x.shape[:2] == weight.shape == (windows.batch_size, windows.steps) and ends.dtype == "float32"
        for row in range(windows.batch_size):
            rows[row][-1] += [step for step, counts in zip(x[row, :, 0], weight[row]) if counts]
            if ends[row]:
                rows[row].append([])
    assert not any(row[-1] for row in rows), "the last window ends every row"
    return [[sequence for sequence in row if sequence] for row in rows]


@pytest.mark.parametrize("steps", [1, 3, 4, 20])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_every_sequence_is_played_once_and_in_order(steps, batch_size):
    windows = Windows(numbered(), numbered(), steps, batch_size)
    expected = [sequence[:, 0].tolist() for sequence in numbered()]
    for _ in range(2):  # two passes
        rows = played(windows)
        assert sorted(itertools.chain(*rows)) == expected
        assert [row[0] for row in rows] == expected[:batch_size]


def test_the_first_free_row_takes_the_next_sequence():
    windows = Windows(numbered(), numbered(), steps=3, batch_size=2)
    assert [[int(s[0]) for s in row] for row in played(windows)] == [[100, 400, 500], [200, 300]]
    # Rows need 3 + 1 + 1 and 2 + 3 windows.
    assert len(windows) == 5
    ends = np.array([ends for (_, ends), _, _ in windows])
    np.testing.assert_array_equal(ends, [[0, 0], [0, 1], [1, 0], [1, 0], [1, 1]])


def test_a_row_without_a_sequence_waits_and_weighs_nothing():
    windows = Windows(numbered((9, 2)), numbered((9, 2)), steps=3, batch_size=2)
    for index, ((_, ends), _, weight) in enumerate(windows):
        assert weight[0].all() and ends[1] == 1
        np.testing.assert_array_equal(weight[1], [1, 1, 0] if index == 0 else [0, 0, 0])


def test_given_weights_are_those_of_the_steps():
    weights = [np.arange(n) / 10 for n in LENGTHS]
    windows = Windows(numbered(), numbered(), 3, 2, sample_weight=weights)
    found = {step: w for (x, _), _, weight in windows for step, w in zip(x[..., 0].ravel(), weight.ravel())}
    for sequence, weight in zip(numbered(), weights):
        for step, w in zip(sequence[:, 0], weight):
            np.testing.assert_allclose(found[step], w, rtol=1e-6)


def test_arrays_are_lists_of_their_rows():
    array = np.random.default_rng(0).normal(size=(4, 6, 2)).astype("float32")
    for ours, theirs in zip(
        Windows(array, array, 3, 2), Windows(list(array), list(array), 3, 2), strict=True
    ):
        for a, b in zip(keras.tree.flatten(ours), keras.tree.flatten(theirs)):
            np.testing.assert_array_equal(a, b)


def test_a_generator_is_asked_for_as_much_as_is_played():
    made = []

    def make():
        for i in range(1000):
            made.append(i)
            yield numbered((4,), at=i)[0], numbered((4,), at=i)[0]

    windows = Windows.from_generator(make, steps=3, batch_size=2, windows=5)
    rows = played(windows)
    # Of the third pair there is room for one window: cut off there.
    assert [[int(s[0]) for s in row] for row in rows] == [[0, 200, 400], [100, 300, 500]]
    assert [len(s) for s in rows[0]] == [4, 4, 3] and len(made) == 6
    assert played(windows) == rows and len(made) == 12, "every pass asks for a new iterator"


def test_a_text_is_one_stream_a_row():
    windows = Windows.from_text(np.arange(23), steps=3, batch_size=2)
    found = list(windows)
    x, y = (np.concatenate(parts, axis=1) for parts in zip(*((x, y) for (x, _), y, _ in found)))
    np.testing.assert_array_equal(x, [range(0, 9), range(9, 18)])
    np.testing.assert_array_equal(y, x + 1)
    np.testing.assert_array_equal([ends for (_, ends), _, _ in found], [[0, 0], [0, 0], [1, 1]])
    assert all(weight.all() for _, _, weight in found) and x.dtype == np.arange(2).dtype


def test_the_same_window_may_be_looked_at_twice():
    windows = Windows(numbered(), numbered(), 3, 2)
    peeked = [windows[0], windows[1], windows[1]]
    for (x, _), (again, _) in zip([peeked[0][0], peeked[1][0]], [windows[0][0], windows[1][0]]):
        np.testing.assert_array_equal(x, again)
    assert peeked[1] is peeked[2]


@pytest.mark.parametrize("model_class", [keras.Model, keras_sg.DecoupledModel])
def test_fit_on_windows_is_that_on_the_arrays_in_them(model_class):
    rng = np.random.default_rng(0)
    lengths = (7, 4, 9, 3, 5, 8)
    x, y = ([rng.normal(size=(n, size)).astype("float32") for n in lengths] for size in (2, 2))
    windows = Windows(x, y, rm.STEPS, rm.ROWS)
    models = [rm.network(model_class) for _ in range(2)]
    for model in models:
        model.compile(rm.optimizer(), "mse")
    models[0].fit(windows, epochs=2, shuffle=False, verbose=0)
    for _ in range(2):
        for (window, ends), target, weight in windows:
            models[1].train_on_batch([window, ends], target, sample_weight=weight)
    for a, b in zip(*(model.get_weights() for model in models)):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
