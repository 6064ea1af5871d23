"""Configs of other distributions: folders that installed packages offer by an entry point.

    [project.entry-points."agr.configs"]
    mine = "my_package:conf"

`conf` is a folder of the package `my_package`, which is found and never imported. It is searched
behind ours, as one that --config-dir names.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import Distribution
from pathlib import Path
from typing import NamedTuple

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from agr.config.schema import conf_dir
from agr.utils.errors import ConfigError, first_line
from agr.utils.program import DISTRIBUTION

GROUP = "agr.configs"  # of entry points
VALUE = re.compile(r"(\w+(?:\.\w+)*)(?::(\w[\w-]*(?:/\w[\w-]*)*))?")  # package:folder/in/it
WITHOUT = "AGR_WITHOUT"  # environment variable: distributions whose configs are left out


class Offer(NamedTuple):
    """A folder of configs, and the distribution that it came with."""

    distribution: str
    version: str
    folder: Path

    def has(self, config: str) -> bool:
        """Return whether a config file, such as "attack/mine", is in the folder."""
        return Path(self.folder, f"{config}.yaml").is_file()


class Offered(SearchPathPlugin):
    """The offered folders on Hydra's search path, behind ours."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folders."""
        for offer in offers():
            search_path.append(offer.distribution, f"file://{offer.folder}")


def offers() -> tuple[Offer, ...]:
    """Return the folders that installed distributions offer, in the order of Python's path.

    Raises ConfigError for an entry point that leads nowhere, and for a name that two give.
    """
    return _offers(tuple(sys.path), os.environ.get(WITHOUT, ""))


@cache
def _offers(places: Sequence[str], without: str) -> tuple[Offer, ...]:
    left_out = {_canonical(name) for name in without.split(",")}
    seen = set[str]()
    found = []
    for about in _about(places):
        distribution = Distribution.at(about)
        name, version = about.name.partition("-")[0], "unknown"
        try:
            name, version = distribution.metadata["Name"] or name, distribution.version
            values = [point.value for point in distribution.entry_points.select(group=GROUP)]
        except Exception as e:
            if _canonical(name) in left_out:
                continue
            raise _broken(name, f"{about} can't be read ({first_line(e)})") from e
        # Of a distribution that is there twice, Python takes the first.
        if _canonical(name) not in seen | left_out:
            found += [Offer(name, version, _folder(name, value)) for value in values]
        seen.add(_canonical(name))
    _check_names(found)
    return tuple(found)


def _about(places: Iterable[str]) -> Iterator[Path]:
    """Yield the .dist-info of distributions that name our group.

    importlib.metadata would parse all that are installed, which takes some ten times as long.
    """
    for place in dict.fromkeys(map(os.path.abspath, places)):
        for file in sorted(Path(place).glob("*-info/entry_points.txt")):
            try:
                named = GROUP.encode() in file.read_bytes()
            except OSError:
                continue
            if named:
                yield file.parent


def _folder(distribution: str, value: str) -> Path:
    """Return the folder that an entry point names. Nothing of the package is run."""
    said = f'its entry point {GROUP} = "{value}"'
    if not (parts := VALUE.fullmatch(value)):
        raise _broken(distribution, f"{said} is not a package:folder")
    top, *inner = parts[1].split(".")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # of a module that was made by hand
        spec = None
    for i, name in enumerate(inner):
        places = (spec and spec.submodule_search_locations) or []
        spec = PathFinder.find_spec(".".join([top, *inner[:i], name]), places)
    places = (spec and spec.submodule_search_locations) or []
    folders = [Path(place, parts[2] or "") for place in places]
    if not folders:
        raise _broken(distribution, f"{said}: there is no package {parts[1]}")
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise _broken(distribution, f"{said}: {parts[1]} has no folder {parts[2]}")
    if not any(folder.rglob("*.yaml")):
        raise _broken(distribution, f"{said}: there are no .yaml files in {folder}")
    return folder


def _check_names(found: Sequence[Offer]) -> None:
    """Raise ConfigError for a file of the same name in two folders: one would never be found."""
    ours = Offer(DISTRIBUTION, "", Path(conf_dir()))
    for one, other in itertools.combinations([ours, *found], 2):
        if same := sorted(_names(one.folder) & _names(other.folder)):
            raise _broken(other.distribution, f"{one.distribution} gives {same[0]}.yaml, too")


@cache
def _names(folder: Path) -> set[str]:
    files = folder.rglob("*.yaml")
    return {file.relative_to(folder).with_suffix("").as_posix() for file in files}


def _broken(distribution: str, why: str) -> ConfigError:
    return ConfigError(
        f"the configs of the distribution {distribution}: {why}: mend or uninstall it, or go on "
        f"without them: {WITHOUT}={distribution}"
    )


def _canonical(name: str) -> str:
    """Return a distribution's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower().strip()
