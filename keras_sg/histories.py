"""What training left behind, read from wherever it is: to draw it, and to compare runs."""

import csv
import json
import pathlib
from typing import Any, TypeAlias

import keras
import numpy as np

SOURCES = (keras.callbacks.History, dict, str, pathlib.Path)

History: TypeAlias = keras.callbacks.History | dict[str, Any] | str | pathlib.Path
KINDS = (
    "A history is what fit() returns, a dictionary of series, the path of a CSV file or of a JSON file "
    "with such a dictionary, or a dictionary of these by name."
)
Points = tuple[list[float], list[float]]  # steps, values


def read(history: History) -> dict[str, dict[str, Points]]:
    """Read the series that training left behind.

    A history is one of

        a `keras.callbacks.History`, which is what `fit` returns,
        a dictionary of series, such as its `history`,
        the path of a CSV file, which `keras.callbacks.CSVLogger` wrote,
        the path of a JSON file with a dictionary of series,
        a dictionary from names to any of these, or the path of a JSON file with one (such as the
        `results.json` of the examples).

    A series is a list of numbers, one an epoch, or a dictionary from steps to numbers.

    Args:
        history: see above.

    Returns:
        Dictionary from the name of each record (`""` for a single one without a name) to its
        series: a dictionary from their names to tuples `(steps, values)` of two lists of numbers.
        Epochs count from 1. What is no series, or has nothing in it, is left out.

    Raises:
        ValueError: `history` is nothing of that kind, or a file that is damaged.
        OSError: a file cannot be opened.

    Example:

    ```python
    from keras_sg import histories
    histories.read({"loss": [2.0, 1.0]})  # {"": {"loss": ([1.0, 2.0], [2.0, 1.0])}}
    ```
    """
    found = _loaded(history)
    if found and all(isinstance(record, SOURCES) and not _points(record) for record in found.values()):
        return {name: _series(_loaded(record)) for name, record in found.items()}
    return {"": _series(found)}


def _loaded(history: History) -> dict[str, Any]:
    """A history, or several, as the dictionary that it holds."""
    if isinstance(history, keras.callbacks.History):
        return history.history
    found = history
    if isinstance(history, (str, pathlib.Path)):
        path = pathlib.Path(history)
        try:
            found = json.loads(path.read_text()) if path.suffix == ".json" else _columns(path)
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}. {KINDS} Received", str(path)) from error
        except (ValueError, csv.Error) as error:
            kind = "JSON" if path.suffix == ".json" else "CSV"
            raise ValueError(
                f"{str(path)!r} cannot be read as {kind}; a file that was cut short or damaged has to be "
                f"written again. {KINDS} Received: {type(error).__name__}: {error}"
            ) from error
    if isinstance(found, dict):
        return found
    raise ValueError(
        f"{KINDS} Received something else: {history!r} (of type {type(history).__name__}), "
        f"which holds {type(found).__name__}."
    )


def _columns(path: pathlib.Path) -> dict[str, list[str]]:
    """The columns of a CSV file by name, but for those with nothing in them.

    CSVLogger writes NA for what an epoch does not report, and whole columns of it.
    """
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    if any(None in row for row in rows):
        raise ValueError("a row has more cells than the first one, which names them")
    columns = {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}
    nothing = (None, "", "NA")
    return {
        key: ["nan" if text in nothing else text for text in texts]
        for key, texts in columns.items()
        if not set(texts) <= set(nothing)
    }


def _series(record: dict[str, Any]) -> dict[str, Points]:
    points = {name: _points(values) for name, values in record.items()}
    return {name: pair for name, pair in points.items() if pair}


def _points(series: Any) -> Points | None:
    """Steps and values of a series, or None for what is none."""
    if isinstance(series, (list, tuple, np.ndarray)):
        series = dict(enumerate(series, start=1))
    if not isinstance(series, dict) or not series:
        return None
    try:
        return [float(step) for step in series], [float(value) for value in series.values()]
    except (TypeError, ValueError):
        return None
