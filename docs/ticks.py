"""Draws pages/ticks.svg: an epoch side by side, tick by tick.

    python docs/ticks.py

What is drawn is what `keras_sg.schedules.ticks.Ticks` asks of three modules.
"""

import pathlib

from keras_sg.schedules.ticks import Ticks, Told

MODULES, BATCHES, MARKED = 3, 4, 1
LEFT, WIDTH, HALF, HEIGHT, ROW, PANEL = 96, 66, 28, 34, 78, 300  # in the picture's units

# Without a ground of its own it lies on light and on dark pages: colours between the two.
STYLE = """
    text { font: 16px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
    .name, .soft { fill: #767d8c; }
    .soft { font-size: 15px; }
    .name { font-weight: 600; }
    .middle { text-anchor: middle; }
    .run { fill: #717a8e; }
    .run.marked { fill: #c2661a; }
    .learn { fill: none; stroke: #848c9e; stroke-width: 1.5; }
    .learn.marked { stroke: #13918a; stroke-width: 3; }
    .on-run { fill: #ffffff; font-weight: 600; }
    .on-learn { fill: #767d8c; font-weight: 600; }
    .on-learn.marked { fill: #13918a; }
    .up, .down, .kept { fill: none; stroke-width: 2.5; }
    .up { stroke: #c2661a; }
    .down { stroke: #13918a; stroke-dasharray: 7 4; }
    .kept { stroke: #c2661a; stroke-dasharray: 2 4; }
    .head-up { fill: #c2661a; }
    .head-down { fill: #13918a; }
"""
DESCRIPTION = """Two panels, for slack 0 and slack 1. Rows are modules, columns are ticks; a filled box is a
    batch that a module runs, an outlined one a batch from whose target its synthesizer learns. Batch 1 is
    followed: h goes up to the next module, its target comes down and meets the h that was kept."""
HEADS = {"up": "up", "kept": "up", "down": "down"}
MARKERS = "".join(
    f'<marker id="{name}" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="11" markerHeight="11" '
    f'markerUnits="userSpaceOnUse" orient="auto"><path class="head-{name}" d="M0 0 10 5 0 10z"/></marker>'
    for name in ("up", "down")
)


class Written:
    """A worker that only writes down in which tick it is asked for which batch."""

    def __init__(self):
        self.run, self.learned = {}, {}  # ticks, by batch
        self.now = 0

    def tick(self, run, learn):
        if run is not None:
            self.run[run[0]] = self.now
        if learn is not None:
            self.learned[learn[0]] = self.now
        return Told(None, None, None)


def ask(slack):
    """The workers after an epoch, and how many ticks it took."""
    workers = [Written() for _ in range(MODULES)]
    ticks, count = Ticks(workers, slack), 0
    while count < BATCHES or ticks.busy:
        for worker in workers:
            worker.now = count
        ticks.advance([None] * MODULES if count < BATCHES else None)
        count += 1
    return workers, count


def panel(slack, top):
    """One schedule, as lines of SVG."""
    workers, count = ask(slack)
    bottom = top + 62 + (MODULES - 1) * ROW

    def box(tick, k, learns):
        """The left and the upper edge of a box."""
        return LEFT + tick * WIDTH + 3 + learns * (HALF + 3), bottom - k * ROW

    def at(tick, k, learns, edge, aside=0):
        """Where at a box a line ends: at its upper edge (0) or its lower one (1)."""
        x, y = box(tick, k, learns)
        return f"{x + HALF // 2 + aside} {y + edge * HEIGHT}"

    def follow(name, start, end):
        return f'<path class="{name}" marker-end="url(#{HEADS[name]})" d="M{start}L{end}"/>'

    lines = [f'<text class="name" x="0" y="{top + 16}">slack={slack}</text>']
    for tick in range(count):
        x = LEFT + tick * WIDTH + 3 + HALF
        lines.append(f'<text class="soft middle" x="{x}" y="{top + 46}">tick {tick}</text>')
    for k, worker in enumerate(workers):
        y = bottom - k * ROW + 22
        lines.append(f'<text class="name" x="0" y="{y}">module {k}</text>')
        asked = [("run", worker.run), ("learn", worker.learned)]
        for learns, (kind, ticks) in enumerate(asked):
            for batch, tick in ticks.items():
                x, y = box(tick, k, learns)
                marked = " marked" if batch == MARKED else ""
                size = f'x="{x}" y="{y}" width="{HALF}" height="{HEIGHT}"'
                lines.append(f'<rect class="{kind}{marked}" {size} rx="4"/>')
                place = f'x="{x + HALF // 2}" y="{y + 23}"'
                lines.append(f'<text class="on-{kind}{marked} middle" {place}>{batch}</text>')
    for k, worker in enumerate(workers[:-1]):
        run, above, learned = worker.run[MARKED], workers[k + 1].run[MARKED], worker.learned[MARKED]
        lines.append(follow("up", at(run, k, 0, 0), at(above, k + 1, 0, 1, -8)))
        lines.append(follow("down", at(above, k + 1, 0, 1, 8), at(learned, k, 1, 0)))
        low, end = box(run, k, 0)[1] + HEIGHT + 13, at(learned, k, 1, 1)
        lines.append(follow("kept", f"{at(run, k, 0, 1)}V{low}H{end.split()[0]}", end))
    return lines


def legend(top):
    boxes = [("run", "runs a batch", 0), ("learn", "its synthesizer learns from a batch's target", 180)]
    lines = []
    for kind, text, x in boxes:
        lines.append(f'<rect class="{kind}" x="{x}" y="{top}" width="{HALF}" height="24" rx="4"/>')
        lines.append(f'<text class="soft" x="{x + HALF + 10}" y="{top + 17}">{text}</text>')
    for name, text, x in [("up", "h", 0), ("down", "target", 120), ("kept", "h, kept until then", 280)]:
        lines.append(f'<path class="{name}" marker-end="url(#{HEADS[name]})" d="M{x} {top + 46}H{x + 46}"/>')
        lines.append(f'<text class="soft" x="{x + 56}" y="{top + 51}">{text}</text>')
    lines.append(f'<text class="soft" x="500" y="{top + 51}">(of batch {MARKED})</text>')
    return lines


def picture():
    width = LEFT + ask(1)[1] * WIDTH
    height = 2 * PANEL + 70
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title description">',
            f'<title id="title">Modules side by side</title>\n<desc id="description">{DESCRIPTION}</desc>',
            f"<style>{STYLE}</style>\n<defs>{MARKERS}</defs>",
            *panel(0, 0),
            *panel(1, PANEL),
            *legend(2 * PANEL + 6),
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    (pathlib.Path(__file__).parent / "pages" / "ticks.svg").write_text(picture())
