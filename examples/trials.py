"""What a sweep found: the trials of each arm, a table, and accuracy against learning rate."""

from examples.needs import needs
from examples.results import Results, read

with needs("examples"):
    from matplotlib.figure import Figure

FIGURE = "accuracy-by-learning-rate.png"
TRIAL = ("status", "hyperparameters", "metrics")


def results(output):
    """The `examples.results.Results` of a sweep."""
    return Results(output, series=("trials",))


def check(output, of_tuner=True):
    """Look at all files of a sweep that was stopped, those of keras-tuner too if `of_tuner`.

    Raises:
        SystemExit: one cannot be read.
    """
    results(output)
    files = {"oracle.json": (), "tuner0.json": (), "trial_*/trial.json": TRIAL} if of_tuner else {}
    for name, keys in files.items():
        for path in sorted((output / "tuner").glob(f"*/{name}")):
            _read(path, keys)


def _read(path, keys=()):
    way_out = "choose another --output to keep the trials, or give --overwrite to drop them"
    return read(path, keys, way_out)


def collect(output):
    """Put the trials that have ended, as keras-tuner keeps them, into the records of their arms."""
    found = results(output)
    for arm, record in found.records.items():
        record["trials"] = []
        for path in sorted((output / "tuner" / arm).glob("trial_*/trial.json")):
            state = _read(path, TRIAL)
            if state["status"] not in ("COMPLETED", "FAILED"):
                continue
            values = state["hyperparameters"]["values"]
            metrics = state["metrics"]["metrics"]
            measured = {name: metric["observations"][0]["value"][0] for name, metric in metrics.items()}
            record["trials"].append(
                {
                    "learning_rate": values["learning_rate"],
                    "epochs": values.get("tuner/epochs", record["settings"]["epochs"]),
                    "diverged": state["status"] == "FAILED",
                    "train_accuracy": measured.get("accuracy"),
                    "test_accuracy": measured.get("val_accuracy"),
                    "test_loss": measured.get("val_loss"),
                }
            )
        record["trials"].sort(key=lambda trial: trial["learning_rate"])
        found.write(record)


def whole_trials(record):
    """Those that ran to the end of the last epoch."""
    epochs = record["settings"]["epochs"]
    return [trial for trial in record["trials"] if not trial["diverged"] and trial["epochs"] == epochs]


def table(output, near=0.01):
    """The results as a Markdown table."""
    rows = [
        f"| arm | trials | diverged | best test accuracy | at the rate | rates within {near} of it |",
        "|---|---|---|---|---|---|",
    ]
    for arm, record in results(output).records.items():
        trials = whole_trials(record)
        row = f"| {arm} | {len(record['trials'])} | {sum(trial['diverged'] for trial in record['trials'])} "
        if trials:
            best = max(trials, key=lambda trial: trial["test_accuracy"])
            good = [
                trial["learning_rate"]
                for trial in trials
                if trial["test_accuracy"] >= best["test_accuracy"] - near
            ]
            row += f"| {best['test_accuracy']:.4f} | {best['learning_rate']:.2g} "
            row += f"| {min(good):.2g} to {max(good):.2g} |"
        else:
            row += "| | | |"
        rows.append(row)
    return "\n".join(rows)


def plot(output, zoom=0.05):
    """Draw test accuracy against learning rate: all of it, and the top `zoom` of it."""
    records = results(output).to_draw()
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    whole, top = figure.subplots(1, 2)
    for axes in (whole, top):
        for arm, record in records.items():
            _draw(axes, arm, record)
        axes.set(xscale="log", xlabel="learning rate")
        axes.grid(alpha=0.3)
    whole.set(ylim=(-0.03, 1.03), ylabel="test accuracy")
    reached = [trial["test_accuracy"] for record in records.values() for trial in whole_trials(record)]
    top.set(ylim=(max(reached, default=1) - zoom, max(reached, default=1) + zoom / 10))
    whole.legend(loc="lower center")
    settings = record["settings"]
    figure.suptitle(f"{settings['data']}: accuracy after {settings['epochs']} epochs")
    figure.savefig(output / FIGURE, dpi=120)
    print(f"figure: {output / FIGURE}")


def _draw(axes, arm, record):
    """A line through the whole trials; crosses for those that diverged, pale points for short ones."""
    curve = [(trial["learning_rate"], trial["test_accuracy"]) for trial in whole_trials(record)]
    (line,) = axes.plot(*zip(*curve or [((), ())]), marker="o", markersize=3.5, linewidth=1.2, label=arm)
    for trial in record["trials"]:
        if trial["diverged"]:
            axes.plot(trial["learning_rate"], 0.0, marker="x", color=line.get_color())
        elif trial["epochs"] < record["settings"]["epochs"]:
            early = trial["learning_rate"], trial["test_accuracy"]
            axes.plot(*early, marker="o", markersize=3.5, alpha=0.3, color=line.get_color())
