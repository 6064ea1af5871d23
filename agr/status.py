"""Show how far a sweep is, cell by cell, and the command for what is missing.

python -m agr.status [experiment=paper] [key=value ...]

Without experiment=… it shows the cells of the paper's tables, narrowed by the overrides; with -m it
takes the overrides of any sweep, as `python -m agr.run -m` does. Locks tell what runs, on whatever
machine; records tell what is done, whatever a cluster says of its jobs. For example:

    python -m agr.status -m attack=ifgsm,mifgsm,agr eps=2,4,8,16
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from agr.config.cell import Cell
from agr.config.compose import compose_cells
from agr.config.overrides import shell_command, sweep_overrides, without_shards
from agr.jobs.console import script
from agr.records.folders import failure_file
from agr.records.progress import progress
from agr.records.store import Records
from agr.utils.errors import ConfigError, first_line
from agr.utils.locks import Holder, alive
from agr.utils.text import printable

LONGEST = 100  # characters of an error in the table


class CellStatus(NamedTuple):
    """Progress of a cell, and who runs it or what went wrong."""

    word: str  # done | done, 2 lost | running | failed | damaged | begun | missing
    missing: int  # images
    wanted: int
    more: str  # who runs it, or what went wrong


def main(arguments: Sequence[str]) -> None:
    """Print one line per cell, the sum, and the command that fills the gaps."""
    overrides = without_shards(sweep_overrides(arguments))
    found, _, left_out = compose_cells(overrides)
    cells = list({cell.folder: cell for cell in found}.values())
    running = alive([path for cell in cells for path in Records(cell.folder).lock_files()])
    statuses = [status_of(cell, running) for cell in cells]
    rows = [_row(cell, status) for cell, status in zip(cells, statuses, strict=True)]
    header = ["attack", "norm, eps", "source", "seed", "state", "images", "run by, or error"]
    if not any(status.more for status in statuses):
        header, rows = header[:-1], [row[:-1] for row in rows]
    print(tabulate(rows, header, tablefmt="simple", disable_numparse=True))
    count = Counter(status.word for status in statuses)
    print(f"\n{len(cells)} cells: {', '.join(f'{n} {word}' for word, n in count.items())}")
    for line in left_out:
        print(f"left out: {line}")
    for cell, status in zip(cells, statuses, strict=True):
        if status.word == "failed":
            print(f"failed: {failure_file(cell.folder, '*')} has it whole; alone: {cell.command()}")
    if any(status.missing for status in statuses):
        print(f"what is missing: {_command(arguments)}")


def status_of(cell: Cell, running: Mapping[Path, Holder]) -> CellStatus:
    """Return how far a cell is; `running` are the locks that a living process holds."""
    records = Records(cell.folder)
    try:
        word, missing, wanted = progress(cell, records)
    except ConfigError as e:
        return CellStatus("damaged", cell.config.n_images, cell.config.n_images, first_line(e))
    if not missing:
        return CellStatus(word, missing, wanted, "")
    if holders := [str(running[path]) for path in records.lock_files() if path in running]:
        return CellStatus("running", missing, wanted, ", ".join(sorted(set(holders))))
    if failures := records.failures():
        shard, failure = next(iter(failures.items()))
        place = "" if shard == "0/1" else f"shard {shard}: "
        return CellStatus("failed", missing, wanted, f"{place}{failure['error']}"[:LONGEST])
    begun = "begun" if 0 < missing < wanted else "missing"
    return CellStatus("damaged" if word == "damaged" else begun, missing, wanted, "")


def _row(cell: Cell, status: CellStatus) -> list[object]:
    c = cell.config
    place = [c.attack.name, f"{c.norm.name} {c.eps:g}", cell.title(cell.source), c.seed]
    images = f"{status.wanted - status.missing} of {status.wanted}"
    return [*place, status.word, images, printable(status.more)]


def _command(arguments: Sequence[str]) -> str:
    return shell_command("-m", "agr.run", *sweep_overrides(arguments))


if __name__ == "__main__":
    script(lambda: main(sys.argv[1:]), __doc__)
