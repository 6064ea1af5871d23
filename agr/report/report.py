"""The report: everything about some cells on one page, and as text for pull requests and papers.

`gather` reads the records; what it finds becomes report.html (`agr.report.html`), results.md and
tables.tex. Needs neither torch nor timm.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from agr.config.cell import Cell
from agr.records.store import Records
from agr.report import leaderboard
from agr.report.claims.judge import NOT_ASKED, NOT_RUN, Judgement
from agr.report.claims.page import LEGEND, Verdicts, grid, judge_claims, which_supports_which
from agr.report.claims.wording import Compared, described, measure_title, numbers_of
from agr.report.figures import Drawing, encoded
from agr.report.formats import MARKDOWN, TEX_TEMPLATES, Sheet, Text, latex, markdown
from agr.report.html import Claim, Figure, Page, Table, render
from agr.report.html.gallery import shots_of
from agr.report.html.plotly_data import charts_of
from agr.report.notes import setting
from agr.report.outcomes import Outcomes, in_group
from agr.report.pairwise import as_frame, best_and_equal, differences, transfer_differences
from agr.report.statistics import LEVEL
from agr.report.tables import sheets_of
from agr.utils.files import write_content
from agr.utils.text import printable

SILENT = (NOT_ASKED, NOT_RUN)  # verdicts that need no sentence beside the grid
BOLD = "\x00"  # no text has one: `printable` leaves none
PLAIN = Text(bold=f"{BOLD}{{}}", star="*", plain=printable)
MOST_IN_PULL_REQUEST = 65_536  # characters of a comment on GitHub
READABLE = 60  # rows of a figure's data that are shown below it


@dataclass(frozen=True)
class Found:
    """What the records of some cells say."""

    cells: Sequence[Cell]
    command: Callable[[str], str]  # of a program of scripts/, by its name
    drawing: Drawing
    outcomes: Outcomes
    verdicts: Verdicts
    tables: Sequence[Sheet]
    leaderboards: Sequence[Sheet]
    compared: dict[str, list[Compared]]  # every two attacks on each source and target, by norm
    transfers: dict[str, list[Compared]]  # every two attacks by their mean transfer, by norm
    runs: Sequence[dict[str, Any]]  # run.json of the cells that have one


def gather(
    cells: Sequence[Cell], sweeps: Sequence[Cell], claims: str, command: Callable[[str], str]
) -> Found:
    """Read the records of cells and of sweeps over eps. Raises ConfigError."""
    outcomes = Outcomes(cells)
    drawing = Drawing(outcomes, sweeps)
    untargeted = not all(cell.config.attack.targeted for cell in cells)
    runs = [run for cell in cells if (run := Records(cell.folder).run())]
    return Found(
        cells,
        command,
        drawing,
        outcomes,
        judge_claims(outcomes, claims),
        sheets_of([in_group(cell) for cell in cells]),
        leaderboard.sheets_of(cells) if untargeted else [],
        {norm: differences(outcomes, norm) for norm in drawing.norms},
        {norm: transfer_differences(outcomes, norm) for norm in drawing.norms},
        runs,
    )


def write_report(found: Found, folder: Path) -> list[Path]:
    """report.html, results.md, tables.tex and differences.csv, in place of older ones; the paths.

    Raises ConfigError if the page can't be made small enough.
    """
    texts = {
        "report.html": render(page(found)),
        "results.md": results(found),
        "tables.tex": tex(found.tables),
        "differences.csv": as_frame([c for mine in found.compared.values() for c in mine]).to_csv(
            index=False
        ),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_content(folder / name, text.encode())
    return [folder / name for name in texts]


# ---- the page ------------------------------------------------------------------------------------


def page(found: Found) -> Page:
    """What report.html shows."""
    suite = found.cells[0].suite
    return Page(
        title=f"Transfer of adversarial attacks, suite {suite.name}",
        notice=suite.notice or "",
        summary=summary(found),
        tables=[table for sheet in found.tables for table in tables_of(sheet)],
        claims=[claim_of(found, *each) for each in found.verdicts.claims],
        claims_about=[found.verdicts.paper, *LEGEND],
        figures=figures_of(found),
        charts=charts_of(found.drawing),
        shots=shots_of(found.outcomes),
        leaderboards=[table for sheet in found.leaderboards for table in tables_of(sheet)],
        further=further(found),
        provenance=provenance(found),
        cells=cells_table(found),
        commands=[found.command("make_report")],
    )


def tables_of(sheet: Sheet) -> list[Table]:
    """A table's blocks as tables of their own, each row with its source in full."""
    blocks = sheet.blocks(PLAIN)
    found = []
    for i, block in enumerate(blocks):
        rows = _filled(block.rows)
        bold = {(r, c) for r, row in enumerate(rows) for c, text in enumerate(row) if BOLD in text}
        plain = [[text.replace(BOLD, "") for text in row] for row in rows]
        part = f", part {i + 1}" if len(blocks) > 1 else ""
        notes = sheet.notes if i == len(blocks) - 1 else ()
        name = f"{sheet.name}-{i + 1}" if i else sheet.name
        found.append(Table(name, sheet.caption + part, block.header, plain, notes, frozenset(bold)))
    return found


