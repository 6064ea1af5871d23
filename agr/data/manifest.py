"""Which images there are: ids, files and labels, in a fixed order, before any is opened.

`agr.data.layouts` finds the images and `agr.data.labels` their classes; here they meet, are
checked, and the outcome is kept for the next run.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from agr.config.schema import Data, Suite
from agr.data.labels import (
    DEVKIT,
    SOLUTION,
    SYNSET,
    VAL_TXT,
    LabelSource,
    Words,
    class_order,
    find_sources,
    name_source,
    number,
)
from agr.data.layouts import (
    NAMED_CLASS,
    Images,
    check_ids,
    find_images,
    find_table,
    images_of,
    read_table,
)
from agr.data.snapshot import Look, State, unchanged
from agr.utils.errors import ConfigError, first_line
from agr.utils.files import is_whole, write_named
from agr.utils.hashing import digest

INDEX_VERSION = 2
LARGE = 2000  # images; what has fewer is indexed in no time, and never from what was kept
REMEMBERED = 4  # indices in this process
COLUMNS = pa.schema(
    [
        ("image_id", pa.string()),
        ("folder", pa.string()),
        ("name", pa.string()),
        ("label", pa.int32()),
        ("sha256", pa.string()),
        ("size", pa.int64()),
        ("offset", pa.int64()),
        ("target", pa.int32()),
    ]
)
Notes = dict[str, State | None]
_remembered: dict[str, tuple[Notes, Manifest]] = {}


class Entry(NamedTuple):
    """One image of a suite."""

    image_id: str  # the file's name without its ending
    path: Path  # the file, or the tar that holds it
    label: int
    sha256: str | None = None  # of the file, where the manifest knows it
    size: int | None = None  # bytes, when it was indexed
    offset: int | None = None  # where in the tar its bytes begin
    target: int | None = None  # the label a targeted attack wants, where the manifest gives one


@dataclass(frozen=True)
class Manifest:
    """The images of a suite, in the order of their ids."""

    layout: str  # what was recognised, in words
    place: Path  # the folder, tar or CSV
    entries: tuple[Entry, ...]
    labels: Path | None = None  # the file that the labels are from; None: names of folders or files

    @property
    def is_large(self) -> bool:
        """Whether it takes so long to make that it is worth keeping."""
        return len(self.entries) >= LARGE

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all ids, labels, targets, and hashes of files, or else their sizes."""
        lines = []
        for e in self.entries:
            content = e.sha256 or (-1 if e.size is None else e.size)
            target = "" if e.target is None else f",{e.target}"
            lines.append(f"{e.image_id},{e.label},{content}{target}")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class Comparison(NamedTuple):
    """Another source of labels beside the manifest's."""

    source: str
    compared: int  # images that both know
    differing: int
    example: str | None  # the first that differs, or why the source can't be read

    def __str__(self) -> str:
        if self.differing:
            return f"{self.source}: {self.differing} of {self.compared} differ, {self.example}"
        return f"{self.source}: {self.example or f'agrees on {self.compared} images'}"


def read_manifest(data: Data, suite: Suite, classes: int, keep: Path | None = None) -> Manifest:
    """The images and labels at `data.root`, in whichever known layout they are.

    Args:
        data: where images and labels are.
        suite: its `synsets` say in which order synsets are classes.
        classes: how many the networks know; labels are 0..classes-1.
        keep: a folder where the index of a large tree or tar is kept. It is used again while the
            folders and files that it was made from have the same size and time of change; files
            of images are not looked at, so `load_image` compares their sizes.

    Raises ConfigError for what is missing, damaged, or labelled with no class.
    """
    if not data.root:
        raise ConfigError(
            "there are no images: set data.root=… or the environment variable IMAGENET_DIR"
        )
    key = digest([INDEX_VERSION, suite.synsets, classes, *_places(data)])
    if keep and (kept := _recall(keep, key)):
        return kept
    look, start = Look(), time.time_ns()
    manifest = _index(data, suite.synsets, classes, look)
    if keep and manifest.is_large and look.settled(start):
        _keep(keep, key, look.notes, manifest)
    return manifest


