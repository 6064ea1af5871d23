"""Render Tables 1-3 from records: python scripts/make_tables.py [--run] [key=value ...].

Takes the overrides of the run whose cells it shows, by default experiment=paper: seed=0,1,2 shows
means and spreads over seeds, experiment=readings adds AGR's readings and the stopped baselines,
denominator=target-correct counts only images that the target classifies correctly. With --run,
missing cells are run first. For example:

    python scripts/make_tables.py --run attack=agr norm=linf source=inc_v3
"""

from __future__ import annotations

import sys

from agr.config.compose import expand
from agr.config.overrides import with_experiment, without_shards
from agr.jobs.console import script
from agr.jobs.needed import run_missing
from agr.jobs.request import RUN_FLAG
from agr.report.comparison.axes import output_folder
from agr.report.tables import write_tables


def main() -> None:
    """Write the tables and print the Markdown ones."""
    given = [word for word in sys.argv[1:] if word != RUN_FLAG]
    divided = with_experiment(given, "experiment=paper")  # perhaps into shards
    asked = without_shards(divided)
    cells = expand(asked)
    if RUN_FLAG in sys.argv[1:]:
        run_missing(divided, cells)
    paths = write_tables(cells, output_folder(cells, asked, "tables"))
    for path in paths:
        if path.suffix == ".md":
            print(path.read_text(encoding="utf-8"))
    print("written:", *paths)


if __name__ == "__main__":
    script(main, __doc__)
