"""Overrides (key=value) and flags of our command lines: split, checked, and put into order."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Collection, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from agr.config.schema import Config, conf_dir
from agr.utils.errors import ConfigError, first_line, nearest
from agr.utils.program import as_called, is_agr

MOST_SHARDS = 9999
MOST_SEEDS = 1000
MOST_VALUES = 2_000  # in one override
SWEEPS = ("shards", "seeds")  # keys of a sweep that no config has
SLIP = 0.74  # likeness of a key that was mistyped: nmae is one of name
MULTIRUN = ("-m", "--multirun")
RUNNING_FLAGS = (*MULTIRUN, "-r", "--run", "-cd", "--config-dir")  # those with which cells run
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
VALUED_FLAGS = {  # with the values that are known
    "--config-dir": (),
    "-cd": (),
    "--package": (),
    "-p": (),
    "--cfg": ("job", "hydra", "all"),
    "-c": ("job", "hydra", "all"),
}
PLAIN_FLAGS = {"--help", "-h", "--hydra-help", "--version", "--resolve", "--shell-completion"}
PLAIN_FLAGS |= {"-sc", "--info", "-i"} | {f"{flag}={x}" for flag in ("--info", "-i") for x in INFO}
REFUSED_FLAGS = {
    "--experimental-rerun": "it would load a pickle, which can run any code: give the words again",
    "--config-path": "our configs are always read: name a folder of yours with --config-dir",
    "--config-name": "our config.yaml is always read: choose files by words, as attack=own",
}
SHORT_FLAGS = {"-cp": "--config-path", "-cn": "--config-name"}
# Hydra takes one of these.
EXCLUSIVE_FLAGS = (
    MULTIRUN, ("-r", "--run"), ("--cfg", "-c"), ("--info", "-i"), ("--shell-completion", "-sc"),
)  # fmt: skip


# Environment variables that a file of conf/suite reads.
VARIABLE = re.compile(r"\$\{(?:oc\.env|agr\.if_env):(\w+)")


def shell_command(*words: str) -> str:
    """Return a command of ours that works in a shell where we are: `words` follow "python".

    Where its suite finds images by an environment variable, its value is put in front.
    """
    suites = Path(conf_dir(), "suite").glob("*.yaml")
    texts = [file.read_text() for file in suites if f"suite={file.stem}" in words]
    read = {name: os.environ.get(name) for text in texts for name in VARIABLE.findall(text)}
    given = [f"{name}={shlex.quote(value)}" for name, value in read.items() if value]
    program = ["agr", *words[1:]] if is_agr(words) else ["python", *words]
    return " ".join([*given, as_called(shlex.join(program))])


# Keys that hold a list, of which a single name is one of one.
LISTS = re.compile(r"(\+{0,2}(?:targets|allow)=)([\w./:+-]+)")


def check_length(override: str) -> None:
    """Raise ConfigError for more values than Hydra's grammar reads in a few seconds."""
    if (values := override.count(",") + 1) > MOST_VALUES:
        raise ConfigError(
            f"{override[:40]}… lists {values:,} values, and a word holds at most {MOST_VALUES:,}: "
            "sweep with range(…), put a list into a config file, or run it in parts"
        )


def as_list(override: str) -> str:
    """Return targets=vgg16 as targets=[vgg16], and any other override as it is."""
    found = LISTS.fullmatch(override)
    return f"{found[1]}[{found[2]}]" if found and found[2] != "null" else override


# ---- overrides -----------------------------------------------------------------------------------


def with_experiment(arguments: Sequence[str], default: str) -> list[str]:
    """Return the arguments, with a default experiment in front where none is named."""
    named = any(word.startswith("experiment=") for word in arguments)
    return list(arguments) if named else [default, *arguments]


def sweep_overrides(arguments: Sequence[str]) -> list[str]:
    """Return a sweep's overrides: with -m exactly those given, else within experiment=paper."""
    if {*MULTIRUN} & {*arguments}:
        return list(arguments)
    return with_experiment(arguments, "experiment=paper")


def without_shards(overrides: Sequence[str]) -> list[str]:
    """Drop how the work is divided: what is left means whole cells."""
    return [word for word in overrides if not word.startswith(("shard=", "shards="))]


def shards_of(overrides: Sequence[str]) -> int:
    """Return the K of `shards=K`; 0 where it isn't given. Raises ConfigError."""
    given = [word for word in overrides if word.startswith("shards=")]
    if not given:
        return 0
    one = next((word for word in overrides if word.startswith("shard=")), None)
    if one:
        raise ConfigError(f"{given[0]} and {one}: give one, shards=K for all or shard=i/K for some")
    return _number_of(given, "shards=K", MOST_SHARDS)


def with_seeds(overrides: Sequence[str]) -> list[str]:
    """Return the overrides with `seeds=N` written out: seed=0,1,…,N-1. Raises ConfigError."""
    given = [word for word in overrides if word.startswith("seeds=")]
    if not given:
        return list(overrides)
    number = _number_of(given, "seeds=N", MOST_SEEDS)
    if one := next((word for word in overrides if word.startswith("seed=")), None):
        raise ConfigError(f"{given[0]} and {one}: give one, seeds=N for seed=0,1,… or your own")
    seeds = f"seed={','.join(map(str, range(number)))}"
    return [seeds if word == given[0] else word for word in overrides]


