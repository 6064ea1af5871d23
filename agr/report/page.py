"""The report's content: records of some cells, read and judged once, and the page made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from agr.config.cell import Cell
from agr.records.run_info import RunInfo
from agr.records.store import Records
from agr.report.claims.judge import NOT_ASKED, NOT_RUN, Judgement
from agr.report.claims.page import LEGEND, Verdicts, judge_claims
from agr.report.claims.wording import Compared, described, measure_title, numbers_of
from agr.report.figures import Drawing, encoded
from agr.report.formats import Sheet
from agr.report.html.contract import ClaimView, Figure, HtmlTable, Page
from agr.report.html.gallery import examples_of
from agr.report.html.plotly_data import charts_of
from agr.report.leaderboard import leaderboard_sheets
from agr.report.notes import setting_notes
from agr.report.numbers import Number, TableCell
from agr.report.outcomes import Outcomes, in_group
from agr.report.pairwise import best_and_equal, pair_differences, transfer_differences
from agr.report.statistics import LEVEL
from agr.report.tables import table_sheets

SILENT = (NOT_ASKED, NOT_RUN)  # verdicts that need no sentence beside the grid
READABLE = 60  # rows of a figure's data that are shown below it


@dataclass(frozen=True)
class Findings:
    """Contents of the records of some cells, judged and compared."""

    cells: Sequence[Cell]
    command: Callable[[str], str]  # of a program of scripts/, by its name
    drawing: Drawing
    outcomes: Outcomes
    verdicts: Verdicts
    tables: Sequence[Sheet]
    leaderboards: Sequence[Sheet]
    compared: dict[str, list[Compared]]  # every two attacks on each source and target, by norm
    transfers: dict[str, list[Compared]]  # every two attacks by their mean transfer, by norm
    runs: Sequence[RunInfo]  # run.json of the cells that have one


def gather(
    cells: Sequence[Cell], sweeps: Sequence[Cell], claims: str, command: Callable[[str], str]
) -> Findings:
    """Read the records of cells and of sweeps over eps. Raises ConfigError."""
    outcomes = Outcomes(cells)
    drawing = Drawing(outcomes, sweeps)
    untargeted = not all(cell.config.attack.targeted for cell in cells)
    runs = [run for cell in cells if (run := Records(cell.folder).run())]
    return Findings(
        cells,
        command,
        drawing,
        outcomes,
        judge_claims(outcomes, claims),
        table_sheets([in_group(cell) for cell in cells]),
        leaderboard_sheets(cells) if untargeted else [],
        {norm: pair_differences(outcomes, norm) for norm in drawing.norms},
        {norm: transfer_differences(outcomes, norm) for norm in drawing.norms},
        runs,
    )


def summary(found: Findings) -> list[tuple[str, str]]:
    """Return terms and texts that a reader must know to read the numbers."""
    cell, c = found.cells[0], found.cells[0].config
    budgets = {f"{x.config.norm.name}": x.config.eps for x in found.cells}
    names = found.outcomes.titles()
    ended = sorted(s.ended for run in found.runs for s in run.sessions)
    finished = len(found.outcomes.finished_places())
    machines = {run.numeric.device for run in found.runs if run.numeric}
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
    notes = [note for note in setting_notes(found.cells) if note != cell.suite.notice]
    return [*told, ("setting", "; ".join(notes))]


def provenance(runs: Sequence[RunInfo]) -> list[tuple[str, str]]:
    """Return versions, commits, hashes of data and weights, and the numeric identity."""
    told: dict[str, set[str]] = {}
    for run in runs:
        for name, version in run.versions.items():
            told.setdefault(f"version of {name}", set()).add(version)
        told.setdefault("commit of agr", set()).add(run.git or "unknown")
        if run.data:
            told.setdefault("data", set()).add(f"{run.data.layout}, {run.data.fingerprint}")
        for name, digest in run.weights.items():
            told.setdefault(f"weights of {name}, sha256", set()).add(digest)
        if run.lpips:
            told.setdefault("weights of LPIPS, sha256", set()).add(", ".join(run.lpips))
        for key, value in (vars(run.numeric) if run.numeric else {}).items():
            if key != "networks":
                told.setdefault(key, set()).add(str(value))
    return [(key, "; ".join(sorted(values))) for key, values in told.items()]


def build_page(found: Findings) -> Page:
    """Build the content of report.html."""
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
        examples=examples_of(found.outcomes),
        leaderboards=[table for sheet in found.leaderboards for table in tables_of(sheet)],
        further=further(found),
        provenance=provenance(found.runs),
        cells=cells_table(found.cells, found.runs, found.outcomes.missing()),
        commands=[found.command("make_report")],
    )


def tables_of(sheet: Sheet) -> list[HtmlTable]:
    """Return a table's blocks as tables of their own, each row with its source in full."""
    found = []
    for i, block in enumerate(sheet.blocks):
        caption = sheet.caption + (f", part {i + 1}" if len(sheet.blocks) > 1 else "")
        notes = sheet.notes if i == len(sheet.blocks) - 1 else ()
        name = f"{sheet.name}-{i + 1}" if i else sheet.name
        found.append(HtmlTable(name, caption, block.header, _filled(block.rows), notes))
    return found


