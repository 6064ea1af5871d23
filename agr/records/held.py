"""Note in run.json of what a cell's parts hold: who asks what is done needs to read no rows.

A note is of the part files that it was made from, whose names say what is in them: where there are
others it is passed over, and the rows are read. `agr.verify` compares it with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from agr.records.run_info import Held
from agr.records.store import Records
from agr.utils.files import is_whole
from agr.utils.hashing import digest

# Not saved images, whose parts are too large to be hashed for it: reading them shows some damage.
NOTED = ("rows", "trace")


def held_by(records: Records) -> Held:
    """Return what the parts hold, from their rows. Raises ConfigError."""
    return held_of(records, records.scored(), records.positions("trace"))


def held_of(records: Records, rows: Mapping[str, Iterable[int]], trace: Iterable[int]) -> Held:
    """Return the note on positions of rows, by target, and of traces."""
    by_target = {str(target): ranges_of(positions) for target, positions in rows.items()}
    return Held(_names(records), by_target, ranges_of(trace))


def noted(
    records: Records, held: Held | None, below: int, kinds: Iterable[str]
) -> tuple[dict[str, set[int]], set[int]] | None:
    """Return the positions `below` a number that parts hold: by target, and traced.

    None where run.json doesn't know. Raises Damaged if a part of the `kinds` is another one now.
    """
    if held is None or held.parts != _names(records):
        return None
    try:
        rows = {target: positions_of(ranges, below) for target, ranges in held.rows.items()}
        traced = positions_of(held.trace, below)
    except ValueError:  # of whoever can write records
        return None
    for part in (part for kind in kinds for part in records.part_files(kind)):
        if not is_whole(part.path):
            raise part.damaged()
    return rows, traced


def ranges_of(positions: Iterable[int]) -> str:
    """Return positions as text, such as "0-511,513"."""
    order = np.array(sorted(positions), dtype=np.int64)
    ranges = np.split(order, np.flatnonzero(np.diff(order) > 1) + 1) if len(order) else []
    return ",".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in ranges)


def positions_of(ranges: str, below: int) -> set[int]:
    """Return the positions of a text of `ranges_of`, as far as they are `below` a number."""
    found: set[int] = set()
    for each in ranges.split(",") if ranges else ():
        first, _, last = each.partition("-")
        found.update(range(int(first), min(int(last or first) + 1, below)))
    return found


def _names(records: Records) -> str:
    return digest([part.path.name for kind in NOTED for part in records.part_files(kind)])
