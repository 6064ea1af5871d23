"""Images in the layouts that they come in: class folders, flat files, tars, CSVs, tables.

A layout is found below `data.root` or a level of the known trees further down (`LEVELS`). Where
there are several, the first of these is taken: a CSV of images, synset folders, flat files under
ILSVRC's names, a tar, Parquet or Arrow files, other flat files or folders of classes, whichever has
more images.
To add a layout, write a function that returns a `Layout`, and call it in `find_layout`.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from agr.data import tar
from agr.data.columnar import COLUMNAR, columnar_files, stored_images
from agr.data.entries import IMAGE_SUFFIXES, NUMBER, OTHER_IMAGES, SYNSET, distinct_ids, id_of
from agr.data.snapshot import FileSnapshot, Listing, absence, look_at
from agr.utils.errors import ConfigError, first_line
from agr.utils.text import LONGEST_ID, is_name

LEVELS = (
    "",
    "val",
    "validation",
    "ILSVRC2012_img_val",
    "images",
    "val/images",
    "CLS-LOC/val",
    "Data/CLS-LOC/val",
    "ILSVRC/Data/CLS-LOC/val",
    "imagenet/val",
)
TAR = "ILSVRC2012_img_val.tar"
# Folders of the known layouts, of which none is a class; labels are looked for above them, too.
INNER = {"train", "val", "validation", "test", "images", "data", "CLS-LOC", "Data", "ILSVRC"}
INNER |= {"ILSVRC2012_img_val", "Annotations", "ImageSets"}
VALIDATION = re.compile(r"ILSVRC2012_val_\d{8}", re.ASCII)
NAMED_CLASS = re.compile(r"_(n\d{8})$", re.ASCII)


class ImageFile(NamedTuple):
    """An image in a folder or tar."""

    image_id: str
    path: Path  # the file, or the tar that holds it
    size: int | None  # bytes, of a table as a whole; None: not there, or not looked at
    offset: int | None = None  # in the tar
    word: str | None = None  # its raw label, where its folder, its name or its table says so
    row: int | None = None  # in the Parquet or Arrow file


class Layout(NamedTuple):
    """A layout that was found, with its images."""

    name: str  # such as "flat files"
    place: Path  # the folder or tar
    images: list[ImageFile]
    words: list[str] | None = None  # the names of class folders, empty ones too


def find_layout(root: Path, snapshot: FileSnapshot) -> Layout:
    """Find the layout at `root`, a folder or a tar. Raises ConfigError if there is none."""
    if snapshot.is_file(root):
        return in_columns([root], snapshot) if root.suffix in COLUMNAR else in_tar(root, snapshot)
    if not snapshot.is_folder(root):
        raise ConfigError(f"data.root={root} {absence(root)}: give the folder or tar of the images")
    places = [place for level in LEVELS if snapshot.is_folder(place := root / level)]
    listings: dict[Path, Listing] = {}
    for place in places:
        listings[place] = snapshot.list(place)
        if any(map(SYNSET.fullmatch, listings[place].folders)):
            found = sorted(filter(SYNSET.fullmatch, listings[place].folders))
            return _in_class_folders("synset folders", place, found, snapshot)
    flat = [p for p, listing in listings.items() if any(map(is_image, listing.files))]
    for place in flat:
        if any(map(VALIDATION.match, listings[place].files)):
            return _flat("flat files", place, list(_images(place, listings[place])))
    for place in places:
        if snapshot.is_file(place / TAR):
            return in_tar(place / TAR, snapshot)
    for place in (*places, root / "data"):
        if files := columnar_files(place, snapshot):
            return in_columns(files, snapshot)
    # Other names come last, for a stray picture may lie beside a tar or beside folders.
    layouts = [_flat("flat files", p, list(_images(p, listings[p]))) for p in flat[:1]]
    layouts += _other_class_folders(places, listings, snapshot)
    if layouts:
        return max(layouts, key=lambda layout: len(layout.images))
    for place in places:  # tables of something else, which say what they lack
        for name in sorted(listings[place].files):
            if Path(name).suffix in COLUMNAR:
                return in_columns([place / name], snapshot)
    raise ConfigError(_no_images(root, listings[root], snapshot))


def _in_class_folders(name: str, place: Path, folders: list[str], snapshot: FileSnapshot) -> Layout:
    """List the images of class folders, or of the folder images/ in each, as in Tiny-ImageNet.

    Where all folders are numbers, those are the classes.
    """
    numbers = all(map(NUMBER.fullmatch, folders))
    words = {folder: str(int(folder)) if numbers else folder for folder in folders}
    images: list[ImageFile] = []
    for folder, word in words.items():
        listing = snapshot.list(place / folder)
        inner = listing.folders == ["images"] and not any(map(is_image, listing.files))
        own = place / folder / "images" if inner else place / folder
        images += _images(own, snapshot.list(own) if inner else listing, word)
    return Layout(name, place, _distinct(images), list(words.values()))


def _other_class_folders(
    places: Iterable[Path], listings: dict[Path, Listing], snapshot: FileSnapshot
) -> Iterator[Layout]:
    """Yield a layout of folders with any names, two or more of which have images."""
    for place in places:
        folders = sorted(f for f in listings[place].folders if f not in INNER)
        try:
            layout = _in_class_folders("class folders", place, folders, snapshot)
        except ConfigError:  # one can't be listed, as lost+found
            continue
        if len({image.word for image in layout.images}) > 1:
            used = sorted({str(image.word) for image in layout.images})
            yield layout._replace(words=used)  # others may be anything
            return


def _distinct(images: list[ImageFile]) -> list[ImageFile]:
    """Give images of one name ids with their folders (their classes, in a tar)."""
    names = [f"{i.word or ''}/{i.image_id}" for i in images]
    ids = distinct_ids(names)
    return [i._replace(image_id=new) for i, new in zip(images, ids, strict=True)]


def in_tar(path: Path, snapshot: FileSnapshot) -> Layout:
    """List images in an uncompressed tar, side by side or in synset folders; read in place.

    Only the last two parts of a member's name are looked at, and none ever serves as a path.
    """
    snapshot.is_file(path)
    try:
        with path.open("rb", buffering=0) as file:
            images = list(_packed(path, file.fileno()))
    except OSError as e:
        raise ConfigError(f"{path} cannot be read: {e.strerror or first_line(e)}") from e
    if any(i.word for i in images):
        return Layout(f"{path.name} with synset folders", path, _distinct(images))
    return _flat(path.name, path, images)


def in_columns(paths: list[Path], snapshot: FileSnapshot) -> Layout:
    """List the images in Parquet or Arrow files of a data set of Hugging Face's.

    An id is the name that the table gives an image, as far as that tells images apart.
    """
    rows = [
        (path, *image) for path in paths if snapshot.is_file(path) for image in stored_images(path)
    ]
    sizes = {path: found.st_size for path in paths if (found := look_at(path))}
    numbered = [f"{path.stem}-{row:06d}" for path, _, _, row in rows]
    ids = distinct_ids(name or own for (_, name, _, _), own in zip(rows, numbered, strict=True))
    for others in ([f"{word}_{i}" for i, (_, _, word, _) in zip(ids, rows, strict=True)], numbered):
        count = Counter(ids)
        ids = [i if count[i] == 1 else other for i, other in zip(ids, others, strict=True)]
    images = [
        ImageFile(i, path, sizes.get(path), None, word, row)
        for i, (path, _, word, row) in zip(ids, rows, strict=True)
    ]
    title = f"{'Arrow' if paths[0].suffix == '.arrow' else 'Parquet'} files"
    return Layout(title, paths[0].parent, images)


def passed_over(root: Path, snapshot: FileSnapshot) -> tuple[str, ...]:
    """Count the images of other formats in `root` and the folders in it: "3 .avif"."""
    listing = snapshot.list(root)
    folders = [root, *(root / folder for folder in listing.folders)]
    counts: Counter[str] = Counter()
    for folder in folders:
        with suppress(ConfigError):  # one that can't be listed, as lost+found
            names = snapshot.list(folder).files
            counts.update(s for n in names if (s := Path(n).suffix.lower()) in OTHER_IMAGES)
    return tuple(f"{n:,} {suffix}" for suffix, n in counts.most_common())


def is_image(name: str) -> bool:
    """True if a file's name is an image's; hidden files, as macOS leaves them, are none."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def check_ids(ids: Iterable[str], where: str) -> None:
    """Raise ConfigError unless ids are unique and can be names of files."""
    seen = set()
    for image_id in ids:
        if not is_name(image_id, LONGEST_ID):
            if len(image_id.encode(errors="replace")) > LONGEST_ID:
                raise ConfigError(
                    f"{where}: {image_id[:20]}… is longer than {LONGEST_ID}: rename it"
                )
            raise ConfigError(
                f"{where}: the image {image_id!r} needs another name: ids become names of files"
            )
        if image_id in seen:
            raise ConfigError(f"{where} names {image_id} twice: image ids must be unique")
        seen.add(image_id)


