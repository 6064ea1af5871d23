"""Limits of config files from elsewhere: they run no code, and don't say how Hydra runs.

See SECURITY.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from agr.config.schema import SLOTS, Config
from agr.utils.errors import ConfigError
from agr.utils.hashing import digest

HOME = "agr"  # the package whose parts a config may always name
# What Hydra writes itself, and what an experiment's file is there to say.
FREE = {"hydra.mode", "hydra.overrides", "hydra.runtime", "hydra.sweeper.params"}
FREE |= {f"hydra.job.{key}" for key in ("name", "config_name", "override_dirname", "id", "num")}
# What tables show of an attack and a suite.
TEXTS = {
    "attack": ("name", "title"),
    "suite": ("name", "notice", "data_license", "groups", "networks"),
}
# A text of tables may say whether a variable is set, and nothing else of the environment.
SET_OR_NOT = re.compile(r"\$\{agr\.if_env:\w+(,[\w .-]*){2}\}")


def targets_of(node: Any) -> Iterator[str]:
    """Yield every `_target_` of a config node, however deep."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        for value in node.values():
            yield from targets_of(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from targets_of(value)


def code_of(package: str) -> str:
    """Hash of a package's Python files, "" if it isn't found; nothing of it is run."""
    spec = PathFinder.find_spec(package)
    if spec is None or spec.origin is None:
        return ""
    roots = [Path(place) for place in spec.submodule_search_locations or []]
    files = [(r, path) for r in roots for path in sorted(r.rglob("*.py"))]
    files = files or [(Path(spec.origin).parent, Path(spec.origin))]
    texts = ((str(p.relative_to(r)), hashlib.sha256(p.read_bytes()).hexdigest()) for r, p in files)
    return digest(list(texts))


def check_target(key: str, target: str, module: str, allow: Container[str]) -> None:
    """Raise ConfigError for a part of `key` in a package that is neither ours nor in `allow`."""
    package = target.partition(".")[0]
    if package == HOME or package in allow:
        return
    own = f"{key} has _target_={target}: it must name a part of {module}: write one"
    raise ConfigError(f"{own}, or allow=[{package}] its package" if package.isidentifier() else own)


def check_parts(c: Config) -> None:
    """Raise ConfigError for parts of packages that the user hasn't allowed; nothing is loaded."""
    for slot, node in c.attack.parts().items():
        module = SLOTS[slot.partition(".")[0]]
        for target in targets_of(node):
            check_target(f"attack.{slot}", target, f"agr.attacks.{module}", c.allow)
    for name, node in c.defenses.items():
        for target in targets_of(node):
            check_target(f"defenses.{name}", target, "agr.models.defenses", ())


def check_texts(config: DictConfig) -> None:
    """Raise ConfigError for a text of tables that is not written out.

    It could lead to the environment, by any number of steps, and so to a password; tables are
    published.
    """
    for key, parent, name in _published(config):
        if OmegaConf.is_interpolation(parent, name):
            node: Any = OmegaConf.to_container(parent, resolve=False)
            if not SET_OR_NOT.fullmatch(str(raw := node[name])):
                raise ConfigError(
                    f"{key}={raw}: it stands in tables, which may not show the environment: write "
                    "it out"
                )


def _published(config: DictConfig) -> Iterator[tuple[str, Any, str]]:
    """Yield (key, node, name) of texts of tables, after the nodes in which they and names stand."""
    for key in ("attack", "suite", "defenses"):
        yield key, config, key
    for parent, names in TEXTS.items():
        for name in names:
            yield f"{parent}.{name}", config[parent], name
    for kind in ("groups", "networks"):
        for name in (nodes := config.suite[kind]):
            yield f"suite.{kind}.{name}", nodes, name
    for name, network in config.suite.networks.items():
        yield f"suite.networks.{name}.title", network, "title"
        yield f"suite.networks.{name}.license", network, "license"


def check_hydra(composed: Any, by_user: Any) -> None:
    """Raise ConfigError where a config file says how Hydra runs.

    Hydra's own flags set up the logging that the node `hydra` names, and a launcher runs lines of a
    shell: both could run code. What a file sweeps over may no more lead to the environment than
    other texts of tables. `composed` is that node, not resolved, and `by_user` the same, composed
    from the user's own overrides of Hydra alone.
    """
    for place in _differing(composed, by_user, "hydra"):
        raise ConfigError(
            f"{place} stands in a config file, and how Hydra runs is for the command line to "
            "say: take it out there, and give the word yourself if you trust it"
        )
    params = composed["sweeper"].get("params")
    for key, value in params.items() if isinstance(params, dict) else [("attack", params)]:
        if re.match(r"\W*(attack|suite|defenses)\b", key) and "${" in str(value):
            raise ConfigError(
                f"hydra.sweeper.params has {value}: what is swept may stand in tables, which may "
                "not show the environment: write it out"
            )


def _differing(a: Any, b: Any, place: str) -> Iterator[str]:
    """The places where two nodes differ, but for FREE ones."""
    if place in FREE or a == b:
        return
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in {**a, **b}:
            yield from _differing(a.get(key), b.get(key), f"{place}.{key}")
    else:
        yield place


def check_swept(keys: Iterable[str]) -> None:
    """Raise ConfigError for keys that the file of an experiment may not sweep over."""
    for key in keys:
        if re.match(r"[+~]*(allow|hydra)\b", key):
            raise ConfigError(
                f"hydra.sweeper.params has {key}: a config file can't allow itself to run code, or "
                "say how Hydra runs: if you trust it, give the word yourself"
            )
