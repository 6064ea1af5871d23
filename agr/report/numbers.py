"""Cells of tables, which stay numbers until a format prints them: Markdown, LaTeX or plain text."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from agr.utils.text import printable

NO_RUN = "—"
# What means something in Markdown, of which HTML is a part; brackets where they make a link.
MARKUP = re.compile(r"[\\`*|<]|\](?=[(\[:])|&(?=#?\w+;)")
SIGNS = {
    **{sign: f"\\{sign}" for sign in "%&_#${}"},
    **{sign: f"${sign}$" for sign in "<>|"},
    **{"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"},
    **{"∞": r"$_\infty$", "—": "---", "±": r"$\pm$", "→": r"$\to$", "‖": r"$\|$"},
    **{"₂": "$_2$", "·": r"$\cdot$", "≤": r"$\leq$", "≥": r"$\geq$", "ε": r"$\epsilon$"},
    **{"β": r"$\beta$", "δ": r"$\delta$", "μ": r"$\mu$", "φ": r"$\varphi$", "√": r"$\sqrt{}$"},
    **{"“": "``", "”": "''", "…": r"\ldots{}"},
}
LATIN = "\u0180"  # what pdflatex knows without further packages; of other letters it makes an error


class Format(NamedTuple):
    """The pieces of a printed cell in one format."""

    bold: str
    star: str
    plain: Callable[[str], str]  # a name or other text, without any meaning that it may have there


def _markdown_of(value: str) -> str:
    return MARKUP.sub(r"\\\g<0>", printable(value))


def _tex_of(value: str) -> str:
    """Escape text for LaTeX; "[" or "*" in front would belong to the line break before it."""
    known = (SIGNS.get(s, s if s < LATIN else "?") for s in printable(value))
    tex = "".join(known)
    return f"{{{tex[0]}}}{tex[1:]}" if tex.startswith(("[", "*")) else tex


MARKDOWN = Format(bold="**{}**", star=r"\*", plain=_markdown_of)
TEX = Format(bold=r"\textbf{{{}}}", star="$^{*}$", plain=_tex_of)
PLAIN = Format(bold="{}", star="*", plain=printable)  # HTML marks what is bold by itself


class Number(NamedTuple):
    """A number of a table with what is printed beside it. NaN is unknown, and printed as "—"."""

    value: float
    form: str = ".1f"  # of the value and its interval
    interval: tuple[float, float] | None = None  # [low, high]
    spread: float | None = None  # standard deviation, ± …
    difference: float | None = None  # to the paper, in brackets
    difference_form: str = "+.1f"
    bold: bool = False
    star: bool = False
    text: str = ""  # printed in place of the value: "n = 0", "< 0.0001"

    def printed(self, style: Format) -> str:
        """Return the number in a format."""
        unknown = self.value != self.value
        if self.text or unknown:
            return style.plain(self.text or NO_RUN)
        value = format(self.value, self.form)
        value = style.bold.format(value) if self.bold else value
        value += style.star if self.star else ""
        if self.spread is not None:
            value += style.plain(f" ± {self.spread:{self.form}}")
        elif self.interval is not None:
            low, high = self.interval
            value += f" [{low:{self.form}}, {high:{self.form}}]"
        if self.difference is not None and self.difference == self.difference:
            value += f" ({self.difference:{self.difference_form}})"
        return value


TableCell: TypeAlias = Number | str


def printed(cell: TableCell, style: Format = PLAIN) -> str:
    """Return a cell of a table in a format; text is escaped."""
    return cell.printed(style) if isinstance(cell, Number) else style.plain(cell)
