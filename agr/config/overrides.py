"""Overrides (key=value) and flags of our command lines: split, checked, and put into order."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from agr.config.schema import conf_dir
from agr.utils.errors import ConfigError, first_line
from agr.utils.program import as_called, is_agr

MOST_SHARDS = 9999
MOST_SEEDS = 1000
MOST_VALUES = 2_000  # in one override
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
            f"{' '.join(given)} is no number of {key}: give {form}, {letter} from 1 to {most}"
        )
    return int(number)


def parse_pairs(arguments: Sequence[str]) -> dict[str, Any]:
    """Parse the key=value arguments of a command that isn't Hydra's. Raises ConfigError."""
    try:
        pairs: Any = OmegaConf.to_container(OmegaConf.from_dotlist(list(arguments)))
    except Exception as e:
        raise ConfigError(f"{' '.join(arguments)} cannot be read: {first_line(e)}") from e
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
            raise ConfigError(f"{name}={value} is no folder: name the one of your configs")
        return f"{name}={value}"
    if word not in RUNNING_FLAGS and word not in PLAIN_FLAGS:
        raise ConfigError(
            f"{word} is no flag: -m sweeps, --config-dir=FOLDER adds configs of yours, --help"
        )
    return word
