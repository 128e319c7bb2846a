"""Figures of training: its curves, the quality of synthetic gradients, and the gradients themselves.

Every function returns a `matplotlib.figure.Figure`; save it with `figure.savefig(path)`. A history is
all that `keras_sg.histories.read` reads: what `fit` returns, a CSVLogger's file, an example's
`results.json`, or several of them by name. Matplotlib is imported when a figure is drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from keras_sg import histories

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEASURES = {
    "cosine": "cosine with the true gradient",
    "error": "relative error",
    "sign": "share of equal signs",
}


def curves(history: histories.History, keys: str | list[str]) -> Figure:
    """Draw series against the epoch (or step): a line for each series of each record.

    Args:
        history: see `keras_sg.histories.read`.
        keys: the name of the series to draw, or a list of several. A record that lacks one of
            them has a line less.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: no record has a series of one of these names; or `history` is none.

    Example:

    ```python
    from keras_sg import plotting
    figure = plotting.curves({"loss": [2.0, 1.0, 0.5]}, ["loss"])
    ```
    """
    records, keys = histories.read(history), [keys] if isinstance(keys, str) else keys
    known = {key for record in records.values() for key in record}
    missing = [key for key in keys if key not in known]
    if missing:
        raise ValueError(f"The history has no series {missing}. It has {sorted(known)}.")
    figure, axes = _figure(1)
    for name, record in records.items():
        for key in keys:
            if key in record:
                shown = "" if name and len(keys) == 1 else key
                axes[0].plot(*record[key], label=_label(name, shown))
    if len(keys) == 1:
        axes[0].set(ylabel=keys[0])  # instead of in every label
    axes[0].legend()
    return figure


def alignment(history: histories.History) -> Figure:
    """Draw what `keras_sg.callbacks.GradientAlignment` measured: a panel a measure, a line an interface.

    Args:
        history: see `keras_sg.histories.read`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: no record holds such measures; or `history` is none.

    Example:

    ```python
    from keras_sg import plotting
    figure = plotting.alignment({"block1_alignment_cosine": [0.0, 0.3, 0.5]})
    ```
    """
    records = histories.read(history)
    found: dict[str, list[tuple[str, histories.Points]]] = {measure: [] for measure in MEASURES}
    for name, record in records.items():
        for key, points in record.items():
            interface, _, measure = key.rpartition("_alignment_")
            if measure in found:
                found[measure].append((_label(name, interface), points))
    found = {measure: lines for measure, lines in found.items() if lines}
    if not found:
        raise ValueError(
            "The history holds no alignment of gradients. Train with "
            "callbacks=[keras_sg.callbacks.GradientAlignment(x, y)]. "
            f"Received: a history with the series {sorted({key for r in records.values() for key in r})}."
        )
    figure, axes = _figure(len(found))
    for panel, (measure, lines) in zip(axes, found.items()):
        for label, points in lines:
            panel.plot(*points, label=label)
        panel.set(title=MEASURES[measure])
    axes[0].legend()
    return figure


def gradients(synthetic: np.ndarray, true: np.ndarray, title: str = "") -> Figure:
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


def _label(record: str, series: str) -> str:
    return f"{record} {series}".strip()


def _figure(panels: int) -> tuple[Figure, list[Axes]]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("keras_sg.plotting draws with matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(1.4 + 3.6 * panels, 3.4), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for panel in axes:
        panel.set(xlabel="epoch")
        # There is no epoch between the first and the second; and of a single one there is one tick.
        panel.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        panel.grid(alpha=0.3)
    return figure, axes
