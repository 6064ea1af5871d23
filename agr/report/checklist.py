"""A paper's reproducibility checklist, as far as the records of its runs can answer it.

The questions are those that NeurIPS and others ask of authors, in our words. Every answer comes
from run.json and the rows; what they don't hold is said to be not recorded, and where to look.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pandas as pd

from agr.config.cell import Cell
from agr.records.run_info import RunInfo
from agr.records.store import Records
from agr.report.claims.page import Verdicts
from agr.report.claims.spec import PAPER
from agr.report.formats import bullets
from agr.report.frames import selected
from agr.report.hyperparameters import whose
from agr.report.notes import idle_notes, setting_notes
from agr.report.numbers import MARKDOWN
from agr.report.outcomes import Outcomes
from agr.report.statistics import CONFIDENCE
from agr.utils.files import same_place
from agr.utils.text import plural

NOT_RECORDED = "not recorded"
NOT_STATED = "not stated"
OPEN = (
    "theory and proofs, ethics, societal impact, safeguards, people who took part and their "
    "consent, use of language models: the records say nothing of these"
)
MOST_NAMED = 40  # networks and commits, in one line


class Question(NamedTuple):
    """A question, and the sentences that answer it."""

    asked: str
    answers: list[str]


class Counted(NamedTuple):
    """Costs of some finished cells."""

    images: int
    gradients: int
    unknown: int  # images whose gradients another library doesn't count


def checklist(
    outcomes: Outcomes, verdicts: Verdicts, command: str, further: Sequence[Cell] = ()
) -> list[Question]:
    """Answer the checklist from the records of the cells in `outcomes`.

    Args:
        outcomes: the cells that are reported.
        verdicts: judgements of a paper's claims.
        command: the shell command that makes the report.
        further: other cells that figures show, whose cost counts.

    Raises ConfigError for damaged records.
    """
    cells = [*outcomes.cells.values()]
    every = list({cell.folder: cell for cell in [*cells, *further]}.values())
    runs = [run for cell in every if (run := Records(cell.folder).run())]
    return [
        Question("Are the claims borne out by the results?", _claims(cells, verdicts)),
        Question("What are the limitations?", _limits(cells, outcomes)),
        Question("What is needed to reproduce the results?", _reproducing(runs, command)),
        Question("Are data and code open?", _access(cells, runs)),
        Question("What are the settings of the experiments?", _settings(cells)),
        Question("Are there error bars, and of what?", _error_bars(cells)),
        Question("What did the computations take?", _compute(every, runs)),
        Question("What are the licences of data, weights and code?", _licences(cells, runs)),
        Question("What is left for the authors to answer?", [OPEN]),
    ]


def markdown(questions: Sequence[Question]) -> str:
    """Return the checklist as Markdown."""
    parts = [f"## {MARKDOWN.escape(q.asked)}\n\n{bullets(q.answers)}" for q in questions]
    return "\n\n".join(["# Reproducibility checklist", *parts]) + "\n"


def _claims(cells: Sequence[Cell], verdicts: Verdicts) -> list[str]:
    lines = [f"claims of {verdicts.paper} (claims=FILE judges others), on these records:"]
    for claim, judged in verdicts.claims:
        counts = Counter(j.verdict for column, j in judged.items() if column != PAPER)
        said = ", ".join(f"{verdict} in {plural(n, 'reading')}" for verdict, n in counts.items())
        lines.append(f"{claim.title}: {said}")
    names = {n: cell for cell in cells for n in map(cell.bare, [*cell.sources, *cell.targets])}
    families = Counter(cell.family(name) or "unknown" for name, cell in names.items())
    of = ", ".join(f"{n} of family {family}" for family, n in families.items())
    suites = ", ".join(dict.fromkeys(cell.suite.name for cell in cells))
    scope = f"what they are shown on: suite {suites}, {plural(len(names), 'network')}, {of}"
    return [*lines, scope]


def _limits(cells: Sequence[Cell], outcomes: Outcomes) -> list[str]:
    done = len(outcomes.finished_places())
    lines = [f"{done} of {plural(len(cells), 'cell')} finished", *setting_notes(cells)]
    return [*lines, *idle_notes(cells), *outcomes.missing()]


def _reproducing(runs: Sequence[RunInfo], command: str) -> list[str]:
    numeric = [run.numeric for run in runs if run.numeric]
    commits = {run.git or f"{NOT_RECORDED} (git in run.json): no checkout" for run in runs}
    versions = {f"{name} {version}" for run in runs for name, version in run.versions.items()}
    same = {f"{i.precision}, {plural(i.threads, 'thread')}, {i.device}" for i in numeric}
    return [
        f"command: {command}",
        f"commit of agr: {_listed(commits)}",
        f"versions: {_listed(versions)}",
        f"numeric identity, within which results are the same bit by bit: {_listed(same)}; "
        "slots, width and each network's memory format: numeric in run.json",
        "order of the images and all draws: from the seed and the images' ids",
    ]


def _access(cells: Sequence[Cell], runs: Sequence[RunInfo]) -> list[str]:
    data = {f"{run.data.layout}, fingerprint {run.data.fingerprint}" for run in runs if run.data}
    weights = {f"{name} {digest[:16]}…" for run in runs for name, digest in run.weights.items()}
    saved = sum(cell.saves for cell in cells)
    return [
        f"images: {_listed(data)}",
        f"weights, sha256 (whole in run.json, weights): {_listed(weights)}",
        f"where data, weights and results can be had: {NOT_RECORDED}, but for the files that "
        "config.data and config.suite.networks in run.json name",
        "adversarial images saved beside the records: "
        + (f"up to {saved:,}" if saved else "none (save_adversarials=true keeps them)"),
    ]


def _settings(cells: Sequence[Cell]) -> list[str]:
    lines = []
    for title, of in _by_title(cells).items():
        budgets = {f"{c.config.norm.name} {c.config.eps:g}" for c in of}
        steps = {f"{c.config.steps}" for c in of}
        owners = {whose(c) for c in of}
        lines.append(
            f"{title}: eps (0-255 scale) {_listed(budgets)}; T = {_listed(steps)}; "
            f"hyperparameters: {_listed(owners)}"
        )
    keys = ("n_images", "select", "split", "quantize", "denominator", "ensemble")
    common = [f"{key}={_listed({str(getattr(c.config, key)) for c in cells})}" for key in keys]
    success = _listed({cell.success for cell in cells})
    return [
        *lines,
        f"images: {', '.join(common)}; success={success}",
        "every other key: config in the run.json of each cell",
    ]


def _error_bars(cells: Sequence[Cell]) -> list[str]:
    seeds = sorted({cell.config.seed for cell in cells})
    numbers = [frame["image_id"].nunique() for c in cells if (frame := _frame(c)) is not None]
    images = f"{min(numbers):,} to {max(numbers):,}" if numbers else "none yet"
    return [
        f"rates: {100 * CONFIDENCE:.0f} % Wilson intervals over images; images per cell: {images}",
        "differences: on the same images, by McNemar's exact test, of means by a bootstrap over "
        "images, with Holm's correction",
        f"seeds: {', '.join(map(str, seeds))}"
        + (
            ""
            if len(seeds) > 1
            else "; variation over seeds: not measured (agr compare seeds=N measures it)"
        ),
        "networks are fixed: that others, trained anew, would come out alike is not measured",
    ]


def _compute(cells: Sequence[Cell], runs: Sequence[RunInfo]) -> list[str]:
    sessions = [session for run in runs for session in run.sessions]
    machines = {f"{i.device}, {plural(i.threads, 'thread')}" for r in runs if (i := r.numeric)}
    counted = _counted(cells)
    seconds, crafting = (
        sum(getattr(s, name) for s in sessions) for name in ("seconds", "crafting_seconds")
    )
    unknown = f" (of {plural(counted.unknown, 'image')} unknown)" if counted.unknown else ""
    return [
        f"machine: {_listed(machines)}",
        f"time: {seconds:,.0f} s in {plural(len(sessions), 'session')}, added up, of which "
        f"{crafting:,.0f} s went into crafting; figures' sweeps over eps included",
        f"gradients: {counted.gradients:,} for {plural(counted.images, 'attacked image')}{unknown}",
        f"passes of whole batches: {sum(s.batch_forwards for s in sessions):,} forward, "
        f"{sum(s.batch_backwards for s in sessions):,} backward",
        f"memory, and runs that failed, were thrown away or went before these: {NOT_RECORDED}",
    ]


def _counted(cells: Sequence[Cell]) -> Counted:
    images = gradients = unknown = 0
    for cell in cells:
        if (frame := _frame(cell)) is not None:
            costs = frame.drop_duplicates("position")["backwards"]
            images += len(costs)
            gradients += int(costs.sum())
            unknown += int(costs.isna().sum())
    return Counted(images, gradients, unknown)


def _licences(cells: Sequence[Cell], runs: Sequence[RunInfo]) -> list[str]:
    data, weights = dict[str, set[str]](), dict[str, set[str]]()
    for cell in cells:
        own = same_place(cell.config.data.root, cell.suite.root)
        stated = cell.suite.data_license if own else None
        where = f"data_license in the suite's file {cell.suite.name}.yaml" if own else "data.root"
        said = stated or f"{NOT_STATED} (see {where})"
        data.setdefault(said, set()).add(cell.suite.name)
        for name in cell.networks:
            stated = cell.suite.networks[name].license
            weights.setdefault(stated or NOT_STATED, set()).add(cell.title(name))
    others = {name for run in runs for name in run.versions} - {"agr"}
    ours = {run.versions["agr"] for run in runs if "agr" in run.versions}
    lines = [f"images of suite {_listed(of)}: {said}" for said, of in data.items()]
    for said, of in weights.items():
        where = " (see license of the network in the suite's file)" * (said == NOT_STATED)
        lines.append(f"weights of {_listed(of)}: {said}{where}")
    return [
        *lines,
        f"code of agr, version {_listed(ours)}: Apache-2.0",
        f"code of {_listed(others)}: {NOT_RECORDED} (see each package's metadata)",
    ]


def _frame(cell: Cell) -> pd.DataFrame | None:
    return selected(cell, in_passing=True)


def _by_title(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.config.attack.title, []).append(cell)
    return found


def _listed(texts: Iterable[str]) -> str:
    """Join texts in order, up to MOST_NAMED of them; "not recorded" where there are none."""
    ordered = sorted({*texts})
    more = len(ordered) - MOST_NAMED
    ordered = [*ordered[:MOST_NAMED], *([f"and {more} more"] if more > 0 else [])]
    return ", ".join(ordered) or NOT_RECORDED
