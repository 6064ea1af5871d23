"""Validate a composed config; every error names key, value and fix."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from itertools import combinations
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING, DictConfig, OmegaConf

from agr.config.messages import moved
from agr.config.networks import check_choice, check_geometry, check_network
from agr.config.schema import CHOICES, LARGEST_SIDE, MOST_IMAGES, STEP_FRACTION, STEP_RULES, Config
from agr.config.security import check_parts
from agr.utils.errors import ConfigError, nearest, nearest_network
from agr.utils.pixels import LEVELS
from agr.utils.text import UNSHOWN, is_name, printable

if TYPE_CHECKING:
    from agr.config.cell import Cell

# Limits of whole numbers: more than this is a slip, and would fill the memory or a column.
RANGES = {
    "steps": (1, 100_000),
    "n_images": (1, 1_000_000_000),
    "slots": (1, 65_536),
    "width": (1, 65_536),
    "threads": (1, 4_096),
    "workers": (1, 1_024),
    "eot": (0, 10_000),
    "seed": (-(1 << 63), (1 << 63) - 1),
    "fp32_images": (0, 1_000_000_000),
    "suite.images": (1, 1_000_000_000),
    "check.images": (1, 1_000_000_000),
}
DEVICE = re.compile(r"auto|cpu|mps|xpu|cuda(:\d{1,3})?", re.ASCII)
SMALLEST_OF_LPIPS = 32  # pixels: below 31 its AlexNet has nothing left
MOST_SCORED = 50  # steps whose iterates are scored
LONGEST_PART = 255  # bytes, of a path: more is refused by file systems
LONGEST_NAME = 100  # bytes, of what is the name of a folder
SHARD = re.compile(r"\d{1,9}/\d{1,9}", re.ASCII)


def check_cell(cell: Cell) -> None:
    """Check all of a cell's config. Raises ConfigError, with one line, for what can't be run."""
    _check_text(cell.config)
    check_parts(cell.config)
    for key, known in CHOICES.items():
        check_choice(key, attrgetter(key)(cell.config), known)
    _check_names(cell)
    _check_ranges(cell.config)
    _check_budget(cell)
    _check_step_size(cell.config)
    _check_lpips(cell)
    i, _, k = cell.config.shard.partition("/")
    if not SHARD.fullmatch(cell.config.shard) or int(i) >= int(k):
        raise ConfigError(
            f"shard={cell.config.shard} is not a shard: write i/k with 0 <= i < k, as 0/3"
        )


def reject_unknown_keys(node: DictConfig, prefix: str = "") -> None:
    """Raise ConfigError for a key that nothing reads: `+key=value` slips past Hydra's own check."""
    schema: Any = OmegaConf.get_type(node) if prefix else Config
    known = {f.name for f in fields(schema)} if is_dataclass(schema) else None
    for key in map(str, node):
        if key == "hydra" and not prefix:
            continue
        if known and key not in known:
            way = moved(f"{prefix}{key}") or nearest(key, known)
            raise ConfigError(f"{prefix}{key} is not a key of the config: {way}")
        inner = node._get_node(key)
        if isinstance(inner, DictConfig) and isinstance(inner._value(), dict):
            reject_unknown_keys(inner, f"{prefix}{key}.")


def _check_text(c: Config) -> None:
    """Check every text: it may reach tables, terminals and names of files."""
    for key, text in _texts(c):
        if text == MISSING:
            raise ConfigError(f"{key} is missing: leave ~{key} out, or give a value")
        if UNSHOWN.search(text):
            raise ConfigError(
                f"{key}={printable(text)} has a line break or another sign that can't be shown: "
                "take it out"
            )
    name = c.suite.name
    if not is_name(name, LONGEST_NAME):
        raise ConfigError(
            f"suite.name={name} is the name of a folder: give one of 1 to {LONGEST_NAME} "
            "letters, without slashes and without a dot at its beginning"
        )
    for package in c.allow:
        if not package.isidentifier():
            raise ConfigError(
                f"allow=[{package}] is not a package: give the name that a _target_ begins with"
            )


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield (key, text) for all texts of a config, names of keys included."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _texts(inner, f"{key}[{i}]")
    elif isinstance(value, dict) or is_dataclass(value):
        for name, inner in (value if isinstance(value, dict) else vars(value)).items():
            place = f"{key}.{name}" if key else str(name)
            yield from () if is_dataclass(value) else [(place, str(name))]
            yield from _texts(inner, place)


def _check_names(cell: Cell) -> None:
    c = cell.config
    for name, group in c.suite.groups.items():
        for member in (*group.networks, *group.sources):
            known = c.suite.networks if member in group.networks else group.networks
            if member not in known:
                hint = nearest_network(member, known)
                raise ConfigError(f"suite.groups.{name} names {member}: {hint}")
        check_geometry(f"group {name}", group.geometry)
    for name, network in c.suite.networks.items():
        check_network(name, network)
    for a, b in combinations(cell.sources, 2):
        if cell.same(a, b):
            raise ConfigError(f"source={c.source}: {a} and {b} are one network: name others")
    given = c.attack.images is not None
    if c.eot and (given or cell.bare_sources == cell.sources):
        why = f"attack={c.attack.name} was made elsewhere" if given else f"{cell.source} has none"
        raise ConfigError(
            f"eot={c.eot} draws from the defenses of the source, and {why}: leave it out"
        )
    if c.targets is not None and not c.targets:
        raise ConfigError("targets=[] names no network: leave it out for the source's group")
    if not c.outputs or any(len(part.encode()) > LONGEST_PART for part in c.outputs.split("/")):
        raise ConfigError(f"outputs={c.outputs} names no folder: give a name of 1 to 255 letters")
    if not DEVICE.fullmatch(c.device):
        raise ConfigError(f"device={c.device} is unknown: give auto, cpu, or cuda:N for GPU N")
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
    if c.score_steps is not None:
        _check_score_steps(c)
    if c.success == "targeted" and not c.attack.targeted:
        raise ConfigError("success=targeted needs a targeted attack: add attack.targeted=true")
    if c.save_adversarials < 0:
        raise ConfigError(
            f"save_adversarials={c.save_adversarials} is not a number of images: give true, false, "
            "or how many of the first are kept"
        )
    if c.save_adversarials and c.quantize == "off":
        raise ConfigError(
            f"save_adversarials={str(c.save_adversarials).lower()} keeps 8-bit images, and "
            "quantize=off makes none: use always or end"
        )


