"""Records of some cells, read and judged once for every part of the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agr.config.cell import Cell
from agr.records.run_info import RunInfo
from agr.records.store import Records
from agr.report import leaderboard
from agr.report.claims.page import Verdicts, judge_claims
from agr.report.claims.wording import Compared
from agr.report.figures import Drawing
from agr.report.formats import Sheet
from agr.report.notes import setting_notes
from agr.report.outcomes import Outcomes, in_group
from agr.report.pairwise import pair_differences, transfer_differences
from agr.report.tables import table_sheets


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
        leaderboard.leaderboard_sheets(cells) if untargeted else [],
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


def provenance(found: Findings) -> list[tuple[str, str]]:
    """Return versions, commits, hashes of data and weights, and the numeric identity."""
    told: dict[str, set[str]] = {}
    for run in found.runs:
        for name, version in run.versions.items():
            told.setdefault(f"version of {name}", set()).add(version)
        told.setdefault("commit of agr", set()).add(run.git or "unknown")
        if run.data:
            told.setdefault("data", set()).add(f"{run.data.layout}, {run.data.fingerprint}")
        for name, digest in run.weights.items():
            told.setdefault(f"weights of {name}, sha256", set()).add(digest)
        for key, value in (vars(run.numeric) if run.numeric else {}).items():
            if key != "networks":
                told.setdefault(key, set()).add(str(value))
    return [(key, "; ".join(sorted(values))) for key, values in told.items()]
