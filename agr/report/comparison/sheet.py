"""A comparison as a table: rates, and below them the differences from the baseline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from agr.report.comparison.axes import TARGET, axis_of
from agr.report.comparison.numbers import Comparison, Entry, Row
from agr.report.families import family_notes
from agr.report.formats import Block, Sheet
from agr.report.notes import (
    alternatives,
    clean_accuracy_notes,
    idle_notes,
    missing_notes,
    nonfinite_notes,
    perceptual_notes,
    setting_notes,
)
from agr.report.numbers import Number, TableCell, over_seeds_cell
from agr.report.rates import APPEARANCE, NAN, rate
from agr.report.statistics import LEVEL
from agr.utils.text import plural

Rows = dict[tuple[str, ...], list[list[TableCell]]]  # by the columns that they have


def comparison_sheet(comparison: Comparison) -> Sheet:
    """Return the table of a comparison; rows that have the same columns stand together."""
    rates, gaps = Rows(), Rows()
    against = [f"against {comparison.baseline}"] if comparison.baseline else []
    seeds = comparison.seeds if comparison.layout.column == TARGET else 0
    heads = [*against, *([f"95 % over {seeds} seeds"] if seeds else []), "gradients / image"]
    heads += [APPEARANCE[name][0] for name in comparison.sizes]
    for row in comparison.rows:
        mine = [e for e in comparison.entries if e.row == row]
        entries = [e for e in mine if e.cells or comparison.layout.column != TARGET]
        columns = tuple(e.column for e in entries)
        labels = comparison.labels(row)
        # The answer stands first: the mean transfer, and whether it differs from the baseline.
        answer = [comparison.verdict(row)] if against else []
        cost = [*([_over_seeds(entries)] if seeds else []), _range([e.gradients for e in entries])]
        for name in comparison.sizes:
            cost.append(_range([e.sizes.get(name, NAN) for e in entries], APPEARANCE[name][1]))
        numbers = [_rate(e) for e in entries]
        first = comparison.leading
        shown = [*labels, *numbers[:first], *answer, *cost, *numbers[first:]]
        rates.setdefault(columns, []).append(shown)
        if any(e.gap for e in entries):
            gaps.setdefault(columns, []).append([*labels, *map(_gap, entries)])
    blocks = [_block(comparison, columns, rows, heads) for columns, rows in rates.items()]
    blocks += [_block(comparison, columns, rows) for columns, rows in gaps.items()]
    what = "ASR" if comparison.layout.column == TARGET else "Mean transfer"
    by = ", ".join(comparison.layout.rows)
    caption = f"{what} (%) by {by} and {comparison.layout.column}"
    return Sheet("compare", caption, comparison.frame, blocks, list(_notes(comparison)))


def _block(
    comparison: Comparison, columns: Row, rows: list[list[TableCell]], heads: Sequence[str] = ()
) -> Block:
    """Return rows with their header: gaps, or rates with the `heads` of their other columns."""
    unit = "" if heads else ", points"
    titles = [f"{comparison.columns[column]}{unit}" for column in columns]
    first = comparison.leading
    return Block([*comparison.layout.rows, *titles[:first], *heads, *titles[first:]], rows)


def _rate(entry: Entry) -> TableCell:
    """An entry as a table shows it."""
    white = entry.target is not None and entry.cells[0].white_box(entry.target)
    interval = (entry.low, entry.high) if entry.value == entry.value else None
    spread = entry.seed_sd if entry.seed_sd == entry.seed_sd else None
    return Number(entry.value, interval=interval, spread=spread, star=white)


def _gap(entry: Entry) -> TableCell:
    """An entry's difference from the baseline, bold where it is significant."""
    gap = entry.gap
    if not gap or not gap.n:
        return ""
    return Number(gap.difference, "+.1f", (gap.low, gap.high), bold=entry.p_holm < LEVEL)


def _over_seeds(entries: Sequence[Entry]) -> TableCell:
    """The interval of the mean transfer over seeds."""
    mean = next(e for e in entries if e.of_all)
    return over_seeds_cell(mean.value, mean.seed_low, mean.seed_high)


def _range(values: Sequence[float], form: str = ".1f") -> TableCell:
    """A mean over images, such as the gradients, or its range over the columns."""
    known = [value for value in values if value == value]
    low, high = (min(known), max(known)) if known else (NAN, NAN)
    text = "" if f"{low:{form}}" == f"{high:{form}}" else f"{low:{form}} to {high:{form}}"
    return Number(low, form, text=text)


def _notes(comparison: Comparison) -> Iterator[str]:
    cells = comparison.cells
    yield from setting_notes(cells)
    fixed = {key: axis_of(cells, key) for key in ("attack", "norm", "eps", "source")}
    alike = [f"{k} {''.join(a.titles.values())}" for k, a in fixed.items() if len(a.titles) < 2]
    if alike:
        yield f"in all of it: {', '.join(alike)}"
    denominator = alternatives(cell.config.denominator for cell in cells)
    success = alternatives(cell.success for cell in cells)
    yield (
        f"denominator={denominator}, success={success}; mean transfer: the "
        "share of its black-box targets that an image fools, with a bootstrap interval over "
        "images; in a target's brackets Wilson's; * white-box"
    )
    if comparison.families:
        yield from family_notes(cells)
    if comparison.seeds:
        yield (
            f"±: standard deviation over {comparison.seeds} seeds, which choose the images, target "
            "labels and draws; 95 % over seeds: Student's interval of the seeds' means, which "
            "covers both images and draws"
        )
    if comparison.baseline:
        yield (
            f"differences from {comparison.baseline} are of the same images, in points; bold in "
            f"written files: p < {LEVEL:g} by McNemar's exact test, or by a bootstrap where an "
            "image has several targets or sources, with Holm's correction (mean transfer: over "
            f"{plural(comparison.tests, 'comparison')}); brackets are of one difference alone, and "
            "may exclude 0 where that correction doesn't find it significant"
        )
    for line in comparison.left_out:
        yield f"left out (—): {line}"
    rates = pd.DataFrame(
        [rate(cell, t, comparison.frame_of(cell)) for cell in cells for t in cell.targets]
    )
    yield from perceptual_notes(comparison.sizes)
    yield from idle_notes(cells)
    yield from clean_accuracy_notes(cells, rates)
    yield from nonfinite_notes(cells, rates)
    yield from missing_notes(rates)