def _check_score_steps(c: Config) -> None:
    steps = c.score_steps or []
    if c.attack.library is not None or c.attack.images is not None:
        raise ConfigError(
            f"score_steps={steps}: attack={c.attack.name} is another program's and shows no steps: "
            "leave it out"
        )
    if len(steps) > MOST_SCORED:  # each keeps an image of every image in flight
        raise ConfigError(
            f"score_steps lists {len(steps)} steps, and at most {MOST_SCORED} are scored: leave "
            "some out"
        )
    if not steps or len({*steps}) < len(steps) or min(steps) < 1:
        raise ConfigError(
            f"score_steps={steps} is not a list of steps: give different numbers from 1 to "
            f"{c.steps}"
        )
    if min(steps) > c.steps and c.attack.steps > 1 and c.gradients is None:
        raise ConfigError(
            f"score_steps={steps}: the attack takes {c.steps} steps: give some up to {c.steps}"
        )


def _check_lpips(cell: Cell) -> None:
    given, side = cell.config.lpips, cell.geometry.size
    if given is None:
        return
    names = given if isinstance(given, list) and given else [given]
    if not all(isinstance(name, str) and name for name in names):
        raise ConfigError(
            f"lpips={given} names no files: give lpips=[BACKBONE,HEADS], the weights of "
            "torchvision's AlexNet or VGG16, and LPIPS's own"
        )
    if side < SMALLEST_OF_LPIPS:
        raise ConfigError(
            f"lpips={given}: images of {side} px are too small for its network, which takes "
            f"{SMALLEST_OF_LPIPS} px or more: leave it out"
        )


def _check_library(c: Config) -> None:
    """Raise ConfigError for what has no effect on another library's attack."""
    a = c.attack
    filled = [f"attack.{slot}" for slot in a.parts() if slot != "library"]
    if a.size != "even":
        filled.append("attack.size")
    if c.eot:
        raise ConfigError(
            f"eot={c.eot}: attack={a.name} is another library's and can't know a defense: attack "
            "the network without it, and name the defended one among the targets"
        )
    if filled:
        raise ConfigError(
            f"{filled[0]} has no effect on attack={a.name}, which another library runs: leave it "
            "out, and see attack.library for what it takes"
        )
    if not isinstance(a.library, dict):
        raise ConfigError(f"attack.library={a.library} names no part: write its _target_")
    for key, most in MOST_IMAGES.items():
        n = a.library.get(key, 1)
        if type(n) is not int or not 1 <= n <= most:
            raise ConfigError(f"attack.library.{key}={n} cannot be: give a number from 1 to {most}")
    if c.trace:
        raise ConfigError(f"trace=true: attack={a.name} is another library's and shows no steps")


def check_library_steps(config: DictConfig) -> None:
    """Raise ConfigError for `steps` that don't reach another library's attack."""
    if not isinstance(config.attack.library, DictConfig) or config.steps == 1:
        return
    if "${steps}" not in json.dumps(OmegaConf.to_container(config.attack.library, resolve=False)):
        raise ConfigError(
            f"steps={config.steps} reaches nothing of attack={config.attack.name}: set steps=… "
            "where the library's own argument is ${steps}, leave it out where there are none"
        )


def check_eps(eps: float) -> None:
    """Raise ConfigError for a value that is not a budget in any norm."""
    if not (math.isfinite(eps) and eps >= 0):
        raise ConfigError(f"eps={eps} is not a budget: give a number that is 0 or more")


def _check_ranges(c: Config) -> None:
    for key, (low, high) in RANGES.items():
        value = attrgetter(key)(c)
        if value is not None and not low <= value <= high:
            size = f"small: give {low} or more" if value < low else f"large: give {high} or less"
            raise ConfigError(f"{key}={value} is too {size}")
    for key, seconds in {"part_seconds": c.part_seconds, "check.seconds": c.check.seconds}.items():
        if not 0 <= seconds < math.inf:
            raise ConfigError(f"{key}={seconds:g} is not a time: give 0 or more seconds")
    if c.suite.l2_reference is not None and not 1 <= c.suite.l2_reference <= 3 * LARGEST_SIDE**2:
        raise ConfigError(
            f"suite.l2_reference={c.suite.l2_reference} is not a number of values: give pixels x "
            "channels, as 268203"
        )


def _check_budget(cell: Cell) -> None:
    c = cell.config
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


def _check_step_size(c: Config) -> None:
    size = c.attack.size
    if isinstance(size, str):
        fine = size in STEP_RULES or STEP_FRACTION.fullmatch(size) is not None
    else:
        fine = isinstance(size, int | float) and not isinstance(size, bool) and 0 < size < math.inf
    if not fine:
        raise ConfigError(
            f"attack.size={size} is not a step size: give a number above 0, eps/4 or one of "
            f"{', '.join(STEP_RULES)}"
        )
