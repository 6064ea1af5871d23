"""Manifest of the images: ids, files and labels, in a fixed order, before any is opened.

`agr.data.layouts` finds the images and `agr.data.labels` their classes; here they meet, are
checked, and the outcome is kept for the next run.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from agr.config.schema import Data, Suite
from agr.data import index
from agr.data.csv_lists import find_table, images_of, read_table
from agr.data.devkit import DEVKIT
from agr.data.entries import SYNSET, Entry, Manifest, RawLabels
from agr.data.labels import SOLUTION, VAL_TXT, LabelSource, find_sources, name_source, number
from agr.data.layouts import Layout, check_ids, class_in_name, find_layout, passed_over
from agr.data.snapshot import FileSnapshot, expand_home
from agr.utils.errors import ConfigError, first_line


class Comparison(NamedTuple):
    """Another source of labels beside the manifest's."""

    source: str
    compared: int  # images that both know
    differing: int
    example: str | None  # the first that differs, or why the source can't be read


def read_manifest(data: Data, suite: Suite, classes: int, keep: Path | None = None) -> Manifest:
    """Read the manifest of the images at `data.root`, in whichever known layout they are.

    Args:
        data: where images and labels are.
        suite: its `synsets` say in which order synsets are classes.
        classes: how many the networks know; labels are 0..classes-1.
        keep: folder in which the index of a large tree or tar is kept; without one it is made
            anew. It is used again while the folders and files that it was made from have the same
            size and time of change. Of many images (`index.LARGE`) their own files are not looked
            at: `load_image` compares their sizes.

    Raises ConfigError for what is missing, damaged, or labelled with no class.
    """
    if not data.root:
        raise ConfigError(
            "there are no images: set data.root=… or the environment variable IMAGENET_DIR"
        )
    key = index.index_key(data, suite, classes)
    if keep and (kept := index.recall(keep, key)):
        return kept
    snapshot, start = FileSnapshot(), time.time_ns()
    manifest = _index(data, suite.synsets, classes, snapshot)
    if keep and snapshot.settled(start):
        index.keep(keep, key, snapshot.stamps, manifest)
    return manifest


def check_labels(data: Data, suite: Suite, manifest: Manifest) -> list[Comparison]:
    """Compare the labels of `manifest` with every other source of labels near the images.

    A source that can't be read is not an error here: its comparison says why.
    """
    snapshot, classes = FileSnapshot(), max(n.classes for n in suite.networks.values())
    mine = {e.image_id: e.label for e in manifest.entries}
    compared = []
    for source in _other_sources(data, manifest, snapshot):
        title = f"{source.title} ({source.place})"
        try:
            theirs = number(source.read(), classes, suite.synsets, str(source.place))
        except ConfigError as e:
            compared.append(Comparison(title, 0, 0, first_line(e)))
            continue
        both = [i for i in mine if i in theirs]
        wrong = [f"{i} is {theirs[i]} there, {mine[i]} here" for i in both if mine[i] != theirs[i]]
        compared.append(Comparison(title, len(both), len(wrong), wrong[0] if wrong else None))
    return compared


def _other_sources(data: Data, manifest: Manifest, snapshot: FileSnapshot) -> list[LabelSource]:
    """Other sources of labels than the manifest's: names of folders and files, and label files."""
    names: RawLabels = {}
    for e in manifest.entries:
        folder = e.path.parent.name if e.offset is None else ""
        synset = class_in_name(e.image_id) or folder
        if SYNSET.fullmatch(synset):
            names[e.image_id] = synset
    sources = []
    if names and manifest.labels:
        sources.append(LabelSource("synsets in names", manifest.place, lambda: names))
    places = [manifest.place, manifest.place.parent, expand_home(data.root or "")]
    for source in find_sources([p for p in places if snapshot.is_folder(p)], snapshot):
        if not manifest.labels or source.place.resolve() != manifest.labels.resolve():
            sources.append(source)
    return sources


# ---- making the index ---------------------------------------------------------------------------


def _index(data: Data, synsets: str | None, classes: int, snapshot: FileSnapshot) -> Manifest:
    root = expand_home(data.root or "")
    named = expand_home(data.labels) if data.labels else None
    if path := find_table(root, named, snapshot):
        return _from_table(path, root, synsets, classes, snapshot)
    layout = find_layout(root, snapshot)
    images, place = layout.images, str(layout.place)
    if not images:
        raise ConfigError(f"data.root={root}: there is no image in {place}: check the path")
    check_ids((i.image_id for i in images), place)
    source = _source(layout, root, named, snapshot)
    if source:
        labels = number(source.read(), classes, synsets, str(source.place))
    else:
        raw = {i.image_id: i.word for i in images if i.word}
        labels = number(raw, classes, synsets, place, layout.words)
    unlabelled = [i.image_id for i in images if i.image_id not in labels]
    if unlabelled:
        raise ConfigError(
            f"{source.place if source else place} has no label for {min(unlabelled)} "
            f"({len(unlabelled)} such of {len(images)} images in {place}): give the right file as "
            "data.labels"
        )
    entries = [
        Entry(i.image_id, i.path, labels[i.image_id], size=i.size, offset=i.offset, row=i.row)
        for i in images
    ]
    name = f"{layout.name} with {source.title}" if source else layout.name
    entries.sort(key=lambda e: e.image_id)
    folder = layout.place if snapshot.is_folder(layout.place) else None
    others = passed_over(folder, snapshot) if folder else ()
    return Manifest(name, layout.place, tuple(entries), source and source.place, (), others)


def _from_table(
    path: Path, root: Path, synsets: str | None, classes: int, snapshot: FileSnapshot
) -> Manifest:
    """Build the manifest of the images that a CSV lists."""
    table = read_table(path, snapshot)
    raw_labels = {row.image_id: row.label for row in table.rows}
    raw_targets = {row.image_id: row.target for row in table.rows if row.target}
    both = [*raw_labels.values(), *raw_targets.values()]
    labels = number(raw_labels, classes, synsets, str(path), both)
    targets = number(raw_targets, classes, synsets, f"{path} (targets)", both)
    entries = []
    for row, i in zip(table.rows, images_of(table, root, snapshot), strict=True):
        label, target = labels[row.image_id], targets.get(row.image_id)
        if target == label:
            raise ConfigError(f"{path}: the target of {row.image_id} is its own label {label}")
        entries.append(
            Entry(row.image_id, i.path, label, row.sha256, i.size, i.offset, target, i.row)
        )
    entries.sort(key=lambda e: e.image_id)
    return Manifest(table.layout, path, tuple(entries), path, table.unread)


def _source(
    layout: Layout, root: Path, named: Path | None, snapshot: FileSnapshot
) -> LabelSource | None:
    """Choose the file of labels; None where names of folders or files are the labels."""
    if named:
        return name_source(named, snapshot)
    if any(i.word for i in layout.images):
        return None
    place = layout.place if snapshot.is_folder(layout.place) else layout.place.parent
    sources = find_sources([place, root] if snapshot.is_folder(root) else [place], snapshot)
    if not sources:
        raise ConfigError(
            f"data.root={root}: {layout.name} in {layout.place}, but no labels: put {SOLUTION}, "
            f"{VAL_TXT} or {DEVKIT}.tar.gz beside them, or name one by data.labels=…"
        )
    return sources[0]
