"""What a config must be before anything is run, and the words for what it is not."""

from __future__ import annotations

import json
import math
import re
from dataclasses import fields, is_dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf

from agr.errors import ConfigError, first_line, nearest
from agr.naming import same_network
from agr.schema import (
    CHOICES,
    LEVELS,
    MODES,
    RESIZING,
    STEP_FRACTION,
    STEP_RULES,
    Config,
    Geometry,
    NetworkConfig,
    conf_dir,
)

if TYPE_CHECKING:
    from agr.config import Cell

# A parameter of an attack's part, such as attack.chain.momentum.decay
PART_KEY = re.compile(r"attack\.((start|loss|step|stop|library)\.|(views|chain)\.\w+\.)")


def check_cell(cell: Cell) -> None:
    """Raise ConfigError, with one line, for whatever a run could not work with."""
    _check_choices(cell.config)
    _check_names(cell)
    _check_numbers(cell)


def explain(e: BaseException) -> str:
    """One line for what Hydra or OmegaConf raised, with the nearest names where a name is wrong."""
    options = getattr(e, "options", None)
    missing = getattr(e, "missing_cfg_file", None)
    if missing and options is not None:
        group, _, name = str(missing).rpartition("/")
        known = list(options)
        if str(missing).startswith("attack/"):  # Hydra lists the first level only
            group, name = "attack", str(missing).removeprefix("attack/")
            inner = Path(conf_dir(), group).glob("*/*.yaml")
            known += [f"{path.parent.name}/{path.stem}" for path in inner]
        return f"{group}={name} is unknown: {nearest(name, [k for k in known if k[0] != '_'])}"
    if isinstance(e, OverrideParseException):
        return (
            f"{e.override} cannot be read: write key=value, a list as [a,b] without spaces, and "
            f"quotes inside for other signs, 'key=\"~/a (b)\"' ({first_line(e)})"
        )
    cause = e.__cause__ or e
    key = getattr(cause, "full_key", None) or getattr(cause, "key", None)
    if "not in" in str(cause) and key and PART_KEY.match(str(key)):
        slot = PART_KEY.match(str(key))[0].rstrip(".")  # type: ignore[index]
        return (
            f"{key}: {slot} is empty, or its part has no such parameter (docs/attacks.md lists "
            f"them): give a part as a whole, '{slot}={{_target_:…}}', one that replaces another "
            f"with ++ before it"
        )
    if "not in" in str(cause) and key:
        return f"{key} is no key of the config: {nearest(str(key), _all_keys(Config))}"
    if str(cause).startswith("Ambiguous value"):
        return f"{first_line(cause)}: to sweep over its values put -m first; a list is [a,b]"
    if "ListConfig" in str(cause):
        key = getattr(e, "full_key", None) or key or "targets"
        if key == "targets":
            return "targets is a list: write targets=[vgg16,vgg19]"
        return f"{key} doesn't take this: a list is written {key}=[a,b], named slots {key}={{a:b}}"
    lines = [line.strip() for line in f"{e}\n{e.__cause__ or ''}".splitlines() if line.strip()]
    noise = ("HYDRA_FULL_ERROR", "full_key:", "object_type=", "See https://")
    return "; ".join(dict.fromkeys(n for n in lines if not any(word in n for word in noise)))


def _all_keys(schema: Any, prefix: str = "") -> list[str]:
    keys = []
    for f in fields(schema):
        keys.append(prefix + f.name)
        inner: Any = f.default_factory
        if is_dataclass(inner):
            keys += _all_keys(inner, f"{prefix}{f.name}.")
    return keys


