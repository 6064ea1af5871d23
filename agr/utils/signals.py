"""Signals: SIGTERM ends a run as Ctrl-C does, and neither cuts a write in two."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

# USR2 is what submitit ends a job with that runs out of its time.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised as Ctrl-C is."""


@contextmanager
def stoppable(
    numbers: Sequence[int] = (signal.SIGTERM,),
    error: Callable[[int], BaseException] = Terminated,
) -> Iterator[None]:
    """Have the first of some signals raise `error` in the block, and those after it do nothing.

    Slurm sends SIGTERM twice: the second one would meet what the first began, the writing of what
    is finished. Does nothing outside the main thread.

    Args:
        numbers: the signals.
        error: makes the exception from the signal's number.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        for n in numbers:
            signal.signal(n, lambda number, frame: None)
        raise error(number)

    before = {n: signal.signal(n, stop) for n in numbers}
    try:
        yield
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)


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
