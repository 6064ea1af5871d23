"""What a sweep will do: its cells, which are done, and how long the others will take at most.

python -m agr.plan [experiment=paper] [key=value ...]

Without experiment=… the cells of the paper's tables are meant, narrowed by the words; with -m the
words are those of a sweep of one's own, as `agr.run -m` takes them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tabulate import tabulate

from agr.compose import expand
from agr.config import Cell
from agr.errors import ConfigError
from agr.records import Records
from agr.run import script, sweep_words
from agr.todo import progress

PROBE_SECONDS = 5.0  # per source


def main(arguments: Sequence[str]) -> None:
    """Print one line per cell and the sum."""
    cells = expand(sweep_words(arguments))
    costs: dict[tuple[str, ...], float | ConfigError] = {}
    rows, total, foreign = [], 0.0, 0
    for cell in cells:
        state, missing, _ = progress(cell, Records(cell.folder))
        cost = "?" if missing else duration(0)
        if missing and cell.library is not None:
            foreign += 1
        elif missing:
            tick = _seconds_per_tick(cell, costs)
            if isinstance(tick, float):
                seconds = at_most(cell, missing, tick)
                total += seconds
                cost = duration(seconds)
        c = cell.config
        eps, source = f"{c.norm.name} {c.eps:g}", cell.title(cell.source)
        rows.append([c.attack.name, eps, source, c.seed, state, cost])
    header = ["attack", "norm, eps", "source", "seed", "state", "at most"]
    print(tabulate(rows, header, tablefmt="simple", disable_numparse=True))
    done = sum(str(row[4]).startswith("done") for row in rows)
    rest = (
        f"; the others take at most about {duration(total)} here, and some seconds each to start"
        if total
        else ""
    )
    print(f"\n{len(cells)} cells, {done} done{rest}")
    unknown = [e for e in costs.values() if isinstance(e, ConfigError)]
    if unknown:
        print(f"?: not tried, {unknown[0]}" + (f" ({len(unknown)} such)" * (len(unknown) > 1)))
    if foreign:
        print("?: what an attack of another library costs isn't known")
    if cells[0].suite.notice:
        print(cells[0].suite.notice)


def at_most(cell: Cell, missing: int, tick: float) -> float:
    """Seconds that `missing` images of a cell take at most, at `tick` seconds per image and step.

    Scoring and clean answers are at most two passes per target, each no dearer than a tick.
    """
    steps = cell.config.steps * _gradients(cell)
    return missing * (steps + 1 + 2 * len(cell.targets)) * tick


def _gradients(cell: Cell) -> int:
    """Gradients that a step takes at most."""
    from agr.build import build_attack

    return build_attack(cell.config).gradients


def _seconds_per_tick(
    cell: Cell, costs: dict[tuple[str, ...], float | ConfigError]
) -> float | ConfigError:
    """Seconds per image of one forward and gradient on the source, or why they aren't known."""
    c = cell.config
    key = (cell.source, c.precision, c.memory_format)
    if key not in costs:
        try:
            costs[key] = _probe(cell)
        except ConfigError as e:  # a list of cells needs no weights
            costs[key] = e
    return costs[key]


def _probe(cell: Cell) -> float:
    from agr.lab import source_of
    from agr.numeric import device_of, settle
    from agr.probe import step_seconds

    stored = (Records(cell.folder).run() or {}).get("numeric")
    numeric = settle(cell, stored, cell.sources)
    network = source_of(cell, numeric, device_of(cell))
    return step_seconds(network, cell.geometry.size, numeric.slots, PROBE_SECONDS)


def duration(seconds: float) -> str:
    """Seconds in words."""
    if not seconds:
        return "-"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


if __name__ == "__main__":
    script(lambda: main(sys.argv[1:]), __doc__)