def reject_unknown_keys(node: DictConfig, schema: Any, prefix: str) -> None:
    """`+key=value` slips past Hydra's own check; a key that nothing reads must be an error."""
    known = {f.name for f in fields(schema)}
    for key in map(str, node):
        if key not in known:
            raise ConfigError(f"{prefix}{key} is no key of the config: {nearest(key, known)}")
        inner: Any = None if OmegaConf.is_missing(node, key) else node._get_node(key)
        kind = OmegaConf.get_type(inner) if isinstance(inner, DictConfig) else None
        named = {f"{prefix}{key}.": inner}
        if kind is dict:  # named networks, named groups
            named = {f"{prefix}{key}.{name}.": inner._get_node(name) for name in inner}
        for place, child in named.items():
            kind = OmegaConf.get_type(child) if isinstance(child, DictConfig) else None
            if kind is not None and is_dataclass(kind):
                reject_unknown_keys(child, kind, place)


def _check_choices(c: Config) -> None:
    for key, known in CHOICES.items():
        value: Any = c
        for word in key.split("."):
            value = getattr(value, word)
        if value not in known:
            names = [k for k in known if k is not None]
            raise ConfigError(f"{key}={value} is unknown: {nearest(str(value), names)}")


def _check_names(cell: Cell) -> None:
    c = cell.config
    grouped = [n for g in c.suite.groups.values() for n in g.networks]
    for name in grouped:
        if name not in c.suite.networks:
            raise ConfigError(
                f"suite.groups names {name}: {nearest(name, c.suite.networks)} (suite.networks)"
            )
    for group in c.suite.groups.values():
        _check_geometry(group.geometry)
    for name, network in c.suite.networks.items():
        _check_network(name, network)
    for a, b in combinations(cell.sources, 2):
        if same_network(c.suite.networks[a], c.suite.networks[b]):
            raise ConfigError(f"source={c.source}: {a} and {b} are one network: name others")
    if c.targets is not None and not c.targets:
        raise ConfigError("targets=[] names no network: leave it out for the source's group")
    if not c.outputs:
        raise ConfigError("outputs= names no folder")
    if c.attack.targeted and c.attack.label != "truth":
        raise ConfigError(
            f"attack.label={c.attack.label} says what an untargeted attack moves away from: leave "
            "it out with attack.targeted=true"
        )
    if c.attack.target is not None and not c.attack.targeted:
        raise ConfigError(
            f"attack.target={c.attack.target} says what a targeted attack wants: add "
            "attack.targeted=true"
        )
    if c.attack.library is not None:
        _check_library(c)
    if c.success == "targeted" and not c.attack.targeted:
        raise ConfigError("success=targeted needs a targeted attack: add attack.targeted=true")
    if c.save_adversarials and c.quantize == "off":
        raise ConfigError(
            "save_adversarials=true keeps 8-bit images, quantize=off makes none: use always or end"
        )


def _check_library(c: Config) -> None:
    """What has no effect on another library's attack must be an error."""
    a = c.attack
    filled = [f"attack.{name}" for name in ("start", "loss", "step", "stop") if getattr(a, name)]
    for group in ("views", "chain"):
        filled += [f"attack.{group}.{name}" for name, part in getattr(a, group).items() if part]
    if a.size != "even":
        filled.append("attack.size")
    if filled:
        raise ConfigError(
            f"{filled[0]} has no effect on attack={a.name}, which another library runs: leave it "
            "out, and see attack.library for what it takes"
        )
    if not isinstance(a.library, dict):
        raise ConfigError(f"attack.library={a.library} names no part: write its _target_")
    for key in ("chunk", "fit_images"):
        n = a.library.get(key, 1)
        if type(n) is not int or n < 1:
            raise ConfigError(f"attack.library.{key}={n} cannot be: give a whole number, 1 or more")
    if c.trace:
        raise ConfigError(f"trace=true: attack={a.name} is another library's and shows no steps")


def check_library_steps(config: DictConfig) -> None:
    """Raise ConfigError for steps that another library's attack never hears of."""
    if not isinstance(config.attack.library, DictConfig) or config.steps == 1:
        return
    if "${steps}" not in json.dumps(OmegaConf.to_container(config.attack.library, resolve=False)):
        raise ConfigError(
            f"steps={config.steps} reaches nothing of attack={config.attack.name}: set steps=… "
            "where the library's own argument is ${steps}, leave it out where there are none"
        )


