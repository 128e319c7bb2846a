"""Figures: what is drawn is what was given."""

import sys

import keras
import numpy as np
import pytest

from keras_sg import plotting

HISTORY = {"loss": [2.0, 1.0], "a_alignment_cosine": [0.1, 0.4], "b_alignment_cosine": [0.2, 0.3]} | {
    "a_alignment_sign": [0.5, 0.75]
}


def drawn(axes):
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines}


def test_curves():
    axes = plotting.curves(HISTORY, "loss").axes[0]
    assert drawn(axes) == {"loss": [2.0, 1.0]} and axes.get_ylabel() == "loss"
    with pytest.raises(ValueError, match=r"history has no series \['los'\].*'loss'"):
        plotting.curves(HISTORY, ["los"])


def test_a_line_for_each_series_of_each_record(tmp_path):
    (tmp_path / "results.json").write_text(
        '{"backprop": {"arm": "backprop", "loss": [3, 2]},'
        ' "sg": {"loss": [3, 1], "sg_loss": {"10": 5, "20": 4}}}'
    )
    axes = plotting.curves(tmp_path / "results.json", "loss").axes[0]
    assert drawn(axes) == {"backprop": [3.0, 2.0], "sg": [3.0, 1.0]} and axes.get_ylabel() == "loss"
    axes = plotting.curves(tmp_path / "results.json", ["loss", "sg_loss"]).axes[0]
    assert drawn(axes) == {"backprop loss": [3.0, 2.0], "sg loss": [3.0, 1.0], "sg sg_loss": [5.0, 4.0]}
    assert list(axes.lines[2].get_xdata()) == [10.0, 20.0]
    first, second = plotting.alignment({"linear": HISTORY, "mlp": {"a_alignment_sign": [1.0]}}).axes
    assert drawn(first) == {"linear a": [0.1, 0.4], "linear b": [0.2, 0.3]}
    assert drawn(second) == {"linear a": [0.5, 0.75], "mlp a": [1.0]}


def test_alignment(tmp_path):
    table = tmp_path / "log.csv"
    rows = [",".join(HISTORY), *(",".join(map(str, row)) for row in zip(*HISTORY.values()))]
    table.write_text("\n".join(rows))
    history = keras.callbacks.History()
    history.history = HISTORY
    for source in (HISTORY, history, table, str(table)):
        cosine, sign = plotting.alignment(source).axes
        assert drawn(cosine) == {"a": [0.1, 0.4], "b": [0.2, 0.3]} and drawn(sign) == {"a": [0.5, 0.75]}
    with pytest.raises(ValueError, match=r"holds no alignment of gradients.*GradientAlignment.*'loss'"):
        plotting.alignment({"loss": [1.0]})
    with pytest.raises(ValueError, match=r"A history is.*of type int"):
        plotting.alignment(3)


@pytest.mark.parametrize("epochs", [1, 2, 3, 40])
def test_epochs_are_whole(epochs):
    """An axis has ticks at whole epochs alone, and at one of them at least."""
    for figure in (
        plotting.curves({"loss": [1.0] * epochs}, "loss"),
        plotting.alignment({"a_alignment_cosine": [0.5] * epochs}),
    ):
        low, high = figure.axes[0].get_xlim()
        ticks = [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high]
        assert ticks and all(tick == round(tick) for tick in ticks)


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="draws with matplotlib: pip install matplotlib"):
        plotting.curves(HISTORY, "loss")


def test_gradients(tmp_path):
    true, synthetic = np.arange(6.0).reshape(2, 3), -np.ones((2, 3))
    figure = plotting.gradients(synthetic, true, title="both")
    panels = {axes.get_title(): axes.images[0] for axes in figure.axes if axes.images}
    np.testing.assert_array_equal(panels["true"].get_array(), true)
    np.testing.assert_array_equal(panels["synthetic"].get_array(), synthetic)
    assert panels["true"].get_clim() == panels["synthetic"].get_clim() == (-5.0, 5.0)
    figure.savefig(tmp_path / "both.png")
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"synthetic of shape \(2,\), true of shape \(2, 3\)"):
        plotting.gradients(synthetic[:, 0], true)
