"""What a wrong input is answered with: one line that names the thing, the value and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST_LIST = 400


class ConfigError(ValueError):
    """A wrong input; its text is one line that names the thing, the value and the way out."""


def nearest(name: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """Words that help to correct `name`: the closest of the `known` names, or else all of them.

    `otherwise` stands in for a list that is too long for a line.
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    all_of_them = f"known: {', '.join(known)}"
    return otherwise if otherwise and len(all_of_them) >= LONGEST_LIST else all_of_them


def first_line(e: BaseException) -> str:
    """The first line of an error's text."""
    return (str(e).strip() or type(e).__name__).splitlines()[0]
