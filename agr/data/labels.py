"""Image labels: supported label files and class order.

A file of labels gives each image id a raw label, a synset ("n01440764") or a number ("0"); `number`
makes classes of them. The supported files, the preferred ones first:

- Kaggle's LOC_val_solution.csv: "ImageId,PredictionString", the first synset of each line;
- val.txt: "name word" in each line, as in Caffe, or "name,word"; the name with or without folder
  and ending;
- val_annotations.txt of Tiny-ImageNet: name, word and a box, separated by tabs;
- the ILSVRC2012 devkit: ILSVRC2012_validation_ground_truth.txt and meta.mat, in a folder or in
  ILSVRC2012_devkit_t12.tar.gz. Its numbers are ILSVRC's own ids, which are not in the order of the
  classes: meta.mat maps each of them to a synset.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from agr.data.devkit import DEVKIT, META, TRUTH, read_devkit
from agr.data.entries import NUMBER, SYNSET, RawLabels, class_word, distinct_ids, is_class
from agr.data.layouts import INNER
from agr.data.snapshot import FileSnapshot, absence
from agr.utils.errors import ConfigError

SOLUTION, VAL_TXT, ANNOTATIONS = "LOC_val_solution.csv", "val.txt", "val_annotations.txt"
WORDS = re.compile(r"(.*[^\s,;])[\s,;]+([^\s,;]+)")  # a name, perhaps with blanks, and a word
GROUND_TRUTH = "the devkit's ground truth"
PACKED = (".tar.gz", ".tgz", ".tar")


class LabelSource(NamedTuple):
    """A file of labels."""

    title: str  # part of the layout's name
    place: Path
    read: Callable[[], RawLabels]  # raises ConfigError


# ---- the order of the classes -------------------------------------------------------------------


@lru_cache(maxsize=1)
def imagenet_synsets() -> tuple[str, ...]:
    """Synsets of ImageNet-1k in the order of timm's classes, without importing timm."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        raise ConfigError("suite.synsets=imagenet needs timm's list of synsets: install timm")
    path = Path(spec.origin).parent / "data" / "_info" / "imagenet_synsets.txt"
    return tuple(FileSnapshot().text(path).split())


def _class_order(raw: Iterable[str], classes: int, synsets: str | None, where: str) -> RawLabels:
    """Map each synset to its class, a number as text, as in files of labels."""
    names = sorted(word for word in set(raw) if not NUMBER.fullmatch(word))
    if synsets == "imagenet":
        order = {name: str(i) for i, name in enumerate(imagenet_synsets())}
        unknown = [name for name in names if name not in order]
        if unknown:
            raise ConfigError(
                f"{where}: {unknown[0]} is not a class of ImageNet-1k ({len(unknown)} such of "
                f"{len(names)}): take it away, or use a suite whose networks know it"
            )
        return order
    if synsets is not None:
        raise ConfigError(f"suite.synsets={synsets} is unknown: give imagenet, or null")
    if names and len(names) != classes:  # one missing name would shift every later label
        kind = "synsets" if all(map(SYNSET.fullmatch, names)) else "class names"
        raise ConfigError(
            f"{where}: there are {len(names)} {kind}, the networks know {classes} classes: "
            "complete them, or give a CSV of filename,label as data.labels"
        )
    return {name: str(i) for i, name in enumerate(names)}


def number(
    raw: RawLabels,
    classes: int,
    synsets: str | None,
    where: str,
    among: Iterable[str] | None = None,
) -> dict[str, int]:
    """Number the class of each image, by its raw label.

    Args:
        raw: raw labels by image.
        classes: number of classes that the networks know.
        synsets: "imagenet" for timm's order of the synsets; None for their sorted order.
        where: file or folder of the raw labels, for messages.
        among: raw labels whose synsets are sorted, where these are more than those in `raw`.

    Raises ConfigError for a synset that is not a class, or for another number of them, and for a
    raw label that is not a class of 0..classes-1, with its image.
    """
    order = _class_order(raw.values() if among is None else among, classes, synsets, where)
    numbers = {word: order.get(word, word) for word in set(raw.values())}
    values = {word: int(n) for word, n in numbers.items() if NUMBER.fullmatch(n)}
    for image_id, word in raw.items():
        if word not in values:
            raise ConfigError(
                f"{where}: {image_id} has label {word!r}: give a class number or a synset"
            )
        if values[word] >= classes:
            one_based = max(values.values()) == classes and 0 not in values.values()
            hint = ": the labels seem to count from 1, write one less each" if one_based else ""
            raise ConfigError(
                f"{where}: {image_id} has label {numbers[word]}, the networks know 0 to "
                f"{classes - 1}{hint}"
            )
    return {image_id: values[word] for image_id, word in raw.items()}


# ---- finding files of labels --------------------------------------------------------------------


