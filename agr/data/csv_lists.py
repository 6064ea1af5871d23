"""CSVs that list images: filename,label[,target][,sha256], and the NIPS 2017 one."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from agr.data.entries import NUMBER, is_class
from agr.data.layouts import NIPS, ImageFile, Layout, check_ids, find_layout
from agr.data.snapshot import FileSnapshot, look_at
from agr.utils.errors import ConfigError, first_line
from agr.utils.packages import PACKAGE, package_file

SUFFIXES_IN_TURN = (".png", ".jpg", ".JPEG", ".jpeg")
OPTIONAL = ("target", "targeted_label", "TargetClass", "sha256")  # columns


class CsvRow(NamedTuple):
    """A line of a CSV of images."""

    image_id: str
    name: str  # relative to the images' folder
    label: str  # a class number or a synset
    target: str | None
    sha256: str | None


class CsvTable(NamedTuple):
    """A CSV of images."""

    layout: str  # "csv" | "NIPS 2017 csv"
    path: Path
    rows: list[CsvRow]


def find_table(root: Path, labels: Path | None, snapshot: FileSnapshot) -> Path | None:
    """Find the CSV that lists the images, if any: data.root, data.labels, or root/images.csv."""
    if root.suffix.lower() == ".csv":
        if labels:
            raise ConfigError(f"data.root={root} has its own labels: set data.labels=null")
        return root
    if labels and snapshot.is_file(labels) and labels.suffix.lower() == ".csv":
        return labels if "PredictionString" not in _columns(snapshot.text(labels)) else None
    beside = (root.parent if root.name == "images" else root) / NIPS
    if labels or not snapshot.is_file(beside):
        return None
    return beside if "TrueLabel" in _columns(snapshot.text(beside)) else None


def read_table(path: Path, snapshot: FileSnapshot) -> CsvTable:
    """Read a CSV of filename,label[,target][,sha256], or the NIPS 2017 one. Raises ConfigError.

    A target may also be called targeted_label, as in TransferAttack's labels.csv.

    A filename "package:DISTRIBUTION/PATH" is a file that an installed package brought with it.
    """
    text = snapshot.text(path)
    nips = "TrueLabel" in _columns(text)
    needed = ("ImageId", "TrueLabel") if nips else ("filename", "label")
    reader = csv.DictReader(io.StringIO(text))
    rows = []
    try:
        names = list(reader.fieldnames or ())
        for name in needed:
            if name not in names:
                raise ConfigError(
                    f"{path} has no column {name}: its first line must name {' and '.join(needed)}"
                )
        for name in (*needed, *OPTIONAL):
            if names.count(name) > 1:
                raise ConfigError(f"{path} has the column {name} twice: take one away")
        for fields in reader:
            if None in fields:  # where DictReader puts fields that no column has
                raise _WrongRow(
                    "it has more fields than there are columns: quote those with commas"
                )
            rows.append(_nips_row(fields) if nips else _row(fields))
    except (csv.Error, _WrongRow) as e:
        raise ConfigError(f"{path} line {reader.line_num}: {first_line(e)}") from e
    if not rows:
        raise ConfigError(f"{path} names no image: check the path")
    check_ids((row.image_id for row in rows), str(path))
    return CsvTable("NIPS 2017 csv" if nips else "csv", path, rows)


def images_of(table: CsvTable, root: Path, snapshot: FileSnapshot) -> list[ImageFile]:
    """Find the images of a CSV, in its order. Raises ConfigError if none of them is there.

    Names are relative to `root`, or to the CSV's folder where root is the CSV; where that leads to
    no file, or root is a tar, the images of the layout at `root` count by their ids.
    """
    if root != table.path and not snapshot.is_folder(root):
        return _by_id(table, find_layout(root, snapshot))
    above = table.path.parent
    base = above if root == table.path else root
    if table.layout == "csv":
        paths = [_path(base, row.name, table.path) for row in table.rows]
    else:
        paths = _nips_paths(table, [above / "images", base, base / "images"], snapshot)
    # A hash is checked when the image is read: its file need not be looked at before.
    stats = [None if row.sha256 else look_at(p) for row, p in zip(table.rows, paths, strict=True)]
    if not any(stats) and not any(map(look_at, paths)):
        try:
            return _by_id(table, find_layout(base, snapshot))
        except ConfigError as e:
            raise ConfigError(
                f"{table.path}: none of its {len(paths)} images is there, as {paths[0]}: give "
                "their folder as data.root"
            ) from e
    return [
        ImageFile(row.image_id, path, stat and stat.st_size)
        for row, path, stat in zip(table.rows, paths, stats, strict=True)
    ]


def _path(base: Path, name: str, table: Path) -> Path:
    return package_file(name, str(table)) if name.startswith(PACKAGE) else base / name


def _by_id(table: CsvTable, layout: Layout) -> list[ImageFile]:
    """Pick the images that a CSV names from a layout's. Raises ConfigError if one is missing."""
    check_ids((i.image_id for i in layout.images), str(layout.place))
    by_id = {i.image_id: i for i in layout.images}
    absent = [row.name for row in table.rows if not _matches(row, by_id.get(row.image_id))]
    if absent:
        raise ConfigError(
            f"{table.path}: {absent[0]} is not in {layout.place} ({len(absent)} such): correct the "
            "names, or give the folder of the images as data.root"
        )
    return [by_id[row.image_id] for row in table.rows]


