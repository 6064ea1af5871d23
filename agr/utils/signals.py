"""Signals: SIGTERM and SIGHUP end a run as Ctrl-C does, and none interrupts a write."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Ctrl-C, `kill`, and a terminal that is closed.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Submitit ends a job whose time is running out with USR2.
STOPPING = (*ENDING, signal.SIGUSR2)


class Interrupted(KeyboardInterrupt):
    """A signal that ends a run."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


@contextmanager
def stoppable(
    numbers: Sequence[int] = ENDING,
    error: Callable[[int], BaseException] = Interrupted,
) -> Iterator[None]:
    """Have the first of some signals raise `error(number)`, and those after it do nothing.

    Slurm sends SIGTERM twice, and people press Ctrl-C twice: the second one would meet what the
    first began, the writing of what is finished. A signal that this process ignores, as SIGHUP
    under nohup, stays ignored. Does nothing outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        for n in before:
            signal.signal(n, lambda number, frame: None)
        raise error(number)

    before = {n: now for n in numbers if (now := signal.getsignal(n)) is not signal.SIG_IGN}
    for n in before:
        signal.signal(n, stop)
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
    arrived: list[tuple[int, FrameType | None]] = []
    handlers: dict[int, Any] = {n: signal.getsignal(n) for n in STOPPING}
    # One without a handler of Python's ends the process at once, as SIGKILL does.
    before = {n: handler for n, handler in handlers.items() if callable(handler)}
    for n in before:
        signal.signal(n, lambda number, frame: arrived.append((number, frame)))
    try:
        yield
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
        for number, frame in arrived[:1]:
            before[number](number, frame)
