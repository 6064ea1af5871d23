"""Comparisons of two numbers, and how they are said."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agr.report.numbers import Number, TableCell, minus
from agr.report.outcomes import MEASURES, Place
from agr.report.rates import NAN

UNDECIDED = "undecided"


@dataclass(frozen=True)
class Compared:
    """Two numbers side by side, in the unit of `measure`; what isn't known is NaN."""

    measure: str
    left: Place
    right: Place
    left_value: float = NAN
    right_value: float = NAN
    difference: float = NAN
    low: float = NAN
    high: float = NAN
    n: int = 0  # images
    only_left: int = 0  # of rates: images that the left side alone fools
    only_right: int = 0
    p: float = NAN
    p_holm: float = NAN
    smallest: float = NAN  # difference of rates that so many images could show
    needed: float = NAN  # images that would show this difference of rates, about
    verdict: str = UNDECIDED


def numbers_of(c: Compared) -> list[TableCell]:
    """Return a comparison's cells of a table: left, right, difference, interval, n, p (Holm)."""
    digits, _ = _format(c)
    interval = "" if c.low != c.low else interval_words(c)
    p = "" if c.p_holm != c.p_holm else Number(c.p_holm, text=p_words(c.p_holm).removeprefix("= "))
    return [
        *(Number(c.left_value, f".{digits}f"), Number(c.right_value, f".{digits}f")),
        *(Number(c.difference, f"+.{digits}f"), interval),
        *(Number(c.n, "d") if c.n else "", p),
    ]


def in_words(c: Compared, names: Mapping[str, str]) -> str:
    """A comparison with its numbers, in one line. `names` are titles by name."""
    digits, unit = _format(c)
    a, b = (f"{value:.{digits}f}{unit}" for value in (c.left_value, c.right_value))
    points = " points" if c.measure == "asr" else ""
    gap = minus(f"{c.difference:+.{digits}f}")
    said = f"{described(c, names)}: {a} and {b}, {gap}{points}"
    if c.n:
        said += f" {interval_words(c)}"
        said += f", p {p_words(c.p_holm)} (Holm), n = {c.n}"
    if c.verdict == UNDECIDED and c.smallest == c.smallest:
        least = f"below {c.smallest:.1f} points" if math.isfinite(c.smallest) else "at all"
        said += f" (so many images can't show a difference {least}"
        said += f"; about {c.needed:.0f} would show this one)" if math.isfinite(c.needed) else ")"
    return said


def bounds_in_words(
    found: Sequence[Compared], over: Sequence[Compared], names: Mapping[str, str]
) -> str:
    """Name the printed values that are larger than is possible."""
    named = "; ".join(
        f"{place_in_words(c.left, names)}: {c.left_value:g}, at most {c.right_value:.4f} can be"
        for c in over
    )
    said = f"{len(over)} of the {len(found)} printed values cannot be ({named})"
    said = said if over else f"none of the {len(found)} printed values is surely too large"
    images = max(c.n for c in found)
    return f"{said}; the bound is a mean over {images} images of the records" if images else said


def described(c: Compared, names: Mapping[str, str]) -> str:
    """Name the two sides of a comparison: "AGR against I-FGSM, L2, VGG16 → VGG19"."""
    what = "" if c.measure == "asr" else f", {measure_title(c.measure)}"
    if c.left == c.right:  # a printed value and what it can be at most
        return f"{place_in_words(c.left, names)}{what}"
    sides = []
    for one, other in ((c.left, c.right), (c.right, c.left)):
        own = [
            ("→ " if key == "target" else "") + names.get(x, x)
            for key, x, y in zip(Place._fields, one, other, strict=True)
            if x != y
        ]
        sides.append(" ".join(own))
    same = Place(*(a if a == b else "" for a, b in zip(c.left, c.right, strict=True)))
    return f"{sides[0]} against {sides[1]}, {place_in_words(same, names)}{what}"


def place_in_words(place: Place, names: Mapping[str, str]) -> str:
    """A place, of which parts may be "": "L2, AGR, VGG16 → VGG19"."""
    norm, source, attack, target = (names.get(part, part) for part in place)
    pair = f"{source} → {target}" if target else f"on {source}" if source else ""
    return ", ".join(part for part in (norm, attack, pair) if part)


def interval_words(c: Compared) -> str:
    """The interval of a difference, as "[+1.0, +2.5]"."""
    digits, _ = _format(c)
    return minus(f"[{c.low:+.{digits}f}, {c.high:+.{digits}f}]")


def p_words(p: float) -> str:
    """A p-value as one writes it: "= 0.012", "< 0.0001"."""
    return "< 0.0001" if p < 0.0001 else f"= {p:.2g}"


def measure_title(measure: str) -> str:
    """Return the title of a measure or of a printed table."""
    return MEASURES[measure].title if measure in MEASURES else measure


def _format(c: Compared) -> tuple[int, str]:
    """Digits and unit."""
    if c.measure not in MEASURES:  # a printed table's own
        return 3, ""
    if c.measure == "asr":
        return (1 if c.n else 2), " %"
    return MEASURES[c.measure].digits, ""
