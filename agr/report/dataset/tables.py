"""The tables of a data set: rows of all cells, and the cells. No path of a machine is in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from agr.config.cell import Cell
from agr.records.places import shared_command, without_paths
from agr.records.run_info import RunInfo
from agr.records.schema import ROWS, column
from agr.records.store import Records
from agr.utils.errors import ConfigError

OF_A_FILE = re.compile(r"(^|:)([~/]|[A-Za-z]:\\)")  # a network's name: resnet50:/home/me/mine.pt

CELLS = pa.schema(
    [
        *(ROWS.field(n) for n in ["cell", "suite", "attack", "attack_hash"]),
        column("title", pa.string(), "title of the attack, in tables"),
        column("parameters", pa.string(), "its parts and their parameters, as JSON"),
        *(ROWS.field(n) for n in ["norm", "eps", "eps_effective", "steps", "seed", "source"]),
        column("targets", pa.string(), "networks that were scored, with commas"),
        column("select", pa.string(), "which networks are right about every attacked image"),
        column("split", pa.string(), "all | tuning: the part of the images"),
        column("success", pa.string(), "what a success is: label | changed | targeted"),
        column("quantize", pa.string(), "which iterates are rounded to 8 bits"),
        column("images", pa.int64(), "images with rows"),
        column("command", pa.string(), "what ran it, without places of files"),
        column("agr", pa.string(), "version of agr"),
        column("commit", pa.string(), "of agr; null: no checkout"),
        column("torch", pa.string(), "version of PyTorch"),
        column("device", pa.string(), "type of device, with its instruction set or name"),
        column("precision", pa.string(), "of the networks' arithmetic"),
        column("threads", pa.int64(), "threads of PyTorch"),
        column("seconds", pa.float64(), "of all sessions together", "s"),
        column("crafting_seconds", pa.float64(), "of these, crafting", "s"),
    ]
)


class Finished(NamedTuple):
    """A finished cell with its records and its run.json."""

    cell: Cell
    records: Records
    run: RunInfo


class Written(NamedTuple):
    """A table that was written: its name, file, columns and number of rows."""

    name: str
    path: str  # within the data set
    about: str
    key: Sequence[str]
    schema: pa.Schema
    rows: int


def write_tables(cells: Sequence[Finished], folder: Path) -> list[Written]:
    """Write data/rows.parquet and data/cells.parquet below `folder`. Raises ConfigError."""
    (folder / "data").mkdir()
    counts: dict[str, tuple[int, list[str]]] = {}  # images, and targets

    def rows() -> Iterator[pa.Table]:
        for of in cells:
            table = pa.Table.from_pandas(of.records.read("rows"), ROWS, preserve_index=False)
            targets = sorted(table["target"].unique().to_pylist())
            counts[of.cell.id] = len(table["position"].unique()), targets
            yield table.sort_by([("position", "ascending"), ("target", "ascending")])

    number = _write(rows(), ROWS, folder / "data/rows.parquet")
    about = "One row per attacked image and scored network."
    first = Written(
        "rows", "data/rows.parquet", about, ("cell", "position", "target"), ROWS, number
    )
    described = [_described(of, *counts[of.cell.id]) for of in cells]
    table = pa.Table.from_pylist(described, CELLS)
    number = _write([table], CELLS, folder / "data/cells.parquet")
    about = "One row per cell: an attack with one budget on one source, how it was run and when."
    return [first, Written("cells", "data/cells.parquet", about, ("cell",), CELLS, number)]


def _write(tables: Any, schema: pa.Schema, path: Path) -> int:
    """Write tables one after another, a row group of each cell, and count their rows."""
    rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table.replace_schema_metadata(None))
            rows += len(table)
    return rows


def _described(of: Finished, images: int, targets: Sequence[str]) -> dict[str, Any]:
    (cell, _, run), c = of, of.cell.config
    numeric = run.numeric
    parts = {key: node for key, node in c.attack.parts().items() if node}
    return {
        "cell": cell.id,
        "suite": cell.suite.name,
        "attack": c.attack.name,
        "attack_hash": run.attack_hash,
        "title": c.attack.title,
        "parameters": json.dumps({"size": c.attack.size, **without_paths(parts)}),
        "norm": c.norm.name,
        "eps": c.eps,
        "eps_effective": run.eps_effective,
        "steps": c.steps,
        "seed": c.seed,
        "source": cell.source,
        "targets": ",".join(targets),
        "select": c.select,
        "split": c.split,
        "success": cell.success,
        "quantize": c.quantize,
        "images": images,
        "command": shared_command(run.command),
        "agr": run.versions.get("agr"),
        "commit": run.git,
        "torch": run.versions.get("torch"),
        "device": numeric and numeric.device,
        "precision": numeric and numeric.precision,
        "threads": numeric and numeric.threads,
        "seconds": sum(session.seconds for session in run.sessions),
        "crafting_seconds": sum(session.crafting_seconds for session in run.sessions),
    }


def check_names(of: Finished) -> None:
    """Raise ConfigError for a network whose name tells of a file of this machine."""
    cell = of.cell
    for name in (*cell.sources, *cell.targets, *of.run.networks):
        if OF_A_FILE.search(name):
            raise ConfigError(
                f"{cell.folder}: {name} names a file of this machine, which rows would publish: "
                "give the network a name in a suite (docs/networks.md), and run the cell again"
            )
