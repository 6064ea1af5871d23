"""Signals: SIGTERM ends a run as Ctrl-C does, and neither interrupts a write."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Submitit ends a job whose time is running out with USR2.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised as Ctrl-C is."""


@contextmanager
def stoppable(
    numbers: Sequence[int] = (signal.SIGTERM,),
    error: Callable[[int], BaseException] = Terminated,
) -> Iterator[None]:
    """Have the first of some signals raise `error(number)`, and those after it do nothing.

    Slurm sends SIGTERM twice: the second one would meet what the first began, the writing of what
    is finished. Does nothing outside the main thread.
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
