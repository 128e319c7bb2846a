"""What the examples share: a `results.json` that grows epoch by epoch, a table and a figure.

The file holds one record an arm. It is rewritten in one piece after every epoch, and together
with Keras's own `BackupAndRestore` a run that was stopped, at any moment, goes on after its last
whole epoch (on TensorFlow, with another order of the batches than it would have had).
"""

import argparse
import contextlib
import importlib
import json
import pathlib
import platform
import shutil
import sys
import time

import keras

from examples import data

SERIES = ("epoch_seconds", "train_accuracy", "test_accuracy", "test_loss")


class Results:
    """The records of a run, by arm, in `<folder>/results.json`."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.path = self.folder / "results.json"

    @property
    def records(self):
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def to_draw(self):
        """The records; where there are none, that is said."""
        records = self.records
        if not records:
            raise SystemExit(f"No results to draw: {self.path} does not exist. Run the example first.")
        return records

    def begin(self, arm, settings, resume, series=SERIES):
        """The record of `arm`: an empty one or, to resume, the one that is there.

        Args:
            arm: name of the record.
            settings: dictionary of what its results depend on.
            resume: whether to go on with the one that is there, if any.
            series: names of the lists in it.

        Raises:
            SystemExit: to resume, but the one that is there is of a run with other settings.
        """
        record = self.records.get(arm) if resume else None
        if record is None:
            record = {"arm": arm, "settings": settings, "seconds": 0.0} | {name: [] for name in series}
        if record["settings"] != settings:
            then = record["settings"]
            differences = [
                f"{key}={then.get(key)!r} there, {settings.get(key)!r} now"
                for key in sorted(then.keys() | settings.keys())
                if then.get(key) != settings.get(key)
            ]
            raise SystemExit(
                f"{self.path} holds a run of {arm!r} with other settings: {'; '.join(differences)}. Give the "
                "settings of that run to resume it, another --output to keep it, or --overwrite to drop it."
            )
        backend = keras.backend.backend()
        record["versions"] = {"python": platform.python_version(), "backend": backend}
        for package in ("keras", "keras_sg", backend):
            record["versions"][package] = importlib.import_module(package).__version__
        return record

    def write(self, record):
        """Put a record into the file; those of other arms stay as they are there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".tmp")
        draft.write_text(json.dumps(self.records | {record["arm"]: record}, indent=1))
        draft.replace(self.path)


class Recorder(keras.callbacks.Callback):
    """Writes an arm's record after every epoch. Seconds are of training, without evaluation.

    Args:
        results: `Results`.
        record: the arm's.
        series: names of what is recorded of the logs as it is.
    """

    def __init__(self, results, record, series=()):
        super().__init__()
        self.results, self.record, self.series = results, record, series

    def on_epoch_begin(self, epoch, logs=None):
        # A run that resumes repeats the epoch that it was stopped in.
        for series in (*SERIES, *self.series):
            del self.record[series][epoch:]
        self._began, self._trained = time.perf_counter(), None

    def on_test_begin(self, logs=None):
        self._trained = self._trained or time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.record["epoch_seconds"].append((self._trained or time.perf_counter()) - self._began)
        self.record["seconds"] = sum(self.record["epoch_seconds"])
        self.record["train_accuracy"].append(logs["accuracy"])
        self.record["test_accuracy"].append(logs["val_accuracy"])
        self.record["test_loss"].append(logs["val_loss"])
        for name in self.series:
            self.record[name].append(logs[name])
        self.results.write(self.record)


class Backup(keras.callbacks.BackupAndRestore):
    """Keras's, for a process that may be killed while it writes.

    The weights and the number of the epoch are two files. Where one is newer than the other, or
    the second was not finished, the optimizer, which counts its steps, knows the epoch. (Not so under
    mixed_float16, where it does not count the steps that it skips: there, an epoch may be repeated.)

    Args:
        backup_dir: folder.
        batches: what the model trains on; `examples.data.Batches` are put into the order of the epoch.
    """

    def __init__(self, backup_dir, batches):
        super().__init__(backup_dir, double_checkpoint=True)
        self.batches = batches

    def on_train_begin(self, logs=None):
        with contextlib.suppress(json.JSONDecodeError):
            super().on_train_begin(logs)
        done = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations)) // len(self.batches)
        self.model._initial_epoch = max(self.model._initial_epoch or 0, done)
        if isinstance(self.batches, data.Batches):
            self.batches.begin(self.model._initial_epoch)


def train(
    model,
    arm,
    train_data,
    test_data,
    *,
    epochs,
    settings,
    output,
    resume=True,
    callbacks=(),
    series=(),
    backup=Backup,
):
    """Fit `model`, recording it as `arm` in `output/results.json`.

    With `resume`, a run that was stopped goes on after its last complete epoch. Of what `callbacks` put
    into the logs, `series` is recorded, too. `backup` is a class, `Backup` or one derived from it.
    """
    results = Results(output)
    record = results.begin(arm, settings, resume, (*SERIES, *series)) | {"epochs": epochs}
    if len(record["test_accuracy"]) >= epochs:
        print(f"{arm}: {epochs} epochs are in {results.path}; nothing to do")
        return
    print(f"\n{arm}", flush=True)
    folder = results.folder / "backup" / arm
    if not record["test_accuracy"]:
        # What lies there is of a run that is dropped.
        shutil.rmtree(folder, ignore_errors=True)
    model.fit(
        train_data,
        validation_data=test_data,
        shuffle=False,
        epochs=epochs,
        callbacks=[*callbacks, Recorder(results, record, series), backup(folder, train_data)],
        verbose=1 if sys.stdout.isatty() else 2,
    )


def whole(text):
    """An `argparse` type: an integer of at least 0."""
    return 0 if text == "0" else positive(text)


def positive(text):
    """An `argparse` type: an integer of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, received {number}")
    return number


def table(folder):
    """The results as a Markdown table."""
    rows = ["| arm | epochs | train accuracy | test accuracy | seconds |", "|---|---|---|---|---|"]
    for arm, record in Results(folder).records.items():
        rows.append(
            f"| {arm} | {len(record['test_accuracy'])} | {record['train_accuracy'][-1]:.4f} "
            f"| {record['test_accuracy'][-1]:.4f} | {record['seconds']:.1f} |"
        )
    return "\n".join(rows)


def plot(folder, title, zoom=0.05):
    """Draw test accuracy per epoch to `<folder>/accuracy.png`: all of it, and the top `zoom` of it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    results = Results(folder)
    records = results.to_draw()
    figure, (whole, top) = plt.subplots(1, 2, figsize=(9.6, 3.8), layout="constrained")
    for axes in (whole, top):
        for arm, record in records.items():
            accuracy = record["test_accuracy"]
            axes.plot(range(1, len(accuracy) + 1), accuracy, label=arm, linewidth=1.2)
        axes.set(xlabel="epoch")
        axes.grid(alpha=0.3)
    whole.set(ylabel="test accuracy")
    best = max(max(record["test_accuracy"]) for record in records.values())
    top.set(ylim=(best - zoom, best + zoom / 10))
    whole.legend(loc="lower right")
    figure.suptitle(title)
    path = results.folder / "accuracy.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"figure: {path}")
    return path
