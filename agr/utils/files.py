"""Files that are whole or not there, and files whose names show whether they are intact.

A run writes each file beside its place first and renames it: a reader, a kill or a full disk never
meets half a file. A name that holds a hash shows later damage.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

CHECKSUM_LENGTH = 16  # hex digits of a sha256
DRAFT = ".draft"


def write_content(path: Path, content: bytes) -> None:
    """Write beside `path` and rename: a reader sees the whole file or none."""
    # Ids of processes come again on other machines, and in containers.
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}{DRAFT}")
    try:
        with naming(path):
            draft.write_bytes(content)
            with draft.open("rb") as f:
                os.fsync(f.fileno())
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_all(contents: Mapping[Path, bytes], older: Iterable[Path] = ()) -> list[Path]:
    """Write files, each whole, and return their paths; then remove what of `older` is left.

    Whatever ends the work in between, every older file is there, or its successor.
    """
    left = {*older} - {*contents}
    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_content(path, content)
    for path in left:
        path.unlink(missing_ok=True)
    return [*contents]


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give the draft of a new folder: it takes its place at the end, and is gone after an error."""
    draft = folder.absolute().with_name(f".{folder.name}.{secrets.token_hex(4)}{DRAFT}")
    try:
        with naming(folder):
            draft.mkdir(parents=True)
        yield draft
        with naming(folder):
            draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make system errors in the block name `path` instead of its draft, or of no file at all."""
    try:
        yield
    except OSError as e:
        e.filename, e.filename2 = str(path), None
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` whole as indented JSON."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_content(path, text.encode())


def write_named(folder: Path, stem: str, suffix: str, content: bytes) -> Path:
    """Write `content` whole as STEM-HASH.SUFFIX, a name by which `is_whole` can check it."""
    path = folder / f"{stem}-{_hash(content)}{suffix}"
    write_content(path, content)
    return path


def read_text(path: Path) -> str:
    """Read the text of a regular file: a pipe would make us wait. Raises OSError, ValueError."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path} is not a regular file")
    return path.read_text(encoding="utf-8")


def is_whole(path: Path) -> bool:
    """Return whether a file of `write_named` still holds what was written; False where it is gone.

    Raises OSError, with the file's name, where it can't be read just now.
    """
    try:
        with naming(path):
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):  # the reading of a pipe would never end
                return False
            return _hash_of(path, found.st_mtime_ns, found.st_size) == path.stem.rpartition("-")[2]
    except FileNotFoundError:
        return False


@lru_cache(maxsize=4096)
def _hash_of(path: Path, changed: int, size: int) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()[:CHECKSUM_LENGTH]


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:CHECKSUM_LENGTH]


def same_place(one: str | None, other: str | None) -> bool:
    """Return whether two paths are one place, or both are none."""
    real = [os.path.realpath(os.path.expanduser(place)) for place in (one, other) if place]
    return one == other or (len(real) == 2 and real[0] == real[1])
