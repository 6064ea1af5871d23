"""What the programs of scripts/ are asked for: which cells, and where what they write goes."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agr.config.cell import Cell
from agr.config.compose import expand
from agr.config.overrides import without_flags, without_shards, words
from agr.jobs.session import run_first
from agr.report.claims.spec import load_claims
from agr.report.outcomes import Outcomes
from agr.report.tables import tables_folder
from agr.utils.errors import ConfigError

CLAIMS = "agr_paper"
ITSELF = "--run"  # the flag of ours: run what is missing first
# What a sweep over eps says itself, or has no use for.
OF_SWEEPS = ("experiment=", "norm=", "eps=", "targets=")


@dataclass(frozen=True)
class Asked:
    """The cells that figures, claims and the report show, and the words that mean them."""

    words: list[str]
    cells: list[Cell]
    claims: str
    sweeps: list[Cell] = field(default_factory=list)  # the same attacks over eps

    def folder(self, kind: str) -> Path:
        """Where what is made of these cells goes: outputs/SUITE/KIND/…"""
        return tables_folder(self.cells, self.words, kind)

    def command(self, script: str) -> str:
        """The command that makes it again."""
        return shlex.join(["python", f"scripts/{script}.py", ITSELF, *self.words])


def asked_for(arguments: Sequence[str], *, sweeps: bool = False) -> Asked:
    """What a program's words ask for, by default experiment=report; run first where they say --run.

    With `sweeps`, the sweeps over eps of experiment=eps_NORM as well, unless another experiment is
    named. Raises ConfigError.
    """
    given = [word for word in arguments if word not in (ITSELF, "-m", "--multirun")]
    claims = [word.partition("=")[2] for word in given if word.startswith("claims=")]
    if len(claims) > 1:
        raise ConfigError(f"claims={','.join(claims)}: one file at a time")
    given = [word for word in given if not word.startswith("claims=")]
    divided = without_flags(words(given, "experiment=report"))  # perhaps into shards
    asked = without_shards(divided)
    cells = expand(asked)
    name = claims[0] if claims else CLAIMS
    load_claims(name)  # what is wrong with either is said before anything is run
    Outcomes(cells)
    over_eps = _over_eps(divided, cells) if sweeps and "experiment=report" in asked else []
    if ITSELF in arguments:
        for each in (divided, *over_eps):
            run_first(each)
    shown = asked if name == CLAIMS else [*asked, f"claims={name}"]
    swept = [cell for each in over_eps for cell in expand(without_shards(each))]
    return Asked(shown, cells, name, swept)


def _over_eps(asked: Sequence[str], cells: Sequence[Cell]) -> list[list[str]]:
    """The words of a sweep over eps for every norm of `cells`."""
    rest = [word for word in asked if not word.startswith(OF_SWEEPS)]
    norms = dict.fromkeys(cell.config.norm.name for cell in cells)
    return [[f"experiment=eps_{norm}", *rest] for norm in norms]
