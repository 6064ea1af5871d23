"""A stranger's cell, made anew from our own configs: their networks and parts are never used."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from agr.config.cell import Cell
from agr.config.compose import expand
from agr.config.networks import undefended
from agr.config.schema import AttackConfig, Config, conf_dir
from agr.records.run_info import RunInfo
from agr.submission.checks import Unknown
from agr.submission.claimed import Entry
from agr.utils.errors import ConfigError, first_line

NAME = re.compile(r"[\w+][\w+-]*(/[\w+-]+)?", re.ASCII)  # of an attack's file in conf/attack


def our_cell(entry: Entry, words: Sequence[str], outputs: str) -> Cell:
    """Return the cell of an entry with our suite, networks, defenses and images.

    `words` are overrides of the reviewer: where images lie, folders of configs. The attack is still
    the entry's, and not to be built. Raises Unknown for a suite or network that isn't ours, and
    ConfigError where the entry's isn't what its name says.
    """
    theirs, ours = entry.cell.config, _our_suite(entry.cell.suite.name, tuple(words))
    for name in (*entry.cell.sources, *entry.cell.targets):
        if undefended(name, ours.defenses)[0] not in ours.suite.networks:
            raise Unknown(f"{name} is not a network of suite={ours.suite.name} here")
    device = "cpu" if _device(entry.run).startswith("cpu") else "auto"
    cell = Cell(
        replace(
            theirs, suite=ours.suite, defenses=ours.defenses, data=ours.data, allow=[], lpips=None,
            targets=entry.cell.targets, device=device, threads=None, slots=None, width=None,
            outputs=outputs, progress=False, resident=None, workers=2, graph=False,
        )
    )  # fmt: skip
    if cell.id != entry.cell.id:
        raise ConfigError(
            f"suite={ours.suite.name} has other networks, defenses or images here than in the "
            "records"
        )
    for target in cell.targets:
        if cell.network_digest(target) != entry.run.networks.get(target):
            raise ConfigError(f"{target} has another config here than in the records")
    return cell


def our_attack(entry: Entry, words: Sequence[str]) -> AttackConfig:
    """Return the config of an attack of ours, or of the reviewer's, if it has the cell's hash.

    Raises Unknown otherwise.
    """
    c, cell = entry.cell.config, entry.cell
    if c.attack.images:
        raise Unknown("its images were made by another program")
    name = c.attack.name
    folders = any(word.startswith("hydra.searchpath=") for word in words)  # the reviewer's own
    known = folders or Path(conf_dir(), "attack", f"{name}.yaml").is_file()
    if not NAME.fullmatch(name) or not known:
        raise Unknown(f"attack={name!r:.50} is none of agr's: its YAML is kept and not built")
    own = [f"attack={name}", f"norm={c.norm.name}", f"eps={c.eps!r}", f"eot={c.eot}"]
    own += [f"source=[{','.join(cell.sources)}]" if len(cell.sources) > 1 else f"source={c.source}"]
    suite = _suite_words(cell.suite.name, tuple(words))
    for steps in ([], [f"steps={c.steps}"]):
        try:
            (found,) = expand([*suite, *own, *steps])
        except ConfigError as e:
            raise Unknown(f"attack={name} can't be composed so: {first_line(e)}") from e
        if found.attack_hash == cell.attack_hash:
            return found.config.attack
    raise Unknown(f"attack={name} has other parts or parameters than agr's of this name")


def _device(run: RunInfo) -> str:
    return run.numeric.device if run.numeric else ""


def _our_suite(name: str, words: tuple[str, ...]) -> Config:
    (cell,) = expand(_suite_words(name, words))
    return cell.config


@lru_cache
def _suite_words(name: str, words: tuple[str, ...]) -> list[str]:
    """Return the overrides that mean the suite of a name, which may depend on the environment."""
    known = sorted(path.stem for path in Path(conf_dir(), "suite").glob("*.yaml"))
    asked = [word.removeprefix("suite=") for word in words if word.startswith("suite=")]
    others = [word for word in words if not word.startswith("suite=")]
    for file in asked or sorted(known, key=lambda stem: stem != name):
        (cell,) = expand([f"suite={file}", *others])
        if cell.suite.name == name:
            return [f"suite={file}", *others]
    raise Unknown(f"suite={name!r:.50} isn't known here")
