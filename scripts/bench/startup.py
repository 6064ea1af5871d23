"""Seconds until a command has answered, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial

from agr.config.compose import expand
from agr.config.schema import PACKAGE
from agr.evaluation.runner import run_cell
from scripts.bench.demo import quiet
from scripts.bench.options import DEMO_SOURCES, Options
from scripts.bench.timing import Contender, Row, interleave

HELP, CONFIG, FINISHED, TABLES = "--help", "--cfg job", "a finished cell", "tables of 36 cells"
SCRIPT = PACKAGE.parent / "scripts" / "make_tables.py"
FEW = 8  # images of each cell
FINISHED_CELLS = 6


def startup(options: Options) -> Iterator[list[Row]]:
    """The rows of the commands. Five runs at the default of three rounds: they are short.

    Of the 36 cells of the tables those with one source are finished, the others missing.
    """
    words = ("experiment=paper", f"n_images={FEW}", f"outputs={options.cells}")
    asked = options.words(*words)
    cells = [cell for cell in expand(asked) if cell.source == DEMO_SOURCES[0]][:FINISHED_CELLS]
    for cell in cells:
        run_cell(cell, quiet)
    run = [sys.executable, "-m", "agr.run"]
    commands = {
        HELP: [*run, "--help"],
        CONFIG: [*run, "--cfg", "job"],
        FINISHED: [*run, *cells[0].overrides],
    }
    if SCRIPT.exists():  # it is part of the checkout, not of the package
        commands[f"{TABLES}, {len(cells)} finished"] = [sys.executable, str(SCRIPT), *asked]
    contenders = [Contender(name, partial(_answer, c), 1) for name, c in commands.items()]
    setting = f"demo suite, {FEW} images a cell"
    # Not timed at first: compiled files are written, files come into the system's cache.
    yield interleave("startup", setting, contenders, 2 * options.rounds - 1, **options.how)[0]


def _answer(command: Sequence[str]) -> None:
    subprocess.run(command, capture_output=True, check=True)
