"""List the cells of a sweep: which are done, and how long the others will take at most.

python -m agr.plan [experiment=paper] [key=value ...]

Without experiment=… it lists the cells of the paper's tables, narrowed by the overrides; with -m it
takes the overrides of any sweep, as `python -m agr.run -m` does. For example:

    python -m agr.plan -m attack=ifgsm,mifgsm,agr eps=2,4,8,16
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tabulate import tabulate

from agr.config.compose import compose_cells
from agr.config.overrides import sweep_overrides
from agr.evaluation.estimate import at_most, duration, seconds_per_step
from agr.jobs.console import script
from agr.records.progress import progress
from agr.records.store import Records
from agr.utils.errors import ConfigError

HEADER = ["attack", "norm, eps", "source", "seed", "state", "at most"]


def main(arguments: Sequence[str]) -> None:
    """Print one line per cell, and the sum."""
    cells, _, left_out = compose_cells(sweep_overrides(arguments))
    costs: dict[tuple[str, ...], float | ConfigError] = {}
    rows, total, done, foreign = [], 0.0, 0, 0
    for cell in cells:
        state, missing, _ = progress(cell, Records(cell.folder))
        done += not missing
        cost = "?" if missing else duration(0)
        if missing and not cell.composed:
            foreign += 1
        elif missing:
            step = seconds_per_step(cell, costs)
            if isinstance(step, float):
                seconds = at_most(cell, missing, step)
                total += seconds
                cost = duration(seconds)
        c = cell.config
        budget, source = f"{c.norm.name} {c.eps:g}", cell.title(cell.source)
        rows.append([c.attack.name, budget, source, c.seed, state, cost])
    print(tabulate(rows, HEADER, tablefmt="simple", disable_numparse=True))
    rest = f"; the others take at most about {duration(total)} here, and some seconds each to start"
    print(f"\n{len(cells)} cells, {done} done{rest if total else ''}")
    for line in left_out:
        print(f"left out: {line}")
    errors = [e for e in costs.values() if isinstance(e, ConfigError)]
    if errors:
        more = f" ({len(errors)} such)" if len(errors) > 1 else ""
        print(f"?: not tried, {errors[0]}{more}")
    if foreign:
        print("?: what an attack of another library costs isn't known")
    if cells[0].suite.notice:
        print(cells[0].suite.notice)


if __name__ == "__main__":
    script(lambda: main(sys.argv[1:]), __doc__)
