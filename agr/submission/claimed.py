"""The claim that records bear out: made from them when they are submitted, and for a review."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import pandas as pd
import yaml

from agr.config.cell import Cell
from agr.config.load import stored_cell
from agr.config.networks import undefended
from agr.config.schema import GROUPS
from agr.config.security import HOME, targets_of
from agr.records.claim import (
    Claim,
    ClaimedAttack,
    ClaimedCell,
    ClaimedRate,
    Cost,
    Protocol,
    SampleImage,
)
from agr.records.progress import Wanted
from agr.records.run_info import RunInfo
from agr.records.store import Records
from agr.report.frames import selected
from agr.report.rates import rate
from agr.utils.errors import ConfigError
from agr.utils.hashing import draw
from agr.utils.text import plural

SAMPLE = 20  # images of a cell
DIGITS = 4  # of rates and means
FACTS = ("image_id", "position", "target", "adv_sha256", "forwards", "backwards", "steps_used")


class Entry(NamedTuple):
    """A finished cell with its records."""

    cell: Cell
    run: RunInfo
    records: Records


def entry_of(records: Records, n_images: int | None = None) -> Entry:
    """Return a cell as its records have it, with every target that all its images were scored on.

    It is of the first `n_images`, or of as many as the last run was asked for.

    Raises ConfigError for records that are damaged or unfinished, and for an attack whose code is
    neither agr's nor in a file that others have.
    """
    run = records.run()
    if run is None or "suite" not in run.config:
        raise ConfigError(f"{records.folder} has no records: give the folder of a cell")
    cell = stored_cell(run.config, records.folder)
    if n_images:
        cell = Cell(replace(cell.config, n_images=n_images))
    own = {target.partition(".")[0] for target in targets_of(asdict(cell.config.attack))}
    if foreign := sorted(own - {HOME}):
        raise ConfigError(
            f"{records.folder}: its attack has parts of {', '.join(foreign)}, whose code nobody "
            "would run for a review: export its images and give them to agr.score"
        )
    wanted, scored = Wanted(cell, run), records.scored()
    if lost := wanted.of(run.lost):
        raise ConfigError(
            f"{records.folder} lost {plural(len(lost), 'image')}, whose files went bad: restore "
            "them, and run the cell again"
        )
    known = {t for t in scored if undefended(t, cell.config.defenses)[0] in cell.suite.networks}
    whole = {t for t in known if len(wanted.of(scored[t])) == len(wanted)}
    if missing := [target for target in cell.targets if target not in whole]:
        raise ConfigError(
            f"{records.folder} is not finished: images have no row for {', '.join(missing)}; the "
            "same command goes on"
        )
    targets = [*cell.targets, *sorted(whole - {*cell.targets})]
    return Entry(Cell(replace(cell.config, targets=targets)), run, records)


def claim_of(
    entries: Sequence[Entry], name: str, paper: str = "", code: str = "", by: str = ""
) -> Claim:
    """Return the claim of the cells of an entry.

    Raises ConfigError for cells of several attacks, suites or protocols.
    """
    attacks = {attack.hash: attack for attack in (claimed_attack(e.cell) for e in entries)}
    if len(attacks) > 1:
        one_of_each = dict[str, str]()
        for e in entries:
            one_of_each.setdefault(e.cell.attack_hash, str(e.records.folder))
        raise ConfigError(
            f"an entry is of one attack, and these are of {len(attacks)}: submit them separately: "
            + ", ".join(one_of_each.values())
        )
    protocols = [asdict(_protocol(entry)) for entry in entries]
    for key, value in protocols[0].items():
        if values := sorted({str(p[key]) for p in protocols} - {str(value)}):
            raise ConfigError(
                f"the cells of an entry share their {key}, and these have {value}, "
                f"{', '.join(values)}: submit them apart"
            )
    packages = {package for entry in entries for package in entry.run.versions}
    return Claim(
        name=name,
        attack=next(iter(attacks.values())),
        protocol=Protocol(**protocols[0]),
        cells=[_claimed_cell(entry) for entry in entries],
        git=_joined(entry.run.git for entry in entries) or None,
        versions={p: _joined(e.run.versions.get(p) for e in entries) for p in sorted(packages)},
        paper=paper,
        code=code,
        by=by,
    )


def claimed_attack(cell: Cell) -> ClaimedAttack:
    """Return the attack of a cell, its YAML with every value and without empty slots."""
    attack = asdict(cell.config.attack)
    images = attack.pop("images")
    for group in GROUPS:
        attack[group] = {name: part for name, part in attack[group].items() if part is not None}
    filled = {key: value for key, value in attack.items() if value not in (None, {}, [])}
    text = yaml.safe_dump(filled, sort_keys=False, allow_unicode=True)
    digest = images["sha256"] if images else None
    return ClaimedAttack(attack["name"], attack["title"], cell.attack_hash, text, digest)


def _protocol(entry: Entry) -> Protocol:
    cell, run = entry.cell, entry.run
    c = cell.config
    if run.data is None or run.numeric is None:
        raise ConfigError(f"{entry.records.folder} doesn't say what it was made with: run it again")
    return Protocol(
        suite=cell.suite.name, data=run.data.fingerprint, steps=c.steps, select=c.select,
        split=c.split, success=cell.success, denominator=c.denominator, quantize=c.quantize,
        precision=run.numeric.precision,
    )  # fmt: skip


def _claimed_cell(entry: Entry) -> ClaimedCell:
    cell, run, records = entry
    rows = records.read("rows", [*FACTS])
    rows = rows[rows["position"].isin(Wanted(cell, run).of(rows["position"].unique().tolist()))]
    images = rows.drop_duplicates("position")
    crafted = sum(session.images for session in run.sessions)
    seconds = (
        sum(session.crafting_seconds for session in run.sessions) / crafted if crafted else None
    )
    means = [_mean(images[name]) for name in ("forwards", "backwards", "steps_used")]
    return ClaimedCell(
        folder=records.folder.name,
        source=cell.source,
        norm=cell.config.norm.name,
        eps=float(cell.config.eps),
        seed=cell.config.seed,
        device=run.numeric.device if run.numeric else "",
        rates=[_claimed_rate(cell, target) for target in cell.targets],
        cost=Cost(means[0], means[1], means[2], _rounded(seconds)),
        sample=sample_of(cell, images),
    )


def _claimed_rate(cell: Cell, target: str) -> ClaimedRate:
    row = rate(cell, target, selected(cell))
    counts = int(row["n"]), int(row["successes"])
    percents = (_rounded(row[key]) for key in ("asr", "low", "high", "clean"))
    return ClaimedRate(target, bool(row["white_box"]), *counts, *percents)


def sample_of(cell: Cell, images: pd.DataFrame) -> list[SampleImage]:
    """Return the sample of a cell's images, which follows from their ids and the cell's identity.

    Nobody can choose it. `images` has a row per image with image_id, position and adv_sha256.
    """
    found = [
        SampleImage(str(row["image_id"]), int(row["position"]), str(row["adv_sha256"]))
        for row in images.to_dict("records")
    ]
    return sorted(found, key=lambda image: draw(cell.id, "sample", image.image_id))[:SAMPLE]


def _mean(values: pd.Series[Any]) -> float | None:
    known = values.dropna()
    return _rounded(float(known.mean())) if len(known) else None


def _rounded(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(float(value), DIGITS)


def _joined(values: Iterable[str | None]) -> str:
    return ", ".join(sorted({value for value in values if value}))
