"""The paper's Tables 1-3 from records: Markdown, LaTeX and CSV.

A table shows the cells of one sweep. A cell that is missing or unfinished is "—", with the command
that runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from agr.config.cell import Cell
from agr.report.formats import Block, Sheet, write_sheets
from agr.report.frames import noted
from agr.report.notes import (
    clean_accuracy_notes,
    idle_notes,
    missing_notes,
    nonfinite_notes,
    perceptual_notes,
    setting_notes,
)
from agr.report.numbers import NO_RUN, Number, TableCell
from agr.report.rates import (
    APPEARANCE,
    NAN,
    TABLE_NUMBERS,
    budget_title,
    rates_and_sizes,
    unlike_paper,
)

PAPER_SOURCE_OF_TABLE_3 = "inc_v3"
USED = "L2 used (of eps)"
SIZES = {
    "rel_l2": "‖v‖₂/‖x‖₂",
    "mean_abs": "mean abs(v), [0,1]",
    "mean_abs_sym": "mean abs(v), [-1,1]",
}


def write_tables(cells: Sequence[Cell], folder: Path) -> list[Path]:
    """Write the tables of a sweep's cells in place of older ones; return the paths."""
    return write_sheets(table_sheets(cells), folder, "table[123].*")


def table_sheets(cells: Sequence[Cell]) -> list[Sheet]:
    """Return those of Tables 1-3 for which a sweep has cells. Raises ConfigError."""
    rates, sizes = rates_and_sizes(cells)
    sheets = []
    for norm, number in TABLE_NUMBERS.items():
        shown = [c for c in cells if c.config.norm.name == norm]
        if shown:
            frame = rates[rates["norm"] == norm]
            table = f"Table {number}: " if _printed(frame) else ""
            caption = f"{table}ASR (%), {budget_title(shown[0])}"
            used = sizes[sizes["norm"] == norm] if norm == "l2" else sizes.iloc[:0]
            notes = [*setting_notes(shown), *_rate_notes(shown, frame), *missing_notes(frame)]
            sheets.append(
                Sheet(f"table{number}", caption, frame, _rate_blocks(shown, frame, used), notes)
            )
    shown = [c for c in cells if c.source == PAPER_SOURCE_OF_TABLE_3]
    if shown:
        frame = sizes[sizes["source"] == PAPER_SOURCE_OF_TABLE_3]
        table = "Table 3: size" if _printed(frame) else "Size"
        caption = f"{table} of the perturbations crafted on {shown[0].title(shown[0].source)}"
        notes = [
            *setting_notes(shown),
            "means over all images of a cell",
            *perceptual_notes(name for name in APPEARANCE if frame[name].notna().any()),
            *_paper_notes(shown, frame, "the difference is that of ‖v‖₂/‖x‖₂"),
            *missing_notes(frame),
        ]
        sheets.append(Sheet("table3", caption, frame, [_size_block(shown, frame)], notes))
    return sheets


def _rate_blocks(cells: Sequence[Cell], frame: pd.DataFrame, used: pd.DataFrame) -> list[Block]:
    """Return a block per group: a row per source and attack, two columns per target.

    With sizes `used` (L2) there is a column for them: a step of eps/T leaves much of the budget.
    """
    printed = _printed(frame)
    groups = frame.groupby(["source", "target", "attack"])
    seeds_of = dict(iter(groups))
    means = groups["asr"].apply(lambda asr: asr.mean(skipna=False))
    best = means.groupby(["source", "target"]).max()
    blocks = []
    for group in _by_group(cells):
        targets = list(dict.fromkeys(t for c in group for t in c.targets))
        header = ["Source", "Attack", *[USED] * bool(len(used))]
        for target in targets:
            header += [group[0].title(target), *["paper (diff.)"] * printed]
        rows: list[list[TableCell]] = []
        for source in dict.fromkeys(c.source for c in group):
            attacks = {c.config.attack.name: c for c in group if c.source == source}
            for i, (attack, cell) in enumerate(attacks.items()):
                row: list[TableCell] = ["" if i else cell.title(source), cell.config.attack.title]
                if len(used):
                    row.append(_used(used[(used["source"] == source) & (used["attack"] == attack)]))
                for target in targets:
                    key = (source, target, attack)
                    known = key in seeds_of
                    shown = _rate_cells(seeds_of[key], best[key[:2]]) if known else [NO_RUN] * 2
                    row += shown[: 1 + printed]
                rows.append(row)
        blocks.append(Block(header, rows))
    return blocks


def _used(seeds: pd.DataFrame) -> Number:
    """Return the mean L2 norm of an attack's perturbations, and its share of the budget."""
    mean = seeds["l2"].mean(skipna=False)
    share = 100 * mean / seeds["eps_effective"].iloc[0]
    return Number(mean, ".0f", text=f"{mean:.0f} ({share:.0f} %)" if mean == mean else "")


def _printed(numbers: pd.DataFrame) -> bool:
    """True if the paper prints any of these numbers, and they are shown."""
    return bool(numbers["paper"].notna().any())


