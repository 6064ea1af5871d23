"""Runs of the cells that a command needs before it can show them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from agr.config.cell import Cell
from agr.jobs.tasks import undone
from agr.utils.text import plural

NO_TABLE = "AGR_NO_TABLE"  # variable of the environment: a sweep ends without its table


def run_missing(overrides: Sequence[str], cells: Sequence[Cell]) -> None:
    """Run a sweep, of these `cells`, as `run_first` does, unless nothing of it is missing."""
    if undone(cells):
        run_first(overrides)
    else:
        print(f"{plural(len(cells), 'cell')} finished before: nothing to run")


def run_first(overrides: Sequence[str]) -> None:
    """Run a sweep in a process of its own, whose error ends this one too.

    It leaves out the table of a sweep: the command that needs the cells shows them.
    """
    command = [sys.executable, "-m", "agr.run", *overrides]
    code = subprocess.run(command, env=os.environ | {NO_TABLE: "1"}).returncode
    if code:
        raise SystemExit(code)