def check_labels(data: Data, suite: Suite, manifest: Manifest) -> list[Comparison]:
    """Compare the labels of `manifest` with every other source of labels near the images.

    A source that can't be read is no error here: its comparison says why.
    """
    look, classes = Look(), max(n.classes for n in suite.networks.values())
    mine = {e.image_id: e.label for e in manifest.entries}
    compared = []
    for source in _other_sources(data, manifest, look):
        title = f"{source.title} ({source.place})"
        try:
            words = source.read(look)
            theirs = _labels(words, classes, suite.synsets, str(source.place))
        except ConfigError as e:
            compared.append(Comparison(title, 0, 0, first_line(e)))
            continue
        both = [i for i in mine if i in theirs]
        wrong = [i for i in both if mine[i] != theirs[i]]
        example = (
            f"{wrong[0]} is {theirs[wrong[0]]} there, {mine[wrong[0]]} here" if wrong else None
        )
        compared.append(Comparison(title, len(both), len(wrong), example))
    return compared


def _other_sources(data: Data, manifest: Manifest, look: Look) -> list[LabelSource]:
    """Names of folders and files, and files of labels, but for the one the manifest is from."""
    names: Words = {}
    for e in manifest.entries:
        folder = e.path.parent.name if e.offset is None else ""
        named = NAMED_CLASS.search(e.image_id)
        if SYNSET.fullmatch(folder) or named:
            names[e.image_id] = named[1] if named else folder
    found = []
    if names and manifest.labels:
        found.append(LabelSource("synsets in names", manifest.place, lambda _: names))
    places = [manifest.place, manifest.place.parent, _expand(data.root or "")]
    for source in find_sources([p for p in places if look.is_folder(p)], look):
        if not manifest.labels or source.place.resolve() != manifest.labels.resolve():
            found.append(source)
    return found


# ---- making the index ---------------------------------------------------------------------------


def _index(data: Data, synsets: str | None, classes: int, look: Look) -> Manifest:
    root = _expand(data.root or "")
    named = _expand(data.labels) if data.labels else None
    if table := find_table(root, named, look):
        return _from_table(table, root, synsets, classes, look)
    found = find_images(root, look)
    if not found.images:
        raise ConfigError(f"data.root={root}: there is no image in {found.place}: check the path")
    check_ids((i.image_id for i in found.images), str(found.place))
    source = _source(found, root, named, look)
    if source:
        where, words = str(source.place), source.read(look)
        labels = _labels(words, classes, synsets, where)
    else:
        where = str(found.place)
        words = {i.image_id: i.synset for i in found.images if i.synset}
        order = class_order(found.synsets or words.values(), classes, synsets, where)
        labels = number(words, classes, order, where)
    bare = [i.image_id for i in found.images if i.image_id not in labels]
    if bare:
        raise ConfigError(
            f"{where} has no label for {min(bare)} ({len(bare)} such of {len(found.images)} images "
            f"in {found.place}): give the right file as data.labels"
        )
    entries = [
        Entry(i.image_id, i.path, labels[i.image_id], size=i.size, offset=i.offset)
        for i in found.images
    ]
    layout = f"{found.layout} with {source.title}" if source else found.layout
    return _manifest(layout, found.place, entries, source.place if source else None)


def _from_table(path: Path, root: Path, synsets: str | None, classes: int, look: Look) -> Manifest:
    """The images that a CSV lists."""
    table = read_table(path, look)
    if not table.rows:
        raise ConfigError(f"{path} names no image: check the path")
    check_ids((row.image_id for row in table.rows), str(path))
    words = {row.image_id: row.label for row in table.rows}
    wanted = {row.image_id: row.target for row in table.rows if row.target}
    order = class_order([*words.values(), *wanted.values()], classes, synsets, str(path))
    labels = number(words, classes, order, str(path))
    targets = number(wanted, classes, order, f"{path} (targets)")
    entries = [
        Entry(i.image_id, i.path, labels[i.image_id], row.sha256, i.size, i.offset)
        for i, row in zip(images_of(table, path, root, look), table.rows, strict=True)
    ]
    entries = [e._replace(target=targets.get(e.image_id)) for e in entries] if targets else entries
    for e in entries:
        if e.target == e.label:
            raise ConfigError(f"{path}: the target of {e.image_id} is its own label {e.label}")
    return _manifest(table.layout, path, entries, path)