def _check_geometry(g: Geometry) -> None:
    if g.mode not in MODES:
        raise ConfigError(f"geometry.mode={g.mode} is unknown: {nearest(g.mode, MODES)}")
    if g.interpolation not in RESIZING:
        raise ConfigError(
            f"geometry.interpolation={g.interpolation} is unknown: "
            f"{nearest(g.interpolation, RESIZING)}"
        )
    if g.size < 1 or not 0 < g.crop <= 1:
        raise ConfigError(f"geometry: size={g.size} crop={g.crop} cannot be: 1 or more, and 0 to 1")


def _check_network(name: str, n: NetworkConfig) -> None:
    if n.resize not in RESIZING:
        raise ConfigError(
            f"network {name}: resize={n.resize} is unknown: {nearest(str(n.resize), RESIZING)}"
        )
    if len(n.mean) != 3 or len(n.std) != 3 or not all(s > 0 for s in n.std):
        raise ConfigError(f"network {name}: mean={n.mean} std={n.std}: give three, std above 0")
    _check_geometry(n.geometry)
    if n.size < 1 or n.classes < 2:
        raise ConfigError(f"network {name}: size={n.size} classes={n.classes} cannot be")


def check_eps(eps: float) -> None:
    """Raise ConfigError for what is no budget in any norm."""
    if not (math.isfinite(eps) and eps >= 0):
        raise ConfigError(f"eps={eps} is no budget: give a number that is 0 or more")


def _check_numbers(cell: Cell) -> None:
    c = cell.config
    if c.suite.l2_reference is not None and c.suite.l2_reference < 1:
        raise ConfigError(f"suite.l2_reference={c.suite.l2_reference} is no number of values")
    check_eps(c.eps)
    if c.norm.name == "linf" and 0 < c.eps < 1 and c.quantize != "off":
        raise ConfigError(
            f"eps={c.eps:g} is below one level of an 8-bit image: eps is on the 0-255 scale "
            f"({c.eps:g} of [0, 1] is {c.eps * LEVELS:g}); quantize=off allows it"
        )
    d = 3 * cell.geometry.size**2
    bound = LEVELS * (math.sqrt(d) if c.norm.name == "l2" else 1)
    if cell.eps_effective > bound:
        scaled = f" ({cell.eps_effective:g} in effect)" if cell.eps_effective != c.eps else ""
        raise ConfigError(
            f"eps={c.eps:g}{scaled} is beyond the {c.norm.name} bound {bound:g} of images of "
            f"{cell.geometry.size} px: eps is on the 0-255 pixel scale"
        )
    if c.check.images < 1 or c.check.seconds < 0:
        raise ConfigError(
            f"check.images={c.check.images} check.seconds={c.check.seconds:g} cannot be: give 1 or "
            "more images, and 0 or more seconds"
        )
    least = {"steps": 1, "n_images": 1, "slots": 1, "width": 1, "threads": 1, "workers": 1}
    for key, low in least.items():
        value = getattr(c, key)
        if value is not None and value < low:
            raise ConfigError(f"{key}={value} is too small: give {low} or more")
    size = c.attack.size
    if isinstance(size, str):
        fine = size in STEP_RULES or STEP_FRACTION.fullmatch(size) is not None
    else:
        fine = isinstance(size, int | float) and not isinstance(size, bool) and size > 0
    if not fine:
        raise ConfigError(
            f"attack.size={size} is no step size: give a number above 0, eps/4 or one of "
            f"{', '.join(STEP_RULES)}"
        )
    try:
        i, k = cell.shard
    except ValueError:
        i, k = -1, 0
    if not 0 <= i < k:
        raise ConfigError(f"shard={c.shard} is no shard: write i/k with 0 <= i < k, as 0/3")
