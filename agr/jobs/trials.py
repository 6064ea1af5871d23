"""Trials of hyperparameters: how many, of which values, and the cells that they are.

A trial is an ordinary cell of the tuning split, and an attack with other values a file of configs
in outputs/SUITE/trials: so all trials are one sweep, which resumes like any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from agr.config.cell import Cell
from agr.config.compose import expand
from agr.config.overrides import MOST_VALUES, quoted, split_own
from agr.jobs.search_space import SearchSpace, Values
from agr.records.claim import refuse_entry
from agr.utils.errors import ConfigError
from agr.utils.files import write_all
from agr.utils.hashing import digest, slug

TRIALS, IMAGES, SPACE = 8, 50, "standard"  # by default
MODES = {"true": False, "both": True}  # whether the authors' values are ranked as well
SEARCHED = "hydra.searchpath="
# Of the ranked images only, or set by the trials.
NOT_OF_TRIALS = (
    *("attack=", "n_images=", SEARCHED, "save_adversarials=", "trace=", "score_steps="),
    *("perceptual=", "lpips="),
)
Setting = tuple[str, float, int | None]  # norm, eps, and the most gradients


class Options(NamedTuple):
    """Options of a tuned leaderboard; `words` are those given."""

    both: bool
    trials: int
    images: int
    space: str
    words: tuple[str, ...]


def parse_options(arguments: Sequence[str]) -> tuple[Options | None, list[str]]:
    """Split off tuned=, trials=, tuning_images= and tuning=; None if nothing is to be tuned.

    Raises ConfigError.
    """
    keys = ("tuned", "trials", "tuning_images", "tuning")
    given, rest = split_own(arguments, keys)
    words = [f"{key}={value}" for key, value in given.items()]
    mode = given.pop("tuned", "false")
    if mode == "false":
        for key, value in given.items():
            raise ConfigError(
                f"{key}={value} tunes nothing by itself: add tuned=true or tuned=both"
            )
        return None, rest
    if mode not in MODES:
        raise ConfigError(f"tuned={mode} is unknown: give true, both (authors' and tuned) or false")
    trials = _number("trials", given, TRIALS, 2, 1_000)
    images = _number("tuning_images", given, IMAGES, 1, 1_000_000_000)
    if split := [word for word in rest if word.lstrip("+").startswith("split=")]:
        raise ConfigError(f"{split[0]} and tuned={mode}: the split is tuned's to set: leave it out")
    return Options(MODES[mode], trials, images, given.get("tuning", SPACE), tuple(words)), rest


def _number(key: str, given: Mapping[str, str], default: int, low: int, high: int) -> int:
    text = given.get(key, str(default))
    if not re.fullmatch(r"\d{1,10}", text, re.ASCII) or not low <= int(text) <= high:
        raise ConfigError(f"{key}={text} cannot be: give a whole number from {low} to {high:,}")
    return int(text)


class Trial(NamedTuple):
    """One choice of an attack's values under one setting, from all sources."""

    attack: Cell  # with its own values
    setting: Setting
    number: int  # from 1, its own values
    values: Values
    word: str  # attack=…
    cells: list[Cell]  # of the tuning split


def setting_of(cell: Cell) -> Setting:
    """Return a cell's norm, eps and budget of gradients."""
    return cell.config.norm.name, cell.config.eps, cell.config.gradients


def word_of(cell: Cell) -> str:
    """Return what stands behind attack= in a cell's overrides."""
    given = [w.partition("=")[2] for w in cell.overrides if w.startswith("attack=")]
    return given[-1] if given else cell.config.attack.name


def draw_trials(
    options: Options, space: SearchSpace, words: Sequence[str], cells: Sequence[Cell]
) -> list[Trial]:
    """Draw the trials of every attack that has something to tune, and compose their cells.

    Raises ConfigError for more of them than a sweep holds, and for one that `gradients` don't
    suffice for.
    """
    attacks = {word_of(cell): cell for cell in cells}
    drawn = {word: space.settings(cell, options.trials) for word, cell in attacks.items()}
    drawn = {word: settings for word, settings in drawn.items() if len(settings) > 1}
    if not drawn:
        raise ConfigError(
            f"tuning={options.space}: no attack of the leaderboard has a key of it that the "
            "command line leaves free: give other attacks, or a search space of your own"
        )
    files: dict[Path, bytes] = {}
    names: dict[str, list[tuple[str, Values]]] = {}
    for word, settings in drawn.items():
        for values in settings:
            name = _variant(attacks[word], word, values, files) if values else word
            names.setdefault(word, []).append((name, values))
    tried = [name for of_attack in names.values() for name, _ in of_attack]
    if len(tried) > MOST_VALUES:
        raise ConfigError(
            f"trials={options.trials} of {len(names)} attacks are {len(tried):,} settings, and a "
            f"sweep holds {MOST_VALUES:,}: give fewer trials, or fewer attacks at once"
        )
    refuse_entry(cells[0].config.outputs)
    write_all(files)
    found: dict[tuple[Setting, str], list[Cell]] = {}
    for cell in expand(trial_words(options, words, cells, tried)):
        found.setdefault((setting_of(cell), word_of(cell)), []).append(cell)
    trials = []
    for setting, word in dict.fromkeys((setting_of(cell), word_of(cell)) for cell in cells):
        for i, (name, values) in enumerate(names.get(word, ()), 1):
            if (setting, name) not in found:
                raise ConfigError(
                    f"gradients={setting[2]} don't suffice for a step of {word} with "
                    f"{shown(values)}: give more, or leave that key out of tuning={options.space}"
                )
            trials.append(Trial(attacks[word], setting, i, values, name, found[setting, name]))
    return trials


def trial_words(
    options: Options, words: Sequence[str], cells: Sequence[Cell], attacks: Iterable[str]
) -> list[str]:
    """Return the overrides of the sweep over all trials."""
    kept = [word for word in words if not word.startswith(NOT_OF_TRIALS)]
    return [
        *kept,
        searched(words, variants_folder(cells[0])),
        f"n_images={options.images}",
        "split=tuning",
        f"attack={','.join(dict.fromkeys(attacks))}",
    ]


def variants_folder(cell: Cell) -> Path:
    """Return the folder of configs of attacks with other values."""
    return cell.suite_folder / "trials"


def searched(words: Iterable[str], folder: Path) -> str:
    """Return the override that has Hydra read `folder` as well as the folders of `words`."""
    given = [word.partition("=")[2].strip("[]") for word in words if word.startswith(SEARCHED)]
    return f"{SEARCHED}[{','.join([*given[-1:], quoted(str(folder))])}]"


def _variant(cell: Cell, word: str, values: Values, files: dict[Path, bytes]) -> str:
    """Add the file of an attack with other values to `files`; return its name."""
    attack = cell.config.attack
    name = f"{slug(attack.name)}_{digest(values)[:6]}"
    content: dict[str, Any] = {"defaults": [f"/attack/{word}@_here_"], "name": name}
    content["title"] = f"{attack.title} ({shown(values)})"
    for key, value in values.items():
        *slots, last = key.split(".")
        node = content
        for slot in slots:
            node = node.setdefault(slot, {})
        node[last] = value
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    files[variants_folder(cell) / "attack" / f"{name}.yaml"] = text.encode()
    return name


def shown(values: Values) -> str:
    """Write values out: "size=full, chain.momentum.decay=0.8"."""
    return ", ".join(f"{key}={value}" for key, value in values.items())