def class_in_name(image_id: str) -> str | None:
    """Return the synset at the end of an image id, as in ILSVRC2012_val_00000001_n01751748."""
    synset = NAMED_CLASS.search(image_id)
    return synset[1] if synset else None


def _flat(name: str, place: Path, images: list[ImageFile]) -> Layout:
    """Return a layout of flat images; the classes in their names count if all have one."""
    named = [i._replace(word=class_in_name(i.image_id)) for i in images]
    if named and all(i.word for i in named):
        return Layout(f"{name} with synsets in their names", place, named)
    return Layout(name, place, images)


def _images(folder: Path, listing: Listing, word: str | None = None) -> Iterator[ImageFile]:
    """Yield the images of a folder; dangling links too, which are reported when they are read."""
    for name in filter(is_image, listing.files):
        found = look_at(folder / name)
        if found is None or stat.S_ISREG(found.st_mode):
            yield ImageFile(id_of(name), folder / name, found and found.st_size, None, word)


def _packed(path: Path, descriptor: int) -> Iterator[ImageFile]:
    """Yield the images of a tar. Raises ConfigError unless it is uncompressed and whole."""

    def read(at: int, size: int) -> bytes:
        return os.pread(descriptor, size, at)

    start = read(0, tar.BLOCK)
    packing = tar.packing(start)
    if packing or (start[257:262] != b"ustar" and not path.name.endswith(".tar")):
        why = f"is compressed ({packing}): unpack it to a .tar" if packing else "is not a tar"
        raise ConfigError(f"{path} {why}; images are read in place from a folder, a tar or a CSV")
    try:
        for member in tar.members(read, os.fstat(descriptor).st_size):
            above, name = ("", *member.name.split("/"))[-2:]
            if is_image(name):
                synset = above if SYNSET.fullmatch(above) else None
                yield ImageFile(id_of(name), path, member.size, member.offset, synset)
    except ValueError as e:
        raise ConfigError(f"{path} {first_line(e)}: copy it again") from e


def _no_images(root: Path, listing: Listing, snapshot: FileSnapshot) -> str:
    """Error text that says what was looked for in `root`, and what is there instead."""
    there = sorted(f"{name}/" for name in listing.folders) + sorted(listing.files)
    shown = ", ".join(there[:5]) + (f" … ({len(there)} in all)" if len(there) > 5 else "")
    packed = [name for name in there if re.search(r"val.*\.(tar\.\w+|tgz|zip|tar)$", name)]
    hint = f"; if {packed[0]} is meant, give it as data.root, as a plain .tar" if packed else ""
    if others := passed_over(root, snapshot):
        hint += f"; {', '.join(others)} can't be read: convert them to PNG"
    return (
        f"data.root={root} has no images: looked for synset folders (n01440764 …), "
        f"ILSVRC2012_val_*.JPEG, {TAR}, images.csv, Parquet files and folders of classes, there "
        f"and in {', '.join(LEVELS[1:6])} …; "
        f"there is {shown or 'nothing'}{hint}"
    )