def _filled(rows: Iterable[Sequence[str]]) -> list[list[str]]:
    """Rows whose first column is empty where it is as above: as it reads once rows are sorted."""
    found: list[list[str]] = []
    for row in rows:
        first = row[0] or (found[-1][0] if found else "")
        found.append([first, *row[1:]])
    return found


def claim_of(found: Found, claim: Any, judged: dict[str, Judgement]) -> Claim:
    """A claim with its verdicts and every comparison behind them."""
    names = found.verdicts.names
    rows = [
        [column, described(c, names), measure_title(c.measure), *numbers_of(c), c.verdict]
        for column, judgement in judged.items()
        for c in judgement.compared
    ]
    header = ["reading", "compared", "measure", "left", "right", "difference", "95 % interval"]
    header += ["n", "p (Holm)", "verdict"]
    details = Table(f"claim-{claim.name}", f"{claim.title}: every comparison", header, rows)
    return Claim(
        claim.title,
        claim.says,
        claim.where,
        {column: judgement.verdict for column, judgement in judged.items()},
        {column: j.why for column, j in judged.items() if j.verdict not in SILENT},
        details if rows else None,
    )


def figures_of(found: Found) -> list[Figure]:
    """The figures as pictures, with their numbers where these are few."""
    figures = []
    for drawn in found.drawing.figures():
        data = None
        if len(drawn.data) <= READABLE:
            rows = [[_short(v) for v in row] for row in drawn.data.itertuples(index=False)]
            data = Table(f"{drawn.name}-data", drawn.title, list(drawn.data.columns), rows)
        png = encoded(drawn.figure, "png")
        figures.append(
            Figure(drawn.name, drawn.title, drawn.caption, png, found.command("make_figures"), data)
        )
    return figures


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))


def further(found: Found) -> list[Table]:
    """Which attacks differ: in mean transfer, and on each source and target."""
    tables = [transfers_of(found, norm) for norm in found.transfers]
    return [*(t for t in tables if t.rows), *(equals_of(found, norm) for norm in found.compared)]


def transfers_of(found: Found, norm: str) -> Table:
    """Every two attacks by their mean transfer."""
    names = found.outcomes.titles()
    rows = [
        [
            *(names[c.left.attack], names[c.right.attack], *numbers_of(c)),
            "yes" if c.p_holm < LEVEL else "can't be told",
        ]
        for c in found.transfers[norm]
    ]
    header = ["attack", "against", "mean transfer %", "against %", "difference, points"]
    header += ["95 % interval", "images", "p (Holm)", "real"]
    notes = [
        "mean transfer: of every image, the share of its black-box targets that it fools; images "
        "are the same for both, and are drawn with all their sources; p by a bootstrap, with "
        f"Holm's correction over these {len(rows)} comparisons, at 5 %",
    ]
    caption = f"Mean transfer of every two attacks, {names[norm]}"
    return Table(f"transfer-{norm}", caption, header, rows, notes)


def equals_of(found: Found, norm: str) -> Table:
    """The best attack of each source and target, and those that can't be told from it."""
    names, compared = found.outcomes.titles(), found.compared[norm]
    frame = best_and_equal(compared)
    rows = [
        [
            *(names[row["source"]], names[row["target"]]),
            "; ".join(names[attack] for attack in row["best"]),
            f"{row['asr']:.1f}",
            "; ".join(names[attack] for attack in row["equal"]) or "none",
            *(str(row["n"]), f"{row['smallest']:.1f}"),
        ]
        for row in frame.to_dict("records")
    ]
    header = ["source", "target", "best attacks", "ASR %", "can't be told from them", "n"]
    header += ["smallest difference that n can show, points"]
    notes = [
        f"every two attacks on the same images of a source and target: {len(compared)} comparisons "
        "by McNemar's exact test with Holm's correction over all of them, at 5 %",
        "the smallest difference: if all images on which two attacks differ speak for one of them",
        "all comparisons: differences.csv beside this page",
    ]
    return Table(f"best-{norm}", f"Best attacks, {names[norm]}", header, rows, notes)


def cells_table(found: Found) -> Table:
    """Every cell with its numbers of images and seconds, and the command that runs it."""
    runs = {run["name"]: run for run in found.runs if "name" in run}
    rows = []
    for cell in found.cells:
        sessions = runs.get(cell.name, {}).get("sessions", [])
        seconds = sum(session["seconds"] for session in sessions)
        images = sum(session["images"] for session in sessions)
        c = cell.config
        rows.append(
            [
                *(c.attack.title, c.norm.name, f"{c.eps:g}", cell.title(cell.source)),
                *(str(images), f"{seconds:.1f}", cell.name, cell.command()),
            ]
        )
    header = ["attack", "norm", "eps", "source", "images crafted", "seconds", "folder", "command"]
    return Table("cells", "Cells", header, rows, found.outcomes.missing())


