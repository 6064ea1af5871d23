"""Snapshots of files and folders: an index is valid while what it was made from is unchanged."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

from agr.utils.errors import ConfigError, first_line

Stamps = dict[str, list[int] | None]  # by path: modified, in ns, and size in bytes; None: absent
LARGEST = 1 << 28  # bytes of a file of labels; that of a million images has a tenth of it
SETTLED = 2_000_000_000  # ns; clocks of file systems tick every 2 s at worst


class Listing(NamedTuple):
    """Content of a folder, hidden things left out."""

    folders: list[str]
    files: list[str]  # and whatever else is not a folder


class FileSnapshot:
    """Reader of files and folders that notes the stamp with which each was first seen.

    What is not there is noted too, as None: the snapshot is out of date once it appears.
    """

    def __init__(self) -> None:
        self.stamps: Stamps = {}

    def is_file(self, path: Path) -> bool:
        """Return whether `path` is a regular file, or a link to one."""
        found = self._stat(path)
        return found is not None and stat.S_ISREG(found.st_mode)

    def is_folder(self, path: Path) -> bool:
        """Return whether `path` is a folder, or a link to one."""
        found = self._stat(path)
        return found is not None and stat.S_ISDIR(found.st_mode)

    def read(self, path: Path) -> bytes:
        """Read a file. Raises ConfigError."""
        found = self._stat(path)
        if found and not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{path} is {_kind(found.st_mode)}: give a file")
        if found and found.st_size > LARGEST:
            raise ConfigError(
                f"{path} has {found.st_size:,} bytes, and a file of labels at most {LARGEST:,}: "
                "give another one"
            )
        try:
            return path.read_bytes()
        except OSError as e:
            raise ConfigError(f"{path} cannot be read: {e.strerror or first_line(e)}") from e

    def text(self, path: Path) -> str:
        """Read a text file, without its byte order mark. Raises ConfigError."""
        return decode(self.read(path), path)

    def list(self, folder: Path) -> Listing:
        """List a folder. Raises ConfigError."""
        self._stat(folder)
        listing = Listing([], [])
        try:
            with os.scandir(folder) as entries:
                for e in entries:
                    if not e.name.startswith("."):
                        (listing.folders if _is_folder(e) else listing.files).append(e.name)
        except OSError as e:
            raise ConfigError(f"{folder} cannot be listed: {e.strerror or first_line(e)}") from e
        return listing

    def settled(self, now: int) -> bool:
        """Return whether all last changed so long before `now` (ns) that a later change shows."""
        times = [stamp[0] for stamp in self.stamps.values() if stamp]
        return max(times, default=0) < now - SETTLED

    def _stat(self, path: Path) -> os.stat_result | None:
        found = look_at(path)
        self.stamps.setdefault(str(path), _stamp(found))
        return found


def _stamp(found: os.stat_result | None) -> list[int] | None:
    return found and [found.st_mtime_ns, found.st_size]


def unchanged(stamps: Stamps) -> bool:
    """Return whether all files and folders still have their stamps."""
    return all(_stamp(look_at(path)) == stamp for path, stamp in stamps.items())


def look_at(path: Path | str) -> os.stat_result | None:
    """Return the stat of a file or folder; None if it is not there or hidden from us."""
    try:
        return os.stat(path)
    except (OSError, ValueError):  # a name with a NUL byte is a ValueError
        return None


def absence(path: Path) -> str:
    """Predicate of a path that leads to no file or folder, such as "is not there"."""
    found = look_at(path)
    return f"is {_kind(found.st_mode)}" if found else "is not there"


def decode(content: bytes, path: Path) -> str:
    """Decode a text file, its lines ending in \\n. Raises ConfigError."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path} is not a text file: {first_line(e)}: save it as UTF-8") from e
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _kind(mode: int) -> str:
    """Kind of a thing that is not a file: reading it may never come to an end."""
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle
        return False


def expand_home(path: str) -> Path:
    """Expand ~ in a path. Raises ConfigError."""
    try:
        return Path(path).expanduser()
    except RuntimeError as e:  # ~someone who is not known here
        raise ConfigError(f"{path} has no home folder: {first_line(e)}") from e
