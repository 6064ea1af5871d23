"""What a config file from elsewhere may not do, and which flags of Hydra's are not for us.

Hydra makes what `hydra.callbacks` names, sets logging up with whatever classes it finds, and a
launcher may run lines of a shell. So how Hydra runs is for the command line to say, and whatever
it calls must be Hydra's own or of a package that `allow` names. See SECURITY.md.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from agr.config.schema import Config
from agr.config.targets import package_of, targets_of
from agr.utils.errors import ConfigError, first_line

# ---- files --------------------------------------------------------------------------------------

LARGEST_FILE = 1 << 20  # bytes; a suite of a hundred networks has 50,000
MOST_VALUES = 100_000  # once aliases are written out, which can double a file with each line
DEEPEST = 50


def check_yaml(path: Path) -> None:
    """Raise ConfigError for a file of configs that can't be read, or only for ever."""
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise ConfigError(f"{path} has {size:,} bytes, which are too many for a config")
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        if root is not None and _values(root, {}, 0) > MOST_VALUES:
            raise ConfigError(
                f"{path} has more than {MOST_VALUES:,} values once its aliases (*name) are "
                "written out: take them out"
            )
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path} is no text in UTF-8 ({first_line(e)}): save it as such") from e
    except yaml.YAMLError as e:
        raise wrong_yaml(path, e) from e
    except RecursionError as e:
        raise ConfigError(
            f"{path} is nested more than {DEEPEST} levels deep: make it flatter"
        ) from e
    except _Circle:
        raise ConfigError(f"{path}: an alias (*name) stands inside of what it means") from None


def wrong_yaml(path: Path, e: yaml.YAMLError) -> ConfigError:
    """What is wrong with a file, and in which line."""
    if isinstance(e, yaml.reader.ReaderError):
        return ConfigError(f"{path} is no YAML ({e.reason}): mend it")
    mark, problem = getattr(e, "problem_mark", None), getattr(e, "problem", None)
    line = f" line {mark.line + 1}" if mark else ""
    return ConfigError(f"{path}{line}: {problem or first_line(e)}: mend it")


class _Circle(Exception):
    """A value that holds itself."""


def _values(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """How many values a node holds; a node that is seen again counts again."""
    if known.get(id(node)) == -1:
        raise _Circle
    if depth > DEEPEST:
        raise RecursionError
    if id(node) not in known:
        known[id(node)] = -1  # it is being counted
        inner = [n for pair in node.value for n in (pair if isinstance(pair, tuple) else [pair])]
        inner = inner if isinstance(node, yaml.CollectionNode) else []
        known[id(node)] = 1 + sum(_values(n, known, depth + 1) for n in inner)
    return known[id(node)]


# ---- parts --------------------------------------------------------------------------------------

HOME = "agr"  # the package whose parts a config may always name


def check_target(key: str, target: str, module: str, allow: Container[str]) -> None:
    """Raise ConfigError for a part of `key` in a package that is neither ours nor in `allow`."""
    package = package_of(target)
    if package == HOME or package in allow:
        return
    own = f"{key} has _target_={target}: it must name a part of {module}: write one"
    raise ConfigError(f"{own}, or allow=[{package}] its package" if package.isidentifier() else own)


def check_parts(c: Config) -> None:
    """Raise ConfigError for parts of packages that the user hasn't allowed; nothing is loaded."""
    a = c.attack
    parts = {name: getattr(a, name) for name in ("start", "loss", "step", "stop", "library")}
    parts |= {f"views.{name}": part for name, part in a.views.items()}
    parts |= {f"chain.{name}": part for name, part in a.chain.items()}
    for slot, node in parts.items():
        module = slot.partition(".")[0].replace("chain", "stages")
        for target in targets_of(node):
            check_target(f"attack.{slot}", target, f"agr.attacks.{module}", c.allow)
    for name, node in c.defenses.items():
        for target in targets_of(node):
            check_target(f"defenses.{name}", target, "agr.models.defenses", ())


# ---- how Hydra runs -----------------------------------------------------------------------------

# What Hydra writes itself, and what an experiment is there to say.
FREE = {"hydra.mode", "hydra.overrides", "hydra.runtime", "hydra.sweeper.params"}
FREE |= {f"hydra.job.{key}" for key in ("name", "config_name", "override_dirname", "id", "num")}
CALLED = ("_target_", "()", "class")  # by Hydra, and by logging.config
OWN = ("hydra._internal.core_plugins.", "hydra.experimental.callbacks.", "hydra_plugins.")
LOGGING = ("logging.", "hydra._internal.logging_config.")
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")


def check_hydra(
    found: Mapping[str, Any], said: Mapping[str, Any] | None, allow: Container[str]
) -> None:
    """Raise ConfigError for code that Hydra would run and that the user hasn't allowed.

    Args:
        found: the node `hydra` of a composed config, not resolved.
        said: the same from the words about Hydra alone; what differs is from a config file. None
            where there are no files but our own.
        allow: packages whose code may run.
    """
    if said is not None:
        for place in _differing(found, said, "hydra"):
            raise ConfigError(
                f"{place} stands in a config file, and how Hydra runs is for the command line to "
                "say: take it out there, and give the word yourself if you trust it"
            )
    for place, target in _called(found, "hydra"):
        if not _is_own(place, target) and package_of(target) not in allow:
            raise ConfigError(
                f"{place}={target} is neither Hydra's nor of an installed plugin of Hydra's: take "
                f"it away, or allow=[{package_of(target)}] its package"
            )


def _differing(found: Any, said: Any, place: str) -> Iterator[str]:
    """The places where two nodes differ, but for FREE ones."""
    if place in FREE or found == said:
        return
    if isinstance(found, Mapping) and isinstance(said, Mapping):
        for key in {**found, **said}:
            yield from _differing(found.get(key), said.get(key), f"{place}.{key}")
    else:
        yield place


def _called(node: Any, place: str) -> Iterator[tuple[str, str]]:
    """Whatever a node has Python look up by name, and where."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key in CALLED:
                yield f"{place}.{key}", str(value)
            else:
                yield from _called(value, f"{place}.{key}")
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _called(value, f"{place}[{i}]")
    elif isinstance(node, str) and node.startswith(("ext://", "cfg://")):
        yield place, node


def _is_own(place: str, target: str) -> bool:
    if place.startswith(("hydra.job_logging", "hydra.hydra_logging")):
        return target in STREAMS or (
            target.startswith(LOGGING) and not target.startswith("logging.config")
        )
    return target.startswith(OWN)


def check_params(keys: Sequence[str]) -> None:
    """Raise ConfigError for what the sweep of an experiment's file may not sweep over."""
    for key in keys:
        if re.match(r"[+~]*(allow|hydra)\b", key):
            raise ConfigError(
                f"hydra.sweeper.params has {key}: a config file can't allow itself to run code, or "
                "say how Hydra runs: if you trust it, give the word yourself"
            )


# ---- flags --------------------------------------------------------------------------------------