# ---- what was run, and on what -------------------------------------------------------------------


def summary(found: Found) -> list[tuple[str, str]]:
    """What a reader must know to read the numbers."""
    cell, c = found.cells[0], found.cells[0].config
    budgets = {f"{x.config.norm.name}": x.config.eps for x in found.cells}
    names = found.outcomes.titles()
    ended = sorted(s["ended"] for run in found.runs for s in run.get("sessions", []))
    finished = len(found.outcomes.done())
    machines = {run["numeric"]["device"] for run in found.runs if "numeric" in run}
    told = [
        ("suite", cell.suite.name),
        ("networks", ", ".join(dict.fromkeys(x.title(n) for x in found.cells for n in x.networks))),
        ("attacks", "; ".join(dict.fromkeys(x.config.attack.title for x in found.cells))),
        ("budgets", ", ".join(f"{names[norm]} = {eps:g}" for norm, eps in budgets.items())),
        ("cells", f"{finished} of {len(found.cells)} finished"),
        ("counted", f"denominator={c.denominator}, success={cell.success}"),
        ("machine", ", ".join(sorted(machines)) or "none yet"),
    ]
    if ended:
        told.append(("run", f"{ended[0][:10]} to {ended[-1][:10]}"))
    notes = [note for note in setting(found.cells) if note != cell.suite.notice]
    return [*told, ("setting", "; ".join(notes))]


def provenance(found: Found) -> list[tuple[str, str]]:
    """Versions, commits, hashes of data and weights, and the numeric identity."""
    told: dict[str, set[str]] = {}
    for run in found.runs:
        for name, version in run.get("versions", {}).items():
            told.setdefault(f"version of {name}", set()).add(str(version))
        told.setdefault("commit of agr", set()).add(str(run.get("git") or "unknown"))
        data = run.get("data", {})
        told.setdefault("data", set()).add(f"{data.get('layout')}, {data.get('fingerprint')}")
        for name, digest in run.get("weights", {}).items():
            told.setdefault(f"weights of {name}, sha256", set()).add(str(digest))
        for key, value in run.get("numeric", {}).items():
            if key != "networks":
                told.setdefault(key, set()).add(str(value))
    return [(key, "; ".join(sorted(values))) for key, values in told.items()]


# ---- text for a pull request and a paper ---------------------------------------------------------


def results(found: Found) -> str:
    """results.md: the tables, claims and provenance, folded, for a pull request.

    Where it would be longer than a comment may be, the longest parts are left out, by name.
    """
    plain = MARKDOWN.plain
    lines = [f"- {plain(term)}: {plain(text)}" for term, text in summary(found)]
    suite = found.cells[0].suite
    notice = [f"**{plain(suite.notice)}**", ""] if suite.notice else []
    head = "\n".join([f"## Transfer of attacks, suite {plain(suite.name)}", "", *notice, *lines])
    said = [*LEGEND, *which_supports_which(found.verdicts)]
    claims = "\n".join(f"- {plain(line)}" for line in said)
    folded = {f"Claims of {found.verdicts.paper}": f"{grid(found.verdicts)}\n\n{claims}"}
    folded |= {sheet.caption: markdown(sheet) for sheet in (*found.tables, *found.leaderboards)}
    folded |= {table.caption: _as_markdown(table) for table in further(found)}
    origin = [f"- {plain(term)}: {plain(text)}" for term, text in provenance(found)]
    folded["Provenance"] = "\n".join([*origin, f"- {plain(found.command('make_report'))}"])
    return _short_enough(head, folded)


def _as_markdown(table: Table) -> str:
    plain = MARKDOWN.plain
    rows = [[plain(text) for text in row] for row in table.rows]
    header = [plain(text) for text in table.header]
    notes = "\n".join(f"- {plain(note)}" for note in table.notes)
    return f"{tabulate(rows, header, tablefmt='pipe', disable_numparse=True)}\n\n{notes}"


def _short_enough(head: str, folded: dict[str, str]) -> str:
    """The parts below a head, the longest of them left out until all fits."""
    kept, left_out = dict(folded), list[str]()
    while True:
        parts = [
            f"<details><summary>{html.escape(title)}</summary>\n\n{text.strip()}\n\n</details>"
            for title, text in kept.items()
        ]
        rest = MARKDOWN.plain(f"Too long for a comment, in report.html: {'; '.join(left_out)}")
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
    """tables.tex: all tables in one file that compiles alone and inside of a paper."""
    return TEX_FILE.render(tables=[latex(sheet) for sheet in tables])
