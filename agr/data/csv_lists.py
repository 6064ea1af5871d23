"""CSVs that list images: filename,label[,target][,sha256], and the NIPS 2017 one.

Names of columns count without blanks, underscores and capitals; fields are separated by commas,
semicolons or tabs.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from agr.data.entries import NUMBER, class_word, distinct_ids, is_class
from agr.data.layouts import ImageFile, Layout, check_ids, find_layout, is_image
from agr.data.snapshot import FileSnapshot, look_at
from agr.utils.errors import ConfigError, first_line
from agr.utils.packages import PACKAGE, package_file

SUFFIXES_IN_TURN = (".png", ".jpg", ".JPEG", ".jpeg")
TABLES = (".csv", ".tsv", ".txt")
SEPARATORS = ",;\t"
BESIDE = ("images.csv", "labels.csv")  # beside the images or the folder images/, in this order
SOLUTION_COLUMN = "PredictionString"  # of a file of labels (agr.data.labels)
FILENAME, LABEL, TARGET, SHA256 = "filename", "label", "target", "sha256"
# What the columns are called elsewhere, as `_key` writes names.
MEANS = {
    FILENAME: FILENAME, "file": FILENAME, "image": FILENAME, "imagepath": FILENAME,
    "path": FILENAME, "imageid": FILENAME,
    LABEL: LABEL, "class": LABEL, "classid": LABEL, "truelabel": LABEL,
    TARGET: TARGET, "targetedlabel": TARGET, "targetlabel": TARGET, "targetclass": TARGET,
    SHA256: SHA256,
}  # fmt: skip
# The NIPS 2017 set's, with those that say nothing of the image's class.
NIPS_LAYOUT = "NIPS 2017 csv"
NIPS_ID, NIPS_LABEL = "imageid", "truelabel"
NIPS_IDLE = {
    "url", "x1", "y1", "x2", "y2", "originallandingurl", "license", "author", "authorprofileurl",
}  # fmt: skip


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
    unread: tuple[str, ...] = ()  # names of columns that mean nothing here


def find_table(root: Path, labels: Path | None, snapshot: FileSnapshot) -> Path | None:
    """Find the CSV that lists the images, if any: data.root, data.labels, or one in the folder.

    Raises ConfigError where several in the folder could be meant.
    """
    if root.suffix.lower() in TABLES and not snapshot.is_folder(root):
        if labels:
            raise ConfigError(f"data.root={root} has its own labels: set data.labels=null")
        return root
    if labels:
        if not snapshot.is_file(labels) or labels.suffix.lower() not in TABLES:
            return None
        if labels.suffix.lower() == ".csv":  # any other than Kaggle's should have our columns
            return None if SOLUTION_COLUMN in _columns(snapshot.text(labels))[1] else labels
        return labels if _lists_images(labels, snapshot) else None
    for folder in (root, root.parent) if root.name == "images" else (root,):
        if not snapshot.is_folder(folder):
            continue
        files = [f for f in snapshot.list(folder).files if Path(f).suffix.lower() in TABLES]
        found = [f for f in sorted(files) if _lists_images(folder / f, snapshot, quietly=True)]
        if chosen := [f for f in BESIDE if f in found] or found[:1]:
            if len(found) > 1 and chosen[0] not in BESIDE:
                raise ConfigError(
                    f"{folder} has several lists of images, {', '.join(found[:3])}: give one as "
                    "data.root"
                )
            return folder / chosen[0]
    return None


def read_table(path: Path, snapshot: FileSnapshot) -> CsvTable:
    """Read a CSV of filename,label[,target][,sha256], or the NIPS 2017 one. Raises ConfigError.

    A filename "package:DISTRIBUTION/PATH" is a file that an installed package brought with it.
    """
    text = snapshot.text(path)
    separator, names = _columns(text)
    columns, unread = _meanings(names, path)
    nips = _is_nips(names)
    reader = csv.reader(io.StringIO(text), delimiter=separator)
    rows: list[CsvRow] = []
    try:
        next(reader, None)
        for fields in reader:
            if not fields:
                continue
            if len(fields) > len(names):
                raise _WrongRow(
                    "it has more fields than there are columns: quote those with commas"
                )
            row = {c: field.strip() for c, field in zip(columns, fields, strict=False) if c}
            rows.append(_nips_row(row) if nips else _row(row))
    except (csv.Error, _WrongRow) as e:
        raise ConfigError(f"{path} line {reader.line_num}: {first_line(e)}") from e
    if not rows:
        raise ConfigError(f"{path} names no image: check the path")
    ids = [row.name for row in rows] if nips else distinct_ids(row.name for row in rows)
    check_ids(ids, str(path))
    rows = [row._replace(image_id=i) for row, i in zip(rows, ids, strict=True)]
    return CsvTable(NIPS_LAYOUT if nips else "csv", path, rows, unread)


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
    # One that shares its name with others there, but not with others of the CSV.
    files = [i for i in layout.images if i.offset is None and i.row is None]
    by_id |= {f"{i.path.parent.name}_{i.path.stem}": i for i in files}
    chosen = [by_id.get(row.image_id) or by_id.get(_with_folder(row)) for row in table.rows]
    both = list(zip(table.rows, chosen, strict=True))
    absent = [row.name for row, image in both if not _matches(row, image)]
    if absent:
        raise ConfigError(
            f"{table.path}: {absent[0]} is not in {layout.place} ({len(absent)} such): correct the "
            "names, or give the folder of the images as data.root"
        )
    return [image for image in chosen if image]


def _with_folder(row: CsvRow) -> str:
    path = PurePosixPath(row.name)
    return f"{path.parent.name}_{path.stem}"


def _matches(row: CsvRow, image: ImageFile | None) -> bool:
    """True if the folders that a row names, if any, are those of the image with its id."""
    if image is None:
        return False
    if image.offset is not None or image.row is not None:  # in a tar or table: no folders count
        return True
    parts = PurePosixPath(row.name).parts
    return len(parts) == 1 or image.path.parts[-len(parts) :] == parts


class _WrongRow(ValueError):
    """A malformed line of a CSV; the text says why."""


def _lists_images(path: Path, snapshot: FileSnapshot, *, quietly: bool = False) -> bool:
    """True if the first line of a file names the columns that a list of images must have.

    Of a file that nobody has named and that has another name than ours the next line counts too:
    it may hold results, with a class's name in place of its number.
    """
    try:
        text = snapshot.text(path)
        separator, names = _columns(text)
    except ConfigError:
        if quietly:  # whatever it is, nobody has named it
            return False
        raise
    meanings = [MEANS.get(_key(name)) for name in names]
    if not {FILENAME, LABEL} <= {*meanings}:
        return False
    if quietly and path.name not in BESIDE:
        line = text.partition("\n")[2].partition("\n")[0]
        place, first = meanings.index(LABEL), line.split(separator)
        return len(first) <= place or is_class(class_word(first[place]))
    return True


def _columns(text: str) -> tuple[str, list[str]]:
    """Return the separator and the names of the columns in a CSV's first line."""
    first = text.partition("\n")[0]
    separator = max(SEPARATORS, key=first.count)
    try:
        return separator, next(csv.reader(io.StringIO(first), delimiter=separator), [])
    except csv.Error:
        return separator, []


