"""The file `results.json`: one record an arm, rewritten in one piece whenever one has grown."""

import importlib
import json
import pathlib
import platform

import keras

SERIES = ("epoch_seconds", "train_accuracy", "test_accuracy", "test_loss")
MOVE = "move it away, or choose another folder"


def read(path, keys=(), way_out=MOVE):
    """The dictionary in a JSON file; an empty one where there is no file.

    Args:
        path: of the file.
        keys: what must be in it.
        way_out: what to do where the file is of no use.

    Raises:
        SystemExit: it cannot be read, or is no such dictionary.
    """
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        _refuse(path, f"it cannot be read as JSON ({type(error).__name__}: {error})", way_out)
    _check(found, keys, path, "it", way_out)
    return found


def _check(found, keys, path, what, way_out=MOVE):
    if not isinstance(found, dict):
        _refuse(path, f"{what} must be a dictionary, and is {found!r:.60}", way_out)
    if missing := [key for key in keys if key not in found]:
        _refuse(path, f"{what} has no {missing}, only {list(found)}", way_out)


def _refuse(path, why, way_out):
    raise SystemExit(f"{path} is of no use here: {why}. It was left as it is; {way_out}.")


class Results:
    """The records of a run, by arm, in `<folder>/results.json`.

    To make one is to look at what is there. Do it first: what cannot be read cannot be added to either.

    Args:
        folder: a path; it need not be there.
        series: names of the lists that every record has.

    Raises:
        SystemExit: what is there cannot be read, or is something else.
    """

    def __init__(self, folder, series=SERIES):
        self.folder, self.series = pathlib.Path(folder), series
        self.path = self.folder / "results.json"
        self._read()

    @property
    def records(self):
        return self._read()

    def _read(self):
        found = read(self.path)
        for arm, record in found.items():
            _check(record, ("settings", *self.series), self.path, f"its record {arm!r}")
            _check(record["settings"], (), self.path, f"what it calls the settings of {arm!r}")
        return found

    def to_draw(self):
        """The records; where there are none, that is said."""
        records = self.records
        if not records:
            raise SystemExit(f"No results to draw: {self.path} does not exist. Run the example first.")
        return records

    def begin(self, arm, settings, resume, series=()):
        """The record of `arm`: an empty one or, to resume, the one that is there.

        Args:
            arm: name of the record.
            settings: dictionary of what its results depend on.
            resume: whether to go on with the one that is there, if any.
            series: names of further lists in it.

        Raises:
            SystemExit: to resume, but the one that is there is of a run with other settings.
        """
        record = self.records.get(arm) if resume else None
        if record is None:
            record = {"arm": arm, "settings": settings, "seconds": 0.0}
            record |= {name: [] for name in (*self.series, *series)}
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
