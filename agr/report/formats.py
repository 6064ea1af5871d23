"""Tables as Markdown, LaTeX and CSV."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment
from tabulate import tabulate

from agr.report.numbers import MARKDOWN, TEX, TableCell, printed
from agr.utils.files import write_all
from agr.utils.text import plural, printable

# A spreadsheet's formula: whatever begins like one and isn't a plain number, or a dash for nothing.
FORMULA = re.compile(r"(?!([+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|-)\Z)[=+\-@\t\r]", re.I | re.A)
NUMBERED = re.compile(r"^Table \d+: ")  # LaTeX numbers tables itself
TEX_TEMPLATES = Environment(
    block_start_string="<%", block_end_string="%>", variable_start_string="<<",
    variable_end_string=">>", trim_blocks=True, lstrip_blocks=True, autoescape=False,
)  # fmt: skip
TEX_TEMPLATES.filters["tex"] = partial(printed, style=TEX)
LATEX = TEX_TEMPLATES.from_string(r"""% needs \usepackage{booktabs,graphicx}
\begin{table}
\centering
\footnotesize
\caption{<< caption | tex >>}
% No wider than the page, and no larger than it is.
\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{
\begin{tabular}{ll<< "r" * (columns - 2) >>}
\toprule
<% for block in blocks %>
<% if not loop.first %>
\midrule
<% endif %>
<< block.header | map("tex") | join(" & ") >> \\
\midrule
<% for row in block.rows %>
<< row | map("tex") | join(" & ") >> \\
<% endfor %>
<% endfor %>
\bottomrule
\end{tabular}}
\\[2pt] \parbox{\linewidth}{\scriptsize << notes | map("tex") | join(" \\\\ ") >>}
\end{table}
""")


class Block(NamedTuple):
    """Header and rows of one group of networks in a table."""

    header: list[str]
    rows: list[list[TableCell]]


class Sheet(NamedTuple):
    """A table before it is printed."""

    name: str
    caption: str
    frame: pd.DataFrame  # all its numbers, for the CSV
    blocks: Sequence[Block]
    notes: list[str]


def write_sheets(sheets: Sequence[Sheet], folder: Path, older: str) -> list[Path]:
    """Write tables as Markdown, LaTeX and CSV in place of the files `older`; return the paths."""
    texts = {}
    for sheet in sheets:
        texts[f"{sheet.name}.md"] = markdown(sheet)
        texts[f"{sheet.name}.tex"] = latex(sheet)
        texts[f"{sheet.name}.csv"] = csv_text(sheet.frame)
    return write_texts(texts, folder, folder.glob(older))


def csv_text(frame: pd.DataFrame) -> str:
    """Return a CSV in which no text is a formula to a spreadsheet: a ' goes before it."""
    texts = frame.select_dtypes(["object", "string"]).columns
    safe = {name: frame[name].map(_no_formula) for name in texts}
    return frame.assign(**safe).to_csv(index=False)


def _no_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def write_texts(texts: Mapping[str, str], folder: Path, older: Iterable[Path] = ()) -> list[Path]:
    """Write text files, by name, into a folder in place of older ones; return their paths."""
    return write_all({folder / name: text.encode() for name, text in texts.items()}, older)


def latex(sheet: Sheet) -> str:
    r"""Return a table in LaTeX, to be \input into a paper."""
    columns = max(len(block.header) for block in sheet.blocks)
    caption = NUMBERED.sub("", sheet.caption)
    return LATEX.render(sheet._asdict(), caption=caption, columns=columns)


def markdown(sheet: Sheet) -> str:
    """Return a table in Markdown."""
    tables = [pipe_table(block.header, block.rows) for block in sheet.blocks]
    caption = f"**{MARKDOWN.escape(sheet.caption)}**"
    return "\n\n".join([caption, *tables, bullets(sheet.notes)]) + "\n"


def plain(sheet: Sheet, most: int | None = None) -> str:
    """Return a table for a terminal, of each of its blocks at most so many rows."""
    tables = []
    for block in sheet.blocks:
        rows = [[printed(cell) for cell in row] for row in block.rows[:most]]
        table = tabulate(rows, block.header, tablefmt="simple", disable_numparse=True)
        more = len(block.rows) - len(rows)
        tables.append(f"{table}\n… and {plural(more, 'more row')}" if more else table)
    return "\n\n".join([sheet.caption, *tables, "\n".join(map(printable, sheet.notes))])


def pipe_table(header: Sequence[str], rows: Sequence[Sequence[TableCell]]) -> str:
    """Return a header and rows in Markdown."""
    titles, *cells = [[printed(cell, MARKDOWN) for cell in row] for row in (header, *rows)]
    return tabulate(cells, titles, tablefmt="pipe", disable_numparse=True)


def bullets(lines: Sequence[str]) -> str:
    """Return lines of text as a list in Markdown."""
    return "\n".join(f"- {MARKDOWN.escape(line)}" for line in lines)
