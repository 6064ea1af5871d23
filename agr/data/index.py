"""The manifest of a data set, and the index in which that of a large one is kept on disk."""

from __future__ import annotations

import hashlib
import io
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from agr.config.schema import Data
from agr.data.snapshot import FileStamp, expand_home, unchanged
from agr.utils.files import is_whole, write_named

INDEX_VERSION = 2
LARGE = 2000  # images; what has fewer is indexed in no time, and never from what was kept


REMEMBERED = 4  # indices in this process
COLUMNS = pa.schema(
    [
        ("image_id", pa.string()),
        ("folder", pa.string()),
        ("name", pa.string()),
        ("label", pa.int32()),
        ("sha256", pa.string()),
        ("size", pa.int64()),
        ("offset", pa.int64()),
        ("target", pa.int32()),
    ]
)


Notes = dict[str, FileStamp | None]


_remembered: dict[str, tuple[Notes, Manifest]] = {}


class Entry(NamedTuple):
    """One image of a suite."""

    image_id: str  # the file's name without its ending
    path: Path  # the file, or the tar that holds it
    label: int
    sha256: str | None = None  # of the file, where the manifest knows it
    size: int | None = None  # bytes, when it was indexed
    offset: int | None = None  # where in the tar its bytes begin
    target: int | None = None  # the label a targeted attack wants, where the manifest gives one


@dataclass(frozen=True)
class Manifest:
    """The images of a suite, in the order of their ids."""

    layout: str  # what was recognised, in words
    place: Path  # the folder, tar or CSV
    entries: tuple[Entry, ...]
    labels: Path | None = None  # the file that the labels are from; None: names of folders or files

    @property
    def is_large(self) -> bool:
        """True if making it takes so long that it is worth keeping."""
        return len(self.entries) >= LARGE

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all ids, labels, targets, and of the files' hashes or else sizes."""
        lines = []
        for e in self.entries:
            content = e.sha256 or (-1 if e.size is None else e.size)
            target = "" if e.target is None else f",{e.target}"
            lines.append(f"{e.image_id},{e.label},{content}{target}")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _places(data: Data) -> list[str]:
    """Places in a config, as given and as real paths: what tells one data set from others."""
    given = [place for place in (data.root, data.labels) if place]
    return [str(data.root), str(data.labels), *(os.path.realpath(expand_home(p)) for p in given)]


def _recall(keep: Path, key: str) -> Manifest | None:
    """Return the index of this key, if there is one and what it was made from is unchanged."""
    for path in [] if key in _remembered else keep.glob(f"index-{key}-*.parquet"):
        with suppress(OSError):
            content = path.read_bytes()
            if is_whole(path):  # else it is damaged, and made again
                _remember(key, *_unpack(content))
    if key not in _remembered:
        return None
    notes, manifest = _remembered[key]
    return manifest if unchanged(notes) else None


def _keep(keep: Path, key: str, notes: Notes, manifest: Manifest) -> None:
    _remember(key, notes, manifest)
    content = _pack(notes, manifest)
    with suppress(OSError):  # a full disk or a read-only folder: the next run makes it again
        keep.mkdir(parents=True, exist_ok=True)
        path = write_named(keep, f"index-{key}", ".parquet", content)
        for older in keep.glob(f"index-{key}-*.parquet"):
            if older != path:
                older.unlink(missing_ok=True)


def forget(keep: Path) -> None:
    """Drop the kept indices: a file is not as it was indexed, so the next run looks again."""
    _remembered.clear()
    for path in keep.glob("index-*.parquet"):
        with suppress(OSError):
            path.unlink()


def _remember(key: str, notes: Notes, manifest: Manifest) -> None:
    while len(_remembered) >= REMEMBERED:
        del _remembered[next(iter(_remembered))]
    _remembered[key] = notes, manifest


def _pack(notes: Notes, manifest: Manifest) -> bytes:
    """Pack an index as the content of a Parquet file."""
    about = {
        "layout": manifest.layout,
        "place": str(manifest.place),
        "labels": manifest.labels and str(manifest.labels),
        "notes": notes,
    }
    folders = {folder: str(folder) for folder in {e.path.parent for e in manifest.entries}}
    rows = [(e.image_id, folders[e.path.parent], e.path.name, *e[2:]) for e in manifest.entries]
    columns = [
        pa.array(column, f.type) for column, f in zip(zip(*rows, strict=True), COLUMNS, strict=True)
    ]
    schema = COLUMNS.with_metadata({"about": json.dumps(about)})
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), buffer)
    return buffer.getvalue()


def _unpack(content: bytes) -> tuple[Notes, Manifest]:
    table = pq.read_table(io.BytesIO(content))
    about = json.loads(table.schema.metadata[b"about"])
    notes = {place: state and (state[0], state[1]) for place, state in about["notes"].items()}
    columns = [table[f.name].to_pylist() for f in COLUMNS]
    folders = {folder: Path(folder) for folder in set(columns[1])}
    paths = {place: folders[place[0]] / place[1] for place in set(zip(*columns[1:3], strict=True))}
    entries = tuple(
        Entry(image_id, paths[folder, name], *rest)
        for image_id, folder, name, *rest in zip(*columns, strict=True)
    )
    labels = about["labels"] and Path(about["labels"])
    return notes, Manifest(about["layout"], Path(about["place"]), entries, labels)