def _paper_notes(cells: Sequence[Cell], numbers: pd.DataFrame, meaning: str) -> list[str]:
    """Return the notes on the paper's values, where they are shown: in which ways it differs."""
    if not _printed(numbers):
        return []
    unlike = dict.fromkeys(way for cell in cells for way in unlike_paper(cell))
    asked = [f"paper=true: here it is {', '.join(unlike)}, unlike the paper"] if unlike else []
    return [f"paper: the AGR paper's value; {meaning}", *asked]


def _by_group(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Return the cells by group, in the suite's order, then those of each source of no group."""
    groups: dict[tuple[str, str], list[Cell]] = {(name, ""): [] for name in cells[0].suite.groups}
    for cell in cells:
        key = (cell.group_name, "") if cell.group_name else ("", cell.sources[0])
        groups.setdefault(key, []).append(cell)
    return [group for group in groups.values() if group]


def _rate_cells(seeds: pd.DataFrame, best: float) -> list[TableCell]:
    """Return the two cells of a target: our rate with its interval, and the paper's.

    Args:
        seeds: the rates of one source, target and attack, a row per seed.
        best: the highest mean of any attack, percent.
    """
    paper, asr = seeds["paper"].iloc[0], seeds["asr"].mean(skipna=False)
    papers = Number(paper, ".2f", difference=asr - paper)
    if asr != asr:
        return [Number(NAN, text="n = 0" if seeds["run"].all() else ""), papers]
    ours = Number(
        asr,
        interval=(seeds["low"].iloc[0], seeds["high"].iloc[0]) if len(seeds) == 1 else None,
        spread=_spread(seeds["asr"]),
        bold=asr >= best - 1e-9,
        star=bool(seeds["white_box"].iloc[0]),
    )
    return [ours, papers]


def _size_block(cells: Sequence[Cell], frame: pd.DataFrame) -> Block:
    """Return Table 3: a row per norm and attack, a column per definition of size.

    The difference to the paper is that of the relative norm, the only definition under which all
    of the printed values are possible (docs/design.md, "Table 3").
    """
    printed = _printed(frame)
    forms = {key: (title, ".4f") for key, title in SIZES.items()}
    also = {key: shown for key, shown in APPEARANCE.items() if frame[key].notna().any()}
    titles, others = ([title for title, _ in known.values()] for known in (forms, also))
    header = ["Norm", "Attack", *titles, *["paper (diff.)"] * printed, *others, "n"]
    rows: list[list[TableCell]] = []
    for norm in dict.fromkeys(c.config.norm.name for c in cells):
        attacks = {c.config.attack.name: c for c in cells if c.config.norm.name == norm}
        for i, (attack, cell) in enumerate(attacks.items()):
            seeds = frame[(frame["norm"] == norm) & (frame["attack"] == attack)]
            paper = seeds["paper"].iloc[0]
            gap = seeds["rel_l2"].mean(skipna=False) - paper
            row: list[TableCell] = ["" if i else budget_title(cell), cell.config.attack.title]
            row += [_mean(seeds[key], form) for key, (_, form) in forms.items()]
            row += [Number(paper, ".3f", difference=gap, difference_form="+.4f")] * printed
            row += [_mean(seeds[key], form) for key, (_, form) in also.items()]
            rows.append([*row, Number(int(seeds["n"].sum()), "d")])
    return Block(header, rows)


def _mean(of_seeds: pd.Series[float], form: str) -> Number:
    """Return the mean of a size over seeds, with its standard deviation."""
    return Number(of_seeds.mean(skipna=False), form, spread=_spread(of_seeds))


def _spread(values: pd.Series[float]) -> float | None:
    """Return the standard deviation over seeds; None for one seed."""
    return values.std() if len(values) > 1 else None


def _rate_notes(cells: Sequence[Cell], frame: pd.DataFrame) -> list[str]:
    """Return the notes below Table 1 or 2, about its rates."""
    counts = frame[frame["run"]]["n"]
    n = f", n from {counts.min()} to {counts.max()}" if counts.nunique() > 1 else ""
    if counts.nunique() == 1 and counts.max() < cells[0].config.n_images:
        n = f", n = {counts.max()}"
    intervals = "" if frame["seed"].nunique() > 1 else "; brackets: 95 % Wilson interval"
    notes = [
        f"denominator={cells[0].config.denominator}{n}, success={cells[0].success}{intervals}",
        "* white-box; bold: highest of its source and target; — no run, or not printed",
    ]
    notes += _paper_notes(cells, frame, "in brackets, ours minus the paper's")
    for cell in cells:
        if cell.smallest and (found := noted(cell)):
            attack, source = cell.config.attack.title, cell.title(cell.source)
            notes.append(f"{attack} on {source}: {found.smallest}")
    notes += idle_notes(cells)
    return [*notes, *clean_accuracy_notes(cells, frame), *nonfinite_notes(cells, frame)]
