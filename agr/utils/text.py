"""Text of messages and tables: signs that can be shown, counts and sizes."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Control characters, which can move a cursor, colour a terminal or end a line; lone surrogates, of
# file names that are no text; and signs that make text run backwards.
UNSHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

LONGEST_ID = 200  # bytes, of the id of an image; file names have 255


def printable(text: str) -> str:
    r"""Write out what a terminal or a table can't show, as \x1b or \n."""
    return UNSHOWN.sub(lambda sign: sign[0].encode("unicode_escape").decode(), text)


def is_name(text: str, most: int) -> bool:
    """Return whether a text can be the name of a file: one printable part of `most` bytes."""
    shown = text.isprintable() and re.fullmatch(r"[^./\\][^/\\]*", text) is not None
    return shown and len(text.encode()) <= most


def plural(n: int, noun: str, several: str = "") -> str:
    """Return a number with its noun: "1 job", "2,000 jobs", "2 entries"."""
    return f"{n:,} {noun if n == 1 else several or f'{noun}s'}"


def first_of(lines: Sequence[str]) -> str:
    """Return the first of some lines, and how many more there are: "a (and 2 more)"."""
    return lines[0] + (f" (and {len(lines) - 1} more)" if len(lines) > 1 else "")


def zero_gradients(flat: int, images: int) -> str:
    """Say of how many images no gradient was of any use."""
    return (
        f"{flat:,} of {images:,} images: every gradient was zero, so the attack had nothing to "
        "follow (a loss that is saturated, or a source whose answer doesn't depend on its input)"
    )


def came_back(unchanged: int, images: int) -> str:
    """Say how many images an attack gave back as they were, though it took steps."""
    return (
        f"{unchanged:,} of {images:,} images came back unchanged: no step reached the next of the "
        "256 levels of a pixel, or no gradient was finite; give a larger eps, or quantize=off"
    )


def no_answer(silent: int, images: int) -> str:
    """Say for how many images a model's logits were not finite."""
    return (
        f"{silent:,} of {images:,} images: the model's logits are not finite (NaN), so that "
        "nothing was changed"
    )


def format_bytes(n: float) -> str:
    """Return a number of bytes in GB or MB: "13.4 GB", "2.4 MB"."""
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"
