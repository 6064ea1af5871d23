"""Checks of one page before a long run: images, weights, accuracies, memory, disk and time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice

from agr.config.cell import Cell
from agr.config.schema import NetworkConfig
from agr.data.csv_lists import NIPS_LAYOUT
from agr.data.decode import BadImage, load_image, stream
from agr.data.entries import Manifest
from agr.data.manifest import check_labels
from agr.evaluation.capacity import Line, Loaded, check_disk, check_memory, check_time
from agr.evaluation.crafting import attack_of, found_by
from agr.evaluation.determinism import device_of, load_bare, settle
from agr.evaluation.inputs import find_images
from agr.evaluation.predictions import predict_batched, source_and_slots
from agr.evaluation.profiling import random_images
from agr.models.lpips import load_lpips
from agr.models.network import Network
from agr.models.sources import Source
from agr.models.weights import check_weights, lpips_files, weights_file
from agr.records.run_info import NumericIdentity
from agr.report.statistics import clopper_pearson
from agr.utils.errors import ConfigError
from agr.utils.hashing import draw
from agr.utils.hub import NotOnHub
from agr.utils.text import plural

ok, problem = partial(Line, True), partial(Line, False)

LONGEST = 10  # of names in the second column
ILSVRC_IMAGES = 50_000
AGREE = 0.5  # of the mean agreement: a network, or the labels, that agree less are wrong
CONFIDENCE = 0.999  # of accuracies: of many networks one would fail by chance at 95 %


def lines(cells: Sequence[Cell]) -> Iterator[Line]:
    """Yield every line of the page as soon as it is known."""
    images = yield from _images(cells[0])
    present = yield from _weights(cells)
    networks: dict[str, Network] = {}
    try:
        numeric = settle(cells[0], None, ())  # of the device, still without networks
    except ConfigError as e:
        why = "no device"
        yield problem("device", str(e))
    else:
        n, why = numeric, "no source could be loaded"
        yield ok("device", f"{n.device}, {n.threads} threads, torch {n.torch}, {n.precision}")
        networks = yield from _networks(present, numeric)
        if images and networks:
            yield from _accuracies(cells[0], networks, images, numeric.width)
    known = {c.source: c for c in cells if set(c.bare_sources) <= set(networks)}
    sources = [Loaded(cell, *source_and_slots(cell)) for cell in known.values()]
    for loaded in sources:
        yield from _attacks([c for c in cells if c.source == loaded.cell.source], loaded.network)
    if sources:
        yield check_memory(sources)
    yield check_disk(cells, images)
    if sources:
        yield check_time(cells, sources)
    else:
        yield problem("memory, time", f"not measured: {why}, see above")


def _images(cell: Cell) -> Generator[Line, None, Manifest | None]:
    """Find the images, and check that they are complete and their labels right."""
    try:
        manifest = find_images(cell)
    except ConfigError as e:
        yield problem("images", str(e))
        return None
    yield ok("images", f"{manifest.layout} in {manifest.place}")
    n, classes = len(manifest.entries), len({e.label for e in manifest.entries})
    found = f"{plural(n, 'image')} in {plural(classes, 'class', 'classes')}"
    wanted = cell.suite.images
    if wanted in (None, n):
        yield ok("complete", found)
    elif manifest.layout == NIPS_LAYOUT:
        yield ok("complete", f"{found}: a set of its own, which isn't ILSVRC2012's val")
    else:
        yield problem(
            "complete",
            f"{found}, the whole is {wanted:,}: complete the data; or, if this part is meant "
            f"(which makes it another benchmark), suite.images={n}",
        )
    yield from _labels(cell, manifest)
    return manifest


def _whole(cell: Cell, manifest: Manifest) -> bool:
    """True if these are ILSVRC2012's val as a whole, of which the published accuracies are."""
    return cell.suite.synsets == "imagenet" and len(manifest.entries) == ILSVRC_IMAGES


