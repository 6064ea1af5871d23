"""Hydra's overrides and flags on our command lines: split, checked, and put into order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from agr.utils.errors import ConfigError, first_line

MOST_SHARDS = 9999


def split_shards(words: Sequence[str]) -> list[str]:
    """Words in which `shards=3` is the sweep `shard=0/3,1/3,2/3`. Raises ConfigError."""
    given = [word for word in words if word.startswith("shards=")]
    if not given:
        return list(words)
    one = next((word for word in words if word.startswith("shard=")), None)
    if one:
        raise ConfigError(f"{given[0]} and {one}: give one, shards=K for all or shard=i/K for some")
    number = given[0].partition("=")[2]
    if len(given) > 1 or not re.fullmatch("[1-9][0-9]*", number) or int(number) > MOST_SHARDS:
        raise ConfigError(
            f"{' '.join(given)} is no number of shards: give shards=K, K from 1 to {MOST_SHARDS}"
        )
    sweep = ",".join(f"{i}/{number}" for i in range(int(number)))
    return [f"shard={sweep}" if word == given[0] else word for word in words]


def without_flags(arguments: Sequence[str]) -> list[str]:
    """The words of a command line without -m; --config-dir becomes a word that means the same."""
    words, rest = [], iter(arguments)
    for word in rest:
        flag, equals, value = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            words.append(f"hydra.searchpath=[{_quoted(value if equals else next(rest, ''))}]")
        elif word not in ("-m", "--multirun", "-r", "--run"):
            words.append(word)
    return words


def _quoted(path: str) -> str:
    """A path inside of a word, as Hydra reads it."""
    if re.fullmatch(r"[\w./~-]+", path):
        return path
    return "'" + path.replace("'", "\\'") + "'"


def words(arguments: Sequence[str], default: str) -> list[str]:
    """Hydra words for a script, with a default experiment where none is named."""
    named = any(word.startswith("experiment=") for word in arguments)
    return list(arguments) if named else [default, *arguments]


def pairs(arguments: Sequence[str]) -> dict[str, Any]:
    """The key=value words of a command that isn't Hydra's. Raises ConfigError."""
    try:
        given: Any = OmegaConf.to_container(OmegaConf.from_dotlist(list(arguments)))
    except Exception as e:
        raise ConfigError(f"{' '.join(arguments)} cannot be read: {first_line(e)}") from e
    return dict(given)


def sweep_words(arguments: Sequence[str]) -> list[str]:
    """The words of a sweep: with -m exactly those given, as to `agr.run`, else the paper's."""
    whole = {"-m", "--multirun"} & {*arguments}
    return list(arguments) if whole else words(arguments, "experiment=paper")


def without_shards(words: Sequence[str]) -> list[str]:
    """Words that mean whole cells, however the work on them was divided."""
    return [word for word in words if not word.startswith(("shard=", "shards="))]


COMPOSED = ("-m", "--multirun", "-r", "--run", "-cd", "--config-dir")  # those that run cells
SHOWN = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")  # by --info


VALUED = {  # flags, and what their value can be
    **dict.fromkeys(("--config-dir", "-cd", "--package", "-p"), ()),
    **dict.fromkeys(("--cfg", "-c"), ("job", "hydra", "all")),
}


OTHERS = (
    *("--help", "-h", "--hydra-help", "--version", "--resolve", "--shell-completion", "-sc"),
    *("--info", "-i", *(f"{flag}={what}" for flag in ("--info", "-i") for what in SHOWN)),
)


REFUSED = {
    "--experimental-rerun": "it would load a pickle, which can run any code: give the words again",
    "--config-path": "our configs are always read: name a folder of yours with --config-dir",
    "--config-name": "our config.yaml is always read: choose files by words, as attack=own",
}


ONE_OF = [("-m", "--multirun"), ("-r", "--run"), ("--cfg", "-c"), ("--info", "-i")]


ONE_OF += [("--shell-completion", "-sc")]  # of which Hydra takes one


SHORT = {"-cp": "--config-path", "-cn": "--config-name"}


def flags_first(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command with flags before words, as Hydra wants them.

    Raises ConfigError for flags that are none, lack their value, or aren't for us.
    """
    flags: list[str] = []
    words: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word in SHOWN and flags[-1:] in (["--info"], ["-i"]):
            flags[-1] += f"={word}"
        elif not word.startswith("-"):
            words.append(word)
        else:
            flags.append(_checked_flag(word, rest))
    given = {word.partition("=")[0] for word in flags}
    alone = [names[0] for names in ONE_OF if given & {*names}]
    if len(alone) > 1:
        raise ConfigError(f"{' and '.join(alone)} can't go together: give one of them")
    return flags + words


def _checked_flag(word: str, rest: list[str]) -> str:
    """A flag, with its value as --flag=value, which may be taken from the `rest`."""
    name, equals, value = word.partition("=")
    full = SHORT.get(name, name)
    if full in REFUSED:
        raise ConfigError(f"{full} is not for agr: {REFUSED[full]}")
    if name in VALUED:
        value = value if equals or not rest or "=" in rest[0] else rest.pop(0)
        if VALUED[name] and value not in VALUED[name]:
            raise ConfigError(f"{name}={value}: give one of {', '.join(VALUED[name])}")
        if name in ("--config-dir", "-cd") and not (value and Path(value).is_dir()):
            raise ConfigError(f"{name}={value} is no folder: name the one of your configs")
        return f"{name}={value}"
    if word not in (*COMPOSED, *OTHERS):
        raise ConfigError(
            f"{word} is no flag: -m sweeps, --config-dir=FOLDER adds configs of yours, --help"
        )
    return word
