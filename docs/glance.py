"""Draws the figures of pages/results.md, from numbers that stand on other pages.

    python docs/glance.py

Each panel names the section in which its numbers stand, with settings and command; tests/test_docs.py looks
them up there.
"""

import pathlib
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure

PAGES = pathlib.Path(__file__).parent / "pages"
# Without a ground of their own they lie on light and on dark pages: colours between the two.
TEXT = "#767d8c"
# True gradients; synthetic ones; those of synthesizers that do not see the label; losses of a module's own.
BACKPROP, DECOUPLED, BLIND, LOCAL = "#717a8e", "#c2661a", "#d9a27c", "#13918a"
STYLE = {
    "font.size": 10.5,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "keras_sg",  # the same names in the file each time
}
WIDTH, ROW, AROUND = 7.9, 0.27, 0.62  # in inches: the figure, a bar, what else a panel takes
LEFT, RIGHT = 0.345, 0.95  # where bars begin and end, in widths of the figure


class Bar(NamedTuple):
    """A number as it stands on its page."""

    name: str
    number: str
    colour: str

    @property
    def length(self):
        return float(self.number.replace(",", ""))


class Panel(NamedTuple):
    """Bars in groups: dict from the group's name to its bars. `source` is a page and its section."""

    title: str
    source: str
    groups: dict


def group(*bars):
    return [Bar(*bar) for bar in bars]


FIGURES = {
    "glance-accuracy.svg": [
        Panel(
            "Dense layers on MNIST: test error in %, less is better",
            "reproductions.md#the-papers-table-1",
            {
                "3 layers, 2 cuts": group(
                    ("backpropagation", "1.65", BACKPROP),
                    ("synthetic gradients, label seen", "1.39", DECOUPLED),
                    ("synthetic gradients, no label", "1.86", BLIND),
                    ("local losses", "1.88", LOCAL),
                ),
                "6 layers, 5 cuts": group(
                    ("backpropagation", "1.51", BACKPROP),
                    ("synthetic gradients, label seen", "1.43", DECOUPLED),
                    ("no label, but the network's input", "2.12", BLIND),
                    ("synthetic gradients, no label", "7.74", BLIND),
                    ("local losses", "1.56", LOCAL),
                ),
                "21 layers, 20 cuts": group(
                    ("backpropagation", "1.77", BACKPROP),
                    ("predicted errors, label seen", "1.58", DECOUPLED),
                ),
            },
        ),
        Panel(
            "Two convolutions, 2 cuts, on CIFAR-10: test accuracy, more is better",
            "reproductions.md#cifar-10-convolutional-r2rt",
            {
                "": group(
                    ("backpropagation", "0.6632", BACKPROP),
                    ("critic, label seen", "0.6601", DECOUPLED),
                    ("synthetic gradients, no label", "0.5701", BLIND),
                    ("local losses", "0.5177", LOCAL),
                )
            },
        ),
        Panel(
            "Eight convolutions, 3 cuts, on CIFAR-10: test accuracy, more is better",
            "reproductions.md#eight-convolutions",
            {
                "": group(
                    ("backpropagation", "0.7278", BACKPROP),
                    ("critic, label seen", "0.6618", DECOUPLED),
                    ("local losses", "0.7182", LOCAL),
                )
            },
        ),
    ],
    "glance-time.svg": [
        Panel(
            "On one device: time of a step, in steps of backpropagation, less is better",
            "performance.md#a-step",
            {
                "": group(
                    ("backpropagation", "1", BACKPROP),
                    ("linear synthesizers, label seen", "1.34", DECOUPLED),
                    ("large synthesizers, no label", "9.53", BLIND),
                )
            },
        ),
        Panel(
            "Two processes: how many times as fast as backpropagation over the same two",
            "performance.md#modules-in-two-processes",
            {
                "split into two": group(
                    ("linear synthesizers, label seen", "1.61", DECOUPLED),
                    ("the same, of low rank", "1.73", DECOUPLED),
                    ("local losses", "1.90", LOCAL),
                    ("true gradients, one batch late", "1.84", BACKPROP),
                ),
                "whole network": group(
                    ("undivided, both cores", "1.71", BACKPROP),
                    ("data parallel", "1.14", BACKPROP),
                ),
            },
        ),
    ],
    "glance-memory.svg": [
        Panel(
            "What training adds to the memory, at its peak, in MiB: less is better",
            "memory.md#numbers",
            {
                "32 dense layers (JAX)": group(
                    ("backpropagation", "552", BACKPROP),
                    ("modules in turn", "160", DECOUPLED),
                ),
                "16 convolutions (JAX)": group(
                    ("backpropagation", "1,233", BACKPROP),
                    ("modules in turn", "509", DECOUPLED),
                ),
                "16 convolutions (TensorFlow)": group(
                    ("backpropagation", "1,278", BACKPROP),
                    ("modules in turn", "574", DECOUPLED),
                ),
            },
        ),
    ],
    "glance-elsewhere.svg": [
        Panel(
            "Windows of three steps: how long a task is solved (T_task), more is better",
            "reproductions.md#copy-and-repeat-copy",
            {
                "Copy": group(
                    ("truncated backpropagation", "7", BACKPROP),
                    ("synthetic gradients in time", "10.8", DECOUPLED),
                ),
                "Repeat Copy": group(
                    ("truncated backpropagation", "11.3", BACKPROP),
                    ("synthetic gradients in time", "28", DECOUPLED),
                ),
            },
        ),
        Panel(
            "Split over a link: MB sent until the accuracy was 0.47, less is better",
            "link.md#what-was-measured",
            {
                "": group(
                    ("true gradients (SplitFed)", "2,116", BACKPROP),
                    ("a critic at the cut", "650", DECOUPLED),
                    ("the same, taught at the server", "606", DECOUPLED),
                    ("local losses", "467", LOCAL),
                )
            },
        ),
    ],
}


