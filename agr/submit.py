"""Make an entry of a leaderboard from finished cells: a claim, its records, a sample of images.

python -m agr.submit CELL [CELL ...] name=NAME [paper=…] [code=…] [by=…] [to=FOLDER] [sample=FOLDER]
python -m agr.submit attack=agr eps=8 [key=value ...] name=NAME [the same]

CELL is a folder of records; overrides mean the cells that agr.run makes of them. All are of one
attack, suite and protocol. FOLDER (to=NAME unless given) gets claim.json and records/, which name
no file or person of this machine; `by` is who you want to be. The 20 images of each cell's sample,
which nobody can choose, go to sample=FOLDER as PNGs, to be sent beside the entry: saved ones, or
else they are crafted again. For example:

    python -m agr.submit outputs/demo/mifgsm-* name=MI-FGSM paper=arXiv:1710.06081 sample=sample
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from agr.config.cell import Cell
from agr.config.compose import expand
from agr.config.overrides import split_own, without_flags
from agr.jobs.console import script
from agr.records.audit import check_records
from agr.records.claim import LONGEST, RECORDS, entry_at, write_claim
from agr.records.progress import Wanted, progress
from agr.records.store import Records
from agr.report.unfinished import rest_of
from agr.submission.claimed import Entry, claim_of, entry_of
from agr.submission.portable import pack
from agr.submission.sample import sample_images, write_sample
from agr.utils.errors import ConfigError
from agr.utils.files import whole_folder
from agr.utils.hashing import slug
from agr.utils.program import as_called
from agr.utils.text import UNSHOWN, first_of, plural, printable

FACTS = ("name", "paper", "code", "by")
HELP = as_called("python -m agr.submit --help has examples")


def main(arguments: Sequence[str]) -> None:
    """Parse the arguments, check all cells, and write the entry whole or not at all."""
    own, rest = _parse(arguments)
    to = Path(own.get("to") or slug(own["name"]).lstrip(".") or "entry").expanduser()
    sample = Path(own["sample"]).expanduser() if "sample" in own else None
    for key, place in (("to", to), ("sample", sample)):
        if place and (place.exists() or place.is_symlink()):
            raise ConfigError(f"{place} already exists: give another folder, {key}=…")
    if around := entry_at(to.parent):
        raise ConfigError(f"to={to} lies in the entry {around}: name a folder outside of it")
    if sample and (sample.resolve().is_relative_to(to.resolve()) or to.resolve() == sample):
        raise ConfigError(f"sample={sample} lies in the entry, which holds no image: name another")
    entries = [_checked(Records(folder), n) for folder, n in _folders(rest).items()]
    facts = {key: own.get(key, "") for key in FACTS}
    claim = claim_of(entries, **facts)  # of the cells as they are: they may not belong together
    with whole_folder(to) as draft:
        suite = draft / RECORDS / claim.protocol.suite
        suite.mkdir(parents=True)
        packed = [pack(entry, suite / entry.records.folder.name) for entry in entries]
        claim = claim_of([_checked(records) for records in packed], **facts)
        write_claim(draft, claim)
        if sample:
            with whole_folder(sample) as beside:
                for entry, cell in zip(entries, claim.cells, strict=True):
                    write_sample(beside / cell.folder, sample_images(entry, cell.sample))
    size = sum(path.stat().st_size for path in to.rglob("*") if path.is_file())
    print(printable(f"{claim.name}: {plural(len(claim.cells), 'cell')}, {size:,} bytes: {to}"))
    if sample:
        images = sum(len(cell.sample) for cell in claim.cells)
        print(f"{plural(images, 'image')} to send beside it: {printable(str(sample))}")
    else:
        print("without sample=… nobody can score its images again")
    beside_it = f" sample={sample}" if sample else ""
    print(f"as others will see it: {as_called('python -m agr.review')} {to}{beside_it}")


def _parse(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return our own words by key, and the others. Raises ConfigError."""
    own, rest = split_own(arguments, (*FACTS, "to", "sample"))
    if "name" not in own:
        raise ConfigError(f"give name=…, what the entry is called on a leaderboard: {HELP}")
    for key in FACTS:
        if UNSHOWN.search(own.get(key, "")) or len(own.get(key, "")) > LONGEST:
            raise ConfigError(
                f"{key}={printable(own[key])[:50]}…: give one line of {LONGEST} characters at most"
            )
    return own, rest


def _folders(words: Sequence[str]) -> dict[Path, int | None]:
    """Return the folders of the cells that the words name or mean, and n_images if they say it.

    Raises ConfigError.
    """
    overrides = [word for word in words if "=" in word or word.startswith("-")]
    folders = [Path(word) for word in words if word not in overrides]
    if folders and overrides:
        raise ConfigError(f"give folders of cells or overrides ({overrides[0]}), not both: {HELP}")
    if not words:
        raise ConfigError(f"give folders of cells, or overrides that mean them: {HELP}")
    if folders:
        return dict.fromkeys({folder.resolve(): folder for folder in folders}.values())
    cells: dict[Path, Cell] = {cell.folder: cell.whole for cell in expand(without_flags(words))}
    for folder, cell in cells.items():
        state = progress(cell, Records(folder))
        if state.missing:
            raise ConfigError(f"{folder} is not finished ({state.word}): run {rest_of(cell)}")
    return {folder: cell.config.n_images for folder, cell in cells.items()}


def _checked(records: Records, n_images: int | None = None) -> Entry:
    """Return a cell that is finished, and whose records verify. Raises ConfigError."""
    entry = entry_of(records, n_images)
    report = check_records(records)
    if report.problems:
        found = first_of(report.problems)
        raise ConfigError(f"{records.folder}: {found}: agr.verify says more")
    if (n := len(Wanted(entry.cell, entry.run))) < report.images:
        print(
            f"{records.folder}: its first {n} images are claimed, of {report.images} with rows; "
            "overrides with n_images=… say how many"
        )
    return entry


if __name__ == "__main__":
    script(lambda: main(sys.argv[1:]), __doc__)
