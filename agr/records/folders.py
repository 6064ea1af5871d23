"""The folder of a cell: where its rows and everything else lies.

Readers of Parquet folders pass over names that begin with `_` or `.`, so that
`pd.read_parquet(folder)` is the rows.
"""

from __future__ import annotations

from pathlib import Path

ABOUT = "_about"  # run.json, and notes of failures
DAMAGED = f"{ABOUT}/damaged"  # parts that were set aside
PNG = "_png"  # saved images, to look at


def folder_of(cell: Path, kind: str) -> Path:
    """Return the folder of the part files of a kind."""
    return cell if kind == "rows" else cell / f"_{kind}"


def failure_file(cell: Path, shard: str) -> Path:
    """Return the path of the note on a failed shard, "0of1"."""
    return cell / ABOUT / f"failed-{shard}.json"


def cell_folders(outputs: Path, depth: str = "*/*") -> list[Path]:
    """List the folders of cells below `outputs`: those that have rows, or a run.json."""
    names = ("rows-*.parquet", f"{ABOUT}/run.json", "run.json")  # the last: of earlier versions
    found = {path for name in names for path in outputs.glob(f"{depth}/{name}")}
    return sorted({path.parent if ABOUT not in path.parts else _above(path) for path in found})


def _above(path: Path) -> Path:
    """Return the folder of the cell that a file in or below its `_about` is of."""
    return next(folder.parent for folder in path.parents if folder.name == ABOUT)