def _number_of(given: Sequence[str], form: str, most: int) -> int:
    """Return the number of the one word in `given`, whose form is like "shards=K"."""
    (key, _, letter), number = form.partition("="), given[0].partition("=")[2]
    if len(given) > 1 or not re.fullmatch("[1-9][0-9]*", number) or int(number) > most:
        raise ConfigError(
            f"{' '.join(given)} is not a number of {key}: give {form}, {letter} from 1 to {most}"
        )
    return int(number)


# ---- a command's own words -----------------------------------------------------------------------


def split_own(arguments: Sequence[str], own: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Split a command's own words, KEY=VALUE with a key in `own`, from all others.

    Raises ConfigError for one that is there twice or has no value, and for a key that is neither
    of `own` nor of the config, and nearly one of the former.
    """
    found: dict[str, str] = {}
    rest = []
    for word in arguments:
        key, equals, value = word.partition("=")
        if not equals or key not in own:
            if equals and (meant := _meant(key, own)):
                raise ConfigError(f"{word}: did you mean {meant}=?")
            rest.append(word)
        elif key in found or not value.strip():
            raise ConfigError(f"{word}: give {key}=… once, with a value")
        else:
            found[key] = value
    return found, rest


def _meant(key: str, own: Collection[str]) -> str | None:
    """Return the key of `own` that was mistyped, if it was."""
    plain = key.lstrip("+~")
    if plain in SWEEPS or plain in {f.name for f in fields(Config)}:
        return None
    return next(iter(get_close_matches(plain, own, n=1, cutoff=SLIP)), None)


def parse_pairs(arguments: Sequence[str], own: Collection[str] = ()) -> dict[str, Any]:
    """Parse the key=value arguments of a command that isn't Hydra's.

    Raises ConfigError, and for keys that aren't of `own`, if these are given.
    """
    try:
        pairs: Any = OmegaConf.to_container(OmegaConf.from_dotlist(list(arguments)))
    except Exception as e:
        raise ConfigError(f"{' '.join(arguments)} cannot be read: {first_line(e)}") from e
    if own and (bare := [word for word in arguments if "=" not in word]):
        raise ConfigError(f"{bare[0]}: give KEY=VALUE, with one of {', '.join(own)}")
    for key in pairs if own else ():
        if key not in own:
            raise ConfigError(f"{key}= is unknown: {nearest(str(key), own)}")
    return dict(pairs)


# ---- flags ---------------------------------------------------------------------------------------


def quoted(path: str) -> str:
    """Write a path as Hydra reads it in an override."""
    return path if re.fullmatch(r"[\w./~-]+", path) else "'" + path.replace("'", "\\'") + "'"


def without_flags(arguments: Sequence[str]) -> list[str]:
    """Drop -m and --run; --config-dir becomes the override that means the same."""
    overrides, rest = [], iter(arguments)
    for word in rest:
        flag, equals, value = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            folder = value if equals else next(rest, "")
            overrides.append(f"hydra.searchpath=[{quoted(folder)}]")
        elif word not in RUNNING_FLAGS:
            overrides.append(word)
    return overrides


def flags_first(arguments: Sequence[str]) -> list[str]:
    """Return a command's arguments with flags before overrides, as Hydra wants them.

    Raises ConfigError for flags that are unknown, lack their value, or aren't for us.
    """
    flags: list[str] = []
    overrides: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word in INFO and flags[-1:] in (["--info"], ["-i"]):
            flags[-1] += f"={word}"
        elif not word.startswith("-"):
            overrides.append(word)
        else:
            flags.append(_checked_flag(word, rest))
    given = {word.partition("=")[0] for word in flags}
    exclusive = [names[0] for names in EXCLUSIVE_FLAGS if given & {*names}]
    if len(exclusive) > 1:
        raise ConfigError(f"{' and '.join(exclusive)} can't go together: give one of them")
    return flags + overrides


def _checked_flag(word: str, rest: list[str]) -> str:
    """Return a flag, with its value as --flag=value, which may be taken from the `rest`."""
    name, equals, value = word.partition("=")
    full = SHORT_FLAGS.get(name, name)
    if full in REFUSED_FLAGS:
        raise ConfigError(f"{full} is not for agr: {REFUSED_FLAGS[full]}")
    if name in VALUED_FLAGS:
        value = value if equals or not rest or "=" in rest[0] else rest.pop(0)
        if VALUED_FLAGS[name] and value not in VALUED_FLAGS[name]:
            raise ConfigError(f"{name}={value}: give one of {', '.join(VALUED_FLAGS[name])}")
        if name in ("--config-dir", "-cd") and not (value and Path(value).is_dir()):
            raise ConfigError(f"{name}={value} is not a folder: name the one of your configs")
        return f"{name}={value}"
    if word not in RUNNING_FLAGS and word not in PLAIN_FLAGS:
        raise ConfigError(
            f"{word} is not a flag: -m sweeps, --config-dir=FOLDER adds configs of yours, --help"
        )
    return word
