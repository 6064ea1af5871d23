"""What a sweep will do: its cells, which are done, and how long the others will take at most.

python -m agr.plan [experiment=paper] [key=value ...]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from tabulate import tabulate

from agr.config import Cell, expand
from agr.records import Records
from agr.run import script, words
from agr.todo import finished, todo, wanted_positions


def main(arguments: Sequence[str]) -> None:
    """Print one line per cell and the sum."""
    cells = expand(words(arguments, "experiment=paper"))
    costs: dict[tuple[str, ...], float] = {}
    rows, total = [], 0.0
    for cell in cells:
        state, missing = _state(cell)
        seconds = 0.0
        if missing:
            # Scoring and clean answers: at most two passes per target, each no dearer than a tick.
            ticks = cell.config.steps + 1 + 2 * len(cell.targets)
            seconds = missing * ticks * _seconds_per_tick(cell, costs)
        total += seconds
        c = cell.config
        eps = f"{c.norm.name} {c.eps:g}"
        rows.append([c.attack.name, eps, c.source, c.seed, state, _time(seconds)])
    header = ["attack", "norm, eps", "source", "seed", "state", "at most"]
    print(tabulate(rows, header, tablefmt="simple", disable_numparse=True))
    done = sum(row[4] == "done" for row in rows)
    print(f"\n{len(cells)} cells, {done} done; the others take at most about {_time(total)} here")
    if cells[0].suite.notice:
        print(cells[0].suite.notice)


def _state(cell: Cell) -> tuple[str, int]:
    """A word for the cell, and how many images it still has to craft or score."""
    records = Records(cell.folder)
    if finished(cell, records):
        return "done", 0
    wanted = wanted_positions(cell, records)
    work = todo(cell, records, wanted)
    missing = len(work.to_craft | work.to_score)
    return ("missing" if missing == len(wanted) else f"{missing} of {len(wanted)} left"), missing


def _seconds_per_tick(cell: Cell, costs: dict[tuple[str, ...], float]) -> float:
    """Seconds per image of one forward and gradient on the source: timed once per source."""
    c = cell.config
    key = (c.source, c.precision, c.memory_format)
    if key not in costs:
        costs[key] = _probe(cell)
    return costs[key]


def _probe(cell: Cell) -> float:
    import torch

    from agr.models.zoo import load_network
    from agr.numeric import device_of, settle

    numeric = settle(cell, (Records(cell.folder).run() or {}).get("numeric"))
    numeric.apply()
    network = load_network(
        cell.source,
        cell.suite.networks[cell.source],
        memory_format=numeric.memory_format,
        precision=numeric.precision,
        device=device_of(cell),
    )
    shape = (numeric.slots, 3, cell.geometry.size, cell.geometry.size)
    point = torch.rand(shape, dtype=network.dtype, device=network.device).requires_grad_()
    times = []
    for _ in range(4):  # the first call pays for what is set up once, another for a busy moment
        started = time.perf_counter()
        torch.autograd.grad(network(point).sum(), point)
        times.append(time.perf_counter() - started)
    return min(times) / numeric.slots


def _time(seconds: float) -> str:
    if not seconds:
        return "-"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


if __name__ == "__main__":
    script(lambda: main(sys.argv[1:]), __doc__)
