"""Errors of wrong input: one line that names the thing, the value and the way out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

LONGEST_LIST = 400
LONGEST_LINE = 1500
# Control characters, which can move a cursor, colour a terminal or end a line; lone surrogates, of
# file names that are no text; and signs that make text run backwards.
UNSHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class ConfigError(ValueError):
    """A wrong input; its text is one line that names the thing, the value and the way out."""


def nearest(name: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """Suggest how to correct `name`: by the closest of the `known` names, or else all of them.

    `otherwise` stands in for a list that is too long for a line.
    """
    known = sorted(known)
    close = difflib.get_close_matches(name[:LONGEST_LIST], known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    all_of_them = f"known: {', '.join(known)}"
    return otherwise if otherwise and len(all_of_them) >= LONGEST_LIST else all_of_them


def first_line(e: BaseException) -> str:
    """Return the first line of an error's text."""
    return (str(e).strip() or type(e).__name__).splitlines()[0]


def printable(text: str) -> str:
    r"""Write out what a terminal or a table can't show, as \x1b or \n."""
    return UNSHOWN.sub(lambda sign: sign[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """Fit a message into one bearable line: its beginning, and its end with the way out."""
    line = printable(text.strip())
    if len(line) <= LONGEST_LINE:
        return line
    return f"{line[: LONGEST_LINE // 2]} … {line[-LONGEST_LINE // 3 :]}"
