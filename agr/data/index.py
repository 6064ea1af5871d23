"""The index of a data set: kept for the next cell, that of a large one on disk for the next run."""

from __future__ import annotations

import io
import json
import os
from contextlib import suppress
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from agr.config.schema import Data, Suite
from agr.data.entries import Entry, Manifest
from agr.data.snapshot import Stamps, expand_home, look_at, unchanged
from agr.utils.files import is_whole, write_named
from agr.utils.hashing import digest

VERSION = 6
LARGE = 2000  # images; fewer are indexed in no time, and their index is never kept on disk
_known: dict[str, tuple[Stamps, Manifest]] = {}  # by key: a sweep asks for it in every cell


def index_key(data: Data, suite: Suite, classes: int) -> str:
    """Hash of what decides the index of a data set, places as given and as real paths."""
    real = [os.path.realpath(expand_home(place)) for place in (data.root, data.labels) if place]
    return digest([VERSION, suite.synsets, classes, str(data.root), str(data.labels), *real])


def recall(folder: Path, key: str) -> Manifest | None:
    """Return the manifest kept under this key, if there is one and its sources are unchanged."""
    stamps, manifest = _known.get(key, ({}, None))
    if manifest and unchanged(stamps) and _same_sizes(manifest):
        return manifest
    for path in _files(folder, key):
        with suppress(OSError):
            if is_whole(path):  # else it is damaged, and made again
                stamps, manifest = _load(path)
                if unchanged(stamps):
                    _known[key] = stamps, manifest
                    return manifest
    return None


def keep(folder: Path, key: str, stamps: Stamps, manifest: Manifest) -> None:
    """Keep a manifest with the stamps of the files that it was made from; if large, on disk."""
    _known[key] = stamps, manifest
    if len(manifest.entries) < LARGE:
        return
    with suppress(OSError):  # a full disk or a read-only folder: the next run makes it again
        folder.mkdir(parents=True, exist_ok=True)
        path = write_named(folder, f"index-{key}", ".parquet", _pack(stamps, manifest))
        for older in _files(folder, key):
            if older != path:
                older.unlink(missing_ok=True)


def _same_sizes(manifest: Manifest) -> bool:
    """Return whether files of images still have their sizes; of many images that isn't asked."""
    if len(manifest.entries) >= LARGE:
        return True
    found = ((e, look_at(e.path)) for e in manifest.entries if e.offset is None and e.size)
    return all(file and file.st_size == e.size for e, file in found)


def forget(folder: Path) -> None:
    """Drop the kept indices: a file is not as it was indexed, so the next run looks again."""
    _known.clear()
    for path in _files(folder):
        with suppress(OSError):
            path.unlink()


def _files(folder: Path, key: str = "*") -> list[Path]:
    return list(folder.glob(f"index-{key}-*.parquet"))


def _pack(stamps: Stamps, manifest: Manifest) -> bytes:
    """Pack an index as the content of a Parquet file."""
    m = manifest
    about = json.dumps([stamps, m.layout, m.place, m.labels, m.unread, m.passed_over], default=str)
    rows = [e._asdict() | {"path": str(e.path)} for e in manifest.entries]
    buffer = io.BytesIO()
    table = pa.Table.from_pylist(rows)
    pq.write_table(table.replace_schema_metadata({"about": about}), buffer)
    return buffer.getvalue()


def _load(path: Path) -> tuple[Stamps, Manifest]:
    table = pq.read_table(io.BytesIO(path.read_bytes()))
    about = json.loads(table.schema.metadata[b"about"])
    stamps, layout, place, labels, *more = about
    path_of = cache(Path)  # all images of a tar share its path
    entries = tuple(Entry(**row | {"path": path_of(row["path"])}) for row in table.to_pylist())
    unread, passed_over = map(tuple, more)
    known = Manifest(layout, Path(place), entries, labels and Path(labels), unread, passed_over)
    return stamps, known
