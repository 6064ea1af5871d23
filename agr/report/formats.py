"""Tables as Markdown, LaTeX and CSV."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from jinja2 import Environment
from tabulate import tabulate

from agr.config.cell import Cell
from agr.utils.text import printable

NO_RUN = "—"
TEX_TEMPLATES = Environment(
    block_start_string="<%", block_end_string="%>", variable_start_string="<<",
    variable_end_string=">>", trim_blocks=True, lstrip_blocks=True, autoescape=False,
)  # fmt: skip


LATEX = TEX_TEMPLATES.from_string(r"""% needs \usepackage{booktabs,graphicx}
\begin{table}
\centering
\footnotesize
\caption{<< caption >>}
% No wider than the page, and no larger than it is.
\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{
\begin{tabular}{ll<< "r" * (columns - 2) >>}
\toprule
<% for block in blocks %>
<% if not loop.first %>
\midrule
<% endif %>
<< block.header | join(" & ") >> \\
\midrule
<% for row in block.rows %>
<< row | join(" & ") >> \\
<% endfor %>
<% endfor %>
\bottomrule
\end{tabular}}
\\[2pt] \parbox{\linewidth}{\scriptsize << notes | join(" \\\\ ") >>}
\end{table}
""")


class Text(NamedTuple):
    """How a table's pieces look in one format."""

    bold: str
    star: str
    plain: Callable[[str], str]  # a name or other text, without any meaning that it may have there


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


def _markdown_of(value: str) -> str:
    return MARKUP.sub(r"\\\g<0>", printable(value))


def _tex_of(value: str) -> str:
    """Text for LaTeX; "[" or "*" at its beginning would belong to the line break before."""
    known = (SIGNS.get(s, s if s < LATIN else "?") for s in printable(value))
    tex = "".join(known)
    return f"{{{tex[0]}}}{tex[1:]}" if tex.startswith(("[", "*")) else tex


MARKDOWN = Text(bold="**{}**", star=r"\*", plain=_markdown_of)
TEX = Text(bold=r"\textbf{{{}}}", star="$^{*}$", plain=_tex_of)


class Block(NamedTuple):
    """One group of networks: a header and rows of text."""

    header: list[str]
    rows: list[list[str]]


class Sheet(NamedTuple):
    """One table before it has a format."""

    name: str
    caption: str
    frame: pd.DataFrame  # its numbers
    cells: Sequence[Cell]
    draw: Callable[[Sequence[Cell], pd.DataFrame, Text], list[Block]]
    notes: list[str]

    def blocks(self, text: Text) -> list[Block]:
        """What is shown, in one format."""
        return self.draw(self.cells, self.frame, text)


def write_sheets(sheets: Sequence[Sheet], folder: Path, older: str) -> list[Path]:
    """Tables in three formats each, in place of `older` files (a pattern); the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(older):
        old.unlink()
    return [path for sheet in sheets for path in _write_sheet(sheet, folder)]


def _write_sheet(sheet: Sheet, folder: Path) -> list[Path]:
    texts = {"md": markdown(sheet), "tex": latex(sheet), "csv": sheet.frame.to_csv(index=False)}
    paths = [folder / f"{sheet.name}.{suffix}" for suffix in texts]
    for path, content in zip(paths, texts.values(), strict=True):
        path.write_text(content, encoding="utf-8")
    return paths


NUMBERED = re.compile(r"^Table \d+: ")  # LaTeX counts by itself


def latex(sheet: Sheet) -> str:
    """A table for a paper: \\input it; it needs booktabs and graphicx."""
    blocks = sheet.blocks(TEX)
    return LATEX.render(
        caption=TEX.plain(NUMBERED.sub("", sheet.caption)),
        blocks=blocks,
        columns=max(len(block.header) for block in blocks),
        notes=[TEX.plain(n) for n in sheet.notes],
    )


def markdown(sheet: Sheet) -> str:
    """A table for a page or a pull request."""
    blocks = sheet.blocks(MARKDOWN)
    tables = [tabulate(b.rows, b.header, tablefmt="pipe", disable_numparse=True) for b in blocks]
    items = "\n".join(f"- {MARKDOWN.plain(n)}" for n in sheet.notes)
    return "\n\n".join([f"**{MARKDOWN.plain(sheet.caption)}**", *tables, items]) + "\n"
