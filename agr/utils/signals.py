"""Signals: SIGTERM ends a run as Ctrl-C does, and neither cuts a write in two."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# USR2 is what submitit ends a job with that runs out of its time.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised as Ctrl-C is."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Make SIGTERM raise `Terminated` in the block, once.

    Slurm sends it twice: the second one would meet what the first began, the writing of what is
    finished. Does nothing outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    raise Terminated


@contextmanager
def unbroken() -> Iterator[None]:
    """Make signals that end a run wait for the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    handlers: dict[int, Any] = {s: signal.getsignal(s) for s in STOPPING}
    # A signal that nobody handles ends the process at once: that is for SIGKILL to do.
    mine = {s: h for s, h in handlers.items() if callable(h)}
    for s in mine:
        signal.signal(s, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        for s, h in mine.items():
            signal.signal(s, h)
        for number, frame in came[:1]:
            mine[number](number, frame)
