"""What `examples.federated_split` makes of its results: bytes to equal accuracies, a table and a figure."""

import pathlib

import numpy as np

from examples import runs
from examples.needs import needs

SERIES = ("validation_accuracy", "bytes", "round_seconds")
KINDS = ("activations", "labels", "targets", "weights up", "weights down")


def steady(record):
    """Accuracy by round, each the mean of up to three rounds, so that a lucky one does not count."""
    found = record["validation_accuracy"]
    return [float(np.mean(found[max(0, i - 2) : i + 1])) for i in range(len(found))]


def bytes_to(record, accuracy):
    """How many bytes had crossed when an accuracy was reached, and in which round; None if it was not."""
    reached = (i for i, found in enumerate(steady(record)) if found >= accuracy)
    return next(((record["bytes"][i], i + 1) for i in reached), None)


def levels(records):
    """The accuracies to compare at: the best of each arm, and two points below it."""
    best = {arm: max(steady(record)) for arm, record in records.items() if record["bytes"]}
    return [(f"{arm}{what}", top - less) for arm, top in best.items() for what, less in _BELOW]


_BELOW = ((", its best", 0.0), (", its best less 2 points", 0.02))


def table(records):
    """The results as Markdown tables: the end of each arm, and the bytes to equal accuracies."""
    rows = [f"| arm | rounds | validation | test | MB | {' | '.join(KINDS)} |", "|" + "---|" * 10]
    for arm, record in records.items():
        test = f"{record['test_accuracy']:.4f}" if "test_accuracy" in record else ""
        kinds = " | ".join(f"{record['counted'][-1][kind] / 1e6:.1f}" for kind in KINDS)
        rows.append(
            f"| {arm} | {len(record['bytes'])} | {record['validation_accuracy'][-1]:.4f} | {test} "
            f"| {record['bytes'][-1] / 1e6:.1f} | {kinds} |"
        )
    rows += ["", f"| MB to the validation accuracy | {' | '.join(records)} |"]
    rows.append("|" + "---|" * (1 + len(records)))
    for name, accuracy in levels(records):
        found = [bytes_to(record, accuracy) for record in records.values()]
        cells = ["not reached" if one is None else f"{one[0] / 1e6:.1f} (round {one[1]})" for one in found]
        rows.append(f"| {accuracy:.4f} ({name}) | {' | '.join(cells)} |")
    return "\n".join(rows)


def plot(folder):
    """Draw accuracy over bytes and over rounds to `<folder>/accuracy.png`."""
    with needs("examples"):
        from matplotlib.figure import Figure

    records = runs.Results(folder, SERIES).to_draw()
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    by_bytes, by_round = figure.subplots(1, 2, sharey=True)
    for arm, record in records.items():
        accuracy = record["validation_accuracy"]
        by_bytes.plot(np.array(record["bytes"]) / 1e6, accuracy, label=arm, linewidth=1.2)
        by_round.plot(range(1, len(accuracy) + 1), accuracy, label=arm, linewidth=1.2)
    by_bytes.set(xscale="log", xlabel="MB over the link", ylabel="validation accuracy")
    by_round.set(xlabel="round")
    for axes in (by_bytes, by_round):
        axes.grid(alpha=0.3)
    by_round.legend(loc="lower right")
    path = pathlib.Path(folder) / "accuracy.png"
    figure.savefig(path, dpi=100)
    print(f"figure: {path}")
