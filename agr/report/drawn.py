"""The report's figures, for which another process reads the records where they are many."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

from agr.config.cell import Cell
from agr.report.figures import Drawing, check_finished, encoded
from agr.report.html.contract import Figure, HtmlTable
from agr.report.html.plotly_data import charts_of
from agr.report.numbers import Number, TableCell
from agr.report.outcomes import Outcomes

READABLE = 400  # rows of a figure's data that are shown below it
UNFOLDED = ("frontier", "transfer-linf")  # figures that are seen at once: they answer the question
MANY = 64  # cells for which a process of its own, which takes seconds to start, is worth it


@contextmanager
def drawn_apart(
    outcomes: Outcomes, sweeps: Sequence[Cell], command: str
) -> Iterator[Callable[[], list[Figure]]]:
    """Draw the figures of `figures_of` beside the caller's work; what is yielded waits for them.

    Raises ConfigError if no cell is finished.
    """
    check_finished(outcomes)
    if len(outcomes.cells) + len(sweeps) < MANY or (os.cpu_count() or 1) == 1:
        yield lambda: figures_of(outcomes, sweeps, command)
        return
    # Not a fork, which a process with other threads may not survive.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        cells = list(outcomes.cells.values())
        future = pool.submit(_figures_of_cells, cells, sweeps, command)
        try:
            yield future.result
        finally:
            future.cancel()


def _figures_of_cells(cells: Sequence[Cell], sweeps: Sequence[Cell], command: str) -> list[Figure]:
    return figures_of(Outcomes(cells), sweeps, command)


def figures_of(outcomes: Outcomes, sweeps: Sequence[Cell], command: str) -> list[Figure]:
    """Return the figures as pictures, with their numbers where these are few, and as charts."""
    drawing = Drawing(outcomes, sweeps)
    figures, charts = [], charts_of(drawing)
    for drawn in drawing.figures():
        data = None
        if len(drawn.data) <= READABLE:
            rows = [[_cell(v) for v in row] for row in drawn.data.itertuples(index=False)]
            data = HtmlTable(f"{drawn.name}-data", drawn.title, list(drawn.data.columns), rows)
        png = encoded(drawn.figure, "png")
        shown = (drawn.name, drawn.title, drawn.caption, png, command, data)
        figures.append(Figure(*shown, charts.get(drawn.name), drawn.name in UNFOLDED))
    return figures


def _cell(value: Any) -> TableCell:
    if isinstance(value, bool | str):
        return str(value)
    return Number(value, "d" if isinstance(value, int) else ".4g")