def find_sources(places: Sequence[Path], snapshot: FileSnapshot) -> list[LabelSource]:
    """Find the files of labels in and near some folders, the preferred one first."""
    folders = list(dict.fromkeys(f for place in places for f in _nearby(place)))
    files = [f / name for name in (SOLUTION, VAL_TXT, ANNOTATIONS) for f in folders]
    for folder in folders:
        for inner in (folder, folder / "data", folder / DEVKIT, folder / DEVKIT / "data"):
            if snapshot.is_file(inner / META):
                files.append(inner / TRUTH)
        files.append(folder / f"{DEVKIT}.tar.gz")
    return [_source(path, snapshot) for path in files if snapshot.is_file(path)]


def name_source(path: Path, snapshot: FileSnapshot) -> LabelSource:
    """Return the file of labels `path` of data.labels, by its content. Raises ConfigError."""
    if snapshot.is_folder(path):
        folder = next((f for f in (path, path / "data") if snapshot.is_file(f / TRUTH)), path)
    elif not snapshot.is_file(path):
        raise ConfigError(f"data.labels={path} {absence(path)}: give a file of labels, or null")
    elif path.name == TRUTH:
        folder = path.parent
    elif path.name.endswith(PACKED):
        return _source(path, snapshot)
    else:
        solution = "PredictionString" in snapshot.text(path).partition("\n")[0]
        return _text_source(path, snapshot, solution)
    for name in (TRUTH, META):
        if not snapshot.is_file(folder / name):
            raise ConfigError(
                f"data.labels={path}: there is no {name} in {folder}: give the devkit "
                f"({DEVKIT}, its folder or .tar.gz)"
            )
    return _source(folder / TRUTH, snapshot)


def _source(path: Path, snapshot: FileSnapshot) -> LabelSource:
    """Return the file of labels with one of the known names."""
    if path.name == TRUTH or path.name.endswith(PACKED):
        return LabelSource(GROUND_TRUTH, path, lambda: read_devkit(path, snapshot))
    return _text_source(path, snapshot, path.name == SOLUTION)


def _text_source(path: Path, snapshot: FileSnapshot, solution: bool) -> LabelSource:
    parse = parse_solution if solution else parse_val_txt
    title = SOLUTION if solution else path.name
    return LabelSource(title, path, lambda: parse(snapshot.text(path), path))


def _nearby(place: Path) -> Iterator[Path]:
    """Yield a folder and the one above it; from inside a known layout, further up."""
    place = Path(os.path.abspath(place))
    yield place
    while place.name in INNER:
        yield (place := place.parent)
    yield place.parent


# ---- parsing text files -------------------------------------------------------------------------


def parse_solution(text: str, path: Path) -> RawLabels:
    """Parse Kaggle's LOC_val_solution.csv. Raises ConfigError."""
    found = []
    rows = csv.DictReader(io.StringIO(text))
    try:
        if not {"ImageId", "PredictionString"} <= set(rows.fieldnames or ()):
            raise ConfigError(f"{path} has not the columns ImageId,PredictionString")
        for line, row in enumerate(rows, 2):
            word = (row["PredictionString"] or "").partition(" ")[0]
            found.append(_label(row["ImageId"] or "", word, f"{path} line {line}"))
    except csv.Error as e:
        raise ConfigError(f"{path} line {rows.line_num} cannot be read: {e}") from e
    return _by_id(found, path)


def parse_val_txt(text: str, path: Path) -> RawLabels:
    """Parse lines of an image and its class, separated by blanks, tabs, commas or semicolons.

    Of Tiny-ImageNet's val_annotations.txt the first two words count. Raises ConfigError.
    """
    found = []
    for line, content in enumerate(text.split("\n"), 1):
        if content := content.strip():
            fields = content.split("\t")
            boxed = len(fields) == 6 and all(map(NUMBER.fullmatch, fields[2:]))
            words = WORDS.fullmatch("\t".join(fields[:2]) if boxed else content)
            name, word = words.groups() if words else (content, "")
            found.append(_label(name, word, f"{path} line {line}"))
    return _by_id(found, path)


def _label(name: str, word: str, where: str) -> tuple[str, str]:
    """Return an image's file name and class. Raises ConfigError for a word that isn't a class."""
    name, word = name.strip().strip("\"'").replace("\\", "/"), class_word(word)
    if not name or not is_class(word):
        raise ConfigError(
            f"{where}: {name!r}, label {word!r}: give an image and its class, a number or a synset"
        )
    return name, word


def _by_id(found: Sequence[tuple[str, str]], path: Path) -> RawLabels:
    """Return labels by image id. Raises ConfigError for an image that is named twice."""
    ids = distinct_ids(name for name, _ in found)
    labels: RawLabels = {}
    for line, (image_id, (_, word)) in enumerate(zip(ids, found, strict=True), 1):
        if image_id in labels:
            raise ConfigError(f"{path} line {line} names {image_id} a second time")
        labels[image_id] = word
    return labels
