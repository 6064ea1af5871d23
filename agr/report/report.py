"""The report: everything about some cells on one page, and as text for pull requests and papers.

`gather` reads the records; what it finds becomes report.html (`agr.report.html`), results.md and
tables.tex. Needs neither torch nor timm.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from agr.report.checklist import markdown as checklist_text
from agr.report.claims.page import LEGEND, grid, which_supports_which
from agr.report.formats import (
    TEX_TEMPLATES,
    Sheet,
    bullets,
    csv_text,
    latex,
    markdown,
    pipe_table,
    write_texts,
)
from agr.report.html.render import render
from agr.report.numbers import MARKDOWN
from agr.report.page import Findings, build_page, further, provenance, summary
from agr.report.pairwise import differences_frame

MOST_IN_PULL_REQUEST = 65_536  # characters of a comment on GitHub


def write_report(found: Findings, folder: Path) -> list[Path]:
    """Write report.html, results.md, tables.tex and differences.csv; return their paths.

    Raises ConfigError if the page can't be made small enough.
    """
    compared = [c for of_norm in found.compared.values() for c in of_norm]
    texts = {
        "report.html": render(build_page(found)),
        "results.md": results(found),
        "tables.tex": tex(found.tables),
        "differences.csv": csv_text(differences_frame(compared)),
    }
    if found.checklist:
        texts["checklist.md"] = checklist_text(found.checklist)
    return write_texts(texts, folder, older=[folder / "checklist.md"])


def results(found: Findings) -> str:
    """Return results.md: the tables, claims and provenance, folded, for a pull request.

    Where it would be longer than a comment may be, the longest parts are left out, by name.
    """
    escape = MARKDOWN.escape
    lines = bullets([f"{term}: {text}" for term, text in summary(found)])
    suite = found.cells[0].suite
    notice = [f"**{escape(suite.notice)}**", ""] if suite.notice else []
    head = "\n".join([f"## Transfer of attacks, suite {escape(suite.name)}", "", *notice, lines])
    claims = bullets([*LEGEND, *which_supports_which(found.verdicts)])
    folded = {f"Claims of {found.verdicts.paper}": f"{grid(found.verdicts)}\n\n{claims}"}
    folded |= {sheet.caption: markdown(sheet) for sheet in (*found.tables, *found.leaderboards)}
    for table in further(found):
        rows = pipe_table(table.header, table.rows)
        folded[table.caption] = f"{rows}\n\n{bullets(table.notes)}"
    origin = [f"{term}: {text}" for term, text in provenance(found.runs)]
    folded["Provenance"] = bullets([*origin, found.command("make_report")])
    return _short_enough(head, folded)


def _short_enough(head: str, folded: dict[str, str]) -> str:
    """Return the parts below a head, the longest of them left out until all fits."""
    kept, left_out = dict(folded), list[str]()
    while True:
        parts = [
            f"<details><summary>{html.escape(title)}</summary>\n\n{text.strip()}\n\n</details>"
            for title, text in kept.items()
        ]
        rest = MARKDOWN.escape(f"Too long for a comment, in report.html: {'; '.join(left_out)}")
        text = "\n\n".join([head, *([rest] if left_out else []), *parts]) + "\n"
        if len(text) <= MOST_IN_PULL_REQUEST or not kept:
            return text
        longest = max(kept, key=lambda title: len(kept[title]))
        left_out.append(longest)
        del kept[longest]


TEX_FILE = TEX_TEMPLATES.from_string(r"""% For \input into a paper (booktabs, graphicx), or alone.
\expandafter\ifx\csname @nodocument\endcsname\relax
\let\agrend\relax
\else
\documentclass{article}
\usepackage[margin=2cm]{geometry}
\usepackage{booktabs,graphicx}
\def\agrend{\end{document}}
\begin{document}
\fi
<% for table in tables %>
<< table >>
\clearpage
<% endfor %>
\agrend
""")  # fmt: skip


def tex(tables: Sequence[Sheet]) -> str:
    """Return tables.tex: all tables in one file, which compiles alone or in a paper."""
    return TEX_FILE.render(tables=[latex(sheet) for sheet in tables])