def _labels(cell: Cell, manifest: Manifest) -> Iterator[Line]:
    """Check that classes are even where the data are complete, and that label files agree."""
    counts = Counter(e.label for e in manifest.entries)
    low, high = min(counts.values()), max(counts.values())
    each = f"{plural(low, 'image')} of each class"
    if low < high:
        each = f"{low} to {high} images of a class"
    whole = _whole(cell, manifest)
    if len(counts) == 1:
        yield problem("labels", "all images have one label: check the file of labels")
    elif whole and (low < high or len(counts) < cell.classes):
        yield problem(
            "labels",
            f"{each} in {len(counts):,} classes, in ILSVRC2012 it is 50 in {cell.classes:,}: "
            "another file of labels is meant",
        )
    else:
        yield ok("labels", each)
    for other in check_labels(cell.config.data, cell.suite, manifest):
        if not other.compared:
            why = other.example or "it names none of these images"
            yield problem("labels", f"{other.source}: {why}: mend or remove it")
        elif other.differing:
            yield problem(
                "labels",
                f"{other.differing:,} of {other.compared:,} differ from {other.source} "
                f"({other.example}): keep the right one, and name it as data.labels",
            )
        else:
            yield ok("labels", f"{other.source} agrees on {other.compared:,}")


def _attacks(cells: Sequence[Cell], source: Source) -> Iterator[Line]:
    """Check that rules find the modules of a source that they change, and a pass calls them."""
    images = random_images(source, cells[0].geometry.size, 1)
    for cell in {c.attack_hash: c for c in cells}.values():
        try:
            for text in found_by(cell, attack_of(cell), source, images):
                yield ok("attack", f"{cell.config.attack.name} on {cell.source}: {text}")
        except ConfigError as e:
            yield problem("attack", str(e))


def _label(name: str, config: NetworkConfig) -> str:
    """Return a network's name as the suite has it, or the title of one that is a path."""
    return name if len(name) <= LONGEST else config.title or name


def _weights(cells: Sequence[Cell]) -> Generator[Line, None, dict[str, Cell]]:
    """Check the weight files, and return the networks that have one, each with its first cell."""
    present: dict[str, Cell] = {}
    missing: list[NotOnHub] = []
    for name in dict.fromkeys(name for cell in cells for name in cell.networks):
        cell = next(c for c in cells if name in c.networks)
        config = cell.suite.networks[name]
        label = _label(name, config)
        try:
            found = check_weights(name, config)
            size = weights_file(name, config).stat().st_size / 1e6
        except NotOnHub as e:
            missing.append(e)
            yield problem(f"weights {label}", f"{e.hub_id} is not in the hub cache")
        except ConfigError as e:
            yield problem(f"weights {label}", str(e).removeprefix(f"network {name}: "))
        else:
            present[name] = cell
            yield ok(f"weights {label}", f"{size:.0f} MB, sha256 {found[:12]}…")
    if given := cells[0].config.lpips:
        try:
            load_lpips(files := lpips_files(given))
            yield ok("weights LPIPS", ", ".join(path.name for path in files))
        except ConfigError as e:
            yield problem("weights LPIPS", str(e).removeprefix("lpips: "))
    if missing:
        first, ids = missing[0], " ".join(e.hub_id for e in missing)
        yield problem(
            "weights",
            f"nothing can be fetched from here ({first.reason}). Where it can: for i in {ids}; do "
            f"hf download $i model.safetensors config.json; done. Then copy the folders models--* "
            f"from that cache into {first.cache}; or name files: "
            "suite.networks.NAME.weights=FILE",
        )
    return present


def _networks(
    present: Mapping[str, Cell], numeric: NumericIdentity
) -> Generator[Line, None, dict[str, Network]]:
    """Load the networks; a line for each that can't be."""
    loaded: dict[str, Network] = {}
    for name, cell in present.items():
        try:
            numeric = settle(cell, numeric, [name])
            loaded[name] = load_bare(cell, name, numeric, device_of(cell))
        except ConfigError as e:
            label = _label(name, cell.suite.networks[name])
            yield problem(f"weights {label}", str(e))
    return loaded


