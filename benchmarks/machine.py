"""What the machine is, and how much of its memory this process, or one of its own, took."""

import json
import os
import pathlib
import platform
import re
import subprocess
import sys

CPU = pathlib.Path("/proc/cpuinfo")
STATUS = pathlib.Path("/proc/self/status")
CLEAR = pathlib.Path("/proc/self/clear_refs")
ROOT = pathlib.Path(__file__).parent.parent


def describe():
    """The processor, the number of cores, and the versions of what is loaded."""
    name = re.search(r"^model name\s*:\s*(.*)$", _cpu(), re.MULTILINE)
    versions = {
        package: sys.modules[package].__version__
        for package in ("keras", "keras_sg", "tensorflow", "torch")
        if package in sys.modules
    }
    return {
        "cpu": name[1] if name else platform.processor(),
        "cores": os.cpu_count(),
        "bfloat16_unit": has_bfloat16_unit(),
        "TF_ENABLE_ONEDNN_OPTS": os.environ.get("TF_ENABLE_ONEDNN_OPTS"),
        "versions": {"python": platform.python_version(), **versions},
    }


def has_bfloat16_unit():
    """Whether the processor multiplies matrices of bfloat16 in a unit of its own (AMX)."""
    return "amx_bf16" in _cpu().split()


def _cpu():
    return CPU.read_text() if CPU.exists() else ""


class Peak:
    """The resident memory of this process in MiB: `before` it was made, and its `peak` since.

    Raises:
        SystemExit: this is not Linux, whose kernel keeps the peak.
    """

    def __init__(self):
        if not STATUS.exists():
            raise SystemExit(
                f"Peak memory is read from {STATUS}, which only Linux has. Run this on Linux. "
                f"Received: {platform.system()}."
            )
        CLEAR.write_text("5")  # the peak so far, that of imports, is forgotten
        self.before = _status("VmRSS")

    @property
    def peak(self):
        return _status("VmHWM")


def _status(field):
    return int(re.search(rf"^{field}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)[1]) / 1024


def in_child(module, *argv):
    """Run `python -m module argv`; return what it printed last, a line of JSON.

    A process has one peak of memory: what is compared needs one each.
    """
    command = [sys.executable, "-m", module, *map(str, argv)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])
