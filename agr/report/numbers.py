"""Numbers of tables with what is printed beside them, and their formats.

A table holds numbers, and each format (Markdown, LaTeX, plain text) prints them in its own way.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from agr.utils.text import printable

NO_RUN = "—"
MINUS = "\N{MINUS SIGN}"  # format() writes a hyphen
# Markup of Markdown, of which HTML is a part; brackets where they make a link.
MARKUP = re.compile(r"[\\`*|<]|\](?=[(\[:])|&(?=#?\w+;)")
TEX_SIGNS = {
    "%": r"\%", "&": r"\&", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
    "<": "$<$", ">": "$>$", "|": "$|$",
    "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "∞": r"$_\infty$", "—": "---", "±": r"$\pm$", "→": r"$\to$", "‖": r"$\|$", "₂": "$_2$",
    "·": r"$\cdot$", MINUS: "$-$", "≤": r"$\leq$", "≥": r"$\geq$", "√": r"$\sqrt{}$",
    "ε": r"$\epsilon$", "β": r"$\beta$", "δ": r"$\delta$", "μ": r"$\mu$", "φ": r"$\varphi$",
    "“": "``", "”": "''", "…": r"\ldots{}",
}  # fmt: skip
LATIN = "\u0180"  # pdflatex knows the letters below it without further packages


class Format(NamedTuple):
    """A text format: its marks for best and white-box values, and how it escapes text."""

    bold: str
    star: str
    escape: Callable[[str], str]


def _escape_markdown(text: str) -> str:
    return MARKUP.sub(r"\\\g<0>", printable(text))


def _escape_tex(text: str) -> str:
    tex = "".join(TEX_SIGNS.get(s, s if s < LATIN else "?") for s in printable(text))
    # At the start of a row, "[" or "*" would belong to the line break before it.
    return f"{{{tex[0]}}}{tex[1:]}" if tex.startswith(("[", "*")) else tex


MARKDOWN = Format(bold="**{}**", star=r"\*", escape=_escape_markdown)
TEX = Format(bold=r"\textbf{{{}}}", star="$^{*}$", escape=_escape_tex)
PLAIN = Format(bold="{}", star="*", escape=printable)  # HTML has its own markup for bold


class Number(NamedTuple):
    """A number of a table and what is printed beside it. NaN means unknown and prints as "—"."""

    value: float
    form: str = ".1f"  # of the value, its interval and its spread
    interval: tuple[float, float] | None = None
    spread: float | None = None  # standard deviation over seeds
    difference: float | None = None  # our value minus the paper's
    difference_form: str = "+.1f"
    bold: bool = False  # best of its kind
    star: bool = False  # white-box
    text: str = ""  # printed in place of the value: "n = 0", "< 0.0001"


TableCell: TypeAlias = Number | str


def over_seeds_cell(mean: float, low: float, high: float) -> Number:
    """Return the interval of a mean over seeds as a cell, "—" where it is unknown."""
    return Number(mean, text=f"[{low:.1f}, {high:.1f}]" if low == low else NO_RUN)


def minus(text: str) -> str:
    """Return the text of a number, or of several, with true minus signs."""
    return text.replace("-", MINUS)


def printed(cell: TableCell, style: Format = PLAIN) -> str:
    """Return a cell of a table as text of a format, in which text is escaped."""
    if isinstance(cell, str):
        return style.escape(cell)
    if cell.text or cell.value != cell.value:
        return style.escape(cell.text or NO_RUN)
    value = _signed(cell.value, cell.form, style)
    if cell.bold:
        value = style.bold.format(value)
    if cell.star:
        value += style.star
    if cell.spread is not None:
        value += style.escape(minus(f" ± {cell.spread:{cell.form}}"))
    if cell.interval is not None:
        low, high = (_signed(end, cell.form, style) for end in cell.interval)
        value += f" [{low}, {high}]"
    if cell.difference is not None and cell.difference == cell.difference:
        value += f" ({_signed(cell.difference, cell.difference_form, style)})"
    return value


def _signed(value: float, form: str, style: Format) -> str:
    """Return a number in a format's own signs."""
    return style.escape(minus(format(value, form)))
