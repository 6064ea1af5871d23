"""Checks of one page before a long run: images, weights, accuracies, memory, disk and time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from agr.config.cell import Cell
from agr.config.schema import NetworkConfig
from agr.data.decode import BadImage
from agr.data.entries import Entry, Manifest
from agr.data.loader import stream
from agr.data.manifest import check_labels
from agr.evaluation.capacity import Line, Machine, _disk, _memory, _time
from agr.evaluation.inputs import find_images
from agr.models.weights import check_weights, weights_file
from agr.report.statistics import wilson
from agr.utils.errors import ConfigError
from agr.utils.hashing import draw
from agr.utils.hub import NotOnHub
from agr.utils.text import plural

if TYPE_CHECKING:
    from agr.models.network import Network

LONGEST = 10  # of names in the second column
ILSVRC_IMAGES = 50_000
CONFIDENCE = 0.999  # of accuracies: of many networks one would fail by chance at 95 %


def lines(cells: Sequence[Cell]) -> Iterator[Line]:
    """Every line of the page, as soon as it is known."""
    images = yield from _images(cells[0])
    present = yield from _weights(cells)
    machine = yield from _machine(cells[0])
    networks: dict[str, Network] = {}
    if machine:
        networks, machine = yield from _networks(cells, present, machine)
    if machine and images and networks:
        yield from _accuracies(cells[0], networks, images, machine)
    sources = {c.source: c for c in cells if set(c.sources) <= set(networks)}
    if machine and sources:
        yield from _memory(list(sources.values()), machine)
    yield from _disk(cells, images)
    if machine and sources:
        yield from _time(cells, list(sources.values()), machine)
    else:
        why = "no source could be loaded" if machine else "no device"
        yield Line(False, "memory, time", f"not measured: {why}, see above")


def _images(cell: Cell) -> Generator[Line, None, Manifest | None]:
    """Layout, completeness and labels; the images."""
    try:
        manifest = find_images(cell)
    except ConfigError as e:
        yield Line(False, "images", str(e))
        return None
    yield Line(True, "images", f"{manifest.layout} in {manifest.place}")
    yield _complete(cell, manifest)
    yield from _labels(cell, manifest)
    return manifest


def _complete(cell: Cell, manifest: Manifest) -> Line:
    """Check that there are as many images as the suite says."""
    n, classes = len(manifest.entries), len({e.label for e in manifest.entries})
    found = f"{n:,} images in {classes:,} classes"
    wanted = cell.suite.images
    if wanted in (None, n):
        return Line(True, "complete", found)
    return Line(
        False,
        "complete",
        f"{found}, the whole is {wanted:,}: complete the data; or, if this part is meant (which "
        f"makes it another benchmark), suite.images={n}",
    )


def _labels(cell: Cell, manifest: Manifest) -> Iterator[Line]:
    """Check that classes are even where the data are complete, and that label files agree."""
    counts = Counter(e.label for e in manifest.entries)
    low, high = min(counts.values()), max(counts.values())
    each = f"{plural(low, 'image')} of each class"
    if low < high:
        each = f"{low} to {high} images of a class"
    whole = cell.suite.synsets == "imagenet" and len(manifest.entries) == ILSVRC_IMAGES
    if len(counts) == 1:
        yield Line(False, "labels", "all images have one label: check the file of labels")
    elif whole and (low < high or len(counts) < cell.classes):
        yield Line(
            False,
            "labels",
            f"{each} in {len(counts):,} classes, in ILSVRC2012 it is 50 in {cell.classes:,}: "
            "another file of labels is meant",
        )
    else:
        yield Line(True, "labels", each)
    for other in check_labels(cell.config.data, cell.suite, manifest):
        if not other.compared:
            why = other.example or "it names none of these images"
            yield Line(False, "labels", f"{other.source}: {why}: mend or remove it")
        elif other.differing:
            yield Line(
                False,
                "labels",
                f"{other.differing:,} of {other.compared:,} differ from {other.source} "
                f"({other.example}): keep the right one, and name it as data.labels",
            )
        else:
            yield Line(True, "labels", f"{other.source} agrees on {other.compared:,}")


def _cell_of(cells: Sequence[Cell], name: str) -> Cell:
    """The first cell that works with a network."""
    return next(c for c in cells if name in c.networks)


def _label(name: str, config: NetworkConfig) -> str:
    """A network's name as the suite has it; the title of one that is a path."""
    return name if len(name) <= LONGEST else config.title or name


