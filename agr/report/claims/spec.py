"""A paper's claims as data: what each says, where, and which numbers it compares.

A file of claims (conf/claims/NAME.yaml, docs/claims.md) holds the paper's printed tables, who may
play its attacks in the records, and its claims. Needs neither torch nor timm.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError

from agr.config.messages import explain
from agr.config.schema import CHOICES, PACKAGE
from agr.config.yaml_files import named_file, read_yaml
from agr.report.outcomes import MEASURES, Place
from agr.utils.errors import ConfigError, first_line, nearest

KEYS = Place._fields
PAIRS = ("all", "white-box", "black-box")
EXPECTED = {"higher": 1, "lower": -1}
PAPER = "as printed"  # the column of the paper's own tables
NORMS = ("linf", "l2")
POSSIBLE = ("mean_abs", "mean_abs_sym", "rel_l2")


@dataclass
class Compare:
    """Two sides, and where they are compared. The right side is the left one with its own values.

    Values are one name or a list of them; what neither side names is taken from all there is, or
    from what `norm`, `source`, `attack` and `target` leave.
    """

    left: dict[str, Any]
    right: dict[str, Any]
    pairs: str = "all"  # all | white-box | black-box: where the target is the source, or isn't
    norm: Any = None
    source: Any = None
    attack: Any = None
    target: Any = None

    def names(self, key: str) -> bool:
        """Return whether the places are given by this key."""
        return getattr(self, key) is not None or key in self.left

    def named(self, key: str, players: Mapping[str, str]) -> list[str]:
        """The names that are given for a key, on either side."""
        given = (getattr(self, key), self.left.get(key), self.right.get(key))
        names = [_names(key, value, players) for value in given if value is not None]
        return list(dict.fromkeys(itertools.chain(*names)))


@dataclass
class Claim:
    """One claim."""

    name: str
    title: str
    says: str  # the paper's words
    where: str  # in the paper
    value: str  # a printed table's name, a key of `values`, or a measure
    expect: str = "higher"  # the left side
    compare: list[Compare] = field(default_factory=list)
    possible: str | None = None  # instead: whether the printed values can be this measure's means
    # For `possible`: the paper's budgets (0-255 scale) by norm, and the side of its images, pixels.
    eps: dict[str, float] = field(default_factory=dict)
    size: int = 299
    synsets: str | None = None  # whose images the paper's are like: as in a suite; null: any


@dataclass
class Printed:
    """A CSV of what the paper prints: columns norm, source, attack, perhaps target, and `column`.

    `file` is relative to the file of claims, or to agr/assets.
    """

    file: str
    column: str


@dataclass
class Claims:
    """A file of claims."""

    paper: str
    claims: list[Claim]
    printed: dict[str, Printed] = field(default_factory=dict)
    values: dict[str, list[str]] = field(default_factory=dict)
    readings: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)

    def measures(self, claim: Claim) -> list[str]:
        """Return the measure of a claim's value."""
        return list(self.values.get(claim.value, [claim.value]))

    def variants(self) -> dict[str, dict[str, str]]:
        """Every choice of one reading from each list, by its title: attacks of the records."""
        found = {}
        for chosen in itertools.product(*(options.items() for options in self.readings.values())):
            title = ", ".join(title for title, _ in chosen) or "as named"
            found[title] = {paper: ours for _, part in chosen for paper, ours in part.items()}
        return found


KNOWN_KEYS = [field.name for kind in (Claims, Claim, Compare, Printed) for field in fields(kind)]


def load_claims(name: str) -> tuple[Claims, dict[str, pd.DataFrame]]:
    """A file of claims and its printed tables, by name: a file of conf/claims, or a path.

    Raises ConfigError.
    """
    path = named_file("claims", name)
    content = _literal(read_yaml(path) or {})
    try:
        claims: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Claims), content))
    except ConfigKeyError as e:
        key = str(e.full_key).rpartition(".")[2]
        way = nearest(key, KNOWN_KEYS)
        raise ConfigError(f"{path}: {e.full_key} is not a key of a file of claims: {way}") from e
    except Exception as e:
        raise ConfigError(f"{path}: {explain(e)}") from e
    for claim in claims.claims:
        _check(claim, claims, f"{path}: claim {claim.name}")
    printed = {n: _printed(p, path, n) for n, p in claims.printed.items()}
    _check_whole(claims, printed, path)
    return claims, printed


def _check_whole(claims: Claims, printed: Mapping[str, pd.DataFrame], path: Path) -> None:
    """Raise ConfigError for parts of a file that don't go together."""
    names = [claim.name for claim in claims.claims]
    if twice := {n for n in names if names.count(n) > 1}:
        raise ConfigError(f"{path}: two claims have the name {twice.pop()}: give each its own")
    for claim in claims.claims:
        norms = {*printed[claim.value]["norm"]} if claim.possible else set()
        if lacking := norms - {*claim.eps}:
            raise ConfigError(
                f"{path}: claim {claim.name}: eps: says nothing of {', '.join(sorted(lacking))}: "
                "give the paper's budget by norm"
            )
    compared = [c for claim in claims.claims for c in claim.compare]
    known = {attack for c in compared for attack in c.named("attack", {})}
    known |= {attack for table in printed.values() for attack in table["attack"]}
    for title, options in claims.readings.items():
        if not options or PAPER in options:
            raise ConfigError(f"{path}: readings: {title}: name at least one, and none {PAPER!r}")
        for played in (attack for option in options.values() for attack in option):
            if played not in known:
                raise ConfigError(
                    f"{path}: readings: {title}: {played} is not an attack of these claims: "
                    f"{nearest(played, known)}"
                )


