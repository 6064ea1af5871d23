"""Seconds that a command takes to answer, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from agr.config.compose import expand
from scripts.bench.demo import run_quietly
from scripts.bench.options import DEMO_SOURCES, Options
from scripts.bench.timing import Contender, Measurement, interleave

HELP, CONFIG, FINISHED, TABLES = "--help", "--cfg job", "a finished cell", "tables of 36 cells"
SCRIPT = Path(__file__).parents[1] / "make_tables.py"
FEW = 8  # images of each cell
FINISHED_CELLS = 6


def startup(options: Options) -> Iterator[list[Measurement]]:
    """Yield the rows of the commands. Five runs at the default of three rounds: they are short.

    Of the 36 cells of the tables those with one source are finished, the others missing.
    """
    overrides = options.overrides("experiment=paper", f"n_images={FEW}", f"outputs={options.cells}")
    cells = [cell for cell in expand(overrides) if cell.source == DEMO_SOURCES[0]]
    cells = cells[:FINISHED_CELLS]
    for cell in cells:
        run_quietly(cell)
    run = [sys.executable, "-m", "agr.run"]
    commands = {
        HELP: [*run, "--help"],
        CONFIG: [*run, "--cfg", "job"],
        FINISHED: [*run, *cells[0].overrides],
        f"{TABLES}, {len(cells)} finished": [sys.executable, str(SCRIPT), *overrides],
    }
    works = {
        name: partial(subprocess.run, command, capture_output=True, check=True)
        for name, command in commands.items()
    }
    contenders = [Contender(name, work, 1) for name, work in works.items()]
    setting = f"demo suite, {FEW} images a cell"
    # Warm: the first call writes compiled files and brings others into the system's cache.
    yield interleave("startup", setting, contenders, 2 * options.rounds - 1, **options.how)[0]
