"""Checks of an entry and their verdicts: each is a line of a review."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from agr.utils.errors import ConfigError, first_line, one_line

HOLDS, FALSE, UNKNOWN = "holds", "doesn't hold", "can't be checked here"


class Unknown(ConfigError):
    """Reason why something can't be checked on this machine."""


class Check(NamedTuple):
    """A check of an entry, and how it ended."""

    what: str
    verdict: str  # HOLDS | FALSE | UNKNOWN
    why: str

    def __str__(self) -> str:
        return one_line(f"{self.verdict:{len(UNKNOWN)}}  {self.what}: {self.why}")


def check(what: str, work: Callable[[], str]) -> Check:
    """Do a check: `work` returns what it saw, or raises ConfigError with what is wrong, or Unknown.

    Whatever else it raises ends in no traceback: who makes an entry can write anything into it.
    """
    try:
        return Check(what, HOLDS, work())
    except Unknown as e:
        return Check(what, UNKNOWN, first_line(e))
    except ConfigError as e:
        return Check(what, FALSE, first_line(e))
    except Exception as e:
        return Check(
            what, FALSE, f"its values can't be checked: {type(e).__name__}: {first_line(e)}"
        )