def _literal(node: Any) -> Any:
    """Texts that mean what they say: a page of claims is shared, so it resolves no ${oc.env:…}."""
    if isinstance(node, dict):
        return {key: _literal(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_literal(value) for value in node]
    return node.replace("${", "\\${") if isinstance(node, str) else node


def _check(claim: Claim, claims: Claims, of: str) -> None:
    """Raise ConfigError for a claim that can't be judged."""
    printed = claim.possible and claim.value in claims.printed
    for measure in [] if printed else claims.measures(claim):
        if measure not in MEASURES:
            way = nearest(measure, [*MEASURES, *claims.values])
            raise ConfigError(f"{of}: {measure} is not measured: {way}")
    if claim.expect not in EXPECTED:
        raise ConfigError(f"{of}: expect: {claim.expect}: {nearest(claim.expect, EXPECTED)}")
    if bool(claim.compare) is bool(claim.possible):
        raise ConfigError(f"{of}: give either compare: or possible:")
    if claim.possible and claim.possible not in POSSIBLE:
        raise ConfigError(f"{of}: possible: {claim.possible}: {nearest(claim.possible, POSSIBLE)}")
    if claim.possible and claim.value not in claims.printed:
        raise ConfigError(f"{of}: value: {claim.value} is none of printed: {list(claims.printed)}")
    if claim.synsets not in CHOICES["suite.synsets"]:
        raise ConfigError(f"{of}: synsets: {claim.synsets}: give imagenet, or null for any images")
    if claim.possible and (claim.size < 1 or not all(eps > 0 for eps in claim.eps.values())):
        raise ConfigError(f"{of}: size: {claim.size}, eps: {claim.eps}: give numbers above 0")
    for compare in claim.compare:
        for key in (*compare.left, *compare.right):
            if key not in KEYS:
                raise ConfigError(f"{of}: {key} is not a part of a place: {nearest(key, KEYS)}")
        left = {key: compare.left.get(key, getattr(compare, key)) for key in compare.right}
        if left == compare.right:
            raise ConfigError(f"{of}: right: name what differs from the left side")
        if compare.pairs not in PAIRS:
            raise ConfigError(f"{of}: pairs: {compare.pairs}: {nearest(compare.pairs, PAIRS)}")
        by_target = compare.pairs != "all" or compare.names("target") or "target" in compare.right
        if by_target and claims.measures(claim) != ["asr"]:
            raise ConfigError(
                f"{of}: {claim.value} is measured of an image, whatever the target: leave out "
                "pairs: and target:"
            )


def _printed(printed: Printed, path: Path, name: str) -> pd.DataFrame:
    """A printed table: the columns of a place, and `value` (NaN where nothing is printed)."""
    of = f"{path}: printed.{name}: {printed.file}"
    places = [path.parent / printed.file, PACKAGE / "assets" / printed.file]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise ConfigError(f"{of} is not a file: put it there, as {places[0]}")
    try:
        frame = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as e:
        raise ConfigError(f"{of} cannot be read: {first_line(e)}") from e
    if lacking := {*KEYS[:3], printed.column} - {*frame.columns}:
        raise ConfigError(
            f"{of} lacks {', '.join(sorted(lacking))}: its columns are {', '.join(frame.columns)}"
        )
    keys = frame.reindex(columns=list(KEYS), fill_value="")
    texts = frame[printed.column]
    values = pd.to_numeric(texts, errors="coerce")
    for row, text in texts[values.isna() & (texts != "")].items():
        raise ConfigError(f"{of}: row {row}: {text} is not a number: write 44.2, or nothing")
    for norm in keys["norm"].unique():
        if norm not in NORMS:
            raise ConfigError(f"{of}: norm {norm}: {nearest(norm, NORMS)}")
    for _, twice in keys[keys.duplicated()].iterrows():
        raise ConfigError(f"{of}: {' '.join(filter(None, twice))} is there twice: leave one")
    return keys.assign(value=values)


def pairs_of(
    compare: Compare, places: Sequence[Place], white: Mapping[Place, bool], named: Mapping[str, str]
) -> Iterator[tuple[Place, Place]]:
    """The pairs of places that are compared, left and right, in the order of `places`.

    A right side need not be among them. `white` says which places are white-box, `named` who plays
    the claim's attacks.
    """
    shared = {key: getattr(compare, key) for key in KEYS}
    left = {k: v for k, v in shared.items() if v is not None} | compare.left
    wanted = {key: _names(key, value, named) for key, value in left.items()}
    changes = {key: _names(key, value, named) for key, value in compare.right.items()}
    for place in places:
        if any(getattr(place, key) not in names for key, names in wanted.items()):
            continue
        if compare.pairs != "all" and white.get(place) is not (compare.pairs == "white-box"):
            continue
        for values in itertools.product(*changes.values()):
            other = place._replace(**dict(zip(changes, values, strict=True)))
            if other != place:
                yield place, other


def _names(key: str, value: Any, named: Mapping[str, str]) -> list[str]:
    """One name or several; those of attacks as the records have them."""
    names = [str(v) for v in value] if isinstance(value, list) else [str(value)]
    return [named.get(n, n) for n in names] if key == "attack" else names
