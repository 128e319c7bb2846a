"""`Windows`: long sequences as the windows that a recurrent interface is trained on."""

import numbers
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Self

import keras
import numpy as np

Batch = tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]


class _Sequence(NamedTuple):
    """One sequence: inputs `(length, ...)`, targets `(length, ...)` and weights `(length,)`."""

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray


class Windows(keras.utils.PyDataset):
    """Sequences, cut into windows, in batches for `fit`.

    Every row of a batch plays one sequence after another: the next sequence begins, with a window of its own,
    in the row that is the first to be free. A batch is `((x, ends), y, weights)`:

        x        (batch_size, steps, ...)   a window of each row, filled up behind the end of its sequence
        ends     (batch_size,) float32      1 where the row's sequence ends with this window
        y        (batch_size, steps, ...)   targets
        weights  (batch_size, steps)        of the loss: those given, or 1; 0 where the window was filled up

    Where sequences run out, rows wait for the others: their windows weigh nothing, and end. So a pass (an
    epoch) ends with an end in every row, and the next one begins afresh.

    The windows are in the order of time: train with `fit(..., shuffle=False)`. A pass that is broken off
    (`steps_per_epoch`, an interrupted `fit`) has no end: call `reset_state()` of the interface before the
    next.

    Args:
        x: array `(sequences, length, ...)`, or list of arrays `(length, ...)`, whose lengths may differ.
        y: targets of every step, likewise.
        steps: length of a window, a positive integer.
        batch_size: number of rows; there must be as many sequences, at least.
        sample_weight: optional weights of every step, array `(sequences, length)` or list of arrays
            `(length,)`.

    Raises:
        ValueError: an argument is not as described; sequences differ in more than their length; or windows
            are asked for in another order than that of time.

    Example:

    ```python
    import keras_sg
    import numpy as np

    x = [np.ones((length, 2), "float32") for length in (7, 4, 9)]
    y = [np.ones((length, 1), "float32") for length in (7, 4, 9)]
    windows = keras_sg.Windows(x, y, steps=3, batch_size=2)
    (inputs, ends), targets, weights = windows[0]  # then windows[1], ...; model.fit(windows, shuffle=False)
    ```
    """

    def __init__(
        self,
        x: np.ndarray | Sequence[np.ndarray],
        y: np.ndarray | Sequence[np.ndarray],
        steps: int,
        batch_size: int,
        sample_weight: np.ndarray | Sequence[np.ndarray] | None = None,
    ) -> None:
        sequences = _sequences(x, y, sample_weight)
        if len(sequences) < _positive("batch_size", batch_size):
            raise ValueError(
                "Every row of a batch plays sequences of its own, so there must be as many as rows, at least."
                f" Received: {len(sequences)} sequences and batch_size={batch_size}."
            )
        lengths = [len(sequence.x) for sequence in sequences]
        number = _windows_in(lengths, _positive("steps", steps), batch_size)
        self._begin(lambda: iter(sequences), steps, batch_size, number)

    @classmethod
    def from_generator(
        cls,
        make: Callable[[], Iterable[tuple[Any, ...]]],
        steps: int,
        batch_size: int,
        windows: int,
    ) -> Self:
        """Windows of sequences that are made while they are played.

        Args:
            make: function without arguments that returns an iterator over `(x, y)` or `(x, y, weights)`, one
                sequence each: arrays `(length, ...)`, `(length, ...)` and `(length,)`. It is called at the
                beginning of every pass (and once or twice before, where Keras looks at the shapes).
            steps: length of a window.
            batch_size: number of rows.
            windows: number of windows of a pass. What has not ended by then is cut off there; where there
                are fewer sequences, rows wait.

        Returns:
            `Windows`.

        Raises:
            ValueError: an argument, or what the iterator yields, is not as described.
        """
        if not callable(make):
            raise ValueError(
                "`make` is a function that returns a new iterator over sequences (x, y), so that every epoch "
                f"can have one: give the function itself. Received: make={make!r} (of type "
                f"{type(make).__name__})."
            )
        made = cls.__new__(cls)
        sequences = lambda: (_checked(sequence, i) for i, sequence in enumerate(make()))
        made._begin(sequences, steps, batch_size, _positive("windows", windows))
        return made

    @classmethod
    def from_text(cls, tokens: np.ndarray, steps: int, batch_size: int) -> Self:
        """One long text, each of whose tokens is to be predicted from those before it.

        It is cut into `batch_size` streams of the same length, a whole number of windows, which the rows
        play side by side; what is left over at the end is not used.

        Args:
            tokens: integers, `(length,)`.
            steps: length of a window.
            batch_size: number of streams.

        Returns:
            `Windows` of inputs and targets of shape `(batch_size, steps)`; the targets are one token ahead.

        Raises:
            ValueError: `tokens` is no vector of integers, or too short for one window a stream.
        """
        tokens = np.asarray(tokens)
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            raise ValueError(
                "A text is a vector of tokens, whole numbers that stand for characters or words. Received: "
                f"an array of shape {tokens.shape} and dtype {tokens.dtype}."
            )
        steps, batch_size = _positive("steps", steps), _positive("batch_size", batch_size)
        length = (len(tokens) - 1) // batch_size // steps * steps
        if length < 1:
            raise ValueError(
                f"A text of {len(tokens)} tokens is too short for {batch_size} streams of one window of "
                f"{steps} steps each, and one token more. Received: batch_size={batch_size}, steps={steps}."
            )
        x, y = (tokens[i : i + length * batch_size].reshape(batch_size, length) for i in (0, 1))
        return cls(x, y, steps, batch_size)

    def _begin(
        self, sequences: Callable[[], Iterator[_Sequence]], steps: int, batch_size: int, number: int
    ) -> None:
        keras.utils.PyDataset.__init__(self)
        self.steps, self.batch_size = _positive("steps", steps), _positive("batch_size", batch_size)
        self._sequences, self._number = sequences, number
        self._next = 0  # the index of the window that comes now
        self._last: Batch | None = None  # the one before

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, index: int) -> Batch:
        """The window after the one before; at index 0, the first of a new pass.

        Raises:
            ValueError: another window than the next, the same or the first is asked for.
        """
        if self._last is not None and 0 < index == self._next - 1:
            return self._last
        if index not in (0, self._next) or not 0 <= index < len(self):
            raise ValueError(
                "Windows are to be played in the order of time, and are asked for in another: give "
                "fit(..., shuffle=False), for Keras shuffles what it can. Received: index "
                f"{index} where {self._next} is the next of {len(self)}."
            )
        if index == 0:
            self._waiting = self._sequences()
            self._rows: list[tuple[_Sequence, int] | None] = [None] * self.batch_size
            self._like: _Sequence | None = None
        self._next = index + 1
        self._last = batch = self._window(last=self._next == len(self))
        return batch

    def _window(self, last: bool) -> Batch:
        """The next window of every row."""
        for row, playing in enumerate(self._rows):
            if playing is None:
                new = next(self._waiting, None)
                if new is not None:
                    self._like = self._like or new
                    _check_alike(new, self._like)
                    self._rows[row] = new, 0
        if self._like is None:
            raise ValueError("The generator of Windows yields no sequence. Received: an iterator at its end.")
        batch = [np.zeros((self.batch_size, self.steps, *part.shape[1:]), part.dtype) for part in self._like]
        ends = np.ones(self.batch_size, "float32")
        for row, playing in enumerate(self._rows):
            if playing is None:
                continue
            sequence, at = playing
            end = min(at + self.steps, len(sequence.x))
            for part, whole in zip(batch, sequence):
                part[row, : end - at] = whole[at:end]
            at, ended = end, end == len(sequence.x)
            ends[row] = ended or last
            self._rows[row] = None if ended else (sequence, at)
        x, y, weight = batch
        return (x, ends), y, weight


