"""Images in the layouts that ILSVRC2012 comes in: synset folders, flat files, tars, CSVs.

A layout is found below `data.root` or a level of the known trees further down (`LEVELS`). Where
several are there, the first of these is taken: a CSV of images, synset folders, flat files under
ILSVRC's names, a tar, other flat files.
To add a layout: a function here that makes `Images`, and its line in `find_images`.
"""

from __future__ import annotations

import csv
import io
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from agr.data import tar
from agr.data.labels import IMAGE_SUFFIXES, NUMBER, SYNSET, id_of
from agr.data.snapshot import Listing, Look, absence, look_at
from agr.utils.errors import ConfigError, first_line

LEVELS = (
    *("", "val", "validation", "ILSVRC2012_img_val", "images", "CLS-LOC/val"),
    *("Data/CLS-LOC/val", "ILSVRC/Data/CLS-LOC/val", "imagenet/val"),
)
TAR = "ILSVRC2012_img_val.tar"
NIPS = "images.csv"
VALIDATION = re.compile(r"ILSVRC2012_val_\d{8}", re.ASCII)
NAMED_CLASS = re.compile(r"_(n\d{8})$", re.ASCII)  # ILSVRC2012_val_00000001_n01751748.JPEG
SUFFIXES_IN_TURN = (".png", ".jpg", ".JPEG", ".jpeg")
READ_TOO = ("target", "TargetClass", "sha256")  # columns of a CSV that may be there
LONGEST_ID = 200  # bytes; file names have 255


class Image(NamedTuple):
    """An image that was found."""

    image_id: str
    path: Path  # the file, or the tar that holds it
    size: int | None  # bytes; None: not there, or not looked at
    offset: int | None = None  # in the tar
    synset: str | None = None  # where its folder or its name says so


class Images(NamedTuple):
    """The images of one layout."""

    layout: str  # in words
    place: Path  # the folder or tar
    images: list[Image]
    synsets: list[str] | None = None  # of synset folders, empty ones too


class Row(NamedTuple):
    """A line of a CSV of images."""

    image_id: str
    name: str  # relative to the images' folder
    label: str  # a class number or a synset
    target: str | None
    sha256: str | None


class Table(NamedTuple):
    """A CSV of images."""

    layout: str  # "csv" | "NIPS 2017 csv"
    rows: list[Row]


# ---- folders and tars ---------------------------------------------------------------------------


def find_images(root: Path, look: Look) -> Images:
    """The images at `root`, a folder or a tar. Raises ConfigError if there are none we know."""
    if look.is_file(root):
        return in_tar(root, look)
    if not look.is_folder(root):
        raise ConfigError(f"data.root={root} {absence(root)}: give the folder or tar of the images")
    places = [place for level in LEVELS if look.is_folder(place := root / level)]
    listings: dict[Path, Listing] = {}
    for place in places:
        listings[place] = look.list(place)
        if any(map(SYNSET.fullmatch, listings[place].folders)):
            return in_synset_folders(place, listings[place], look)
    flat = [p for p, listing in listings.items() if any(map(is_image, listing.files))]
    for place in flat:
        if any(map(VALIDATION.match, listings[place].files)):
            return in_one_folder(place, listings[place])
    for place in places:
        if look.is_file(place / TAR):
            return in_tar(place / TAR, look)
    for place in flat:  # other names; last, for a stray picture may lie beside a tar
        return in_one_folder(place, listings[place])
    raise ConfigError(_nothing(root, listings[root]))


def in_synset_folders(place: Path, listing: Listing, look: Look) -> Images:
    """Images in folders named nXXXXXXXX."""
    images: list[Image] = []
    synsets = sorted(name for name in listing.folders if SYNSET.fullmatch(name))
    for synset in synsets:
        folder = place / synset
        for name in filter(is_image, look.list(folder).files):
            images += _file(folder, name, synset)
    return Images("synset folders", place, images, synsets)


def in_one_folder(place: Path, listing: Listing) -> Images:
    """Images side by side."""
    images: list[Image] = []
    for name in filter(is_image, listing.files):
        images += _file(place, name, _class_in_name(name))
    return _flat("flat files", place, images)


def in_tar(path: Path, look: Look) -> Images:
    """Images in an uncompressed tar, side by side or in synset folders; read where they are.

    Only the last two parts of a member's name are looked at, and none ever serves as a path.
    """
    look.is_file(path)
    try:
        with path.open("rb", buffering=0) as file:
            images = list(_packed(path, file.fileno()))
    except OSError as e:
        raise ConfigError(f"{path} cannot be read: {e.strerror or first_line(e)}") from e
    if any(i.synset for i in images):
        return Images(f"{path.name} with synset folders", path, images)
    named = [i._replace(synset=_class_in_name(i.image_id)) for i in images]
    return _flat(path.name, path, named)


