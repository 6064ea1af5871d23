"""The folder of an entry, as a stranger may send it: bounded before anything in it is opened."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from agr.records.claim import CLAIM, LARGEST, RECORDS
from agr.records.folders import ABOUT
from agr.records.part_files import PART
from agr.utils.errors import ConfigError
from agr.utils.text import plural, printable

MOST_FILES = 5_000
MOST_BYTES = 1 << 26  # of all files
LARGEST_PART, LARGEST_RUN = 1 << 25, 1 << 21  # bytes; 20,000 and 15,000 are usual


def check_folder(folder: Path) -> str:
    """Return how large an entry is. Raises ConfigError for what doesn't belong in one.

    Links and pipes don't, nor images or files of any other kind, nor what is far too large.
    """
    files = size = 0
    for path, found in _walk(folder, MOST_FILES):
        place = path.relative_to(folder)
        most = _most(place.parts, is_folder=stat.S_ISDIR(found.st_mode))
        if most is None or not (stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)):
            raise ConfigError(f"{printable(str(place))} doesn't belong in an entry")
        if stat.S_ISREG(found.st_mode):
            files, size = files + 1, size + found.st_size
            if found.st_size > most:
                raise ConfigError(f"{place} has {found.st_size:,} bytes, {most:,} are the most")
    if size > MOST_BYTES:
        raise ConfigError(f"its files have {size:,} bytes, {MOST_BYTES:,} are the most")
    return f"{plural(files, 'file')}, {size:,} bytes"


def _walk(folder: Path, left: int) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield what lies in and below a folder, links as such. Raises ConfigError for too much."""
    folders = [folder]
    while folders:
        with os.scandir(folders.pop()) as found:
            for each in found:
                left -= 1
                if left < 0:
                    raise ConfigError(f"it holds more than {MOST_FILES:,} files and folders")
                about, path = each.stat(follow_symlinks=False), Path(each.path)
                yield path, about
                if stat.S_ISDIR(about.st_mode):
                    folders.append(path)


def _most(parts: tuple[str, ...], *, is_folder: bool) -> int | None:
    """Return how large a file at some place may be, 0 for a folder; None where none belongs."""
    if is_folder:
        place = parts[0] == RECORDS and (len(parts) <= 3 or parts[3:] == (ABOUT,))
        return 0 if place and not any(part.startswith(".") for part in parts) else None
    if parts == (CLAIM,):
        return LARGEST
    if len(parts) == 5 and parts[3:] == (ABOUT, "run.json"):
        return LARGEST_RUN
    rows = len(parts) == 4 and (match := PART.fullmatch(parts[3])) and match[1] == "rows"
    return LARGEST_PART if rows else None
