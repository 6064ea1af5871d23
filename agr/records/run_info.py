"""The schema of run.json: what a cell was begun with, and how its sessions went.

It is read into `RunInfo`, and a file whose keys, types or numbers no run writes is refused as
damaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cache
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from agr.config.schema import Config, Tuning
from agr.config.validation import RANGES
from agr.records.schema import SCHEMA_VERSION

DEEPEST = 32  # levels of a config: with many more, what reads it meets Python's own limit


@dataclass(frozen=True)
class NumericIdentity:
    """Numeric identity, within which the result of an image is bitwise the same in every run."""

    slots: int
    width: int
    precision: str
    threads: int
    device: str  # type of device, with the instruction set or the GPU's name
    torch: str
    networks: dict[str, Tuning] = field(default_factory=dict)

    def of_predictions(self, names: Iterable[str]) -> dict[str, Any]:
        """Return the part that decides the predictions of the networks `names`."""
        plain = {k: v for k, v in vars(self).items() if k not in ("slots", "networks")}
        own = {name: self.networks[name] for name in names}
        return plain | {"networks": [[t.memory_format, t.folded] for t in own.values()]}

    def halved(self) -> NumericIdentity | None:
        """Return the identity with half the slots and width, or None if both are 1."""
        if self.slots == self.width == 1:
            return None
        return replace(self, slots=max(1, self.slots // 2), width=max(1, self.width // 2))


@dataclass
class DataInfo:
    """The images of a cell: the layout of their folder, and a hash of their list and labels."""

    layout: str
    fingerprint: str


@dataclass
class Session:
    """One session of crafting: when it ended, what it made and what that cost."""

    ended: str  # ISO 8601, UTC
    shard: str
    images: int
    seconds: float
    crafting_seconds: float
    batch_forwards: int
    batch_backwards: int


@dataclass
class Narrowing:
    """Slots and width of the first `rows` rows, before memory ran out and both were halved."""

    slots: int
    width: int
    rows: int


@dataclass
class PrecisionRates:
    """Rates of a target in percent: ASR, the same in fp32, images with the same outcome."""

    asr: float
    asr_fp32: float
    same: float


@dataclass
class PrecisionComparison:
    """Comparison of a lower precision with fp32 on some images, by target."""

    images: int
    targets: dict[str, PrecisionRates]


@dataclass
class Held:
    """Positions that part files hold, of whose names `parts` is a digest (agr.records.held)."""

    parts: str
    rows: dict[str, str]  # ranges of positions, "0-511,513", by target
    trace: str


@dataclass
class RunInfo:
    """The content of run.json."""

    schema_version: int = SCHEMA_VERSION
    numeric: NumericIdentity | None = None
    cell: str = ""  # id
    name: str = ""  # of its folder
    attack_hash: str = ""
    eps_effective: float | None = None  # 0-255 scale
    data: DataInfo | None = None
    weights: dict[str, str] = field(default_factory=dict)  # sha256 by network
    networks: dict[str, str] = field(default_factory=dict)  # hash of the config by target
    lpips: list[str] = field(default_factory=list)  # sha256 of its files, in order of the hashes
    config: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    git: str | None = None
    versions: dict[str, str] = field(default_factory=dict)  # by package
    bad_images: dict[str, str] = field(default_factory=dict)  # why, by image
    selected: dict[str, str] = field(default_factory=dict)  # digest of the first n, by n
    eligible: int | None = None  # images in all, once known
    sessions: list[Session] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)  # positions whose file went bad later
    narrowed: list[Narrowing] = field(default_factory=list)
    # Names of the classes in the rows, by class, where they are ImageNet's: reports load no timm.
    classes: dict[str, str] = field(default_factory=dict)
    idle: list[str] = field(default_factory=list)  # parts and defenses that changed nothing
    against_fp32: PrecisionComparison | None = None
    held: Held | None = None


def parse_run(value: Any, kind: Any = RunInfo) -> Any:
    """Build a RunInfo, or a part of one, from parsed JSON.

    Raises TypeError if it is none, and ValueError for a value that no run has.
    """
    if type(value) is kind or kind is Any:  # a plain one: most are
        return value
    origin, arguments, kinds = _form(kind)
    if kinds is not None and isinstance(value, Mapping):
        # Of a config, keys that are none any more are for `stored_cell` to name.
        known = {k: v for k, v in value.items() if k in kinds or kind.__module__ == __name__}
        made: Any = kind  # a key too many or too few is a TypeError
        found = made(**{k: parse_run(v, kinds.get(k)) for k, v in known.items()})
        for name in ("slots", "width", "threads"):
            check_range(name, getattr(found, name, None))
        if isinstance(found, RunInfo):
            parse_config(found.config)
        return found
    if origin is UnionType:  # X | None, or X | Y
        own = [k for k in arguments if k is type(value)]
        return None if value is None and own else parse_run(value, (own or arguments)[0])
    if origin is dict and isinstance(value, Mapping):
        return {k: parse_run(v, arguments[1]) for k, v in value.items()}
    if origin is list and isinstance(value, list):
        return [parse_run(v, arguments[0]) for v in value]
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise TypeError(f"{value!r:.50} is not of {kind}")
    return value


@cache  # a report parses thousands of these
def _form(kind: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any] | None]:
    """Return the origin and arguments of a type, and of a dataclass the types of its fields."""
    hints = get_type_hints(kind) if is_dataclass(kind) else None
    return get_origin(kind), get_args(kind), hints


def check_range(name: str, value: int | None) -> None:
    """Raise ValueError for slots, a width or threads that no run has."""
    low, high = RANGES[name]
    # A slim network has a width, too, which is a share.
    if type(value) is int and not low <= value <= high:
        raise ValueError(f"{name}={value} is not from {low} to {high}")


def parse_config(stored: Mapping[str, Any]) -> Config:
    """Build the Config of a run.json, its values unchecked but for their types.

    Raises TypeError and ValueError for what no run writes: other types, a nesting without end, and
    interpolations, which could bring what the reader's environment holds into tables.
    """
    _check_plain(stored)
    config: Config = parse_run(stored, Config)
    return config


def _check_plain(value: Any, level: int = 0) -> None:
    """Raise ValueError for a text that is an interpolation, and for too many levels."""
    if level > DEEPEST:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep")
    if isinstance(value, str) and "${" in value:
        raise ValueError(f"{value!r:.50} is an interpolation")
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in inner:
        _check_plain(each, level + 1)