def is_image(name: str) -> bool:
    """Whether a file's name is an image's; hidden files, as macOS leaves them, are none."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def check_ids(ids: Iterable[str], where: str) -> None:
    """See that ids are unique and can be names of files. Raises ConfigError."""
    seen = set()
    for image_id in ids:
        if not image_id.isprintable() or not re.fullmatch(r"[^./\\][^/\\]*", image_id):
            raise ConfigError(
                f"{where}: the image {image_id!r} needs another name: ids become names of files"
            )
        if len(image_id.encode()) > LONGEST_ID:
            raise ConfigError(f"{where}: {image_id[:20]}… is longer than {LONGEST_ID}: rename it")
        if image_id in seen:
            raise ConfigError(f"{where} names {image_id} twice: image ids must be unique")
        seen.add(image_id)


def _class_in_name(name: str) -> str | None:
    found = NAMED_CLASS.search(id_of(name))
    return found[1] if found else None


def _flat(layout: str, place: Path, images: list[Image]) -> Images:
    """Flat images; the classes in their names count if all have one."""
    if images and all(i.synset for i in images):
        return Images(f"{layout} with synsets in their names", place, images)
    return Images(layout, place, [i._replace(synset=None) for i in images])


def _file(folder: Path, name: str, synset: str | None) -> Iterator[Image]:
    """The image of a file; a link that leads nowhere is one too, and reported when it is read."""
    path = folder / name
    found = look_at(path)
    if found is None or stat.S_ISREG(found.st_mode):
        yield Image(id_of(name), path, found and found.st_size, None, synset)


def _packed(path: Path, descriptor: int) -> Iterator[Image]:
    """Raises ConfigError for what is no uncompressed tar, or no whole one."""

    def read(at: int, size: int) -> bytes:
        return os.pread(descriptor, size, at)

    start = read(0, tar.BLOCK)
    packing = tar.packing(start)
    if packing or (start[257:262] != b"ustar" and not path.name.endswith(".tar")):
        what = f"is compressed ({packing}): unpack it to a .tar" if packing else "is no tar"
        raise ConfigError(f"{path} {what}; images are read in place from a folder, a tar or a CSV")
    try:
        for member in tar.members(read, os.fstat(descriptor).st_size):
            above, name = ("", *member.name.split("/"))[-2:]
            if is_image(name):
                synset = above if SYNSET.fullmatch(above) else None
                yield Image(id_of(name), path, member.size, member.offset, synset)
    except ValueError as e:
        raise ConfigError(f"{path} {first_line(e)}: copy it again") from e


def _nothing(root: Path, listing: Listing) -> str:
    """What was looked for in `root`, and what is there instead."""
    there = sorted(f"{name}/" for name in listing.folders) + sorted(listing.files)
    shown = ", ".join(there[:5]) + (f" … ({len(there)} in all)" if len(there) > 5 else "")
    packed = [name for name in there if re.search(r"val.*\.(tar\.\w+|tgz|zip|tar)$", name)]
    hint = f"; if {packed[0]} is meant, give it as data.root, as a plain .tar" if packed else ""
    return (
        f"data.root={root} has no images: looked for synset folders (n01440764 …), "
        f"ILSVRC2012_val_*.JPEG, {TAR} and {NIPS}, there and in {', '.join(LEVELS[1:6])} …; "
        f"there is {shown or 'nothing'}{hint}"
    )


# ---- CSVs of images -----------------------------------------------------------------------------


def find_table(root: Path, labels: Path | None, look: Look) -> Path | None:
    """The CSV that lists the images, if one does: data.root, data.labels, or root/images.csv."""
    if root.suffix.lower() == ".csv":
        if labels:
            raise ConfigError(f"data.root={root} has its own labels: set data.labels=null")
        return root
    if labels and look.is_file(labels) and labels.suffix.lower() == ".csv":
        return labels if "PredictionString" not in _columns(look.text(labels)) else None
    beside = (root.parent if root.name == "images" else root) / NIPS
    if labels or not look.is_file(beside):
        return None
    return beside if "TrueLabel" in _columns(look.text(beside)) else None


def read_table(path: Path, look: Look) -> Table:
    """A CSV of filename,label[,target][,sha256], or the NIPS 2017 one. Raises ConfigError."""
    text = look.text(path)
    nips = "TrueLabel" in _columns(text)
    wanted = ("ImageId", "TrueLabel") if nips else ("filename", "label")
    rows = csv.DictReader(io.StringIO(text))
    found = []
    try:
        _check_columns(list(rows.fieldnames or ()), wanted, path)
        for row in rows:
            if None in row:  # where DictReader puts fields that no column has
                raise _WrongRow(
                    "it has more fields than there are columns: quote those with commas"
                )
            found.append(_nips_row(row) if nips else _row(row))
    except (csv.Error, _WrongRow) as e:
        raise ConfigError(f"{path} line {rows.line_num}: {first_line(e)}") from e
    return Table("NIPS 2017 csv" if nips else "csv", found)


def _check_columns(names: Sequence[str], wanted: Sequence[str], path: Path) -> None:
    """Raise ConfigError unless every column that is read is there once."""
    for name in wanted:
        if name not in names:
            raise ConfigError(
                f"{path} has no column {name}: its first line must name {' and '.join(wanted)}"
            )
    for name in (*wanted, *READ_TOO):
        if names.count(name) > 1:
            raise ConfigError(f"{path} has the column {name} twice: take one away")


def images_of(table: Table, path: Path, root: Path, look: Look) -> list[Image]:
    """The images of a CSV, in its order. Raises ConfigError if none of them is there.

    Names are relative to `root`, or to the CSV's folder where root is the CSV; where that leads to
    no file, or root is a tar, the images of the layout at `root` count by their ids.
    """
    if root != path and look.is_file(root):
        return _by_id(table, path, in_tar(root, look))
    if root != path and not look.is_folder(root):
        raise ConfigError(f"data.root={root} {absence(root)}: give the folder or tar of the images")
    base = path.parent if root == path else root
    if table.layout == "csv":
        paths = [base / row.name for row in table.rows]
    else:
        paths = _nips_paths(table, [path.parent / "images", base, base / "images"], look)
    found = [None if row.sha256 else look_at(p) for row, p in zip(table.rows, paths, strict=True)]
    if paths and not any(found) and not any(map(look_at, paths)):
        try:
            return _by_id(table, path, find_images(base, look))
        except ConfigError as e:
            raise ConfigError(
                f"{path}: none of its {len(paths)} images is there, as {paths[0]}: give their "
                "folder as data.root"
            ) from e
    return [
        Image(row.image_id, p, f and f.st_size)
        for row, p, f in zip(table.rows, paths, found, strict=True)
    ]


def _by_id(table: Table, path: Path, images: Images) -> list[Image]:
    """The images that a CSV names, out of those of a layout. Raises ConfigError if one lacks."""
    check_ids((i.image_id for i in images.images), str(images.place))
    there = {i.image_id: i for i in images.images}
    absent = [row.name for row in table.rows if not _meant(row, there.get(row.image_id))]
    if absent:
        raise ConfigError(
            f"{path}: {absent[0]} is not in {images.place} ({len(absent)} such): correct the "
            "names, or give the folder of the images as data.root"
        )
    return [there[row.image_id] for row in table.rows]


def _meant(row: Row, image: Image | None) -> bool:
    """Whether a row means this image: by its id, and by its folders where it names them."""
    if image is None or image.offset is not None:
        return image is not None
    parts = PurePosixPath(row.name).parts
    return len(parts) == 1 or image.path.parts[-len(parts) :] == parts


class _WrongRow(ValueError):
    """A line of a CSV that can't be; its text says why."""


