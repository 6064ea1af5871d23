"""Errors of wrong input: one line that names the thing, the value and the way out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from agr.utils.text import printable

# Words of a network's name that say how it was defended in training: adv, ens3, robust.
DEFENSE = re.compile(r"adv|ens\d+|(?<![a-z])(?:ens|robust)", re.IGNORECASE)
FEW = 3  # names, which are all said unless one is close
LONGEST_LIST = 400
LONGEST_LINE = 1500


class ConfigError(ValueError):
    """A wrong input; its text is one line that names the thing, the value and the way out."""


class Refused(ValueError):
    """A wrong input that shows while a network runs, which isn't to blame for it."""


def nearest(name: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """Suggest how to correct `name`: by the closest of the `known` names, or else all of them.

    `otherwise` stands in for a list that is too long for a line.
    """
    known = sorted({*known})
    alike = [k for k in known if bare(k) == bare(name)]
    if alike:
        return f"did you mean {alike[0]}?"
    cutoff = 0.6 if len(known) <= FEW else 0.5
    close = difflib.get_close_matches(name[:LONGEST_LIST], known, n=3, cutoff=cutoff)
    if close:
        return f"did you mean {' or '.join(close)}?"
    names = f"known: {', '.join(known)}"
    return otherwise if otherwise and len(names) >= LONGEST_LIST else names


def nearest_network(name: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """Suggest a network as `nearest` does, for a defended one never one without its defense."""
    words = _defense(name)
    same = [k for k in known if words <= _defense(k)]
    if same or not words:
        return nearest(name, same, otherwise)
    return (
        "no network with this defense is known: give its architecture and a file of its weights, "
        "TAG:FILE"
    )


def _defense(name: str) -> set[str]:
    return {word.casefold() for word in DEFENSE.findall(name)}


def bare(name: str) -> str:
    """Return a name without what people write otherwise: MI-FGSM is mifgsm."""
    return re.sub(r"[-_ .]", "", name).casefold()


def first_line(e: BaseException) -> str:
    """Return the first line of an error's text."""
    return (str(e).strip() or type(e).__name__).splitlines()[0]


def one_line(text: str) -> str:
    """Fit a message into one line of bearable length: its beginning, and its end, the way out."""
    line = printable(text.strip())
    if len(line) <= LONGEST_LINE:
        return line
    return f"{line[: LONGEST_LINE // 2]} … {line[-LONGEST_LINE // 3 :]}"
