"""What the examples share: a run that is recorded epoch by epoch, a table and a figure.

The records (see `examples.results`) are written after every epoch, and together with Keras's own
`BackupAndRestore` a run that was stopped, at any moment, goes on after its last whole epoch (on
TensorFlow, with another order of the batches than it would have had).
"""

import argparse
import contextlib
import importlib
import json
import shutil
import sys
import time

import keras

from examples import data
from examples.needs import needs
from examples.results import SERIES, Results


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
        try:
            with contextlib.suppress(json.JSONDecodeError):
                super().on_train_begin(logs)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SystemExit(
                f"{self.backup_dir} holds no backup that this run can go on from. Received: "
                f"{type(error).__name__}: {error}. To begin this arm anew, move that folder away."
            ) from error
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
    record = results.begin(arm, settings, resume, series) | {"epochs": epochs}
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


def at_once(steps):
    """`steps_per_execution`: so many, but on PyTorch, where Keras has it that it is 1."""
    return 1 if keras.backend.backend() == "torch" else steps


def whole(text):
    """An `argparse` type: an integer of at least 0."""
    return 0 if text == "0" else positive(text)


def share(text):
    """An `argparse` type: a number of at least 0, below 1."""
    value = float(text)
    if not 0.0 <= value < 1.0:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, below 1, received {text}")
    return value


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
            f"| {record['test_accuracy'][-1]:.4f} | {sum(record['epoch_seconds']):.1f} |"
        )
    return "\n".join(rows)


def can_draw():
    """Find out before any work, not after it, whether there is something to draw with."""
    with needs("examples"):
        importlib.import_module("matplotlib.figure")


def plot(folder, title, zoom=0.05):
    """Draw test accuracy per epoch to `<folder>/accuracy.png`: all of it, and the top `zoom` of it."""
    with needs("examples"):
        from matplotlib.figure import Figure

    results = Results(folder)
    records = results.to_draw()
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    whole, top = figure.subplots(1, 2)
    for axes in (whole, top):
        for arm, record in records.items():
            accuracy = record["test_accuracy"]
            axes.plot(range(1, len(accuracy) + 1), accuracy, label=arm, linewidth=1.2)
        axes.set(xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
    whole.set(ylabel="test accuracy")
    best = max(max(record["test_accuracy"]) for record in records.values())
    top.set(ylim=(best - zoom, best + zoom / 10))
    whole.legend(loc="lower right")
    figure.suptitle(title)
    path = results.folder / "accuracy.png"
    figure.savefig(path, dpi=120)
    print(f"figure: {path}")
    return path
