"""Image ids, synsets and class numbers, as names of files and lines of labels write them."""

from __future__ import annotations

import re

RawLabels = dict[str, str]  # image id -> synset or number


SYNSET = re.compile(r"n\d{8}", re.ASCII)
NUMBER = re.compile(r"\d{1,9}", re.ASCII)


IMAGE_SUFFIXES = {".jpeg", ".jpg", ".png"}


def id_of(name: str) -> str:
    """Image id of a file name: without folders and without an image's ending."""
    base = name.rpartition("/")[2]
    stem, dot, suffix = base.rpartition(".")
    return stem if dot and f".{suffix}".lower() in IMAGE_SUFFIXES else base