def _columns(text: str) -> list[str]:
    """The names in a CSV's first line; none where there is no such line."""
    try:
        return next(csv.reader(io.StringIO(text.partition("\n")[0])), [])
    except csv.Error:
        return []


def _row(row: dict[str, str]) -> Row:
    name, label = row["filename"], row["label"]
    target, sha256 = row.get("target") or None, (row.get("sha256") or "").lower() or None
    if not name or not all(_is_class(word) for word in (label, target or "0")):
        also = f", target {target!r}" if target else ""
        raise _WrongRow(f"{name!r}, label {label!r}{also}: give a file name and a class number")
    if sha256 and not re.fullmatch("[0-9a-f]{64}", sha256):
        raise _WrongRow(f"{name!r}: {sha256!r} is no sha256")
    return Row(PurePosixPath(name).stem, name, label, target, sha256)


def _nips_row(row: dict[str, str]) -> Row:
    """Classes count from 1 in the NIPS 2017 data set."""
    name, label, target = row["ImageId"], row["TrueLabel"], row.get("TargetClass") or None
    for word in (label, target or label):
        if not word or not NUMBER.fullmatch(word) or int(word) < 1:
            raise _WrongRow(f"{name!r}, class {word!r}: give a number from 1 on")
    return Row(name, name, str(int(label) - 1), target and str(int(target) - 1), None)


def _is_class(word: str | None) -> bool:
    return bool(word and (NUMBER.fullmatch(word) or SYNSET.fullmatch(word)))


def _nips_paths(table: Table, folders: list[Path], look: Look) -> list[Path]:
    """The file of each ImageId, which has no ending; where there is none, what was looked for."""
    files: dict[str, Path] = {}
    for folder in dict.fromkeys(f for f in folders if look.is_folder(f)):
        names = look.list(folder).files
        for suffix in SUFFIXES_IN_TURN:
            for name in names:
                if name.endswith(suffix):
                    files.setdefault(name.removesuffix(suffix), folder / name)
    return [files.get(row.name, folders[0] / f"{row.name}.png") for row in table.rows]
