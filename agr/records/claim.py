"""The claim of an entry of a leaderboard: claim.json, which says what its records show.

An entry is a folder, perhaps a stranger's: `claim.json`, and `records/` in the layout of an outputs
folder. It is of one attack, on one suite, in any number of cells.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from agr.records.places import texts_of
from agr.records.run_info import parse_run
from agr.records.values import is_plain
from agr.utils.errors import ConfigError, first_line
from agr.utils.files import read_text, write_json
from agr.utils.text import UNSHOWN, is_name

SCHEMA = 1
CLAIM, RECORDS = "claim.json", "records"  # what lies in an entry's folder
LARGEST = 1 << 22  # bytes; a cell with its sample takes about 4,000
LONGEST = 300  # characters of a text
LONGEST_YAML = 20_000  # likewise, of an attack
LONGEST_FOLDER = 255  # bytes of a name


@dataclass(frozen=True)
class ClaimedAttack:
    """An attack: as YAML with every parameter written out, or another program's images."""

    name: str
    title: str
    hash: str  # of parts and parameters, as in records
    yaml: str
    images: str | None = None  # sha256 of another program's images: of ids and pixels


@dataclass(frozen=True)
class Protocol:
    """Settings that all cells of an entry share."""

    suite: str
    data: str  # hash of the list of images and labels
    steps: int
    select: str
    split: str
    success: str
    denominator: str
    quantize: str
    precision: str


@dataclass(frozen=True)
class ClaimedRate:
    """Success rate on one target, in percent, with its 95 % interval."""

    target: str
    white_box: bool
    images: int  # counted by the protocol's denominator
    successes: int
    asr: float | None  # None of no images, as the next three
    low: float | None
    high: float | None
    clean: float | None  # accuracy on the same images when clean


@dataclass(frozen=True)
class Cost:
    """Means per image; None where nobody counted them."""

    forwards: float | None
    backwards: float | None
    steps: float | None
    seconds: float | None  # of crafting, on the machine of this cell


@dataclass(frozen=True)
class SampleImage:
    """An adversarial image of the sample, whose pixels travel beside the entry if at all."""

    image_id: str
    position: int
    sha256: str  # of the pixels' bytes, (H, W, 3)


@dataclass(frozen=True)
class ClaimedCell:
    """Claim of one cell."""

    folder: str  # below records/SUITE
    source: str
    norm: str
    eps: float  # 0-255 scale
    seed: int
    device: str
    rates: list[ClaimedRate]
    cost: Cost
    sample: list[SampleImage]


@dataclass(frozen=True)
class Claim:
    """The content of claim.json."""

    name: str
    attack: ClaimedAttack
    protocol: Protocol
    cells: list[ClaimedCell]
    paper: str = ""
    code: str = ""
    by: str = ""
    git: str | None = None  # commit of agr
    versions: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA


def entry_at(outputs: str | Path) -> Path | None:
    """Return the entry that a folder is or lies in, as that of a cell does; None for others."""
    place = Path(outputs).resolve()
    return next((at for at in (place, *place.parents[:3]) if (at / CLAIM).exists()), None)


def refuse_entry(outputs: str | Path) -> None:
    """Raise ConfigError if something is to be written into an entry."""
    if entry_at(outputs):
        raise ConfigError(
            f"outputs={outputs} holds an entry's records; running here would make its claim false: "
            "copy them to another folder and go on there"
        )


def write_claim(folder: Path, claim: Claim) -> None:
    """Write claim.json into an entry's folder. Raises ConfigError for what none can hold."""
    try:
        _check(claim)
    except ValueError as e:
        raise ConfigError(f"{CLAIM} can't hold this: {first_line(e)}") from e
    write_json(folder / CLAIM, asdict(claim))


def read_claim(folder: str | Path) -> Claim:
    """Read the claim of an entry, which may come from anyone; nothing in it is run or resolved.

    Raises ConfigError, with one line, for a claim that is missing, of another schema, or that this
    program would not have written.
    """
    path = Path(folder) / CLAIM
    try:
        if path.is_symlink() or path.stat().st_size > LARGEST:
            raise ValueError(f"it is a link, or larger than {LARGEST:,} bytes")
        content = json.loads(read_text(path), parse_constant=_refuse, parse_float=_finite)
        if not isinstance(content, dict):
            raise TypeError("it is not a JSON object")
        if content.get("schema") != SCHEMA:
            version = content.get("schema")
            raise ConfigError(
                f"{path} has schema {version!r:.50}, and this program reads {SCHEMA}: use a "
                "version of agr that knows it"
            )
        claim: Claim = parse_run(content, Claim)
        if asdict(claim) != content:
            wrong = _differing(content, asdict(claim))
            raise ValueError(", ".join(wrong) or "it has a number that no claim has")
        _check(claim)
    except FileNotFoundError as e:
        raise ConfigError(f"{path} is missing: an entry is a folder of agr submit") from e
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as e:
        raise ConfigError(
            f"{path} is not a claim written by agr submit: {first_line(e):.200}"
        ) from e
    return claim


def _differing(content: Any, known: Any, place: str = "") -> Iterator[str]:
    """Yield what is said of keys that aren't known ones, and of known ones that are missing."""
    if isinstance(content, dict) and isinstance(known, dict):
        for key in {**known, **content}:
            if key not in known or key not in content:
                said = "is missing" if key in known else "is a key of no claim"
                yield f"{place}{key!r:.50} {said}"
            else:
                yield from _differing(content[key], known[key], f"{place}{key!r:.50}.")
    elif isinstance(content, list) and isinstance(known, list):
        for n, (one, other) in enumerate(zip(content, known, strict=False)):
            yield from _differing(one, other, f"{place}{n}.")


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number that a claim can hold")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def _check(claim: Claim) -> None:
    """Raise ValueError for a value that no claim has."""
    for place, text in texts_of(asdict(claim)):
        yaml = place == "attack.yaml"
        if len(text) > (LONGEST_YAML if yaml else LONGEST):
            raise ValueError(f"{place} has {len(text):,} characters")
        if UNSHOWN.search(text.replace("\n", "") if yaml else text):
            raise ValueError(f"{place} has a sign that can't be shown")
    if not claim.name.strip() or not claim.cells:
        raise ValueError("it has no name, or no cells")
    folders = [cell.folder for cell in claim.cells]
    for name in (claim.protocol.suite, *folders):
        if not is_name(name, LONGEST_FOLDER):
            raise ValueError(f"{name!r:.60} is not a folder name")
    if len({*folders}) < len(folders):
        raise ValueError("a cell stands there twice")
    for cell in claim.cells:
        for rate in cell.rates:
            if not 0 <= rate.successes <= rate.images:
                raise ValueError(
                    f"{rate.successes} successes of {rate.images} images are not a rate"
                )
        for image in cell.sample:
            if not is_plain(image.image_id):
                raise ValueError(f"{image.image_id!r:.60} is not an id of an image")