def _weights(cells: Sequence[Cell]) -> Generator[Line, None, list[str]]:
    """Weight files and their hashes; the networks that have one."""
    present, missing = [], []
    for name in dict.fromkeys(name for cell in cells for name in cell.networks):
        config = _cell_of(cells, name).suite.networks[name]
        label = _label(name, config)
        try:
            found = check_weights(name, config)
            size = weights_file(name, config).stat().st_size / 1e6
        except NotOnHub as e:
            missing.append(e)
            yield Line(False, f"weights {label}", f"{e.hub_id} is not in the hub cache")
        except ConfigError as e:
            yield Line(False, f"weights {label}", str(e).removeprefix(f"network {name}: "))
        else:
            present.append(name)
            yield Line(True, f"weights {label}", f"{size:.0f} MB, sha256 {found[:12]}…")
    if missing:
        yield Line(False, "weights", _fetch(missing))
    return present


def _fetch(missing: Sequence[NotOnHub]) -> str:
    """Describe how the missing weights can be brought here."""
    first, ids = missing[0], " ".join(e.hub_id for e in missing)
    return (
        f"nothing can be fetched from here ({first.reason}). Where it can: for i in {ids}; do hf "
        f"download $i model.safetensors config.json; done. Then copy the folders models--* from "
        f"that cache into {first.cache}; or name files: suite.networks.NAME.weights=FILE"
    )


def _machine(cell: Cell) -> Generator[Line, None, Machine | None]:
    """The device, and the numeric identity on it."""
    from agr.evaluation.determinism import device_of, settle

    try:
        machine = Machine(settle(cell, None, ()), device_of(cell))
    except ConfigError as e:
        yield Line(False, "device", str(e))
        return None
    n = machine.numeric
    yield Line(True, "device", f"{n.device}, {n.threads} threads, torch {n.torch}, {n.precision}")
    return machine


def _networks(
    cells: Sequence[Cell], present: Sequence[str], machine: Machine
) -> Generator[Line, None, tuple[dict[str, Network], Machine]]:
    """The networks, loaded, and the identity with them; a line for each that can't be."""
    from agr.evaluation.determinism import load, settle

    loaded, numeric = {}, machine.numeric
    for name in present:
        cell = _cell_of(cells, name)
        try:
            numeric = settle(cell, numeric, [name])
            loaded[name] = load(cell, name, numeric, machine.device)
        except ConfigError as e:
            label = _label(name, cell.suite.networks[name])
            yield Line(False, f"weights {label}", str(e))
    return loaded, machine._replace(numeric=numeric)


def _accuracies(
    cell: Cell, networks: Mapping[str, Network], images: Manifest, machine: Machine
) -> Iterator[Line]:
    """Clean accuracy of every network, in its own geometry, against the published one."""
    order = sorted(images.entries, key=lambda e: draw("check", e.image_id))
    sample = order[: cell.config.check.images]
    bad: dict[str, str] = {}
    for name, network in networks.items():
        right, n = _right(network, sample, cell.config.workers, machine.numeric.width, bad)
        yield _accuracy(_label(name, network.config), network.config, right, n)
    if bad:
        yield Line(
            False,
            "files",
            f"{len(bad)} of {len(sample)} can't be decoded: {next(iter(bad.values()))}: restore "
            "them; a run leaves them out and says so",
        )
    else:
        yield Line(True, "files", f"{len(sample)} decoded")


def _right(
    network: Network, sample: Sequence[Entry], workers: int, width: int, bad: dict[str, str]
) -> tuple[int, int]:
    """Count the images that the network has right, and all of them; bad files are noted."""
    from agr.evaluation.predictions import predict_batched

    right = n = 0
    found = stream(sample, network.config.geometry, workers)
    while batch := list(islice(found, width)):
        bad |= {entry.image_id: str(said) for entry, said in batch if isinstance(said, BadImage)}
        good = [(entry, said) for entry, said in batch if not isinstance(said, BadImage)]
        told = predict_batched(network, [pixels for _, pixels in good], width)
        right += sum(a.pred == entry.label for a, (entry, _) in zip(told, good, strict=True))
        n += len(good)
    return right, n


def _accuracy(name: str, config: NetworkConfig, right: int, n: int) -> Line:
    """Check that the accuracy is the published one, or at least better than chance."""
    low, high = (100 * edge for edge in wilson(right, n, CONFIDENCE))
    rate = f"{100 * right / n:.1f}" if n else "-"
    said = f"{rate} % of {n} images [{low:.1f}, {high:.1f}]"
    published, chance = config.top1, 100 / config.classes
    if published is None:
        said += f", no published value to compare, chance is {chance:g} %"
    else:
        said += f", published {published:.1f}"
    if n and (low > chance if published is None else low <= published <= high):
        return Line(True, f"top-1 {name}", said)
    return Line(
        False,
        f"top-1 {name}",
        f"{said}: labels in another order, other images, or other weights or preprocessing",
    )
