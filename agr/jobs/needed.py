"""Runs of the cells that a command needs before it can show them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from agr.config.cell import Cell
from agr.jobs.console import INNER
from agr.jobs.tasks import undone
from agr.utils.signals import ENDING, Interrupted
from agr.utils.text import plural


def run_missing(overrides: Sequence[str], cells: Sequence[Cell]) -> None:
    """Run a sweep, of these `cells`, as `run_first` does, unless nothing of it is missing."""
    if undone(cells):
        run_first(overrides)
    else:
        print(f"{plural(len(cells), 'cell')} finished before: nothing to run")


def run_first(overrides: Sequence[str]) -> None:
    """Run a sweep in a process of its own, whose error ends this one too.

    It leaves out the table of a sweep and what a stopped run says: both are this command's to
    show. A signal ends both processes.
    """
    command = [sys.executable, "-m", "agr.run", *overrides]
    with subprocess.Popen(command, env=os.environ | {INNER: "1"}) as run:
        try:
            code = run.wait()
        except Interrupted as e:
            run.send_signal(e.number)  # which a terminal has sent to both
            run.wait()
            raise
    number = code - 128 if code > 0 else -code  # negative: before it could end by itself
    if number in ENDING:
        raise Interrupted(number)
    if code:
        raise SystemExit(code)
