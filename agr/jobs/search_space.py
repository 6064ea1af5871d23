"""The search space of tuned leaderboards: keys of attacks with their values, and draws from it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from agr.config.cell import Cell
from agr.config.compose import expand
from agr.config.schema import conf_dir
from agr.config.yaml_files import named_file, read_yaml
from agr.utils.errors import ConfigError, nearest
from agr.utils.hashing import draw

MOST_VALUES = 1_000  # of one key
FEW = 10_000  # combinations that are put into an order as a whole; at least ten times the trials
# What a comparison gives to all attacks alike, and what is not a hyperparameter.
GIVEN = {"steps", "quantize", "eps", "norm", "targeted", "target", "label"}
GIVEN |= {"name", "title", "images"}

Values = Mapping[str, Any]  # of some keys; none: the authors' own


@dataclass(frozen=True)
class SearchSpace:
    """Values to try by key, such as "chain.momentum.decay"; `place` is its file."""

    place: Path
    values: dict[str, list[Any]]

    def of(self, cell: Cell) -> dict[str, list[Any]]:
        """Return the part that a cell's attack has and the command line doesn't fix.

        The step size of a single step is the budget, and isn't tuned.
        """
        has = leaves(cell)
        fixed = [word.lstrip("+~").partition("=")[0] for word in cell.attack_overrides]
        free = {
            key: values
            for key, values in self.values.items()
            if key in has
            and not any(f"attack.{key}.".startswith(f"{word}.") for word in fixed)
            and not (key == "size" and (cell.config.steps == 1 or not cell.composed))
        }
        return {key: values for key, values in free.items() if {*values} - {has[key]}}

    def settings(self, cell: Cell, trials: int) -> list[Values]:
        """Draw up to `trials` different settings for a cell's attack; the first is its own values.

        The others are drawn from the product of all values by hashes of the seed, the attack's name
        and a counter, so that more trials have the fewer ones among them. All there are, if these
        are fewer.
        """
        free, own = self.of(cell), leaves(cell)
        found: dict[int, Values] = {}
        for i in _order(cell, math.prod(map(len, free.values()))):
            setting = _setting(free, i)
            changed = {key: value for key, value in setting.items() if value != own[key]}
            if len(found) == trials - 1:
                break
            if changed:
                found.setdefault(i, changed)
        return [{}, *found.values()]


def _order(cell: Cell, total: int) -> Iterator[int]:
    """Yield the numbers below `total` in a seeded order: without end, and some again, if many."""
    if total <= FEW:
        yield from sorted(range(total), key=lambda i: _draw(cell, i))
    else:
        yield from (_draw(cell, i) % total for i in count())


def _draw(cell: Cell, i: int) -> int:
    return draw(cell.config.seed, "trial", cell.config.attack.name, i)


def _setting(free: Mapping[str, Sequence[Any]], index: int) -> dict[str, Any]:
    """Return the combination of values that a number stands for."""
    setting = {}
    for key, values in free.items():
        index, i = divmod(index, len(values))
        setting[key] = values[i]
    return setting


def leaves(cell: Cell) -> dict[str, Any]:
    """Return an attack's parameters by key, those that are `GIVEN` left out."""
    attack = {k: v for k, v in asdict(cell.config.attack).items() if k not in GIVEN}
    return dict(_leaves(attack, ""))


def _leaves(node: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{before}{name}.")
        elif value is not None and not isinstance(value, list) and name != "_target_":
            yield f"{before}{name}", value


def load_space(name: str, cells: Sequence[Cell]) -> SearchSpace:
    """Return a search space by name: a file of conf/tuning, or a path.

    Raises ConfigError, also for a key that no attack has: neither those of `cells` nor of ours.
    """
    place = named_file("tuning", name)
    content = read_yaml(place)
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{place} has no keys: write chain.momentum.decay: [0.5, 1] or the like")
    values = {str(key): _values(place, str(key), node) for key, node in content.items()}
    space = SearchSpace(place, values)
    for key in values:
        if key.partition(".")[0] in GIVEN:
            raise ConfigError(
                f"{place}: {key} is not tuned: steps, the budget and rounding are given, the same "
                "for all trials: take it out"
            )
    if place.parent != Path(conf_dir(), "tuning"):
        _check_known(space, cells)
    return space


def _check_known(space: SearchSpace, cells: Sequence[Cell]) -> None:
    known = {key for cell in cells for key in leaves(cell)}
    if {*space.values} <= known:
        return
    known |= {key for cell in expand(["attack=glob(*,exclude=_*)"]) for key in leaves(cell)}
    for key in space.values:
        if key not in known:
            hint = nearest(key, known, "`agr.run --cfg job` shows an attack's")
            raise ConfigError(f"{space.place}: no attack has the key {key}: {hint}")


def _values(place: Path, key: str, node: Any) -> list[Any]:
    """Return a key's values from a list or a range. Raises ConfigError."""
    if isinstance(node, dict):
        node = _range(place, key, node)
    scalars = isinstance(node, list) and all(isinstance(v, int | float | str) for v in node)
    if not scalars or not 0 < len(node) <= MOST_VALUES:
        raise ConfigError(
            f"{place}: {key}: {str(node)[:100]} is not a list of 1 to {MOST_VALUES:,} numbers or "
            "words: write [0.5, 1.0], or {from: 0.2, to: 1.0, by: 0.2}"
        )
    if len({*node}) < len(node):
        raise ConfigError(f"{place}: {key}: {str(node)[:100]} has a value twice: take one out")
    return list(node)


def _range(place: Path, key: str, node: Mapping[str, Any]) -> list[float]:
    """Return from, from + by, …, up to and with `to`."""
    ends = [node.get(name) for name in ("from", "to", "by")]
    numbers = [n for n in ends if isinstance(n, int | float) and math.isfinite(n)]
    if {*node} != {"from", "to", "by"} or len(numbers) < 3 or numbers[2] <= 0:
        raise ConfigError(
            f"{place}: {key}: {str(dict(node))[:100]} is not a range: write "
            "{from: 0.2, to: 1.0, by: 0.2}"
        )
    low, high, by = numbers
    steps = min(math.floor((high - low) / by + 1e-9), MOST_VALUES)
    exact = [low + i * by for i in range(steps + 1)]
    return [v if isinstance(v, int) else float(f"{v:.12g}") for v in exact]
