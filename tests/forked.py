"""Runs of the command that begin at once: forked from a process that has torch and timm already.

For tests that start one run after another, only to kill it. How a run starts from nothing is the
matter of others.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence

import agr.evaluation.runner  # noqa: F401  # torch and timm, once for all
from agr.run import main

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])


class ForkedRun:
    """A run of `python -m agr.run` with the overrides `words`, as far as Popen has its like."""

    def __init__(self, words: Sequence[str]):
        self._process = CONTEXT.Process(target=_run, args=(list(words),))
        self._process.start()

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        """Send SIGKILL, and wait for the end."""
        self._process.kill()
        self._process.join()
        assert self._process.exitcode == -signal.SIGKILL
        self._process.close()

    def communicate(self) -> tuple[str, str]:
        """Wait for the end; what was printed is lost."""
        self._process.join()
        return "", ""


def _run(words: list[str]) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    sys.argv = ["agr.run", *words]
    main()
