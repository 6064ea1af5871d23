"""What a sweep will do: its cells, which are done, and how long the others will take at most.

python -m agr.plan [experiment=paper] [key=value ...]

Without experiment=… the cells of the paper's tables are meant, narrowed by the words; with -m the
words are those of a sweep of one's own, as `agr.run -m` takes them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tabulate import tabulate

from agr.config.compose import expand
from agr.config.overrides import sweep_overrides
from agr.evaluation.estimate import (
    _seconds_per_tick,
    at_most,
    duration,
)
from agr.jobs.console import script
from agr.records.progress import progress
from agr.records.store import Records
from agr.utils.errors import ConfigError


def main(arguments: Sequence[str]) -> None:
    """Print one line per cell and the sum."""
    cells = expand(sweep_overrides(arguments))
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


if __name__ == "__main__":
    script(lambda: main(sys.argv[1:]), __doc__)
