"""Networks by their names: written out in a config, and checked."""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Collection, Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from agr.config.schema import FAMILIES, LARGEST_SIDE, MODES, RESIZING, Geometry, NetworkConfig
from agr.utils.errors import ConfigError, bare, first_line, nearest

MOST_CLASSES = 10_000_000
MOST_TARGETS, MOST_DEFENSES = 1_000, 16
# Arguments of timm.create_model, and of what it calls, about where weights come from.
WEIGHT_ARGUMENTS = (
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "pretrained_model_args",
    "checkpoint_path",
    "cache_dir",
    "num_classes",
    "model_name",
    "scriptable",
    "exportable",
)


def same_network(a: NetworkConfig, b: NetworkConfig) -> bool:
    """True if two entries are one network, by whatever names."""
    idle = ("title", "tag", "family", "top1", "license", "sha256")
    return all(getattr(a, f.name) == getattr(b, f.name) for f in fields(a) if f.name not in idle)


def numbers_of(network: NetworkConfig) -> dict[str, Any]:
    """Fields that decide a network's predictions; of its weights the hash counts, not the place."""
    known = asdict(network) | {"weights": Path(network.weights).name}
    idle = ("title", "tag", "family", "top1", "license", "crop", "interpolation", "mode")
    return {k: v for k, v in known.items() if k not in idle}


def without_place(defense: Any) -> Any:
    """Return the config of a defense without the place of its file, whose hash counts."""
    if isinstance(defense, list):
        return [*map(without_place, defense)]
    if isinstance(defense, dict) and "sha256" in defense:
        return {k: v for k, v in defense.items() if k != "file"}
    return defense


def undefended(target: str, defenses: Iterable[str]) -> tuple[str, list[str]]:
    """Split a target into its network and its defenses: "vgg16/jpeg75" is vgg16 and [jpeg75]."""
    name = target
    found: list[str] = []
    # The longest first: files of purifiers have slashes in their names.
    known = sorted(defenses, key=len, reverse=True)
    while last := next((d for d in known if name.endswith(f"/{d}")), None):
        name = name.removesuffix(f"/{last}")
        found.insert(0, last)
    return name, found


def with_networks(config: DictConfig) -> DictConfig:
    """Write out every network that a config names.

    Fields that the suite leaves out come from agr.config.registry, which has to load timm; so
    suites write out the networks that are used every day. Raises ConfigError.
    """
    known = config.suite.networks
    named = _named_networks(config)
    short = [n for n in known if OmegaConf.is_missing(known[n], "architecture")]
    if not short and all(name in known for _, name in named):
        return config
    import timm

    from agr.config.registry import describe, is_tag, suggested

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
        if name in known:
            continue
        network, slash, defense = name.rpartition("/")
        itself = undefended(network, config.defenses)[0]
        if slash and (itself in known or Path(itself.partition(":")[2]).is_file()):
            hint = nearest(defense, config.defenses)
            raise ConfigError(f"{place}: {defense} is not a defense: {hint}")
        if not is_tag(name):
            hint = f"known: {', '.join(known)}, timm's names, and TAG:FILE"
            every = [*known, *timm.list_models()]
            way = _as_here(name, known) or suggested(name, every, hint)
            raise ConfigError(f"{place} is unknown: {way}")
        known[name] = NetworkConfig(**describe(name, place))
    return config


def _as_here(name: str, networks: DictConfig) -> str:
    """Return the hint for a network that the suite has by another name, or ""."""
    found = []
    for known, network in networks.items():
        node: Any = OmegaConf.to_container(network)
        if bare(name) in {bare(str(node[key])) for key in ("architecture", "title")}:
            found.append(str(known))
    return f"did you mean {' or '.join(found)}?" if found else ""


def register_networks(config: DictConfig) -> None:
    """Import the packages that the user allows, where a network of the suite isn't timm's.

    `@timm.models.register_model` in one of them adds it. Raises ConfigError for one that fails.
    """
    import timm

    nodes = config.suite.networks.values()
    named = [n.architecture for n in nodes if not OmegaConf.is_missing(n, "architecture")]
    if all(map(timm.is_model, filter(None, named))):
        return
    for package in config.allow:
        try:
            importlib.import_module(package)
        except Exception as e:  # whatever it does when it is imported
            raise ConfigError(
                f"allow=[{package}] can't be imported: {first_line(e)}: is its folder on "
                "PYTHONPATH?"
            ) from e