def _filled(rows: Iterable[Sequence[TableCell]]) -> list[list[TableCell]]:
    """Fill a first column that is empty where it is as above: rows may be sorted."""
    found: list[list[TableCell]] = []
    for row in rows:
        first = row[0] or (found[-1][0] if found else "")
        found.append([first, *row[1:]])
    return found


def claim_of(found: Findings, claim: Any, judged: dict[str, Judgement]) -> ClaimView:
    """Return a claim with its verdicts and every comparison behind them."""
    names = found.outcomes.titles()
    rows: list[list[TableCell]] = [
        [column, described(c, names), measure_title(c.measure), *numbers_of(c), c.verdict]
        for column, judgement in judged.items()
        for c in judgement.compared
    ]
    header = ["reading", "compared", "measure", "left", "right", "difference", "95 % interval"]
    header += ["n", "p (Holm)", "verdict"]
    details = HtmlTable(f"claim-{claim.name}", f"{claim.title}: every comparison", header, rows)
    return ClaimView(
        claim.title,
        claim.says,
        claim.where,
        {column: judgement.verdict for column, judgement in judged.items()},
        {column: j.why for column, j in judged.items() if j.verdict not in SILENT},
        details if rows else None,
    )


def figures_of(found: Findings) -> list[Figure]:
    """Return the figures as pictures, with their numbers where these are few."""
    figures = []
    for drawn in found.drawing.figures():
        data = None
        if len(drawn.data) <= READABLE:
            rows = [[_cell(v) for v in row] for row in drawn.data.itertuples(index=False)]
            data = HtmlTable(f"{drawn.name}-data", drawn.title, list(drawn.data.columns), rows)
        png = encoded(drawn.figure, "png")
        command = found.command("make_figures")
        figures.append(Figure(drawn.name, drawn.title, drawn.caption, png, command, data))
    return figures


def _cell(value: Any) -> TableCell:
    if isinstance(value, bool | str):
        return str(value)
    return Number(value, "d" if isinstance(value, int) else ".4g")


def further(found: Findings) -> list[HtmlTable]:
    """Return the tables of attacks that differ: in mean transfer, and on each source and target."""
    tables = [transfers_of(found, norm) for norm in found.transfers]
    return [*(t for t in tables if t.rows), *(equals_of(found, norm) for norm in found.compared)]


def transfers_of(found: Findings, norm: str) -> HtmlTable:
    """Return the comparisons of every two attacks by their mean transfer."""
    names = found.outcomes.titles()
    rows: list[list[TableCell]] = [
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
    return HtmlTable(f"transfer-{norm}", caption, header, rows, notes)


def equals_of(found: Findings, norm: str) -> HtmlTable:
    """Return the best attacks of each source and target, and those that can't be told from them."""
    names, compared = found.outcomes.titles(), found.compared[norm]
    frame = best_and_equal(compared)
    rows: list[list[TableCell]] = [
        [
            *(names[row["source"]], names[row["target"]]),
            "; ".join(names[attack] for attack in row["best"]),
            Number(row["asr"]),
            "; ".join(names[attack] for attack in row["equal"]) or "none",
            *(Number(row["n"], "d"), Number(row["smallest"])),
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
    return HtmlTable(f"best-{norm}", f"Best attacks, {names[norm]}", header, rows, notes)


def cells_table(cells: Sequence[Cell], runs: Sequence[RunInfo], notes: Sequence[str]) -> HtmlTable:
    """Return every cell with its numbers of images and seconds, and the command that runs it."""
    by_name = {run.name: run for run in runs}
    rows: list[list[TableCell]] = []
    for cell in cells:
        sessions = by_name.get(cell.name, RunInfo()).sessions
        seconds = sum(session.seconds for session in sessions)
        images = sum(session.images for session in sessions)
        c = cell.config
        rows.append(
            [
                *(c.attack.title, c.norm.name, Number(c.eps, "g"), cell.title(cell.source)),
                *(Number(images, "d"), Number(seconds), cell.name, cell.command()),
            ]
        )
    header = ["attack", "norm", "eps", "source", "images crafted", "seconds", "folder", "command"]
    return HtmlTable("cells", "Cells", header, rows, notes)
