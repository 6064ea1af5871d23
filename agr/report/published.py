"""Rankings that others have published, beside a leaderboard of the same attacks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import kendalltau, rankdata

from agr.config.cell import Cell
from agr.config.schema import FAMILIES
from agr.config.yaml_files import named_file, read_yaml
from agr.report.families import black_box_families
from agr.report.formats import Block, Sheet
from agr.report.numbers import Number
from agr.report.statistics import CONFIDENCE, SEED
from agr.utils.errors import ConfigError

KEYS = ("title", "setting", "targets", "attacks")
FEWEST = 3  # attacks: two always lie on a line
RESAMPLES = 10_000
COLUMNS = ["attack", "title", "transfer", "place", "published", "published_place", "apart"]


@dataclass(frozen=True)
class Published:
    """Success rates that others print, in percent, by attack in the order of `targets`."""

    title: str
    setting: str
    targets: dict[str, str]  # the family of each
    attacks: dict[str, list[float]]

    def means(self, families: Collection[str | None] = ()) -> dict[str, float]:
        """Return each attack's mean over the targets of some families; of none, over all."""
        frame = pd.DataFrame(self.attacks, index=[*self.targets], dtype=float)
        return {str(name): mean for name, mean in frame.loc[self.of(families)].mean().items()}

    def of(self, families: Collection[str | None] = ()) -> list[str]:
        """Return the targets of some families; of none, all."""
        return [name for name, own in self.targets.items() if not families or own in families]


def split_published(arguments: Sequence[str]) -> tuple[dict[str, Published], list[str]]:
    """Split off published=NAME words: what they name, and the other words. Raises ConfigError."""
    names = [word.partition("=")[2] for word in arguments if word.startswith("published=")]
    rest = [word for word in arguments if not word.startswith("published=")]
    return {Path(name).stem: load_published(name) for name in names}, rest


def load_published(name: str) -> Published:
    """Read published rates by name: a file of conf/published, or a path. Raises ConfigError."""
    path = named_file("published", name)
    content = read_yaml(path)
    if not isinstance(content, dict) or {*content} != {*KEYS}:
        raise ConfigError(f"{path}: write exactly the keys {', '.join(KEYS)}")
    targets, attacks = content["targets"], content["attacks"]
    if not isinstance(targets, dict) or not targets or not {*targets.values()} <= {*FAMILIES}:
        raise ConfigError(
            f"{path}: targets={targets!r}: write each with its family, one of {', '.join(FAMILIES)}"
        )
    if not isinstance(attacks, dict):
        raise ConfigError(f"{path}: attacks={attacks!r}: write each with its list of rates")
    for attack, rates in attacks.items():
        if not _are_rates(rates, len(targets)):
            raise ConfigError(
                f"{path}: attacks.{attack}={rates!r}: write a number from 0 to 100 for each of the "
                f"{len(targets)} targets"
            )
    return Published(str(content["title"]), str(content["setting"]), targets, attacks)


def _are_rates(node: Any, count: int) -> bool:
    return (
        isinstance(node, list)
        and len(node) == count
        and all(type(rate) in (int, float) and 0 <= rate <= 100 for rate in node)
    )


def published_sheet(board: Sheet, cells: Sequence[Cell], published: Published, name: str) -> Sheet:
    """Return a leaderboard's attacks beside their published places, best here first.

    Published means are over the targets of those families that the cells' black-box targets are of,
    if there are such; places count the attacks that both have.

    Args:
        board: a leaderboard, of which only finished rows are compared.
        cells: of its attacks.
        published: what others print.
        name: of it, which becomes part of the sheet's.
    """
    attacks = board.frame.dropna(subset="sources")  # the row of no attack has none
    ours = attacks[attacks["run"].astype(bool)].set_index("attack")
    families = {*black_box_families(cells).values()} & {*published.targets.values()}
    theirs = published.means(families)
    both = ours[ours.index.isin([*theirs])].copy()
    both["published"] = [theirs[attack] for attack in both.index]
    for column, place in (("transfer", "place"), ("published", "published_place")):
        both[place] = rankdata(-both[column], method="min")
    both["apart"] = both["published_place"] - both["place"]
    frame = both.reset_index()[COLUMNS]
    header = ["Attack", "name", "mean transfer ASR %", "place", "published %", "its place", "apart"]
    forms = dict(zip(COLUMNS[2:], (".1f", ".0f", ".1f", ".0f", "+.0f"), strict=True))
    rows = [
        [row["title"], row["attack"], *(Number(row[key], form) for key, form in forms.items())]
        for row in frame.to_dict("records")
    ]
    of = published.of(families)
    notes = [
        f"published: by {published.title}, {published.setting}; means over {', '.join(of)}",
        "places are those among the attacks that both have; apart: how many places higher here",
        _correlation(frame["transfer"], frame["published"], "of the two"),
    ]
    if len(of) < len(published.targets):
        whole = frame["attack"].map(published.means())
        notes.append(_correlation(frame["transfer"], whole, "with the means over all its targets"))
    notes += _missing(board.frame, ours, theirs)
    caption = f"{board.caption}, beside {published.title}'s order"
    return Sheet(f"{board.name}-{name}", caption, frame, [Block(header, rows)], notes)


def _correlation(ours: pd.Series, theirs: pd.Series, of: str) -> str:
    """Return the note on a rank correlation."""
    if len(ours) < FEWEST:
        return f"rank correlation {of}: {len(ours)} attacks are too few"
    x, y = ours.to_numpy(float), theirs.to_numpy(float)
    rho, low, high = spearman(x, y)
    return (
        f"rank correlation {of}: Spearman's {rho:.2f} [{low:.2f}, {high:.2f}], Kendall's "
        f"{kendalltau(x, y).statistic:.2f}, {len(x)} attacks; brackets: 95 % bootstrap interval "
        "over attacks"
    )


def spearman(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Return Spearman's rank correlation of pairs and its 95 % percentile bootstrap interval.

    NaN where one side is all alike; draws in which one is are left out.
    """
    draws = np.random.default_rng(SEED).integers(0, len(x), (RESAMPLES, len(x)))
    found = _spearman(x[draws], y[draws])
    tail = (1 - CONFIDENCE) / 2
    low, high = (
        np.nanquantile(found, [tail, 1 - tail]) if not np.isnan(found).all() else (np.nan,) * 2
    )
    return float(_spearman(x[None], y[None])[0]), float(low), float(high)


def _spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the correlation of the ranks in each row."""
    a, b = (rankdata(side, axis=1) - (side.shape[1] + 1) / 2 for side in (x, y))
    scale = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.divide((a * b).sum(1), scale, out=np.full(len(a), np.nan), where=scale > 0)


def _missing(board: pd.DataFrame, ours: pd.DataFrame, theirs: Mapping[str, float]) -> list[str]:
    """Return notes on the attacks that only one side has."""
    alone = [title for name, title in ours["title"].items() if name not in theirs]
    unranked = [name for name in theirs if name not in {*ours.index}]
    return [
        f"{what}: {', '.join(names)}"
        for what, names in (("ranked here only", alone), ("published only", unranked))
        if names
    ]