def rows_of(panel):
    """How many rows of bars a panel takes; the name of a group is a row, too."""
    return sum(len(bars) + bool(name) for name, bars in panel.groups.items())


def draw_panel(axes, panel):
    row, names, places = 0, [], []
    longest = max(bar.length for bars in panel.groups.values() for bar in bars)
    for name, bars in panel.groups.items():
        if name:
            beside = axes.get_yaxis_transform()  # x in widths of the axes, y in rows
            axes.text(-0.01, row, name, ha="right", va="center", weight="bold", transform=beside)
            row += 1
        for bar in bars:
            axes.barh(row, bar.length, height=0.72, color=bar.colour)
            axes.text(bar.length + longest / 80, row, bar.number, va="center", color=TEXT)
            places.append(row)
            names.append(bar.name)
            row += 1
    axes.set(xlim=(0, longest * 1.1), ylim=(row - 0.4, -0.6), yticks=places, xticks=[])
    axes.set_yticklabels(names)
    axes.tick_params(length=0, colors=TEXT)
    axes.spines[:].set_visible(False)
    axes.spines["left"].set(visible=True, color=TEXT, linewidth=0.8)


def figure_of(panels):
    heights = [AROUND + ROW * rows_of(panel) for panel in panels]
    height = sum(heights)
    with matplotlib.rc_context({**STYLE, "text.color": TEXT}):
        figure = Figure(figsize=(WIDTH, height))
        top = height
        for panel, taken in zip(panels, heights, strict=True):
            bars = ROW * rows_of(panel)
            axes = figure.add_axes((LEFT, (top - taken + 0.1) / height, RIGHT - LEFT, bars / height))
            axes.patch.set_visible(False)
            draw_panel(axes, panel)
            figure.text(0.01, (top - 0.22) / height, panel.title, va="center", weight="bold", size=12)
            top -= taken
    return figure


def save(figure, to):
    """As a file of SVG, the same each time that it is drawn."""
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context(STYLE):
        figure.savefig(to, format="svg", transparent=True, metadata=nothing)


if __name__ == "__main__":
    for name, panels in FIGURES.items():
        save(figure_of(panels), PAGES / name)
