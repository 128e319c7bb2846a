"""What the examples share: a `results.json` that grows epoch by epoch, a table and a figure.

The file holds one record an arm. It is rewritten in one piece after every epoch, and together
with Keras's own `BackupAndRestore` a run that was stopped goes on where it stood.
"""

import json
import pathlib
import platform
import shutil
import sys
import time

import keras

import keras_sg


class Results:
    """The records of a run, by arm, in `<folder>/results.json`."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.path = self.folder / "results.json"
        self.records = json.loads(self.path.read_text()) if self.path.exists() else {}

    def begin(self, arm, settings):
        """The record of `arm`: the one that is there if its settings are the same, or a new one."""
        versions = {"python": platform.python_version(), "keras": keras.__version__}
        versions |= {"keras_sg": keras_sg.__version__, "backend": keras.backend.backend()}
        record = self.records.get(arm)
        if record is None or record["settings"] != settings:
            record = {"seconds": 0.0, "train_accuracy": [], "test_accuracy": [], "test_loss": []}
        self.records[arm] = {"arm": arm, "settings": settings, "versions": versions, **record}
        self.records[arm]["settings"] = settings
        return self.records[arm]

    def write(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".tmp")
        draft.write_text(json.dumps(self.records, indent=1))
        draft.replace(self.path)


class Recorder(keras.callbacks.Callback):
    """Writes an arm's record after every epoch. Seconds are of training, without evaluation."""

    def __init__(self, results, record):
        super().__init__()
        self.results, self.record = results, record

    def on_epoch_begin(self, epoch, logs=None):
        # A run that resumes repeats the epoch that it was stopped in.
        for series in ("train_accuracy", "test_accuracy", "test_loss"):
            del self.record[series][epoch:]
        self._began, self._trained = time.perf_counter(), None

    def on_test_begin(self, logs=None):
        self._trained = self._trained or time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.record["seconds"] += (self._trained or time.perf_counter()) - self._began
        self.record["train_accuracy"].append(logs["accuracy"])
        self.record["test_accuracy"].append(logs["val_accuracy"])
        self.record["test_loss"].append(logs["val_loss"])
        self.results.write()


def train(model, arm, train_data, test_data, *, epochs, settings, output):
    """Fit `model`, recording it as `arm` in `output/results.json`; resumes a stopped run."""
    results = Results(output)
    record = results.begin(arm, settings)
    if len(record["test_accuracy"]) >= epochs:
        print(f"{arm}: done before, {epochs} epochs in {results.path}")
        return
    print(f"\n{arm}")
    backup = results.folder / "backup" / arm
    if not record["test_accuracy"]:
        # What lies there is of a run with other settings.
        shutil.rmtree(backup, ignore_errors=True)
    model.fit(
        train_data,
        validation_data=test_data,
        shuffle=False,
        epochs=epochs,
        callbacks=[Recorder(results, record), keras.callbacks.BackupAndRestore(backup)],
        verbose=1 if sys.stdout.isatty() else 2,
    )


def table(folder):
    """The results as a Markdown table."""
    rows = ["| arm | epochs | train accuracy | test accuracy | seconds |", "|---|---|---|---|---|"]
    for arm, record in Results(folder).records.items():
        rows.append(
            f"| {arm} | {len(record['test_accuracy'])} | {record['train_accuracy'][-1]:.4f} "
            f"| {record['test_accuracy'][-1]:.4f} | {record['seconds']:.1f} |"
        )
    return "\n".join(rows)


def plot(folder, title):
    """Draw test accuracy per epoch, one line an arm, to `<folder>/accuracy.png`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    results = Results(folder)
    if not results.records:
        raise SystemExit(f"No results to draw: {results.path} does not exist. Run the example first.")
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    for arm, record in results.records.items():
        accuracy = record["test_accuracy"]
        axes.plot(range(1, len(accuracy) + 1), accuracy, label=arm, linewidth=1.5)
    axes.set(xlabel="epoch", ylabel="test accuracy", title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    path = results.folder / "accuracy.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"figure: {path}")
    return path