def _named_networks(config: DictConfig) -> list[tuple[str, str]]:
    """Pairs (place in the config, name) of sources and targets, without defenses."""
    source, targets = config.source, config.targets
    sources = [source] if isinstance(source, str) else source
    if not isinstance(sources, list | ListConfig) or not all(isinstance(s, str) for s in sources):
        raise ConfigError(f"source={source} is not a network: give a name, or a list [name,name]")
    if not sources or len(set(sources)) < len(sources):
        raise ConfigError(f"source={source}: an ensemble is a list of different networks")
    for name in sources:
        bare, defenses = undefended(name, config.defenses)
        knowing = config.eot or config.attack.images  # images that were made elsewhere need none
        if defenses and not knowing and name not in config.suite.networks:
            raise ConfigError(
                f"source={name}: an attack that knows the defense needs eot=1 (more for a random "
                f"one: the draws that its gradient is averaged over); for one that doesn't, attack "
                f"{bare} and score {name} with targets=[{bare},{name}]"
            )
    if not all(isinstance(t, str) for t in targets or []):
        raise ConfigError(f"targets={targets}: give a list of names, [name,name]")
    if len(targets or []) > MOST_TARGETS:
        raise ConfigError(
            f"targets={targets[0]},… names {len(targets):,} networks, and a run scores at most "
            f"{MOST_TARGETS:,}: score the others with agr.score"
        )
    for name in targets or []:
        if name.count("/") > MOST_DEFENSES and len(undefended(name, config.defenses)[1]) > 1:
            raise ConfigError(
                f"target {name[:40]}… stands behind more than {MOST_DEFENSES} defenses: take some "
                "away"
            )
    places = [(f"source={s}", s) for s in sources] + [(f"target {t}", t) for t in targets or []]
    return [(place, undefended(name, config.defenses)[0]) for place, name in places]


def check_choice(key: str, value: str | None, known: Collection[str | None]) -> None:
    """Raise ConfigError if a value is none of the known ones, of which None has no name."""
    if value not in known:
        raise ConfigError(f"{key}={value} is unknown: {nearest(str(value), filter(None, known))}")


def check_geometry(of: str, g: Geometry) -> None:
    """Raise ConfigError for an image geometry that can't be; `of` says whose it is."""
    check_choice(f"{of}: geometry.mode", g.mode, MODES)
    check_choice(f"{of}: geometry.interpolation", g.interpolation, RESIZING)
    if not (0 < g.crop <= 1 and 1 <= g.size <= LARGEST_SIDE * g.crop):
        raise ConfigError(
            f"{of}: geometry size={g.size} crop={g.crop} cannot be: give 1 to {LARGEST_SIDE} px, "
            "and a share of 0 to 1"
        )


def check_network(name: str, n: NetworkConfig) -> None:
    """Raise ConfigError for an entry of the suite's networks that can't be."""
    check_choice(f"network {name}: resize", n.resize, RESIZING)
    check_choice(f"network {name}: family", n.family, (None, *FAMILIES))
    numbers = [*n.mean, *n.std]
    if len(n.mean) != 3 or len(n.std) != 3 or not all(map(math.isfinite, numbers)):
        raise ConfigError(f"network {name}: mean={n.mean} std={n.std}: give three, std above 0")
    if not all(s > 0 for s in n.std):
        raise ConfigError(f"network {name}: std={n.std}: give three numbers above 0")
    if n.width is not None and not 0 < n.width <= 1:
        raise ConfigError(f"network {name}: width={n.width} is not a share of the width: 0 to 1")
    check_geometry(f"network {name}", n.geometry)
    if not 2 <= n.classes <= MOST_CLASSES:
        raise ConfigError(f"network {name}: classes={n.classes} cannot be: give 2 or more")
    if n.width is not None and n.arguments:
        raise ConfigError(f"network {name}: a slim copy (width) takes no arguments: leave them out")
    for key in n.arguments:
        if key in WEIGHT_ARGUMENTS:
            raise ConfigError(
                f"network {name}: arguments.{key} would have timm load another file: leave it out, "
                "and name the file as weights"
            )
