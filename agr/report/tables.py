"""The paper's Tables 1-3 from records: Markdown, LaTeX and CSV. Needs neither torch nor timm.

A table shows the cells of one sweep, found by their identity, so numbers of another eps, seed,
step count or attack can't slip in. A cell that is missing or unfinished is "—", with the command
that fills it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from agr.config.cell import Cell
from agr.report.formats import Block, Sheet, write_sheets
from agr.report.notes import all_unanswered, missing, setting, clean_accuracy_notes
from agr.report.numbers import NO_RUN, Number, TableCell
from agr.report.rates import NAN, NUMBER_OF, needed, norm_title, rates_and_sizes, selected
from agr.utils.hashing import slug

# Words that say where and how cells are run, not which ones are shown.
NOT_SHOWN = (
    *("experiment=", "suite=", "outputs=", "data.", "hydra", "--", "-", "slots=", "width="),
    *("threads=", "device=", "workers=", "shard=", "progress=", "part_seconds=", "check."),
    *("trace=", "save_adversarials=", "wait=", "shards="),
)

PAPER_SOURCE_OF_TABLE_3 = "inc_v3"
SIZES = {
    "rel_l2": "‖v‖₂/‖x‖₂",
    "mean_abs": "mean abs(v), [0,1]",
    "mean_abs_sym": "mean abs(v), [-1,1]",
}


def tables_folder(cells: Sequence[Cell], asked: Sequence[str], kind: str = "tables") -> Path:
    """A folder for each set of tables: the experiment, and the words that change what is shown."""
    experiment = next(word.partition("=")[2] for word in asked if word.startswith("experiment="))
    changes = sorted(word for word in asked if not word.lstrip("+").startswith(NOT_SHOWN))
    return cells[0].suite_folder / kind / slug(",".join([experiment, *changes]))


def write_tables(cells: Sequence[Cell], folder: Path) -> list[Path]:
    """Render the tables of a sweep's cells into `folder`, in place of older ones; the paths."""
    return write_sheets(sheets_of(cells), folder, "table[123].*")


def sheets_of(cells: Sequence[Cell]) -> list[Sheet]:
    """Tables 1-3 of a sweep's cells, as far as it has them. Raises ConfigError."""
    asr, amp = rates_and_sizes(cells)
    sheets = []
    for norm, number in NUMBER_OF.items():
        mine = [c for c in cells if c.config.norm.name == norm]
        if mine:
            part = asr[asr["norm"] == norm]
            budget = f"{norm_title(norm)} = {mine[0].config.eps:g}"
            caption = f"Table {number}: ASR (%), {budget}"
            notes = [*setting(mine), *_asr_notes(mine, part), *missing(mine, part)]
            sheets.append(Sheet(f"table{number}", caption, part, _asr_blocks(mine, part), notes))
    mine = [c for c in cells if c.source == PAPER_SOURCE_OF_TABLE_3]
    if mine:
        part = amp[amp["source"] == PAPER_SOURCE_OF_TABLE_3]
        caption = f"Table 3: size of the perturbations crafted on {mine[0].title(mine[0].source)}"
        notes = [
            *setting(mine),
            "means over all images of a cell; the difference is that of ‖v‖₂/‖x‖₂",
            *missing(mine, part),
        ]
        sheets.append(Sheet("table3", caption, part, _size_blocks(mine, part), notes))
    return sheets


def _asr_blocks(cells: Sequence[Cell], frame: pd.DataFrame) -> list[Block]:
    """Make a block per group: a row per source and attack, two columns per target."""
    blocks = []
    groups = frame.groupby(["source", "target", "attack"])
    found = dict(iter(groups))
    means = groups["asr"].apply(lambda asr: asr.mean(skipna=False))
    best = means.groupby(["source", "target"]).max()
    for mine in _by_group(cells):
        targets = list(dict.fromkeys(t for c in mine for t in c.targets))
        header = ["Source", "Attack"]
        for target in targets:
            header += [mine[0].title(target), "paper (diff.)"]
        rows: list[list[TableCell]] = []
        for source in dict.fromkeys(c.source for c in mine):
            attacks = {c.config.attack.name: c for c in mine if c.source == source}
            for i, (attack, cell) in enumerate(attacks.items()):
                row: list[TableCell] = ["" if i else cell.title(source), cell.config.attack.title]
                for target in targets:
                    seeds = found.get((source, target, attack))
                    if seeds is None:
                        row += [NO_RUN, NO_RUN]
                    else:
                        row += _asr_pair(seeds, best[source, target])
                rows.append(row)
        blocks.append(Block(header, rows))
    return blocks


