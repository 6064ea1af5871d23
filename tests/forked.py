"""Programs that begin at once: forked from a process that has loaded torch and timm already.

A fork does what `python -m MODULE` does, with arguments, streams, signals and an exit code of its
own, five seconds sooner. How a program starts from nothing is the matter of others.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Loaded once for all. They start no threads, which forks would lack.
import agr.evaluation.replay
import agr.evaluation.runner
import agr.report.page
import agr.run  # noqa: F401

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__, "tests.preloaded"])
PATIENCE = 120.0  # seconds that a program may take

# What --run runs, in the same process: that it is one of its own is seen in other tests.
AT_ONCE = """
import agr.jobs.needed as needed
import agr.jobs.session as session
from agr.config.compose import expand

def run_first(words):
    cells = expand(words)
    session.run_all(cells, session.check_all(cells))

needed.run_first = run_first
"""


class Forked:
    """A program at work, with the methods of Popen that tests use.

    Args:
        words: the arguments of its command line.
        module: its name, as after `python -m`.
        patch: Python code that runs before it.
        env: variables that differ from ours, but for those that are read at the start.
        cwd: its folder.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        module: str = "agr.run",
        patch: str = "",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ):
        self._place = Path(tempfile.mkdtemp())
        self._said = [self._place / name for name in ("stdout", "stderr")]
        given = (module, list(words), patch, dict(env or {}), cwd or Path.cwd(), self._said)
        self._process = CONTEXT.Process(target=_run, args=given)
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None and self.pid:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL, and wait for the end."""
        self._process.kill()
        self._process.join()
        assert self.returncode == -signal.SIGKILL
        shutil.rmtree(self._place)

    def communicate(self, timeout: float = PATIENCE) -> tuple[str, str]:
        """Wait for the end, and return what was printed."""
        self._process.join(timeout)
        assert self.returncode is not None, f"still at work after {timeout} s"
        out, err = (path.read_text(encoding="utf-8") for path in self._said)
        shutil.rmtree(self._place)
        return out, err


def run(words: Sequence[str], **how: Any) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, as subprocess.run does with text captured."""
    process = Forked(words, **how)
    try:
        out, err = process.communicate()
    finally:
        if process.poll() is None:
            process.kill()
    return subprocess.CompletedProcess([*words], process.returncode or 0, out, err)


def _run(
    module: str,
    words: list[str],
    patch: str,
    env: dict[str, str],
    cwd: Path,
    said: list[Path],
) -> None:
    gc.freeze()  # what is loaded stays: no collection looks through it
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor, path in enumerate(said, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.environ |= env
    os.chdir(cwd)
    sys.argv = [module, *words]
    sys.orig_argv = [sys.executable, "-m", module, *words]
    exec(patch, {})
    sys.modules.pop(module, None)  # it is to be __main__
    runpy.run_module(module, run_name="__main__", alter_sys=True)
