"""What a wrong input is answered with: one line that names the thing, the value and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A wrong input; its text is one line that names the thing, the value and the way out."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Words that help to correct `name`: the closest of the `known` names, or else all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"


def first_line(e: BaseException) -> str:
    """The first line of an error's text."""
    return (str(e).strip() or type(e).__name__).splitlines()[0]