def _accuracies(
    cell: Cell, networks: Mapping[str, Network], images: Manifest, width: int
) -> Iterator[Line]:
    """Check the clean accuracy of every network in its own geometry, and how far they agree."""
    whole = _whole(cell, images)
    answers: dict[str, dict[str, tuple[int, int]]] = {}  # by network and image: class, label
    order = sorted(images.entries, key=lambda e: draw("check", e.image_id))
    sample = order[: cell.config.check.images]
    bad: dict[str, str] = {}
    for name, network in networks.items():
        own = answers[_label(name, network.config)] = {}
        found = stream(
            sample, partial(load_image, geometry=network.config.geometry), cell.config.workers
        )
        while batch := list(islice(found, width)):
            bad |= {entry.image_id: str(e) for entry, e in batch if isinstance(e, BadImage)}
            good = [(entry, x) for entry, x in batch if not isinstance(x, BadImage)]
            predictions = predict_batched(network, [pixels for _, pixels in good], width)
            own |= {
                entry.image_id: (p.pred, entry.label)
                for p, (entry, _) in zip(predictions, good, strict=True)
            }
        right = sum(pred == label for pred, label in own.values())
        yield _accuracy(_label(name, network.config), network.config, right, len(own), whole=whole)
    if not whole and len(answers) > 1:
        yield _agreement(answers)
    if bad:
        yield problem(
            "files",
            f"{len(bad)} of {len(sample)} can't be decoded: {next(iter(bad.values()))}: restore "
            "them; a run leaves them out and says so",
        )
    else:
        yield ok("files", f"{len(sample)} decoded")


def _accuracy(name: str, config: NetworkConfig, right: int, n: int, *, whole: bool) -> Line:
    """Check that the accuracy is the published one, or at least better than chance.

    A published one is of all images of the validation set: other images are easier or harder.
    """
    low, high = (100 * edge for edge in clopper_pearson(right, n, CONFIDENCE))
    rate = f"{100 * right / n:.1f}" if n else "-"
    text = f"{rate} % of {n} images [{low:.1f}, {high:.1f}]"
    published, chance = config.top1, 100 / config.classes
    if published is not None and whole:
        text += f", published {published:.1f}"
        fine = low <= published <= high
    else:
        text += f", chance is {chance:.3g} %"
        text += (
            ", no published value to compare"
            if published is None
            else f"; the published {published:.1f} is compared on all of ILSVRC2012's val only"
        )
        fine = low > chance or right == n  # of few images not even all are more than chance
    if n and fine:
        return ok(f"top-1 {name}", text)
    return problem(
        f"top-1 {name}",
        f"{text}: labels in another order, other images, or other weights or preprocessing",
    )


def _agreement(answers: Mapping[str, Mapping[str, tuple[int, int]]]) -> Line:
    """Compare what the networks answer with each other, where no published accuracy decides.

    A network that agrees with none of the others has the wrong weights or preprocessing; where all
    agree far more often than they are right, the labels are wrong.
    """
    shares = {}
    for name, own in answers.items():
        same = [
            own[i][0] == other[i][0]
            for title, other in answers.items()
            if title != name
            for i in own.keys() & other.keys()
        ]
        shares[name] = 100 * sum(same) / max(len(same), 1)
    right = {
        name: 100 * sum(pred == label for pred, label in own.values()) / max(len(own), 1)
        for name, own in answers.items()
    }
    mean, best = sum(shares.values()) / len(shares), max(right.values())
    text = f"on average two networks give the same class for {mean:.1f} % of the images"
    odd = [name for name, share in shares.items() if share < AGREE * mean]
    if odd:
        return problem(
            "agreement",
            f"{text}, {odd[0]} only for {shares[odd[0]]:.1f} %: it has other weights or another "
            "preprocessing than its config says",
        )
    if best < AGREE * mean:
        return problem(
            "agreement",
            f"{text}, and the labels for at most {best:.1f} %: labels in another order",
        )
    return ok("agreement", text)
