"""Manifest of the images: ids, files and labels, in a fixed order, before any is opened.

`agr.data.layouts` finds the images and `agr.data.labels` their classes; here they meet, are
checked, and the outcome is kept for the next run.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from agr.config.schema import Data, Suite
from agr.data.csv_lists import find_table, images_of, read_table
from agr.data.devkit import DEVKIT
from agr.data.identifiers import SYNSET, RawLabels
from agr.data.index import INDEX_VERSION, Entry, Manifest, _keep, _places, _recall
from agr.data.labels import (
    SOLUTION,
    VAL_TXT,
    LabelSource,
    class_order,
    find_sources,
    name_source,
    number,
)
from agr.data.layouts import NAMED_CLASS, Images, check_ids, find_images
from agr.data.snapshot import FileSnapshot, expand_home
from agr.utils.errors import ConfigError, first_line
from agr.utils.hashing import digest


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
    """Read the manifest of the images at `data.root`, in whichever known layout they are.

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
    snapshot, start = FileSnapshot(), time.time_ns()
    manifest = _index(data, suite.synsets, classes, snapshot)
    if keep and manifest.is_large and snapshot.settled(start):
        _keep(keep, key, snapshot.notes, manifest)
    return manifest


def check_labels(data: Data, suite: Suite, manifest: Manifest) -> list[Comparison]:
    """Compare the labels of `manifest` with every other source of labels near the images.

    A source that can't be read is no error here: its comparison says why.
    """
    snapshot, classes = FileSnapshot(), max(n.classes for n in suite.networks.values())
    mine = {e.image_id: e.label for e in manifest.entries}
    compared = []
    for source in _other_sources(data, manifest, snapshot):
        title = f"{source.title} ({source.place})"
        try:
            words = source.read(snapshot)
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


def _other_sources(data: Data, manifest: Manifest, snapshot: FileSnapshot) -> list[LabelSource]:
    """Other sources of labels than the manifest's: names of folders and files, and label files."""
    names: RawLabels = {}
    for e in manifest.entries:
        folder = e.path.parent.name if e.offset is None else ""
        named = NAMED_CLASS.search(e.image_id)
        if SYNSET.fullmatch(folder) or named:
            names[e.image_id] = named[1] if named else folder
    found = []
    if names and manifest.labels:
        found.append(LabelSource("synsets in names", manifest.place, lambda _: names))
    places = [manifest.place, manifest.place.parent, expand_home(data.root or "")]
    for source in find_sources([p for p in places if snapshot.is_folder(p)], snapshot):
        if not manifest.labels or source.place.resolve() != manifest.labels.resolve():
            found.append(source)
    return found


# ---- making the index ---------------------------------------------------------------------------


def _index(data: Data, synsets: str | None, classes: int, snapshot: FileSnapshot) -> Manifest:
    root = expand_home(data.root or "")
    named = expand_home(data.labels) if data.labels else None
    if table := find_table(root, named, snapshot):
        return _from_table(table, root, synsets, classes, snapshot)
    found = find_images(root, snapshot)
    if not found.images:
        raise ConfigError(f"data.root={root}: there is no image in {found.place}: check the path")
    check_ids((i.image_id for i in found.images), str(found.place))
    source = _source(found, root, named, snapshot)
    if source:
        where, words = str(source.place), source.read(snapshot)
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


def _from_table(
    path: Path, root: Path, synsets: str | None, classes: int, snapshot: FileSnapshot
) -> Manifest:
    """Build the manifest of the images that a CSV lists."""
    table = read_table(path, snapshot)
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
        for i, row in zip(images_of(table, path, root, snapshot), table.rows, strict=True)
    ]
    entries = [e._replace(target=targets.get(e.image_id)) for e in entries] if targets else entries
    for e in entries:
        if e.target == e.label:
            raise ConfigError(f"{path}: the target of {e.image_id} is its own label {e.label}")
    return _manifest(table.layout, path, entries, path)


def _source(
    found: Images, root: Path, named: Path | None, snapshot: FileSnapshot
) -> LabelSource | None:
    """Choose the file of labels; None where names of folders or files are the labels."""
    if named:
        return name_source(named, snapshot)
    if any(i.synset for i in found.images):
        return None
    place = found.place if snapshot.is_folder(found.place) else found.place.parent
    sources = find_sources([place, root] if snapshot.is_folder(root) else [place], snapshot)
    if not sources:
        raise ConfigError(
            f"data.root={root}: {found.layout} in {found.place}, but no labels: put {SOLUTION}, "
            f"{VAL_TXT} or {DEVKIT}.tar.gz beside them, or name one by data.labels=…"
        )
    return sources[0]


def _labels(words: RawLabels, classes: int, synsets: str | None, where: str) -> dict[str, int]:
    """Number the labels of a file, whose synsets are ordered among themselves."""
    return number(words, classes, class_order(words.values(), classes, synsets, where), where)


def _manifest(layout: str, place: Path, entries: list[Entry], labels: Path | None) -> Manifest:
    return Manifest(layout, place, tuple(sorted(entries, key=lambda e: e.image_id)), labels)


# ---- keeping the index --------------------------------------------------------------------------
