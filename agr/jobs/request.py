"""Requests of figures, claims and the report: cells to show, what to run first, where to write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agr.config.cell import Cell
from agr.config.compose import expand
from agr.config.overrides import (
    MULTIRUN,
    shell_command,
    with_experiment,
    without_flags,
    without_shards,
)
from agr.jobs.needed import run_missing
from agr.report.claims.spec import load_claims
from agr.report.comparison.axes import output_folder
from agr.report.outcomes import Outcomes
from agr.utils.errors import ConfigError

CLAIMS = "agr_paper"
RUN_FLAG = "--run"  # run what is missing first
REPORT = "experiment=report"
FILLED = "experiment=filled"  # what the report has under L2 beside experiment=report
# Set by a sweep over eps itself.
SET_BY_SWEEPS = ("experiment=", "norm=", "eps=")


@dataclass(frozen=True)
class Request:
    """The cells that figures, claims and the report show, and the overrides that mean them."""

    overrides: list[str]
    cells: list[Cell]
    claims: str
    sweeps: list[Cell] = field(default_factory=list)  # the same attacks over eps

    def folder(self, kind: str) -> Path:
        """Folder for what is made of these cells: outputs/SUITE/KIND/…"""
        return output_folder(self.cells, self.overrides, kind)

    def command(self, script: str) -> str:
        """The shell command that reproduces this output."""
        return shell_command(f"scripts/{script}.py", RUN_FLAG, *self.overrides)


def parse_request(arguments: Sequence[str], *, sweeps: bool = False) -> Request:
    """Parse a program's arguments, by default experiment=report, and run first what --run asks for.

    With `sweeps`, the request has the sweeps over eps of experiment=eps_NORM too, unless another
    experiment is named. Raises ConfigError.
    """
    given = [word for word in arguments if word not in (RUN_FLAG, *MULTIRUN)]
    claims = [word.partition("=")[2] for word in given if word.startswith("claims=")]
    if len(claims) > 1:
        raise ConfigError(f"claims={','.join(claims)}: one file at a time")
    given = [word for word in given if not word.startswith("claims=")]
    divided = without_flags(with_experiment(given, REPORT))  # perhaps into shards
    overrides = without_shards(divided)
    parts = [(divided, expand(overrides))]
    parts += [(each, expand(without_shards(each))) for each in _filled(divided, parts[0][1])]
    cells = [cell for _, of_part in parts for cell in of_part]
    name = claims[0] if claims else CLAIMS
    load_claims(name)  # an error of either shows before anything is run
    Outcomes(cells)
    over_eps = _over_eps(divided, cells) if sweeps and REPORT in overrides else []
    swept = [(each, expand(without_shards(each))) for each in over_eps]
    if RUN_FLAG in arguments:
        for part in (*parts, *swept):
            run_missing(*part)
    shown = overrides if name == CLAIMS else [*overrides, f"claims={name}"]
    return Request(shown, cells, name, [cell for _, of_part in swept for cell in of_part])


def _filled(overrides: Sequence[str], cells: Sequence[Cell]) -> list[list[str]]:
    """Overrides of the report's further cells under L2, where it has L2 cells and all attacks."""
    given = [w for w in overrides if w.startswith(("norm=", "attack="))]
    l2 = any(cell.config.norm.name == "l2" for cell in cells)
    if REPORT not in overrides or not l2 or any(w.startswith("attack=") for w in given):
        return []
    return [[FILLED, *(w for w in overrides if w != REPORT and w not in given)]]


def _over_eps(overrides: Sequence[str], cells: Sequence[Cell]) -> list[list[str]]:
    """Overrides of a sweep over eps for every norm of `cells`."""
    rest = [word for word in overrides if not word.startswith(SET_BY_SWEEPS)]
    norms = dict.fromkeys(cell.config.norm.name for cell in cells)
    return [[f"experiment=eps_{norm}", *rest] for norm in norms]
