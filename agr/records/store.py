"""Records of a cell: typed rows in part files, and run.json.

A cell's folder (agr.records.folders) holds `rows-*.parquet` (one row per image and target),
`_about/run.json`, and on request `_trace/` (a row per image and step), `_steps/` (a row per image,
target and scored step), `_adversarials/` (8-bit images, clean and adversarial) and `_png/`. Parts
are written whole and renamed, rows last, so whatever is there is complete; what is done is a set of
positions, so a run that was killed goes on where it was. Names of parts end in a hash of their
content, and run.json holds one of its own, so that damage is noticed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import SoftFileLease
from numpy.typing import NDArray

from agr.config.cell import Cell
from agr.records.folders import ABOUT, PNG, failure_file
from agr.records.part_files import PartFile, mended, once, part_files_in, write_part_file
from agr.records.run_info import RunInfo, parse_config, parse_run
from agr.records.schema import KEYS, NULLABLE, SCHEMA_VERSION, TABLES
from agr.records.values import faults, is_plain
from agr.utils.errors import ConfigError
from agr.utils.files import CHECKSUM_LENGTH, DRAFT, is_whole, read_text, write_json
from agr.utils.locks import Busy, check_ours, locked
from agr.utils.signals import unbroken
from agr.utils.text import printable

LARGEST_JSON = 1 << 26  # bytes; run.json has about 100 for a bad image
IMAGES_AT_ONCE = 64  # of saved ones: all would fill the memory


class Records:
    """The folder of a cell: its rows, run.json, locks and notes of failures."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.png_folder = folder / PNG
        self._lease: SoftFileLease | None = None

    # ---- run.json --------------------------------------------------------------------------------

    @property
    def run_file(self) -> Path:
        """Path of run.json."""
        return self.folder / ABOUT / "run.json"

    def run(self) -> RunInfo | None:
        """Read run.json; None if there is none. Raises ConfigError for a damaged or older one."""
        try:
            content = _read_json(self.run_file)
            version, digest = content["schema_version"], content.pop("digest", None)
            if version == SCHEMA_VERSION:
                if digest != _digest(content):
                    raise ValueError("its digest is another one")
                found: RunInfo = parse_run(content)
                return found
        except FileNotFoundError:
            if (self.folder / "run.json").exists():
                raise ConfigError(
                    f"{self.folder} is of an earlier version, which kept run.json beside the rows: "
                    "use another outputs=… folder"
                ) from None
            if self.part_files("rows"):
                raise ConfigError(
                    f"{self.folder} has rows but no run.json, which says what they are: restore "
                    "it, or move the folder away"
                ) from None
            return None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise ConfigError(
                f"{self.run_file} is damaged, or was edited: restore it, or move {self.folder} away"
            ) from e
        raise ConfigError(
            f"{self.run_file} has schema {version!r:.50}, this program writes {SCHEMA_VERSION}: "
            "use another outputs=… folder"
        )

    def update_run(self, change: Callable[[RunInfo], None]) -> RunInfo:
        """Apply `change` to run.json, one writer at a time, and return its new content."""
        self.run_file.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / ".run.lock") as lease:
            for draft in self.run_file.parent.glob(f".run.json.*{DRAFT}"):  # of a killed writer
                draft.unlink(missing_ok=True)
            run = self.run() or RunInfo()
            change(run)
            content = json.loads(json.dumps(asdict(run)))  # as it will be read: tuples are lists
            check_ours(lease, self.folder.name)
            with unbroken():
                write_json(self.run_file, content | {"digest": _digest(content)})
            return run

    def drop_run(self) -> None:
        """Remove run.json, unless there are rows that it describes."""
        with locked(self.folder / ".run.lock"):
            if not part_files_in(self.folder, "rows"):
                self.run_file.unlink(missing_ok=True)

    # ---- shards ----------------------------------------------------------------------------------

    @contextmanager
    def lock(self, shard: str, *, wait: bool = False) -> Iterator[None]:
        """Keep other writers of this cell and shard away.

        Raises Busy if a living process writes, unless that is to be waited for.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with locked(self.lock_file(shard), wait=wait) as self._lease:
                yield
        except Busy as e:
            raise Busy(
                f"shard {shard} of {self.folder.name} is being run: {e}; wait for it (wait=true), "
                "or run another shard"
            ) from None
        finally:
            self._lease = None

    def lock_file(self, shard: str) -> Path:
        """Return the path of the lock of a shard, "0/3"."""
        return self.folder / f".shard-{_plain(shard)}.lock"

    def lock_files(self) -> list[Path]:
        """List the locks of shards that are held, or were when their process died."""
        return sorted(self.folder.glob(".shard-*.lock"))

    def note_failure(self, shard: str, failure: Mapping[str, Any] | None) -> None:
        """Write the failure of a shard, {"error": …, …}, to its file; None: remove the file."""
        path = failure_file(self.folder, _plain(shard))
        if failure is None:
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, failure)

    def failures(self) -> dict[str, dict[str, Any]]:
        """Read the failures that are noted, by shard."""
        found = {}
        pattern = failure_file(self.folder, "*")
        for path in sorted(pattern.parent.glob(pattern.name)):
            # Gone, since the shard was done meanwhile, or not ours.
            with suppress(OSError, ValueError, RecursionError):
                failure = _read_json(path)
                if isinstance(failure, dict) and isinstance(failure.get("error"), str):
                    shard = path.stem.removeprefix("failed-").replace("of", "/")
                    found[shard] = failure
        return found

    # ---- parts -----------------------------------------------------------------------------------

    def write_part(
        self,
        shard: str,
        tables: Mapping[str, Sequence[Mapping[str, Any]] | pa.Table],
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Write one part: a file of rows, and files of the other `tables` of the same images.

        The file of rows is always written, even if empty: it makes the others count. `about` is
        kept in the files' metadata. Raises ConfigError if another process has taken the lock over.
        """
        if self._lease is not None:
            check_ours(self._lease, f"shard {shard} of {self.folder.name}")
        stem = _plain(shard)
        # Of all kinds: a number that a kill left without its rows is never used again.
        before = [part.number for part in part_files_in(self.folder) if part.shard == stem]
        number = max(before, default=-1) + 1
        with unbroken():
            for kind, schema in TABLES.items():
                if (table := tables.get(kind, ())) or kind == "rows":
                    if not isinstance(table, pa.Table):
                        table = pa.Table.from_pylist([*table], schema=schema)
                    write_part_file(PartFile(self.folder, kind, stem, number), table, about or {})

    def part_files(self, kind: str) -> list[PartFile]:
        """List the part files of a kind in order; those of a part without rows don't count."""
        # A kill left those without rows, and their images are crafted again.
        with_rows = {part.key for part in part_files_in(self.folder, "rows")}
        return [part for part in part_files_in(self.folder, kind) if part.key in with_rows]

    def mend(self, shard: str) -> list[str]:
        """Set damaged parts aside, remove what a killed writer left, and return lines that say so.

        The lock of `shard` must be held.
        """
        if self._lease is not None:
            check_ours(self._lease, f"shard {shard} of {self.folder.name}")
        return mended(self.folder, _plain(shard))

    # ---- reading ---------------------------------------------------------------------------------

    def read(self, kind: str = "rows", columns: list[str] | None = None) -> pd.DataFrame:
        """Read all rows of a kind (`schema.TABLES`). Raises Damaged.

        Rows that overlapping shards made twice (bitwise the same) count once.
        """
        columns = columns or TABLES[kind].names
        wanted = list(dict.fromkeys([*columns, *KEYS[kind]]))
        tables = [TABLES[kind].empty_table().select(wanted)]
        # Pixels are many bytes to hash for a question about positions.
        trusting = kind == "adversarials" and not {"pixels", "clean_pixels"} & {*wanted}
        tables += [part.read(wanted, trusting=trusting) for part in self.part_files(kind)]
        table = once(pa.concat_tables(tables), kind).select(columns)
        for fault in faults(table, kind):
            raise ConfigError(
                f"{self.folder}: {fault}: agr.verify says more; restore the records, or move the "
                "folder away"
            )
        return table.to_pandas(types_mapper=NULLABLE.get)

    def saved_images(self, positions: set[int]) -> Iterator[list[dict[str, Any]]]:
        """Yield lists of rows of "adversarials" at `positions`. Raises Damaged."""
        left, side = set(positions), self._side()
        for part in self.part_files("adversarials"):
            known = part.read(["position"], trusting=True)["position"].to_pylist()
            if left.isdisjoint(known):  # its pixels are many bytes to hash
                continue
            if not is_whole(part.path):
                raise part.damaged()
            for batch in pq.ParquetFile(part.path).iter_batches(IMAGES_AT_ONCE):
                rows = [r for r in batch.to_pylist() if r["position"] in left]
                left -= {r["position"] for r in rows}
                for r in rows:
                    if not is_plain(r["image_id"]):
                        raise part.damaged()
                    if side not in (None, r["height"]) or r["height"] != r["width"]:
                        raise ConfigError(
                            f"{part.path} has images of {r['width']} x {r['height']} px, and the "
                            f"cell's are {side} px: restore it, or move {self.folder} away"
                        )
                if rows:
                    yield rows

    def _side(self) -> int | None:
        """Return the side of the cell's images, in pixels; None before its first run."""
        run = self.run()
        try:
            return Cell(parse_config(run.config)).geometry.size if run and run.config else None
        except (LookupError, TypeError) as e:
            raise ConfigError(
                f"{self.run_file} has a source that its suite lacks: restore it, or move "
                f"{self.folder} away"
            ) from e

    def positions(self, kind: str) -> set[int]:
        """Return the positions that have rows of a kind."""
        return set(self.read(kind, ["position"])["position"].tolist())

    def scored(self, kind: str = "rows") -> dict[Any, set[int]]:
        """Return the positions that have a row, by target; of "steps", by target and step."""
        rows = self.read(kind, KEYS[kind])
        by: Any = KEYS[kind][1:] if kind == "steps" else "target"
        return {place: set(p.tolist()) for place, p in rows.groupby(by)["position"]}


def _read_json(path: Path) -> Any:
    """Parse a JSON file. Raises OSError, RecursionError, and ValueError for one that isn't ours."""
    if path.stat().st_size > LARGEST_JSON:
        raise ValueError(f"{path} is larger than anything that a run writes")
    return json.loads(read_text(path))


def _plain(shard: str) -> str:
    return shard.replace("/", "of")


def _digest(run: Mapping[str, Any]) -> str:
    text = json.dumps(run, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:CHECKSUM_LENGTH]


def image_of(row: Mapping[str, Any], column: str = "pixels") -> NDArray[np.uint8]:
    """Return an image of a row of "adversarials", (height, width, 3)."""
    flat = np.frombuffer(row[column], np.uint8)
    if len(flat) != row["height"] * row["width"] * 3:
        raise ConfigError(
            f"the saved image of {printable(row['image_id'])} isn't as large as its row says: run "
            "the cell again"
        )
    return flat.reshape(row["height"], row["width"], 3)
