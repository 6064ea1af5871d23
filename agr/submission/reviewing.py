"""The review of an entry: what its claim says, against its records and the networks at hand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from agr.config.cell import Cell
from agr.records.audit import check_records
from agr.records.claim import RECORDS, Claim, ClaimedCell, read_claim
from agr.records.progress import Wanted
from agr.records.store import Records
from agr.submission.checks import FALSE, Check, Unknown, check
from agr.submission.claimed import Entry, claim_of, entry_of
from agr.submission.folder import check_folder
from agr.submission.ours import our_attack, our_cell
from agr.submission.sample import Pixels, read_sample
from agr.utils.errors import ConfigError
from agr.utils.hashing import draw
from agr.utils.text import first_of, plural

ROUNDING = 1.5e-4  # of claimed numbers, which have four digits
LARGEST_SIDE = 2048  # pixels, of a sample's images
# Parts of a claim, and what each is called in a review.
OF_ALL = {"attack": ["attack"], "protocol": ["protocol"], "versions": ["git", "versions"]}
OF_A_CELL = {
    "cell": ["source", "norm", "eps", "seed", "device"],
    "rates": ["rates"],
    "cost": ["cost"],
    "choice of the sample": ["sample"],
}


def reviewed(
    folder: Path, sample: Path | None = None, images: int = 20, words: Sequence[str] = ()
) -> Iterator[Check]:
    """Check an entry, which may come from anyone, and yield a verdict on each thing it says.

    Args:
        folder: of the entry.
        sample: folder of its images, if they came with it.
        images: how many of each cell's images are scored, crafted or chosen again; with 0 neither
            networks nor clean images are looked at.
        words: overrides of the reviewer: where images lie, folders of configs.
    """
    yield (first := check("folder", lambda: check_folder(folder)))
    if first.verdict == FALSE:  # nothing in it is opened
        return
    claims: list[Claim] = []
    yield check("claim", lambda: _read(folder, claims))
    if not claims:
        return
    claim, entries = claims[0], list[Entry]()
    yield check("cells", lambda: _same_cells(folder, claim))
    for cell in claim.cells:
        yield check(f"records of {cell.folder}", partial(_audited, folder, claim, cell, entries))
    if not entries:
        return
    found: list[Claim] = []
    yield check("one attack", lambda: _claimed(entries, claim, found))
    if not found:
        return
    for what, keys in OF_ALL.items():
        yield check(what, partial(_same, claim, found[0], keys))
    with TemporaryDirectory() as outputs:
        for entry, mine in zip(entries, found[0].cells, strict=True):
            said = next(cell for cell in claim.cells if cell.folder == mine.folder)
            for what, keys in OF_A_CELL.items():
                of_cell = f"{what} of {mine.folder}" if what != "cell" else f"cell {mine.folder}"
                yield check(of_cell, partial(_same, said, mine, keys))
            yield from _sampled(entry, mine, sample, images, words, outputs)


def _read(folder: Path, claims: list[Claim]) -> str:
    claims.append(claim := read_claim(folder))
    return f"{claim.name}, {plural(len(claim.cells), 'cell')}"


def _same_cells(folder: Path, claim: Claim) -> str:
    place = folder / RECORDS
    there = {path.relative_to(place).as_posix() for path in place.glob("*/*")}
    said = {f"{claim.protocol.suite}/{cell.folder}" for cell in claim.cells}
    for name in sorted(there ^ said):
        if name in there:
            raise ConfigError(f"the records have {name}, which the claim does not")
        raise ConfigError(f"the claim has {name}, which the records do not")
    return f"the same {len(said)} in the claim and in the records"


def _audited(folder: Path, claim: Claim, cell: ClaimedCell, entries: list[Entry]) -> str:
    records = Records(folder / RECORDS / claim.protocol.suite / cell.folder)
    report = check_records(records)
    if report.problems:
        raise ConfigError(first_of(report.problems))
    entry = entry_of(records)
    _check_order(entry)
    entries.append(entry)
    images, n = plural(report.images, "image"), len(Wanted(entry.cell, entry.run))
    claimed = f"; the claim is of the first {n}" if n < report.images else ""
    return f"{images}, {plural(report.rows, 'row')}{claimed}"


def _check_order(entry: Entry) -> None:
    """Raise ConfigError for images that can't be the first of the order that their seed makes."""
    cell = entry.cell
    names = ["position", "image_id", "label", "target", "clean_pred"]
    rows = entry.records.read("rows", names)
    ids = rows.drop_duplicates("position").sort_values("position")["image_id"]
    draws = [draw(cell.config.seed, image_id) for image_id in ids]
    if draws != sorted(draws):
        raise ConfigError(f"its images aren't in the order of seed={cell.config.seed}")
    of_selecting = rows[rows["target"].isin(cell.selecting)]
    if (of_selecting["clean_pred"] != of_selecting["label"]).any():
        raise ConfigError(f"select={cell.config.select} would not have chosen all of its images")


