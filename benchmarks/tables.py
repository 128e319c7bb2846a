"""What benchmarks.gpu found: rows for a file, and the tables that are printed."""

import statistics

from benchmarks import floor
from examples import runs

# r2rt, "Synthetic Gradients with Tensorflow": train and test accuracy, seconds on a GPU of 2018.
R2RT = {
    ("mnist", "backprop"): (1.0000, 0.9801, 54.6),
    ("mnist", "no-backprop"): (0.8815, 0.8890, 33.7),
    ("mnist", "synthetic-loss"): (0.8328, 0.8429, 137.2),
    ("mnist", "sg"): (0.9972, 0.9777, 115.9),
    ("mnist", "sg-conditional"): (1.0000, 0.9801, 117.8),
    ("cifar10", "backprop"): (0.9017, 0.7524, 584.3),
    ("cifar10", "sg"): (0.7747, 0.6483, 943.8),
}


def steps_of(folder):
    """The `runs.Results` of timed steps."""
    return runs.Results(folder, series=("step_ms",))


def summary(output, experiments):
    """The rows of both tables, from the results in the folder `output`."""
    found = {"training": [], "steps": []}
    for experiment in experiments:
        folders = sorted((output / experiment).glob("seed*"), key=lambda folder: int(folder.name[4:]))
        records = {folder.name: runs.Results(folder).records for folder in folders}
        arms = dict.fromkeys(arm for found_there in records.values() for arm in found_there)
        for arm in arms:
            found["training"].append(
                _trained(experiment, arm, [there[arm] for there in records.values() if arm in there])
            )
        for arm, record in steps_of(output / experiment / "steps").records.items():
            found["steps"].append(_stepped(experiment, arm, record))
    for rows, measure in ((found["training"], "seconds"), (found["steps"], "step_ms")):
        baselines = {row["experiment"]: row[measure] for row in rows if row["arm"] == "backprop"}
        for row in rows:
            base = baselines.get(row["experiment"])
            row["/ backprop"] = row[measure] / base if base and row[measure] else None
    return found


def _trained(experiment, arm, records):
    """A row of the first table: means over the seeds that are done."""
    done = [record for record in records if len(record["test_accuracy"]) == record["epochs"]]
    mean = lambda values: statistics.fmean(values) if values else None
    train, test, seconds = R2RT.get((experiment, arm), (None, None, None))
    return {
        "experiment": experiment,
        "arm": arm,
        "seeds": [record["settings"]["seed"] for record in done],
        "epochs": [len(record["test_accuracy"]) for record in records],
        "of": records[0]["epochs"],
        "train": mean([record["train_accuracy"][-1] for record in done]),
        "r2rt, train": train,
        "test": mean([record["test_accuracy"][-1] for record in done]),
        "tests": [record["test_accuracy"][-1] for record in done],
        "r2rt, test": test,
        "seconds": mean([record["epochs"] * statistics.median(record["epoch_seconds"]) for record in done]),
        "r2rt, seconds": seconds,
        "r2rt, / backprop": seconds and seconds / R2RT[experiment, "backprop"][2],
    }


def _stepped(experiment, arm, record):
    """A row of the second table."""
    times = floor.milliseconds(record["work"], record["ceilings"])
    step = statistics.median(record["step_ms"])
    return {
        "experiment": experiment,
        "arm": arm,
        "step_ms": step,
        "from": min(record["step_ms"]),
        "to": max(record["step_ms"]),
        "operations_ms": times["operations"],
        "bytes_ms": times["bytes"],
        "floor_ms": max(times.values()),
        "step / floor": step / max(times.values()),
        "ceilings": record["ceilings"],
    }


def training(rows):
    """The first table, in Markdown."""
    lines = [
        "| experiment | arm | seeds | train | r2rt, train | test | r2rt, test | seconds | r2rt, seconds "
        "| / backprop | r2rt, / backprop |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        seeds = ", ".join(map(str, row["seeds"]))
        if unfinished := [epochs for epochs in row["epochs"] if epochs < row["of"]]:
            seeds += f" ({', '.join(map(str, unfinished))} of {row['of']} epochs)"
        accuracies = [_number(row[key], 4) for key in ("train", "r2rt, train", "test", "r2rt, test")]
        seconds = [_number(row[key], 1) for key in ("seconds", "r2rt, seconds")]
        ratios = [_number(row[key], 2) for key in ("/ backprop", "r2rt, / backprop")]
        lines.append(_line([row["experiment"], row["arm"], seeds.strip(), *accuracies, *seconds, *ratios]))
    return "\n".join(lines)


def steps(rows):
    """The second table, in Markdown."""
    lines = [
        "| experiment | arm | ms a step | from | to | / backprop | operations, ms | bytes, ms "
        "| step / floor |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        times = [_number(row[key], 3) for key in ("step_ms", "from", "to")]
        floors = [_number(row[key], 3) for key in ("operations_ms", "bytes_ms")]
        ratio, over = _number(row["/ backprop"], 2), _number(row["step / floor"], 1)
        lines.append(_line([row["experiment"], row["arm"], *times, ratio, *floors, over]))
    for reached in {tuple(row["ceilings"].values()): row["ceilings"] for row in rows}.values():
        lines.append(
            f"\nCeilings: {reached['operations'] / 1e12:.2f} TFLOP/s in a matrix product, "
            f"{reached['bytes'] / 1e9:.0f} GB/s, read and written, in a pass over an array."
        )
    return "\n".join(lines)


def _number(value, digits):
    return "" if value is None else f"{value:.{digits}f}"


def _line(cells):
    return "| " + " | ".join(cells) + " |"
