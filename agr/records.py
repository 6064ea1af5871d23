"""What a run leaves behind: typed rows in part files, and run.json.

A cell's folder holds `rows-*.parquet` (one row per image and target), on request
`trace-*.parquet` (one per image and step) and `adversarials-*.parquet` (the 8-bit images), and
`run.json`. Parts are written whole and renamed, rows last, so whatever is there is complete; what
is done is a set of positions, so a run that was killed goes on where it was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from agr.errors import ConfigError

SCHEMA_VERSION = 2
IMAGES_AT_ONCE = 64


def _field(name: str, kind: pa.DataType, meaning: str) -> pa.Field:
    return pa.field(name, kind, metadata={"meaning": meaning})


# Unknown or absent values are null: a target label of an untargeted attack, a step of first
# success where there is none, or where nobody looked (an attack whose gradients are elsewhere looks
# at its iterates for a stop or a trace only). A prediction of -1 says that the logits were not
# finite.
ROWS = pa.schema(
    [
        _field("suite", pa.string(), "name of the suite"),
        _field("cell", pa.string(), "identity of the cell (agr.config.Cell.id)"),
        _field("attack", pa.string(), "name of the attack"),
        _field("attack_hash", pa.string(), "hash of its parts and parameters"),
        _field("norm", pa.string(), "linf | l2"),
        _field("eps", pa.float64(), "budget as asked for, 0-255 scale"),
        _field("eps_effective", pa.float64(), "budget in effect, 0-255 scale"),
        _field("steps", pa.int32(), "steps allowed, T"),
        _field("seed", pa.int64(), "seed of the choice of images and target labels"),
        _field("source", pa.string(), "network the image was crafted on; a+b: an ensemble"),
        _field("target", pa.string(), "network that was scored; a/b: a with defense b"),
        _field("white_box", pa.bool_(), "the target is the source, or one of its members"),
        _field("position", pa.int32(), "place of the image in the selection, from 0"),
        _field("image_id", pa.string(), "file name without its ending"),
        _field("label", pa.int32(), "true class"),
        _field("target_label", pa.int32(), "class a targeted attack wants"),
        _field("adv_sha256", pa.string(), "of the scored image's bytes, (H, W, 3)"),
        _field("clean_pred", pa.int32(), "target's class for the clean image"),
        _field("clean_conf", pa.float32(), "its softmax probability"),
        _field("adv_pred", pa.int32(), "target's class for the adversarial image"),
        _field("adv_conf", pa.float32(), "its softmax probability"),
        _field("source_clean_pred", pa.int32(), "source's class for the clean image"),
        _field("source_clean_conf", pa.float32(), "its softmax probability"),
        _field("source_adv_pred", pa.int32(), "source's class for the adversarial image"),
        _field("source_adv_conf", pa.float32(), "its softmax probability"),
        _field("success", pa.bool_(), "as the config's `success` says"),
        _field("first_success_step", pa.int32(), "first iterate seen to fool the source, from 0"),
        _field("steps_used", pa.int32(), "steps taken; null: another library's"),
        _field("forwards", pa.int32(), "forward passes for this image, of every member"),
        _field("backwards", pa.int32(), "gradients for this image, of every member"),
        _field("linf", pa.float64(), "max |v|, images in [0, 1]"),
        _field("l2", pa.float64(), "||v||_2, images in [0, 1]"),
        _field("mean_abs", pa.float64(), "mean |v|, images in [0, 1]"),
        _field("rel_l2", pa.float64(), "||v||_2 / ||x||_2"),
        _field("cosine", pa.float64(), "cosine similarity of clean and adversarial image"),
    ]
)
TRACE = pa.schema(
    [
        _field("position", pa.int32(), "place of the image in the selection"),
        _field("image_id", pa.string(), "file name without its ending"),
        _field("step", pa.int32(), "iterate; 0 is the clean image, the last one is scored"),
        _field("fooled", pa.bool_(), "whether the source was fooled by it"),
        _field("l2", pa.float64(), "||v||_2, images in [0, 1]"),
        _field("cosine", pa.float64(), "cosine similarity with the clean image"),
    ]
)
ADVERSARIALS = pa.schema(
    [
        _field("position", pa.int32(), "place of the image in the selection"),
        _field("image_id", pa.string(), "file name without its ending"),
        _field("label", pa.int32(), "true class"),
        _field("target_label", pa.int32(), "class a targeted attack wants"),
        _field("adv_sha256", pa.string(), "of `pixels`"),
        _field("height", pa.int32(), "pixels"),
        _field("width", pa.int32(), "pixels"),
        _field("pixels", pa.binary(), "uint8, (height, width, 3)"),
        _field("steps_used", pa.int32(), "as in the rows"),
        _field("first_success_step", pa.int32(), "as in the rows"),
        _field("forwards", pa.int32(), "as in the rows"),
        _field("backwards", pa.int32(), "as in the rows"),
    ]
)
# Rows come last: a part counts once its rows are there.
TABLES = {"trace": TRACE, "adversarials": ADVERSARIALS, "rows": ROWS}

KEYS = {"trace": ["position", "step"], "adversarials": ["position"], "rows": ["position", "target"]}


class Records:
    """The folder of one cell."""

    def __init__(self, folder: Path):
        self.folder = folder

    @property
    def run_file(self) -> Path:
        """run.json: what was run, on what, and for how long."""
        return self.folder / "run.json"

    def run(self) -> dict[str, Any] | None:
        """The content of run.json, or None. Raises ConfigError for an unreadable or older one."""
        try:
            run = json.loads(self.run_file.read_text(encoding="utf-8"))
            version = run["schema_version"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as e:
            raise ConfigError(f"{self.run_file} is damaged: move {self.folder} away") from e
        if version != SCHEMA_VERSION:
            raise ConfigError(
                f"{self.run_file} has schema {version}, this program writes {SCHEMA_VERSION}: "
                "use another outputs=… folder"
            )
        return dict(run)

    def update_run(self, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Change run.json in place, one writer at a time; its new content."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".run.lock"):
            run = self.run() or {"schema_version": SCHEMA_VERSION}
            change(run)
            text = json.dumps(run, indent=1, ensure_ascii=False) + "\n"
            write_whole(self.run_file, lambda path: path.write_text(text, encoding="utf-8"))
            return run

    @contextmanager
    def lock(self, shard: str) -> Iterator[None]:
        """Keep other writers of this cell and shard away. Raises ConfigError if one is at work."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / f".shard-{shard.replace('/', 'of')}.lock", timeout=0)
        try:
            with lock:
                yield
        except Timeout as e:
            raise ConfigError(
                f"shard {shard} of {self.folder.name} is being run by another process: wait for "
                "it, or run another shard"
            ) from e

    def write_part(self, shard: str, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Write one part: the rows, and whatever else belongs to the same images.

        The file of rows is always written, if need be empty: it makes the others count.
        """
        stem = f"{shard.replace('/', 'of')}-"
        numbers = [int(p.stem.rsplit("-", 1)[1]) for p in self._parts("rows", stem)]
        number = max(numbers, default=-1) + 1
        for kind, schema in TABLES.items():
            if tables.get(kind) or kind == "rows":
                table = pa.Table.from_pylist(list(tables.get(kind, ())), schema=schema)
                path = self.folder / f"{kind}-{stem}{number:05d}.parquet"
                write_whole(path, partial(pq.write_table, table, compression="zstd"))

    def read(self, kind: str = "rows", columns: list[str] | None = None) -> pd.DataFrame:
        """All rows of a kind, "rows", "trace" or "adversarials"; empty where there are none."""
        return self.table(kind, columns).to_pandas(types_mapper=_NULLABLE.get)

    def table(self, kind: str = "rows", columns: list[str] | None = None) -> pa.Table:
        """The same as an Arrow table, in which unknown values are None.

        What overlapping shards made twice (bitwise the same) counts once. Raises ConfigError for
        a damaged part.
        """
        columns = columns or TABLES[kind].names
        wanted = list(dict.fromkeys([*columns, *KEYS[kind]]))
        tables = [TABLES[kind].empty_table().select(wanted)]
        for path in self._parts(kind):
            if self._with_rows(path, kind):
                try:
                    tables.append(pq.read_table(path, columns=wanted, schema=TABLES[kind]))
                except (pa.ArrowException, OSError) as e:
                    raise ConfigError(
                        f"{path} is damaged: delete it, and run the cell again for its images"
                    ) from e
        table = pa.concat_tables(tables)
        again = table.select(KEYS[kind]).to_pandas().duplicated().to_numpy()
        return table.filter(pa.array(~again)).select(columns)

    def saved_images(self, positions: set[int]) -> Iterator[list[dict[str, Any]]]:
        """The rows of "adversarials" at `positions`, a few at a time: all would fill the memory."""
        left = set(positions)
        for path in self._parts("adversarials"):
            if self._with_rows(path, "adversarials"):
                for batch in pq.ParquetFile(path).iter_batches(IMAGES_AT_ONCE):
                    rows = [r for r in batch.to_pylist() if r["position"] in left]
                    left -= {r["position"] for r in rows}
                    if rows:
                        yield rows

    def positions(self, kind: str) -> set[int]:
        """The positions that have rows of a kind."""
        return set(self.read(kind, ["position"])["position"].tolist())

    def scored(self) -> dict[str, set[int]]:
        """The positions that have a row, by target."""
        rows = self.read("rows", ["position", "target"])
        return {str(t): set(p.tolist()) for t, p in rows.groupby("target")["position"]}

    def _parts(self, kind: str, stem: str = "") -> list[Path]:
        return sorted(self.folder.glob(f"{kind}-{stem}*.parquet"))

    def _with_rows(self, path: Path, kind: str) -> bool:
        """A trace without its rows is what a kill left: its images are crafted again."""
        return path.with_name(path.name.replace(f"{kind}-", "rows-", 1)).exists()


def image_of(row: Mapping[str, Any]) -> NDArray[np.uint8]:
    """The image of a row of "adversarials", (height, width, 3)."""
    flat = np.frombuffer(row["pixels"], np.uint8)
    return flat.reshape(row["height"], row["width"], 3)


_NULLABLE = {pa.int32(): pd.Int32Dtype()}


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write beside `path` and rename: a reader sees the whole file or none."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        write(draft)
        with draft.open("rb") as f:
            os.fsync(f.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