def _source(found: Images, root: Path, named: Path | None, look: Look) -> LabelSource | None:
    """The file of labels for images; None where names of folders or files say their classes."""
    if named:
        return name_source(named, look)
    if any(i.synset for i in found.images):
        return None
    place = found.place if look.is_folder(found.place) else found.place.parent
    sources = find_sources([place, root] if look.is_folder(root) else [place], look)
    if not sources:
        raise ConfigError(
            f"data.root={root}: {found.layout} in {found.place}, but no labels: put {SOLUTION}, "
            f"{VAL_TXT} or {DEVKIT}.tar.gz beside them, or name one by data.labels=…"
        )
    return sources[0]


def _labels(words: Words, classes: int, synsets: str | None, where: str) -> dict[str, int]:
    """The classes of a file of labels, whose synsets are ordered among themselves."""
    return number(words, classes, class_order(words.values(), classes, synsets, where), where)


def _manifest(layout: str, place: Path, entries: list[Entry], labels: Path | None) -> Manifest:
    return Manifest(layout, place, tuple(sorted(entries, key=lambda e: e.image_id)), labels)


def _expand(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as e:  # ~someone who is not known here
        raise ConfigError(f"{path} has no home folder: {first_line(e)}") from e


# ---- keeping the index --------------------------------------------------------------------------


def _places(data: Data) -> list[str]:
    """What tells the places in a config from all others: as given, and where they lead."""
    given = [place for place in (data.root, data.labels) if place]
    return [str(data.root), str(data.labels), *(os.path.realpath(_expand(p)) for p in given)]


def _recall(keep: Path, key: str) -> Manifest | None:
    """The index of this key, if there is one and what it was made from is unchanged."""
    for path in [] if key in _remembered else keep.glob(f"index-{key}-*.parquet"):
        with suppress(OSError):
            content = path.read_bytes()
            if is_whole(path):  # else it is damaged, and made again
                _remember(key, *_unpack(content))
    if key not in _remembered:
        return None
    notes, manifest = _remembered[key]
    return manifest if unchanged(notes) else None


def _keep(keep: Path, key: str, notes: Notes, manifest: Manifest) -> None:
    _remember(key, notes, manifest)
    content = _pack(notes, manifest)
    with suppress(OSError):  # a full disk or a read-only folder: the next run makes it again
        keep.mkdir(parents=True, exist_ok=True)
        path = write_named(keep, f"index-{key}", ".parquet", content)
        for older in keep.glob(f"index-{key}-*.parquet"):
            if older != path:
                older.unlink(missing_ok=True)


def forget(keep: Path) -> None:
    """Drop the kept indices: a file is not as it was indexed, so the next run looks again."""
    _remembered.clear()
    for path in keep.glob("index-*.parquet"):
        with suppress(OSError):
            path.unlink()


def _remember(key: str, notes: Notes, manifest: Manifest) -> None:
    while len(_remembered) >= REMEMBERED:
        del _remembered[next(iter(_remembered))]
    _remembered[key] = notes, manifest


def _pack(notes: Notes, manifest: Manifest) -> bytes:
    """An index as the content of a Parquet file."""
    about = {
        "layout": manifest.layout,
        "place": str(manifest.place),
        "labels": manifest.labels and str(manifest.labels),
        "notes": notes,
    }
    folders = {folder: str(folder) for folder in {e.path.parent for e in manifest.entries}}
    rows = [(e.image_id, folders[e.path.parent], e.path.name, *e[2:]) for e in manifest.entries]
    columns = [
        pa.array(column, f.type) for column, f in zip(zip(*rows, strict=True), COLUMNS, strict=True)
    ]
    schema = COLUMNS.with_metadata({"about": json.dumps(about)})
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), buffer)
    return buffer.getvalue()


def _unpack(content: bytes) -> tuple[Notes, Manifest]:
    table = pq.read_table(io.BytesIO(content))
    about = json.loads(table.schema.metadata[b"about"])
    notes = {place: state and (state[0], state[1]) for place, state in about["notes"].items()}
    columns = [table[f.name].to_pylist() for f in COLUMNS]
    folders = {folder: Path(folder) for folder in set(columns[1])}
    paths = {place: folders[place[0]] / place[1] for place in set(zip(*columns[1:3], strict=True))}
    entries = tuple(
        Entry(image_id, paths[folder, name], *rest)
        for image_id, folder, name, *rest in zip(*columns, strict=True)
    )
    labels = about["labels"] and Path(about["labels"])
    return notes, Manifest(about["layout"], Path(about["place"]), entries, labels)
