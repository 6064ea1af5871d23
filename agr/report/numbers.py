"""Numbers of tables with what is printed beside them, and their formats.

A table holds numbers, and each format (Markdown, LaTeX, plain text) prints them in its own way.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from agr.utils.text import printable

NO_RUN = "—"
# Markup of Markdown, of which HTML is a part; brackets where they make a link.
MARKUP = re.compile(r"[\\`*|<]|\](?=[(\[:])|&(?=#?\w+;)")
TEX_SIGNS = {
    "%": r"\%", "&": r"\&", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
    "<": "$<$", ">": "$>$", "|": "$|$",
    "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "∞": r"$_\infty$", "—": "---", "±": r"$\pm$", "→": r"$\to$", "‖": r"$\|$", "₂": "$_2$",
    "·": r"$\cdot$", "≤": r"$\leq$", "≥": r"$\geq$", "√": r"$\sqrt{}$",
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

    def printed(self, style: Format) -> str:
        """Return the number as text of a format."""
        unknown = self.value != self.value
        if self.text or unknown:
            return style.escape(self.text or NO_RUN)
        value = format(self.value, self.form)
        if self.bold:
            value = style.bold.format(value)
        if self.star:
            value += style.star
        if self.spread is not None:
            value += style.escape(f" ± {self.spread:{self.form}}")
        elif self.interval is not None:
            low, high = self.interval
            value += f" [{low:{self.form}}, {high:{self.form}}]"
        if self.difference is not None and self.difference == self.difference:
            value += f" ({self.difference:{self.difference_form}})"
        return value


TableCell: TypeAlias = Number | str


def printed(cell: TableCell, style: Format = PLAIN) -> str:
    """Return a cell of a table as text of a format, in which text is escaped."""
    return cell.printed(style) if isinstance(cell, Number) else style.escape(cell)
