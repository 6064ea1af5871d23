"""Output of a command that can be lost while the work goes on.

Its reader has seen enough, its terminal was closed, a disk is full, or there is no stream at all.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from agr.utils.errors import first_line
from agr.utils.text import UNSHOWN, printable

LINES = re.compile(r"\n|\t")
# What a progress bar sends to a terminal: back to the line's start, and up and down by lines.
MOVES = re.compile(r"\r|\n|\t|\x1b\[[AB]")


class Output:
    """A stream of text that takes whatever is written, and shows what it can.

    Signs that a terminal obeys are written out but for those `kept`, and those that the encoding
    lacks become "?". `lost` says that it could not show something, but not to a reader who left.
    """

    def __init__(self, stream: TextIO | None, kept: re.Pattern[str] = LINES):
        self._stream, self._kept, self.lost = stream, kept, stream is None
        with suppress(AttributeError, OSError, ValueError):  # not every stream can
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]

    def write(self, text: str) -> int:
        """Write text; returns its length, like any stream."""
        shown = text
        if UNSHOWN.search(text):
            kept = [*self._kept.findall(text), ""]
            shown = "".join(map("{}{}".format, map(printable, self._kept.split(text)), kept))
        self._try(lambda stream: stream.write(shown))
        return len(text)

    def flush(self) -> None:
        """Flush what was written."""
        self._try(lambda stream: stream.flush())

    def isatty(self) -> bool:
        """Return whether this is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, work: Callable[[TextIO], object]) -> None:
        if self._stream is None:
            return
        try:
            work(self._stream)
        except (OSError, ValueError) as e:  # ValueError: it was closed
            lost, self._stream = self._stream, None
            with suppress(OSError, ValueError):  # what it still holds goes nowhere, too
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, lost.fileno())
                os.close(nowhere)
            self.lost = getattr(e, "errno", None) != errno.EPIPE
            if self.lost and self is not sys.stderr:
                print(f"note: output is lost ({first_line(e)}); the work goes on", file=sys.stderr)


@contextmanager
def tolerant_output() -> Iterator[None]:
    """Make standard output and standard error an `Output` each, inside the block."""
    for number in range(3):  # else the next file that is opened would take what is printed
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Output(sys.stdout), Output(sys.stderr, MOVES)  # progress bars' stream
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
