"""Which cells of a table are numbers, so that a browser sorts "—", "9.5" and "1,234" rightly."""

from __future__ import annotations

import re
from collections.abc import Sequence

MINUS = "\N{MINUS SIGN}"
MISSING = ("", "—", "\N{EN DASH}", "-", "n/a", "NaN", "nan")
LOWEST = "-1e308"  # a cell without a number goes below all numbers
# A number with what may stand before it, and after it what changes nothing: an interval, a
# difference, a sign of percent. A unit does change it, and belongs into the header.
NUMBER = re.compile(
    rf"\s*[<>≤≥≈~]?\s*([+\-{MINUS}]?)"
    rf"(∞|(?:\d{{1,3}}(?:,\d{{3}})+|\d+)(?:\.\d+)?(?:[eE][+\-{MINUS}]?\d+)?|\.\d+)"
    r"(?:\s*%)?(?:[\s*†‡±/(\[][^A-Za-z]*)?"
)


def number(text: str) -> float | None:
    """The number that a cell begins with, if it is nothing but numbers."""
    found = NUMBER.fullmatch(text)
    if not found:
        return None
    digits = found[2].replace(",", "").replace(MINUS, "-").replace("∞", "1e308")
    return -float(digits) if found[1] in ("-", MINUS) else float(digits)


def is_missing(text: str) -> bool:
    """Whether a cell has nothing to say."""
    return text.strip() in MISSING


def orders(column: Sequence[str]) -> list[str] | None:
    """Keys by which a column of numbers is sorted; None for a column of other text."""
    found = [None if is_missing(text) else number(text) for text in column]
    told = [n is not None for n in found]
    if not any(told) or any(not t and not is_missing(c) for t, c in zip(told, column, strict=True)):
        return None
    return [LOWEST if n is None else repr(n) for n in found]
