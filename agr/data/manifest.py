"""Which images there are: ids, files and labels, in a fixed order, before any is opened."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from agr.config import ConfigError, Suite, first_line

SYNSET = re.compile(r"n\d{8}")
IMAGE_SUFFIXES = {".jpeg", ".jpg", ".png"}


class Entry(NamedTuple):
    """One image of a suite."""

    image_id: str  # the file's name without its ending
    path: Path
    label: int
    sha256: str | None = None  # of the file, where the manifest knows it


@dataclass(frozen=True)
class Manifest:
    """The images of a suite, in the order of their ids."""

    layout: str
    entries: tuple[Entry, ...]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all ids, labels and file hashes (sizes, where the manifest has no hashes)."""
        text = "\n".join(f"{e.image_id},{e.label},{e.sha256 or _size(e)}" for e in self.entries)
        return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(suite: Suite, classes: int) -> Manifest:
    """The images of `suite`, from its CSV or from the synset folders below its root.

    Raises ConfigError if the root, the CSV or its columns are missing, or if a label lies outside
    0..classes-1, or an image id occurs twice.
    """
    root = Path(suite.root)
    if not root.is_dir():
        raise ConfigError(f"suite.root={root} is no folder: give the folder of the images")
    if suite.manifest:
        layout, found = "csv", _from_csv(Path(suite.manifest), root)
    else:
        layout, found = "synset folders", _from_folders(root, classes)
    entries = tuple(sorted(found))
    _check(entries, classes, suite.manifest or str(root))
    return Manifest(layout, entries)


def _from_csv(path: Path, root: Path) -> Iterator[Entry]:
    """Rows of a CSV with the columns filename, label and, where known, sha256."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"suite.manifest={path} cannot be read: {first_line(e)}") from e
    rows = csv.DictReader(lines)
    missing = {"filename", "label"} - set(rows.fieldnames or ())
    if missing:
        raise ConfigError(
            f"suite.manifest={path} has no column {sorted(missing)[0]}: its first line must name "
            "filename and label"
        )
    for row in rows:
        if not row["filename"] or not row["label"] or not row["label"].isdecimal():
            raise ConfigError(
                f"suite.manifest={path} line {rows.line_num}: {row['filename']!r}, label "
                f"{row['label']!r}: give a file name and a class number"
            )
        name = row["filename"]
        yield Entry(Path(name).stem, root / name, int(row["label"]), row.get("sha256") or None)


def _from_folders(root: Path, classes: int) -> Iterator[Entry]:
    """Files in nXXXXXXXX folders; the sorted synsets are the classes 0, 1, 2 … as in timm."""
    synsets = sorted(p for p in root.iterdir() if p.is_dir() and SYNSET.fullmatch(p.name))
    if not synsets:
        raise ConfigError(f"suite.root={root} has no synset folders (n01440764 …): check the path")
    if len(synsets) != classes:  # one missing folder would shift every later label
        raise ConfigError(
            f"suite.root={root} has {len(synsets)} synset folders, the networks know {classes} "
            "classes: complete the folders, or give a CSV as suite.manifest"
        )
    for label, folder in enumerate(synsets):
        for path in folder.iterdir():
            if path.suffix.lower() in IMAGE_SUFFIXES:
                yield Entry(path.stem, path, label)


def _size(entry: Entry) -> int:
    """Of the file in bytes, -1 if it is missing."""
    try:
        return entry.path.stat().st_size
    except OSError:
        return -1


def _check(entries: tuple[Entry, ...], classes: int, where: str) -> None:
    if not entries:
        raise ConfigError(f"{where} names no image: check the path")
    for before, e in zip((None, *entries), entries, strict=False):
        if e.label >= classes:
            raise ConfigError(
                f"{where}: {e.image_id} has label {e.label}, the networks know 0 to {classes - 1}"
            )
        if before and before.image_id == e.image_id:
            raise ConfigError(f"{where} names {e.image_id} twice: image ids must be unique")
