"""Peak memory of a process, and the cost of a command in one of its own.

python -m scripts.bench.memory agr.status -m …    # a module as one runs it, then its peak
"""

from __future__ import annotations

import resource
import runpy
import subprocess
import sys
import time
from pathlib import Path

PEAK = "MB, peak memory"


def cost(module: str, *arguments: str) -> tuple[float, float]:
    """Run a module in a new process, and return its seconds and its peak memory, MB."""
    command = [sys.executable, "-m", "scripts.bench.memory", module, *arguments]
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - started, float(done.stdout.split()[-1])


def peak_megabytes() -> float:
    """Return the most memory that this process has held, MB."""
    status = Path("/proc/self/status")
    if status.exists():  # the other way counts what the parent held when it started us
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1024**2


if __name__ == "__main__":
    del sys.argv[0]
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    finally:
        print(peak_megabytes())
