"""Networks by their names; names and hashes of things."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from agr.config.schema import NetworkConfig
from agr.utils.errors import ConfigError, nearest


def same_network(a: NetworkConfig, b: NetworkConfig) -> bool:
    """Whether two entries are one network, by whatever names."""
    idle = ("title", "tag", "top1", "sha256")
    return all(getattr(a, f.name) == getattr(b, f.name) for f in fields(a) if f.name not in idle)


def undefended(target: str, defenses: Iterable[str]) -> tuple[str, list[str]]:
    """A target's network and its defenses, in their order: "vgg16/jpeg75" is vgg16 and jpeg75."""
    name = target
    found: list[str] = []
    while "/" in name and name.rpartition("/")[2] in defenses:
        name, _, last = name.rpartition("/")
        found.insert(0, last)
    return name, found


def with_networks(config: DictConfig) -> DictConfig:
    """`config`, with every network that it names written out.

    What the suite doesn't say of a network comes from agr.config.registry, which has to load
    timm for it; so suites write out the networks that are used every day. Raises ConfigError.
    """
    known = config.suite.networks
    named = _named_networks(config)
    short = [n for n in known if OmegaConf.is_missing(known[n], "architecture")]
    if not short and all(name in known for _, name in named):
        return config
    from agr.config.registry import describe, is_tag, known_to_timm

    config = copy.deepcopy(config)
    known = config.suite.networks
    OmegaConf.set_struct(known, False)
    used = {name for _, name in named} | {
        n for g in config.suite.groups.values() for n in g.networks
    }
    for name in short:
        if name not in used:
            del known[name]
            continue
        default = {f.name: f.default for f in fields(NetworkConfig)}
        said: Any = OmegaConf.to_container(known[name], resolve=True)
        own = {k: v for k, v in said.items() if v and v != default[k]}  # "???" is missing in both
        if "tag" not in own:
            raise ConfigError(f"network {name} of the suite has neither architecture nor tag")
        known[name] = NetworkConfig(
            **describe(own["tag"], f"network {name}") | {"title": name} | own
        )
    for place, name in named:
        if name not in known:
            _refuse_mistyped_defense(place, name, config)
            if not is_tag(name):
                hint = f"known: {', '.join(known)}, timm's names, and TAG:FILE"
                every = [*known, *known_to_timm()]
                raise ConfigError(f"{place} is unknown: {nearest(name, every, hint)}")
            known[name] = NetworkConfig(**describe(name, place))
    return config


def _named_networks(config: DictConfig) -> list[tuple[str, str]]:
    """(where it stands in the config, name) of sources and targets, without defenses."""
    source, targets = config.source, config.targets
    sources = [source] if isinstance(source, str) else source
    if not isinstance(sources, list | ListConfig) or not all(isinstance(s, str) for s in sources):
        raise ConfigError(f"source={source} is no network: give a name, or a list [name,name]")
    if not sources or len(set(sources)) < len(sources):
        raise ConfigError(f"source={source}: an ensemble is a list of different networks")
    for name in sources:
        bare, defenses = undefended(name, config.defenses)
        if defenses and name not in config.suite.networks:
            raise ConfigError(
                f"source={name}: defenses are for targets; attack {bare} and score {name} with "
                f"targets=[{bare},{name}]"
            )
    if not all(isinstance(t, str) for t in targets or []):
        raise ConfigError(f"targets={targets}: give a list of names, [name,name]")
    bare_targets = [undefended(t, config.defenses)[0] for t in targets or []]
    return [(f"source={s}", s) for s in sources] + [(f"target {t}", t) for t in bare_targets]


def _refuse_mistyped_defense(place: str, name: str, config: DictConfig) -> None:
    """Raise ConfigError where the last part of a name stands behind a network, as a defense."""
    network, slash, defense = name.rpartition("/")
    bare = undefended(network, config.defenses)[0]
    if slash and (bare in config.suite.networks or Path(bare.partition(":")[2]).is_file()):
        raise ConfigError(f"{place}: {defense} is no defense: {nearest(defense, config.defenses)}")
