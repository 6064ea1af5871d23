"""Tables as Markdown, LaTeX and CSV."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment
from tabulate import tabulate

from agr.report.numbers import MARKDOWN, TEX, Format, TableCell, printed

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


class Block(NamedTuple):
    """A header and rows of a table, of one group of networks."""

    header: list[str]
    rows: list[list[TableCell]]


class Sheet(NamedTuple):
    """One table before it has a format."""

    name: str
    caption: str
    frame: pd.DataFrame  # all its numbers, for the CSV
    blocks: Sequence[Block]
    notes: list[str]


def write_sheets(sheets: Sequence[Sheet], folder: Path, older: str) -> list[Path]:
    """Write tables as Markdown, LaTeX and CSV in place of `older` files (a pattern); the paths."""
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
    """Render a table for a paper: \\input it; it needs booktabs and graphicx."""
    return LATEX.render(
        caption=TEX.plain(NUMBERED.sub("", sheet.caption)),
        blocks=[_printed(block, TEX) for block in sheet.blocks],
        columns=max(len(block.header) for block in sheet.blocks),
        notes=[TEX.plain(n) for n in sheet.notes],
    )


def markdown(sheet: Sheet) -> str:
    """Render a table for a page or a pull request."""
    blocks = [_printed(block, MARKDOWN) for block in sheet.blocks]
    tables = [pipes(block["rows"], block["header"]) for block in blocks]
    items = "\n".join(f"- {MARKDOWN.plain(n)}" for n in sheet.notes)
    return "\n\n".join([f"**{MARKDOWN.plain(sheet.caption)}**", *tables, items]) + "\n"


def pipes(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Lay out rows of Markdown as a table."""
    return tabulate(rows, header, tablefmt="pipe", disable_numparse=True)


def _printed(block: Block, style: Format) -> dict[str, Any]:
    return {
        "header": [style.plain(title) for title in block.header],
        "rows": [[printed(cell, style) for cell in row] for row in block.rows],
    }
