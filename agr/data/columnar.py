"""Images in Parquet and Arrow files, as Hugging Face's data sets come in.

A row has an image, {bytes, path} or bytes alone, and the number of its class. Rows are read when
their image is decoded: of a Parquet file its group of rows, an Arrow file is mapped into memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from agr.data.entries import class_word
from agr.data.snapshot import FileSnapshot
from agr.utils.errors import ConfigError, first_line

COLUMNAR = {".parquet", ".arrow"}
IMAGES, LABELS = ("image", "img", "jpg", "png"), ("label", "labels", "fine_label", "cls")
SPLITS = ("validation", "val", "valid", "dev", "test")  # whose images are attacked, in this order
SPLIT = re.compile(rf"(?:.*[-_])?({'|'.join(SPLITS)}|train)(?:[-_.].*)?", re.IGNORECASE)
GROUPS_KEPT = 4  # groups of rows in memory; one is of about a hundred images


def columnar_files(folder: Path, snapshot: FileSnapshot) -> list[Path]:
    """List a folder's Parquet or Arrow files with images; of several splits, the first of SPLITS.

    Raises ConfigError where there are several splits and none of these.
    """
    if not snapshot.is_folder(folder):
        return []
    splits: dict[str, list[Path]] = {}
    for name in sorted(snapshot.list(folder).files):
        path = folder / name
        if path.suffix in COLUMNAR and not name.startswith("cache-") and _may_have_images(path):
            snapshot.is_file(path)  # what it was is noted: the index depends on it
            split = SPLIT.fullmatch(path.stem)
            splits.setdefault(split[1].lower() if split else "", []).append(path)
    for name in SPLITS if len(splits) > 1 else ():
        if name in splits:
            return splits[name]
    if len(splits) > 1:
        raise ConfigError(
            f"{folder} has the splits {', '.join(map(repr, sorted(splits)))}, and none of "
            f"{', '.join(SPLITS)}: give a file as data.root, or a folder with those that are meant"
        )
    return next(iter(splits.values()), [])


def _may_have_images(path: Path) -> bool:
    """False for a table of something else, which may lie beside images; True if it is damaged."""
    try:
        return any(name in _schema(path).names for name in IMAGES)
    except (pa.ArrowException, OSError):
        return True  # the error shows when it is read


def stored_images(path: Path) -> Iterator[tuple[str, str, int]]:
    """Yield the path that each row of a file gives its image, or "", its raw label and number.

    Raises ConfigError for a file that has no images and labels.
    """
    try:
        schema = _schema(path)
        image, label = (_column(schema, path, names) for names in (IMAGES, LABELS))
        kind = schema.field(image).type
        has_names = pa.types.is_struct(kind) and kind.get_field_index("path") >= 0
        labels = _read(path, label)
        named = _read(path, f"{image}.path") if has_names else [None] * len(labels)
    except (pa.ArrowException, OSError, KeyError, ValueError) as e:
        if isinstance(e, ConfigError):
            raise
        raise ConfigError(f"{path} cannot be read: {first_line(e)}: copy it again") from e
    for row, (name, value) in enumerate(zip(named, labels, strict=True)):
        yield name or "", _raw_label(value, f"{path}: row {row}"), row


def _raw_label(value: Any, where: str) -> str:
    """Return a label as text: a class number, a synset or the name of a class.

    pandas makes floats of integers as soon as one is missing. Raises ConfigError.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    word = class_word(value) if isinstance(value, str) else str(value)
    if not isinstance(value, int | str) or not word or word.startswith("-"):
        raise ConfigError(
            f"{where} has label {value!r:.40}: give a split whose labels are class numbers or names"
        )
    return str(int(value)) if isinstance(value, bool) else word


def stored_bytes(path: Path, row: int) -> bytes:
    """Read the image of a row. Raises OSError, ValueError or one of pyarrow's errors."""
    if path.suffix == ".arrow":
        image, start = _arrow(path)[_column(_schema(path), path, IMAGES)], 0
    else:
        starts = _starts(path)
        group = next(i for i in reversed(range(len(starts))) if starts[i] <= row)
        image, start = _group(path, group), starts[group]
    value = image[row - start].as_py()
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise ValueError("its row holds no bytes of an image")
    return content


def _schema(path: Path) -> pa.Schema:
    return _arrow(path).schema if path.suffix == ".arrow" else pq.read_schema(path)


def _column(schema: pa.Schema, path: Path, names: tuple[str, ...]) -> str:
    found = next((name for name in names if name in schema.names), None)
    if found is None:
        raise ConfigError(
            f"{path} has no column {names[0]} ({', '.join(schema.names[:8])}): it needs "
            f"{IMAGES[0]} and {LABELS[0]}"
        )
    return found


def _read(path: Path, column: str) -> list[Any]:
    """Read the values of a column, or of a field of it: "image.path"."""
    outer, _, inner = column.partition(".")
    table = _arrow(path) if path.suffix == ".arrow" else pq.ParquetFile(path).read([column])
    values = table[outer]
    return list((pc.struct_field(values, inner) if inner else values).to_pylist())


@lru_cache(maxsize=64)
def _arrow(path: Path) -> pa.Table:
    source = pa.memory_map(str(path))
    try:
        return pa.ipc.open_stream(source).read_all()
    except pa.ArrowInvalid:
        return pa.ipc.open_file(source).read_all()


@lru_cache(maxsize=256)
def _starts(path: Path) -> list[int]:
    """Return the first row of each group of rows."""
    metadata = pq.read_metadata(path)
    starts = [0]
    for group in range(metadata.num_row_groups - 1):
        starts.append(starts[-1] + metadata.row_group(group).num_rows)
    return starts


@lru_cache(maxsize=GROUPS_KEPT)
def _group(path: Path, group: int) -> pa.ChunkedArray:
    file = pq.ParquetFile(path)
    return file.read_row_group(group, [_column(file.schema_arrow, path, IMAGES)]).column(0)
