"""The cells that a command line means: composed by Hydra, once for what the cells share."""

from __future__ import annotations

import itertools
import math
import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from omegaconf import DictConfig

from agr.config.cell import Cell
from agr.config.composer import Composer, hydra
from agr.config.cost import TooDear
from agr.config.distributions import offers
from agr.config.load import to_cell
from agr.config.overrides import (
    as_list,
    check_length,
    shards_of,
    with_seeds,
    without_flags,
    without_shards,
)
from agr.config.security import check_swept
from agr.utils.errors import ConfigError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

MOST_CELLS = 10_000  # in one sweep
# Overrides of Hydra's own node that a run reads.
HYDRA_KEYS = re.compile(r"hydra(/launcher|\.(launcher|searchpath|sweep|sweeper|mode)\b)")


class Composition(NamedTuple):
    """A composed command line."""

    cells: list[Cell]
    config: DictConfig  # of the overrides that don't sweep, with Hydra's own node `hydra`
    left_out: list[str]  # points of the sweep that aren't cells: why


def expand(overrides: Sequence[str]) -> list[Cell]:
    """Return the cells of a command line, as `compose_cells` does."""
    return compose_cells(overrides).cells


def compose_cells(overrides: Sequence[str], *, multirun: bool = True) -> Composition:
    """Compose the cells of a command line: one per point of its sweep and shard.

    Without `multirun` only an experiment's file can ask for a sweep. Raises ConfigError, with one
    line, for whatever a run could not work with.
    """
    with hydra() as loader:
        shards = shards_of(overrides)
        whole = without_shards(overrides) if shards else overrides
        given = [*map(as_list, with_seeds(without_flags(whole)))]
        for word in given:
            check_length(word)
        composer = Composer(loader, given)
        for o in composer.parsed:
            if o.is_hydra_override() and not HYDRA_KEYS.match(o.key_or_group):
                raise ConfigError(
                    f"{o.input_line} has no effect on a run: of Hydra it reads hydra/launcher, "
                    "hydra.launcher, hydra.searchpath and hydra.sweep; leave it out"
                )
        config = composer.compose(composer.plain, whole=True)
        # An experiment's file may sweep over keys that no override sets.
        by_file = config.hydra.sweeper.params or {}
        check_swept(by_file)
        keys = {o.key_or_group for o in composer.parsed}
        swept = [f"{key}={value}" for key, value in by_file.items() if key not in keys]
        parsed = composer.parsed + composer.parse(swept)
        sweeps = [o for o in parsed if o.is_sweep_override()]
        multirun = multirun or str(config.hydra.mode) == "RunMode.MULTIRUN"
        _check_sweeps(sweeps, shards, multirun=multirun)
        cells: list[Cell] = []
        too_dear: list[TooDear] = []
        for point in _points(parsed):
            try:
                cells.append(to_cell(composer.compose(point), point))
            except TooDear as e:
                too_dear.append(e)
        if too_dear and not cells:
            raise too_dear[0]
        if not cells:
            raise ConfigError(f"{' '.join(given)} means no cell: a sweep over nothing is in it")
        if shards:
            cells = [shard for cell in cells for shard in cell.shards(shards)]
        return Composition(cells, config, [*dict.fromkeys(map(str, too_dear))])


def check_overrides(overrides: Sequence[str]) -> None:
    """Raise ConfigError for a config file that says how Hydra runs, where no cell is to be run.

    Hydra's own flags (--help, --cfg …) set its logging up, which can call anything.
    """
    with hydra() as loader:
        given = [word for word in without_flags(overrides) if not word.startswith("-")]
        composer = Composer(loader, given)
        if composer.foreign:
            composer.compose_whole(composer.plain)


def given_by(overrides: Sequence[str]) -> dict[str, str]:
    """Return the distributions whose config files are in one composed config, with versions."""
    if not offers():
        return {}
    from hydra.types import RunMode

    with hydra() as loader:
        chosen = loader.compute_defaults_list("config", list(overrides), RunMode.RUN).defaults
    files = [each.config_path for each in chosen if each.config_path]
    return {o.distribution: o.version for o in offers() if any(map(o.has, files))}


def _points(parsed: Sequence[Override]) -> list[list[str]]:
    """The overrides of each point of a sweep, in the order in which Hydra's own sweeper goes."""
    axes: dict[str, list[str]] = {}
    for o in parsed:
        key = o.get_key_element()
        swept = o.sweep_string_iterator() if o.is_sweep_override() else None
        values = [o.get_value_element_as_str()] if swept is None else swept
        axes[key] = [f"{key}={value}" for value in values]
    return [list(point) for point in itertools.product(*axes.values())]


def _check_sweeps(sweeps: Sequence[Override], shards: int, *, multirun: bool) -> None:
    if shards and not multirun:
        raise ConfigError(f"shards={shards} is a sweep over shards: put -m first")
    for o in sweeps:
        if not multirun:
            raise ConfigError(
                f"Ambiguous value for argument '{o.input_line}': to sweep over its values put -m "
                "first; a list is [a,b]"
            )
        if o.is_hydra_override():
            key, _, value = (o.input_line or "").partition("=")
            quoted = shlex.quote(f"{key}='{value}'")
            raise ConfigError(
                f"{o.input_line} is a sweep, and one launcher starts all jobs: give one value; "
                f"quote it if the comma belongs to it, {quoted}"
            )
    cells = math.prod(map(_size, sweeps)) * (shards or 1)
    if cells > MOST_CELLS:
        raise ConfigError(
            f"the sweep has {cells:,.0f} cells, and at most {MOST_CELLS:,} are made at once: "
            "narrow it, or run it in parts"
        )


def _size(override: Override) -> float:
    """Number of values that an override sweeps over, without writing them down."""
    from hydra.core.override_parser.types import ChoiceSweep, RangeSweep

    sweep = override.value()
    if isinstance(sweep, RangeSweep):
        start, stop = float(sweep.start or 0), float(sweep.stop or 0)
        return max(0.0, (stop - start) / float(sweep.step or 1))
    return len(sweep.list) if isinstance(sweep, ChoiceSweep) else 1
