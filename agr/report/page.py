"""The report's content: records of some cells, read and judged once, and the page made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from agr.config.cell import Cell
from agr.records.run_info import RunInfo
from agr.records.store import Records
from agr.report.answers import QUESTIONS, answers
from agr.report.checklist import Question
from agr.report.claims.judge import NOT_ASKED, NOT_RUN, Judgement
from agr.report.claims.page import LEGEND, Verdicts, judge_claims
from agr.report.claims.wording import Compared, described, measure_title
from agr.report.drawn import drawn_apart
from agr.report.formats import Sheet
from agr.report.html.contract import Answer, ClaimView, Figure, HtmlTable, Page
from agr.report.html.gallery import examples_of
from agr.report.leaderboard import leaderboard_sheets
from agr.report.notes import setting_notes
from agr.report.numbers import TableCell
from agr.report.outcomes import Outcomes, in_group
from agr.report.page_tables import (
    GAP,
    cells_table,
    equals_of,
    gap_first,
    ranked,
    tables_of,
    transfers_of,
)
from agr.report.pairwise import pair_differences, transfer_differences
from agr.report.tables import table_sheets

SILENT = (NOT_ASKED, NOT_RUN)  # verdicts that need no sentence beside the grid


@dataclass(frozen=True)
class Findings:
    """Contents of the records of some cells, judged and compared."""

    cells: Sequence[Cell]
    command: Callable[[str], str]  # of a program of scripts/, by its name
    outcomes: Outcomes
    verdicts: Verdicts
    tables: Sequence[Sheet]
    leaderboards: Sequence[Sheet]
    compared: dict[str, list[Compared]]  # every two attacks on each source and target, by norm
    transfers: dict[str, list[Compared]]  # every two attacks by their mean transfer, by norm
    runs: Sequence[RunInfo]  # run.json of the cells that have one
    figures: Sequence[Figure]
    checklist: Sequence[Question] = ()


def gather(
    cells: Sequence[Cell], sweeps: Sequence[Cell], claims: str, command: Callable[[str], str]
) -> Findings:
    """Read the records of cells and of sweeps over eps. Raises ConfigError."""
    outcomes = Outcomes(cells)
    untargeted = not all(cell.config.attack.targeted for cell in cells)
    norms = list(dict.fromkeys(norm for norm, *_ in outcomes.cells))
    with drawn_apart(outcomes, sweeps, command("make_figures")) as figures:
        return Findings(
            cells,
            command,
            outcomes,
            judge_claims(outcomes, claims),
            table_sheets([in_group(cell) for cell in cells]),
            leaderboard_sheets(cells) if untargeted else [],
            {norm: pair_differences(outcomes, norm) for norm in norms},
            {norm: transfer_differences(outcomes, norm) for norm in norms},
            [run for cell in cells if (run := Records(cell.folder).run())],
            figures(),
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
    boards = [ranked(t, found.transfers) for sheet in found.leaderboards for t in tables_of(sheet)]
    tables = [table for sheet in found.tables for table in tables_of(sheet)]
    differences = further(found)
    return Page(
        title=f"Transfer of adversarial attacks, suite {suite.name}",
        notice=suite.notice or "",
        summary=summary(found),
        answers=answers_of(found, boards or tables, differences),
        tables=tables,
        claims=[claim_of(found, *each) for each in found.verdicts.claims],
        claims_about=[found.verdicts.paper, *LEGEND],
        figures=found.figures,
        examples=examples_of(found.outcomes),
        leaderboards=boards,
        further=differences,
        checklist=found.checklist,
        provenance=provenance(found.runs),
        cells=cells_table(found.cells, found.runs, found.outcomes.missing()),
        commands=[found.command("make_report")],
        classes={int(c): name for run in found.runs for c, name in run.classes.items()},
    )


def answers_of(
    found: Findings, rates: Sequence[HtmlTable], differences: Sequence[HtmlTable]
) -> list[Answer]:
    """Return the five sentences, each with the tables that its numbers stand in."""
    said = answers(found.outcomes, found.transfers, found.verdicts)
    compared = [table for table in differences if table.name.startswith("transfer-")] or rates
    evidence: dict[str, list[tuple[str, HtmlTable | Figure | str]]] = {
        "claims": [("verdicts", "claims")],
        "transfer": [_link(table) for table in compared],
        "apart": [_link(table) for table in compared],
    }
    tables = [_link(table) for table in rates]
    return [Answer(QUESTIONS[key], text, evidence.get(key, tables)) for key, text in said.items()]


def _link(table: HtmlTable) -> tuple[str, HtmlTable]:
    """A table with the words of a link to it."""
    return table.caption.replace(": mean transfer of", ",").replace("of every two", "of two"), table


def claim_of(found: Findings, claim: Any, judged: dict[str, Judgement]) -> ClaimView:
    """Return a claim with its verdicts and every comparison behind them."""
    names = found.outcomes.titles()
    rows: list[list[TableCell]] = [
        [column, described(c, names), c.verdict, *gap_first(c), measure_title(c.measure)]
        for column, judgement in judged.items()
        for c in judgement.compared
    ]
    header = ["reading", "compared", "verdict", *GAP, "left", "right", "n", "measure"]
    details = HtmlTable(f"claim-{claim.name}", f"{claim.title}: every comparison", header, rows)
    return ClaimView(
        claim.title,
        claim.says,
        claim.where,
        {column: judgement.verdict for column, judgement in judged.items()},
        {column: j.why for column, j in judged.items() if j.verdict not in SILENT},
        details if rows else None,
    )


def further(found: Findings) -> list[HtmlTable]:
    """Return the tables of attacks that differ: in mean transfer, and on each source and target."""
    names = found.outcomes.titles()
    tables = [transfers_of(found.transfers[norm], norm, names) for norm in found.transfers]
    return [
        *(t for t in tables if t.rows),
        *(equals_of(found.compared[norm], norm, names) for norm in found.compared),
    ]
