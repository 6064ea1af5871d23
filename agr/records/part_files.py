"""Part files: whole tables of rows, named by kind, shard, number and a hash of their content."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from agr.records.schema import TABLES
from agr.utils.errors import ConfigError
from agr.utils.files import CHECKSUM_LENGTH, is_whole

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
        """Parse the name of a file; None if it is no part's."""
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
                table = pq.read_table(self.path, columns=columns, schema=TABLES[self.kind])
                return table.replace_schema_metadata(None)
        except (pa.ArrowException, OSError) as e:
            if isinstance(e, OSError) and e.errno is not None:  # of the system, not of Parquet
                raise
            raise self.damaged() from e
        raise self.damaged()

    def about(self) -> dict[str, Any]:
        """Return the `about` that the part was written with. Raises Damaged."""
        try:
            found = json.loads((pq.read_schema(self.path).metadata or {})[b"agr"])
            return dict(found)
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as e:
            raise self.damaged() from e

    def damaged(self) -> Damaged:
        """Return the error of a damaged file."""
        return Damaged(
            f"{self.path} is damaged: run the cell again, which sets it aside and does its images "
            "once more"
        )