def _claimed(entries: list[Entry], claim: Claim, found: list[Claim]) -> str:
    found.append(claim_of(entries, claim.name, claim.paper, claim.code, claim.by))
    return f"{claim.attack.title} ({claim.attack.hash})"


def _same(said: Any, found: Any, keys: Sequence[str]) -> str:
    """Compare parts of a claim with what the records say. Raises ConfigError for a difference."""
    for key in keys:
        pairs = _differing(asdict(said)[key], asdict(found)[key], key)
        if first := next(pairs, None):
            place, one, other = first
            raise ConfigError(
                f"{place} is claimed to be {one!r:.60}, the records say {other!r:.60}"
            )
    return "as in the records"


def _differing(a: Any, b: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield (place, claimed, found) of what differs in two plain values."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {**a, **b}:
            yield from _differing(a.get(key), b.get(key), f"{place}.{key}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for n, (one, other) in enumerate(zip(a, b, strict=True)):
            named = other.get("target") or other.get("image_id") or n
            yield from _differing(one, other, f"{place}[{named}]")
    elif isinstance(a, float) and isinstance(b, float):
        if not math.isclose(a, b, rel_tol=0, abs_tol=ROUNDING):
            yield place, a, b
    elif a != b:
        yield place, a, b


def _sampled(
    entry: Entry, mine: ClaimedCell, sample: Path | None, images: int, words: Sequence[str], to: str
) -> Iterator[Check]:
    """Check the sample of a cell: its images, their budget and scores, and crafted once more."""
    name, pixels, cells = mine.folder, dict[str, Pixels](), list[Cell]()

    def local() -> Cell:
        if not images:
            raise Unknown("images=0 looks at no network")
        if not cells:
            cells.append(our_cell(entry, words, to))
        return cells[0]

    def given() -> dict[str, Pixels]:
        if not pixels:
            given_wrong = "none of the images given could be used, see above"
            raise Unknown(given_wrong if sample else "give its images, sample=FOLDER")
        return dict(list(pixels.items())[:images])

    def choose() -> str:
        from agr.submission.again import chosen_again

        return chosen_again(entry, local(), images)

    def measure() -> str:
        from agr.submission.again import measured

        return measured(entry, local(), given())

    def score() -> str:
        from agr.submission.again import scored_again

        return scored_again(entry, local(), given())

    def craft() -> str:
        ours = replace(local().config, attack=our_attack(entry, words))
        from agr.submission.again import crafted_again

        return crafted_again(entry, Cell(ours), mine.sample[:images])

    yield check(f"images of {name}", lambda: _pictures(entry, mine, sample, pixels))
    yield check(f"suite of {name}", lambda: f"{local().suite.name}, as it is here")
    yield check(f"choice of images of {name}", choose)
    yield check(f"budget of {name}", measure)
    yield check(f"scores of {name}", score)
    yield check(f"crafting of {name}", craft)


def _pictures(
    entry: Entry, mine: ClaimedCell, sample: Path | None, found: dict[str, Pixels]
) -> str:
    if sample is None:
        raise Unknown("give its images, sample=FOLDER")
    side = entry.cell.geometry.size
    if side > LARGEST_SIDE:
        raise Unknown(f"images of {side:,} px are too large for a review")
    if sample.is_symlink():
        raise ConfigError(f"{sample} is a link")
    read = {i.image_id: read_sample(sample / mine.folder, i, side) for i in mine.sample}
    found |= read
    return f"{plural(len(read), 'image')} of the claimed pixels"
