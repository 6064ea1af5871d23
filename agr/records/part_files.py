"""Part files: whole tables of rows, named by kind, shard, number and a hash of their content."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from agr.records.folders import DAMAGED, folder_of
from agr.records.run_info import check_range, parse_run
from agr.records.schema import KEYS, TABLES
from agr.utils.errors import ConfigError
from agr.utils.files import CHECKSUM_LENGTH, DRAFT, is_whole, write_named

PART = re.compile(
    rf"({'|'.join(TABLES)})-(\d+of\d+)-(\d{{5,}})-[0-9a-f]{{{CHECKSUM_LENGTH}}}\.parquet"
)


class Damaged(ConfigError):
    """Error of a part file that isn't as it was written."""


class PartFile(NamedTuple):
    """A part file: KIND-SHARD-NUMBER-HASH.parquet."""

    path: Path
    kind: str
    shard: str  # "0of1"
    number: int

    @classmethod
    def parse(cls, path: Path) -> PartFile | None:
        """Parse the name of a file; None if it isn't a part's."""
        match = PART.fullmatch(path.name)
        return match and cls(path, match[1], match[2], int(match[3]))

    @property
    def key(self) -> tuple[str, int]:
        """Shard and number, which files that were written together share."""
        return self.shard, self.number

    def read(self, columns: list[str], *, trusting: bool = False) -> pa.Table:
        """Read columns, after a check of the file's hash unless `trusting`. Raises Damaged."""
        try:
            if self.path.is_file() and (trusting or is_whole(self.path)):
                return self._read(columns)
        except (pa.ArrowException, OSError) as e:
            if isinstance(e, OSError) and e.errno is not None:  # of the system, not of Parquet
                raise
            raise self.damaged() from e
        raise self.damaged()

    def _read(self, columns: list[str]) -> pa.Table:
        schema = TABLES[self.kind]
        with pq.ParquetFile(self.path) as file:  # of few rows, which a pool of threads only delays
            if file.schema_arrow.equals(schema):
                return file.read(columns, use_threads=False).replace_schema_metadata(None)
        table = pq.read_table(self.path, columns=columns, schema=schema)
        return table.replace_schema_metadata(None)

    def about(self) -> dict[str, int]:
        """Return the `about` that the part was written with: slots and width. Raises Damaged."""
        found = None
        try:
            found = json.loads((pq.read_schema(self.path).metadata or {})[b"agr"])
            if not isinstance(found, dict) or not {*found} <= {"slots", "width"}:
                raise TypeError
            for name, value in found.items():
                check_range(name, parse_run(value, int))
            return found
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError, RecursionError) as e:
            raise Damaged(
                f"{self.path} was made with {found!r:.80}, which are not slots and a width: "
                "restore it, or move its folder away"
            ) from e

    def damaged(self) -> Damaged:
        """Return the error of a damaged file."""
        return Damaged(
            f"{self.path} is damaged: run the cell again, which sets it aside and does its images "
            "once more"
        )


def write_part_file(
    part: PartFile, table: pa.Table, about: Mapping[str, Any], **options: Any
) -> Path:
    """Write the table of a part below its `path`, the cell's folder, and return the file's path.

    `options` are those of `pyarrow.parquet.write_table`.
    """
    note, content = {"agr": json.dumps(dict(about))}, io.BytesIO()
    table = table.replace_schema_metadata(note)
    pq.write_table(table, content, **{"compression": "zstd"} | options)
    place = folder_of(part.path, part.kind)
    place.mkdir(exist_ok=True)
    stem = f"{part.kind}-{part.shard}-{part.number:05d}"
    return write_named(place, stem, ".parquet", content.getvalue())


def part_files_in(cell: Path, *kinds: str) -> list[PartFile]:
    """List the part files of some kinds, else of all, in order, also those without rows."""
    paths = (
        path
        for kind in kinds or TABLES
        for path in sorted(folder_of(cell, kind).glob(f"{kind}-*.parquet"))
    )
    return [part for path in paths if (part := PartFile.parse(path))]


def mended(cell: Path, shard: str) -> list[str]:
    """Set damaged parts aside, remove what a killed writer of `shard`, "0of1", left, and say so."""
    lines = []
    for part in part_files_in(cell):
        if not is_whole(part.path):
            with suppress(FileNotFoundError):  # another shard was first
                (cell / DAMAGED).mkdir(parents=True, exist_ok=True)
                part.path.rename(cell / DAMAGED / part.path.name)
                again = "" if part.shard == shard else " by the next run of its shard"
                lines.append(
                    f"{part.path.name} was damaged: it is set aside in {DAMAGED}, and its "
                    f"images are done again{again}"
                )
    whole = {part.key for part in part_files_in(cell, "rows")}
    for part in part_files_in(cell):
        if part.shard == shard and part.key not in whole:
            part.path.unlink(missing_ok=True)
    for kind in TABLES:
        for draft in folder_of(cell, kind).glob(f".*-{shard}-*{DRAFT}"):
            draft.unlink(missing_ok=True)
    return lines


def once(table: pa.Table, kind: str) -> pa.Table:
    """Return the first of the rows of each key."""
    keys = {name: table[name].combine_chunks() for name in KEYS[kind]}
    if "target" in keys:  # numbers are compared quicker
        keys["target"] = keys["target"].dictionary_encode().indices
    frame = pd.DataFrame({name: values.to_numpy(False) for name, values in keys.items()})
    again = frame.duplicated().to_numpy()
    return table.filter(pa.array(~again)) if again.any() else table
