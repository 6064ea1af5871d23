"""Ways on from cells that aren't finished: the command that goes on, and what is there already."""

from __future__ import annotations

from typing import Any

from agr.config.cell import Cell
from agr.records.claim import entry_at
from agr.records.progress import Wanted, complete
from agr.records.store import Records
from agr.report.frames import cell_key
from agr.utils.errors import ConfigError

_there: dict[tuple[Any, ...], int] = {}  # tables ask once for each target


def rest_of(*cells: Cell) -> str:
    """Return the commands that finish cells, with what else can be done as a shell's comment."""
    remarks = []
    if there := min(map(images_there, cells)):
        remarks.append(f"n_images={there} shows what is there")
    if any(entry_at(cell.folder) for cell in cells):
        remarks.append("to go on, copy the entry's records and give the copy as outputs=…")
    commands = " && ".join(cell.command() for cell in cells)
    return f"{commands}  # {'; '.join(remarks)}" if remarks else commands


def images_there(cell: Cell) -> int:
    """Return the largest n_images with which a cell would be finished, 0 if none does."""
    key = cell_key(cell)
    if key not in _there:
        records = Records(cell.folder)
        try:
            run = records.run()
            done = complete(cell, records, run) if run else None
        except ConfigError:  # damaged: who reads the rows will say so
            run = done = None
        _there[key] = 0
        if run and done:
            wanted, known = Wanted(cell, run), done.union(run.lost)
            n = next((p for p in range(wanted.n) if p in wanted and p not in known), wanted.n)
            _there[key] = n if any(p < n for p in done) else 0
    return _there[key]
