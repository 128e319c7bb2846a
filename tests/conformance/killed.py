"""`python killed.py FOLDER`: trains the rows that are to be killed, with a backup in FOLDER.

Each row stops in the middle of its second epoch: there the next row begins, and the last one waits for the
end of the process. `train` goes on from their backups where it is not to wait.
"""

import pathlib
import sys
import time

import keras
import numpy as np
from table import EPOCHS, ROWS, state

KILLED = [name for name, row in ROWS.items() if "killed" in row.tried.split()]


class InMidEpoch(keras.callbacks.Callback):
    """Notes the epochs that begin; calls `function` within the second, after two of its steps."""

    def __init__(self, notes, function):
        super().__init__()
        self.notes, self.function, self.epoch = notes, function, None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        with self.notes.open("a") as file:
            file.write(f"{epoch}\n")

    def on_train_batch_begin(self, batch, logs=None):
        if self.epoch == 1 and batch == 2 and self.function is not None:
            self.function()


def train(folder, names, wait):
    if not names:
        if wait:
            print("waiting", flush=True)
            time.sleep(600)
        return
    name, *others = names
    go_on = (lambda: train(folder, others, wait)) if wait else None
    model = ROWS[name].compiled()
    backup = keras.callbacks.BackupAndRestore(folder / f"{name}.backup")
    watch = InMidEpoch(folder / f"{name}.epochs", go_on)
    ROWS[name].fit(model, EPOCHS, callbacks=[backup, watch])
    np.savez(folder / f"{name}.npz", *state(model))
    train(folder, others, wait)


if __name__ == "__main__":
    train(pathlib.Path(sys.argv[1]), KILLED, wait=True)
