"""Entries of a data set, and the ids, synsets and class numbers by which files name them."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

RawLabels = dict[str, str]  # image id -> synset or class number

SYNSET = re.compile(r"n\d{8}", re.ASCII)
NUMBER = re.compile(r"\d{1,9}", re.ASCII)
WHOLE = re.compile(r"(\d+)\.0+", re.ASCII)
IMAGE_SUFFIXES = {
    *(".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"),
}
# Of images that aren't decoded here: where they are passed over, that is said.
OTHER_IMAGES = {
    *(".avif", ".heic", ".heif", ".jxl", ".jp2", ".j2k", ".pgm", ".pbm", ".tga", ".dng", ".cr2"),
    *(".nef", ".exr", ".hdr", ".svg", ".psd", ".npy"),
}


class Entry(NamedTuple):
    """One image of a data set."""

    image_id: str  # the file's name without its suffix
    path: Path  # the file, or the tar or table that holds it
    label: int
    sha256: str | None = None  # of the file, where the manifest knows it
    size: int | None = None  # bytes, when it was indexed; of a table as a whole
    offset: int | None = None  # of its first byte in the tar
    target: int | None = None  # the label that a targeted attack wants, where the manifest has one
    row: int | None = None  # in the Parquet or Arrow file that holds it


@dataclass(frozen=True)
class Manifest:
    """The images of a data set, in the order of their ids."""

    layout: str  # a description, such as "synset folders"
    place: Path  # the folder, tar or CSV
    entries: tuple[Entry, ...]
    labels: Path | None = None  # the file of labels; None: names of folders or files are the labels
    unread: tuple[str, ...] = ()  # columns of the CSV that mean nothing here
    passed_over: tuple[str, ...] = ()  # endings of images that can't be read, with their numbers

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all ids, labels, targets, and of the files' hashes or else sizes."""
        lines = []
        for e in self.entries:
            content = e.sha256 or (-1 if e.size is None else e.size)
            target = "" if e.target is None else f",{e.target}"
            lines.append(f"{e.image_id},{e.label},{content}{target}")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def id_of(name: str) -> str:
    """Return the image id of a file name: no folders, no image suffix."""
    stem, suffix = os.path.splitext(os.path.basename(name))
    return stem if suffix.lower() in IMAGE_SUFFIXES else stem + suffix


def class_word(word: str) -> str:
    """Return a raw label without blanks around it, and "3.0" as "3"."""
    return WHOLE.sub(r"\1", word.strip()) if WHOLE.fullmatch(word.strip()) else word.strip()


def distinct_ids(names: Iterable[str]) -> list[str]:
    """Return the image ids of file names; those of the same name keep their folders.

    "cat/1.png" and "dog/1.png" become "cat_1" and "dog_1", whatever else is there.
    """
    ids = [(id_of(name), PurePosixPath(name).parent) for name in names]
    count = Counter(image_id for image_id, _ in ids)
    return [
        image_id if count[image_id] == 1 else "_".join([*folder.parts, image_id]).lstrip("/_")
        for image_id, folder in ids
    ]


def is_class(word: str) -> bool:
    """True if a word is a raw label: a synset or a class number."""
    return bool(SYNSET.fullmatch(word) or NUMBER.fullmatch(word))
