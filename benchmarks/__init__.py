"""What is timed, against what: `python -m benchmarks.NAME --help`. Ratios are of one run."""
