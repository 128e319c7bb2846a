"""Figures of training: its curves, the quality of synthetic gradients, and the gradients themselves.

Every function returns a `matplotlib.figure.Figure`; save it with `figure.savefig(path)`. A history may
be what `fit` returns (or its `history` dictionary), or the path of a file that CSVLogger wrote.
Matplotlib is imported when a figure is drawn.
"""

import csv
import pathlib

import keras
import numpy as np

MEASURES = {
    "cosine": "cosine with the true gradient",
    "error": "relative error",
    "sign": "share of equal signs",
}


def curves(history, keys):
    """Draw series of a history against the epoch.

    Args:
        history: a `keras.callbacks.History`, a dictionary of series, or the path of a CSV file.
        keys: the names of the series to draw in one set of axes.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: the history has no series of one of these names.

    Example:

    ```python
    from keras_sg import plotting
    figure = plotting.curves({"loss": [2.0, 1.0, 0.5]}, ["loss"])
    ```
    """
    series, keys = _series(history), [keys] if isinstance(keys, str) else keys
    missing = [key for key in keys if key not in series]
    if missing:
        raise ValueError(f"The history has no series {missing}. It has {sorted(series)}.")
    figure, axes = _figure(1)
    for key in keys:
        axes[0].plot(range(1, len(series[key]) + 1), series[key], label=key)
    axes[0].legend()
    return figure


def alignment(history):
    """Draw what `keras_sg.callbacks.GradientAlignment` measured: a panel a measure, a line an interface.

    Args:
        history: as for `curves`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: the history holds no such measures.

    Example:

    ```python
    from keras_sg import plotting
    figure = plotting.alignment({"block1_alignment_cosine": [0.0, 0.3, 0.5]})
    ```
    """
    series = _series(history)
    found = {
        measure: {key: values for key, values in series.items() if key.endswith(f"_alignment_{measure}")}
        for measure in MEASURES
    }
    found = {measure: lines for measure, lines in found.items() if lines}
    if not found:
        raise ValueError(
            "The history holds no alignment of gradients. Train with "
            "callbacks=[keras_sg.callbacks.GradientAlignment(x, y)]. "
            f"Received: a history with the series {sorted(series)}."
        )
    figure, axes = _figure(len(found))
    for panel, (measure, lines) in zip(axes, found.items()):
        for key, values in lines.items():
            name = key.removesuffix(f"_alignment_{measure}")
            panel.plot(range(1, len(values) + 1), values, label=name)
        panel.set(title=MEASURES[measure])
    axes[0].legend()
    return figure


def gradients(synthetic, true, title=None):
    """Draw a true and a synthetic gradient as two pictures in one scale of colours.

    Args:
        synthetic: array of two axes, such as the gradient of a weight matrix, or
            `(batch, features)`.
        true: array of the same shape.
        title: of the figure.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: the arrays are not of one shape with two axes.

    Example:

    ```python
    import numpy as np
    from keras_sg import plotting
    figure = plotting.gradients(synthetic=np.zeros((4, 3)), true=np.ones((4, 3)))
    ```
    """
    synthetic, true = np.asarray(synthetic), np.asarray(true)
    if synthetic.ndim != 2 or synthetic.shape != true.shape:
        raise ValueError(
            "Two gradients of the same shape, with two axes each, are wanted. "
            f"Received: synthetic of shape {synthetic.shape}, true of shape {true.shape}."
        )
    figure, axes = _figure(2)
    limit = max(np.abs(true).max(), np.abs(synthetic).max()) or 1.0
    for panel, values, name in zip(axes, (true, synthetic), ("true", "synthetic")):
        image = panel.imshow(values, cmap="coolwarm", vmin=-limit, vmax=limit, aspect="auto")
        panel.set(title=name, xlabel="")
        panel.grid(False)
    figure.colorbar(image, ax=axes)
    figure.suptitle(title)
    return figure


def _series(history):
    """A history as a dictionary of lists of numbers."""
    if isinstance(history, keras.callbacks.History):
        return history.history
    if isinstance(history, dict):
        return history
    if not isinstance(history, (str, pathlib.Path)):
        raise ValueError(
            "A history is what fit() returns, a dictionary of series, or the path of a CSV file. "
            f"Received: {history!r} (of type {type(history).__name__})."
        )
    with open(history, newline="") as file:
        rows = list(csv.DictReader(file))
    number = lambda text: float("nan") if text in ("", "NA") else float(text)
    return {key: [number(row[key]) for row in rows] for key in (rows[0] if rows else ())}


def _figure(panels):
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("keras_sg.plotting draws with matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(1.4 + 3.6 * panels, 3.4), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for panel in axes:
        panel.set(xlabel="epoch")
        panel.grid(alpha=0.3)
    return figure, axes