def _matches(row: CsvRow, image: ImageFile | None) -> bool:
    """True if the folders that a row names, if any, are those of the image with its id."""
    if image is None:
        return False
    if image.offset is not None:  # in a tar, whose folders don't count
        return True
    parts = PurePosixPath(row.name).parts
    return len(parts) == 1 or image.path.parts[-len(parts) :] == parts


class _WrongRow(ValueError):
    """A malformed line of a CSV; the text says why."""


def _columns(text: str) -> list[str]:
    """Return the column names in a CSV's first line; none where there is no such line."""
    try:
        return next(csv.reader(io.StringIO(text.partition("\n")[0])), [])
    except csv.Error:
        return []


def _row(fields: dict[str, str]) -> CsvRow:
    name, label = fields["filename"], fields["label"]
    target = fields.get("target") or fields.get("targeted_label") or None
    sha256 = (fields.get("sha256") or "").lower() or None
    if not name or not all(is_class(word or "") for word in (label, target or "0")):
        also = f", target {target!r}" if target else ""
        raise _WrongRow(f"{name!r}, label {label!r}{also}: give a file name and a class number")
    if sha256 and not re.fullmatch("[0-9a-f]{64}", sha256):
        raise _WrongRow(f"{name!r}: {sha256!r} is no sha256")
    return CsvRow(PurePosixPath(name).stem, name, label, target, sha256)


def _nips_row(fields: dict[str, str]) -> CsvRow:
    """Parse a line of the NIPS 2017 CSV, in which classes count from 1."""
    name, label = fields["ImageId"], fields["TrueLabel"]
    target = fields.get("TargetClass") or None
    for word in (label, target or label):
        if not word or not NUMBER.fullmatch(word) or int(word) < 1:
            raise _WrongRow(f"{name!r}, class {word!r}: give a number from 1 on")
    return CsvRow(name, name, str(int(label) - 1), target and str(int(target) - 1), None)


def _nips_paths(table: CsvTable, folders: list[Path], snapshot: FileSnapshot) -> list[Path]:
    """Find the file of each ImageId, which has no suffix; where there is none, expect a PNG."""
    files: dict[str, Path] = {}
    for folder in dict.fromkeys(f for f in folders if snapshot.is_folder(f)):
        names = snapshot.list(folder).files
        for suffix in SUFFIXES_IN_TURN:
            for name in names:
                if name.endswith(suffix):
                    files.setdefault(name.removesuffix(suffix), folder / name)
    return [files.get(row.name, folders[0] / f"{row.name}.png") for row in table.rows]