def _by_group(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells of each group, in the suite's order; a source of no group is one of its own."""
    suite = list(cells[0].suite.groups.values())

    def place(cell: Cell) -> int:
        return next((i for i, g in enumerate(suite) if cell.sources[0] in g.networks), len(suite))

    grouped: dict[tuple[int, str], list[Cell]] = {}
    for cell in sorted(cells, key=place):
        i = place(cell)
        grouped.setdefault((i, cell.sources[0] if i == len(suite) else ""), []).append(cell)
    return list(grouped.values())


def _asr_pair(mine: pd.DataFrame, best: float) -> list[TableCell]:
    """Return the two cells of a target: ours with its interval, the paper's with the difference.

    `mine` has a row per seed; `best` is the highest mean of any attack.
    """
    paper, asr = mine["paper"].iloc[0], mine["asr"].mean(skipna=False)
    printed = Number(paper, ".2f", difference=asr - paper)
    if asr != asr:
        return [Number(NAN, text="n = 0" if mine["run"].all() else ""), printed]
    ours = Number(
        asr,
        interval=(mine["low"].iloc[0], mine["high"].iloc[0]),
        spread=_spread(mine["asr"]),
        bold=asr >= best - 1e-9,
        star=bool(mine["white_box"].iloc[0]),
    )
    return [ours, printed]


def _size_blocks(cells: Sequence[Cell], frame: pd.DataFrame) -> list[Block]:
    """Make Table 3: a row per norm and attack, a column per definition of size.

    The difference to the paper is that of the relative norm, the only definition under which all
    of the printed values are possible (docs/design.md, "Table 3").
    """
    header = ["Norm", "Attack", *SIZES.values(), "paper (diff.)", "n"]
    rows: list[list[TableCell]] = []
    for norm in dict.fromkeys(c.config.norm.name for c in cells):
        attacks = {c.config.attack.name: c for c in cells if c.config.norm.name == norm}
        for i, (attack, cell) in enumerate(attacks.items()):
            mine = frame[(frame["norm"] == norm) & (frame["attack"] == attack)]
            budget = f"{norm_title(norm)} = {cell.config.eps:g}"
            paper = mine["paper"].iloc[0]
            gap = mine["rel_l2"].mean(skipna=False) - paper
            rows.append(
                [
                    *("" if i else budget, cell.config.attack.title),
                    *(_mean(mine[key]) for key in SIZES),
                    Number(paper, ".3f", difference=gap, difference_form="+.4f"),
                    Number(int(mine["n"].sum()), "d"),
                ]
            )
    return [Block(header, rows)]


def _mean(values: pd.Series[float]) -> Number:
    """Return the mean over seeds, with the spread where there are several."""
    return Number(values.mean(skipna=False), ".4f", spread=_spread(values))


def _spread(values: pd.Series[float]) -> float | None:
    """Return the standard deviation over seeds, or None of one seed."""
    return values.std() if len(values) > 1 else None


def _asr_notes(cells: Sequence[Cell], frame: pd.DataFrame) -> list[str]:
    c = cells[0].config
    counts = frame[frame["run"]]["n"]
    n = f", n from {counts.min()} to {counts.max()}" if counts.nunique() > 1 else ""
    intervals = "" if frame["seed"].nunique() > 1 else "; brackets: 95 % Wilson interval"
    notes = [
        f"denominator={c.denominator}{n}, success={cells[0].success}{intervals}",
        "* white-box; bold: highest of its source and target; — no run, or not printed",
        "paper: the AGR paper's value; in brackets, ours minus the paper's",
    ]
    for cell in cells:
        if cell.smallest and (rows := selected(cell)) is not None:
            notes.append(
                f"{cell.config.attack.title} on {cell.title(cell.source)}: {needed(cell, rows)}"
            )
    return notes + clean_accuracy_notes(cells, frame) + all_unanswered(cells, frame)