def _sequences(x: Any, y: Any, weight: Any) -> list[_Sequence]:
    parts = [x, y] if weight is None else [x, y, weight]
    if any(not hasattr(part, "__len__") for part in parts) or len({len(part) for part in parts}) != 1:
        counts = [len(part) if hasattr(part, "__len__") else part for part in parts]
        raise ValueError(
            "Windows are made of arrays (sequences, length, ...) or lists of arrays (length, ...), as many "
            f"of targets (and weights) as of inputs. Received: {counts} of them."
        )
    found = [_checked(sequence, i) for i, sequence in enumerate(zip(*parts))]
    for sequence in found:
        _check_alike(sequence, found[0])
    return found


def _checked(sequence: tuple[Any, ...], index: int) -> _Sequence:
    """`(x, y)` or `(x, y, weights)` as a `_Sequence`; `ValueError` where it is none."""
    if not isinstance(sequence, (tuple, list)) or len(sequence) not in (2, 3):
        raise ValueError(
            "A sequence is a tuple (x, y) or (x, y, weights) of arrays. Received, as number "
            f"{index}: {type(sequence).__name__} of {len(sequence) if hasattr(sequence, '__len__') else '?'}."
        )
    x, y, *weight = map(np.asarray, sequence)
    weights = np.ones(len(x) if x.ndim else 0, "float32") if not weight else weight[0].astype("float32")
    if not x.ndim or not y.ndim or not len(x) or not len(x) == len(y) == len(weights) or weights.ndim != 1:
        raise ValueError(
            "Inputs, targets and weights of a sequence have one entry a step, and at least one, of the "
            f"shapes (length, ...), (length, ...) and (length,). Received, in sequence {index}: "
            f"{[part.shape for part in (x, y, weights)]}."
        )
    return _Sequence(x, y, weights)


def _check_alike(sequence: _Sequence, first: _Sequence) -> None:
    """Raise `ValueError` unless two sequences differ in nothing but their length."""
    ours, theirs = ([(part.shape[1:], part.dtype) for part in of] for of in (sequence, first))
    if ours != theirs:
        raise ValueError(
            "Sequences may differ in their length, and in nothing else. Received: steps of the shapes and "
            f"dtypes {ours[:2]} in one, {theirs[:2]} in the first."
        )


def _windows_in(lengths: Sequence[int], steps: int, rows: int) -> int:
    """How many windows it takes the rows to play sequences of such lengths."""
    until = [0] * rows
    for length in lengths:
        # The first row that is free, as windows go.
        row = min(range(rows), key=lambda row: until[row])
        until[row] += -(-length // steps)
    return max(until)


def _positive(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"`{name}` of Windows must be an integer of at least 1. Received: {name}={value!r}.")
    return int(value)
