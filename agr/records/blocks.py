"""Tables of a cell in blocks of positions, so that an audit's memory doesn't grow with the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from agr.records.part_files import PartFile
from agr.records.schema import TABLES

ROWS_AT_ONCE = 50_000  # of all tables together: some 600 bytes each
ALL = (-1, 2**31)  # positions, with those that aren't known as -1


class Extent(NamedTuple):
    """A part file, its number of rows and the lowest and highest of their positions."""

    part: PartFile
    rows: int
    low: int
    high: int


def blocks(extents: Sequence[Extent], images: int) -> Iterator[tuple[int, int]]:
    """Yield the first position of each block and that after its last; together they are ALL."""
    low, end = ALL
    several = -(-sum(extent.rows for extent in extents) // ROWS_AT_ONCE)
    n = min(images, max((extent.high for extent in extents), default=0) + 1)
    step = max(1, -(-n // max(1, several)))
    for high in range(step, n, step):
        yield low, high
        low = high
    yield low, end


def read_block(extents: Sequence[Extent], kind: str, low: int, high: int) -> pa.Table:
    """Read the rows of a block but for pixels, also those that stand twice, with their "file"."""
    names = [name for name in TABLES[kind].names if "pixels" not in name]
    tables = []
    for number, extent in enumerate(extents):
        if extent.part.kind == kind and extent.low < high and low <= extent.high:
            table = extent.part.read(names)
            if not (low <= extent.low and extent.high < high):
                place = table["position"].fill_null(ALL[0])
                table = table.filter(pc.and_(pc.greater_equal(place, low), pc.less(place, high)))
            tables.append(table.append_column("file", pa.array(np.full(len(table), number))))
    empty = TABLES[kind].empty_table().select(names)
    return pa.concat_tables([empty.append_column("file", pa.array([], pa.int64())), *tables])


@dataclass
class Seen:
    """Facts about a cell as a whole, from the blocks so far."""

    rows: dict[str, list[Any]] = field(default_factory=dict)  # positions by target
    places: dict[str, list[Any]] = field(default_factory=dict)  # positions by kind of table
    ids: list[Any] = field(default_factory=list)  # hashes of image ids
    successes: Counter[str] = field(default_factory=Counter)  # by target
    alike: Counter[str] = field(default_factory=Counter)  # rows that stand in two parts, by kind

    def add(self, tables: dict[str, pd.DataFrame]) -> None:
        """Note the tables of one more block, whose rows have different keys."""
        for kind, table in tables.items():
            self.places.setdefault(kind, []).append(table["position"].unique())
        rows = tables["rows"]
        for target, own in rows.groupby("target"):
            self.rows.setdefault(str(target), []).append(own["position"].to_numpy())
            self.successes[str(target)] += int(own["success"].sum())
        self.ids.append(pd.util.hash_array(rows["image_id"].unique().astype(object)))

    def positions(self, kind: str) -> Any:
        """Return the positions of a kind of table."""
        return np.concatenate([np.array([], int), *self.places.get(kind, [])])

    def scored(self) -> dict[str, Any]:
        """Return the positions of the rows, by target."""
        return {target: np.concatenate(self.rows[target]) for target in sorted(self.rows)}

    def rates(self) -> dict[str, float]:
        """Return ASR in percent, by target."""
        return {t: 100 * self.successes[t] / len(p) for t, p in self.scored().items()}

    def twice(self) -> bool:
        """Return whether an image stands in two blocks."""
        ids = np.concatenate([np.array([], np.uint64), *self.ids])
        return len(np.unique(ids)) < len(ids)
