"""Callables that take turns, and what is said of them: medians, spreads, and ratios of one run.

A machine that others use, or that grows warm, is not the same from one minute to the next. Arms
that alternate in short bursts all meet the same one.
"""

import argparse
import json
import pathlib
import statistics
import time

from benchmarks import machine
from examples import runs


def parser(name, description):
    """A command line that shows a module's docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_options(parser, name, steps, rounds):
    """The command line that benchmarks of a step share."""
    parser.add_argument("--steps", type=runs.positive, default=steps, help="of a burst")
    parser.add_argument(
        "--rounds", type=several, default=rounds, help="how often each arm is measured, at least 2"
    )
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs") / f"{name}.json")


def several(text):
    """An `argparse` type: how often to measure what is to have a spread."""
    number = int(text)
    if number < 2:
        raise argparse.ArgumentTypeError(f"expected two measurements or more, received {number}")
    return number


def alternate(arms, rounds, steps=1, warm_up=1):
    """Let callables take turns; return milliseconds a step, `{name: [one number a round]}`.

    Args:
        arms: dictionary from names to callables without arguments.
        rounds: how often each is measured.
        steps: how many steps one call makes.
        warm_up: rounds before, not measured: that is where functions are traced and compiled.
    """
    times = {name: [] for name in arms}
    for turn in range(-warm_up, rounds):
        for name, burst in arms.items():
            began = time.perf_counter()
            burst()
            if turn >= 0:
                times[name].append(1e3 * (time.perf_counter() - began) / steps)
    return times


def medians(times):
    return {name: statistics.median(series) for name, series in times.items()}


def spreads(times):
    """`{name: (low, high)}`: the range of the middle 80 %."""
    cuts = {name: statistics.quantiles(series, n=10, method="inclusive") for name, series in times.items()}
    return {name: (deciles[0], deciles[-1]) for name, deciles in cuts.items()}


def report(times, pairs, not_run=None, unit="ms a step"):
    """Print medians, spreads and, last, ratios.

    Args:
        times: what `alternate` returned.
        pairs: tuples of the names of two arms, whose medians are divided; where one has not run,
            the pair is left out.
        not_run: dictionary from names of arms that have not run to the reason.
        unit: what the milliseconds are those of.

    Returns:
        What was printed, as a dictionary, and the machine: to `write`.
    """
    middle, spread, not_run = medians(times), spreads(times), not_run or {}
    for name, (low, high) in spread.items():
        print(f"{name}: {middle[name]:.2f} {unit} (10 % to 90 %: {low:.2f} to {high:.2f})")
    for name, reason in not_run.items():
        print(f"{name}: not run, {reason}")
    ratios = {f"{a} / {b}": middle[a] / middle[b] for a, b in pairs if {a, b} <= middle.keys()}
    print_ratios(ratios)
    return {
        "medians_ms": middle,
        "spreads_ms": spread,
        "ratios": ratios,
        "not_run": not_run,
        "machine": machine.describe(),
    }


def print_ratios(ratios):
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f}")


def write(path, found):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1))