def _is_nips(names: Iterable[str]) -> bool:
    # Exactly its own names: image_id,true_label is a list of one's own, whose classes count from 0.
    return {NIPS_ID, NIPS_LABEL} <= {name.strip().casefold() for name in names}


def _key(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


def _meanings(names: list[str], path: Path) -> tuple[list[str | None], tuple[str, ...]]:
    """Return what each column means, and the names of those that mean nothing here.

    Raises ConfigError for a column that is missing, or that there are two of.
    """
    columns = [MEANS.get(_key(name)) for name in names]
    for needed in (FILENAME, LABEL):
        if needed not in columns:
            raise ConfigError(
                f"{path} has no column {needed}: its first line must name {FILENAME} and {LABEL}"
            )
    for column in {*columns} - {None}:
        same = [name for name, c in zip(names, columns, strict=True) if c == column]
        if len(same) > 1:
            raise ConfigError(
                f"{path} has two columns for the {column}, {' and '.join(same[:2])}: take one away"
            )
    idle = NIPS_IDLE if _is_nips(names) else set()
    unread = [n for n, c in zip(names, columns, strict=True) if c is None and _key(n) not in idle]
    return columns, tuple(name.strip() for name in unread if name.strip())


def _row(fields: dict[str, str]) -> CsvRow:
    name = fields.get(FILENAME, "").replace("\\", "/")  # some lists were made on Windows
    label, target = (class_word(fields.get(key, "")) for key in (LABEL, TARGET))
    sha256 = fields.get(SHA256, "").lower() or None
    if not name or not all(is_class(word) for word in (label, target or "0")):
        also = f", target {target!r}" if target else ""
        raise _WrongRow(f"{name!r}, label {label!r}{also}: give a file name and a class number")
    if sha256 and not re.fullmatch("[0-9a-f]{64}", sha256):
        raise _WrongRow(f"{name!r}: {sha256!r} is not a sha256")
    return CsvRow("", name, label, target or None, sha256)


def _nips_row(fields: dict[str, str]) -> CsvRow:
    """Parse a line of the NIPS 2017 CSV, in which classes count from 1."""
    name = fields.get(FILENAME, "")
    label, target = (class_word(fields.get(key, "")) for key in (LABEL, TARGET))
    for word in (label, target or label):
        if not NUMBER.fullmatch(word) or int(word) < 1:
            raise _WrongRow(f"{name!r}, class {word!r}: give a number from 1 on")
    return CsvRow("", name, str(int(label) - 1), str(int(target) - 1) if target else None, None)


def _in_turn(name: str) -> int:
    """Rank a file among those of one image in several formats."""
    suffix = name[name.rindex(".") :]
    return SUFFIXES_IN_TURN.index(suffix) if suffix in SUFFIXES_IN_TURN else len(SUFFIXES_IN_TURN)


def _nips_paths(table: CsvTable, folders: list[Path], snapshot: FileSnapshot) -> list[Path]:
    """Find the file of each ImageId, which has no suffix; where there is none, expect a PNG."""
    files: dict[str, Path] = {}
    for folder in dict.fromkeys(f for f in folders if snapshot.is_folder(f)):
        names = snapshot.list(folder).files
        for name in sorted(filter(is_image, names), key=_in_turn):
            files.setdefault(name[: name.rindex(".")], folder / name)
    return [files.get(row.name, folders[0] / f"{row.name}.png") for row in table.rows]
