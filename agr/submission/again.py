"""Checks of an entry's sample with the networks and images at hand; needs torch and timm."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from agr.config.cell import Cell
from agr.data.decode import BadImage, load_image
from agr.data.entries import Entry as ImageEntry
from agr.evaluation.determinism import device_of, load, settle
from agr.evaluation.images import Images
from agr.evaluation.inputs import find_images
from agr.evaluation.predictions import predict_batched
from agr.evaluation.replay import differences
from agr.evaluation.scoring import norms
from agr.models.logits import joint, predict
from agr.models.sources import Source
from agr.models.weights import check_weights
from agr.records.claim import SampleImage
from agr.records.schema import within
from agr.submission.checks import Unknown
from agr.submission.claimed import Entry
from agr.submission.sample import Pixels
from agr.utils.errors import ConfigError, first_line
from agr.utils.hashing import draw
from agr.utils.text import first_of, plural

MOST_PASSES = 1_000  # of an image that is crafted again: a stranger's could take days
# How far apart two machines' probabilities may be: in float32, and in lower precisions.
CLOSE, FAR = 2e-3, 5e-2
SIZES = ("linf", "l2", "mean_abs", "rel_l2", "cosine")


def measured(entry: Entry, cell: Cell, images: dict[str, Pixels]) -> str:
    """Measure the sample against the clean images at hand: budget, recorded sizes, labels."""
    try:
        by_id = {e.image_id: e for e in find_images(cell).entries}
    except ConfigError as e:
        raise Unknown(f"the clean images aren't here: {first_line(e)}") from e
    rows = entry.records.read("rows", ["image_id", "label", *SIZES]).drop_duplicates("image_id")
    recorded: Any = rows.set_index("image_id")
    norm, largest = cell.config.norm.name, 0.0
    for image_id, pixels in images.items():
        if image_id not in by_id:
            raise Unknown(f"{image_id} is none of the clean images here")
        try:
            clean = load_image(by_id[image_id], cell.geometry)
        except BadImage as e:
            raise Unknown(first_line(e)) from e
        found = norms(clean, pixels.transpose(2, 0, 1))
        row, size = recorded.loc[image_id], found[norm]
        if not cell.smallest and not within(size, cell.eps_effective, cell.config.quantize):
            raise ConfigError(
                f"{image_id} is {norm} {size:.2f} from its clean image, and {cell.eps_effective:g} "
                "is allowed (0-255 scale)"
            )
        for name in SIZES:
            if not math.isclose(found[name], row[name], rel_tol=1e-9, abs_tol=1e-9):
                raise ConfigError(f"{name} of {image_id} is {found[name]:g}, not {row[name]:g}")
        if by_id[image_id].label != row["label"]:
            raise ConfigError(f"the label of {image_id} is {by_id[image_id].label}")
        largest = max(largest, size)
    return f"{plural(len(images), 'image')}, {norm} {largest:g} at most of {cell.eps_effective:g}"


def scored_again(entry: Entry, cell: Cell, images: dict[str, Pixels]) -> str:
    """Score the sample on every target whose weights are at hand, and compare the answers."""
    networks, width = _networks(entry, cell, cell.targets)
    rows = entry.records.read("rows", ["image_id", "target", "adv_pred", "adv_conf"])
    recorded: Any = rows.set_index(["image_id", "target"])
    run = entry.run.numeric
    close = CLOSE if run and run.precision in ("fp32", "fp64") else FAR
    arrays = [np.ascontiguousarray(pixels.transpose(2, 0, 1)) for pixels in images.values()]
    ties = 0
    for target, network in networks.items():
        found = predict_batched(network, arrays, width)
        for image_id, answer in zip(images, found, strict=True):
            row = recorded.loc[(image_id, target)]
            alike = abs(answer.conf - row["adv_conf"]) <= close
            # Of two classes with the same probability, one machine sees the one first.
            tie = alike and answer.conf <= 0.5 + close
            ties += bool(tie and answer.pred != row["adv_pred"])
            if not (alike and (tie or answer.pred == row["adv_pred"])):
                raise ConfigError(
                    f"{target} takes {image_id} for class {answer.pred} ({answer.conf:.3f}), and "
                    f"the records say {row['adv_pred']} ({row['adv_conf']:.3f})"
                )
    more = f", {plural(ties, 'tie')} between two classes" if ties else ""
    count = f"{plural(len(images), 'image')} on {plural(len(networks), 'target')}"
    return f"{count}: the same answers{more}"


def chosen_again(entry: Entry, cell: Cell, images: int) -> str:
    """Ask the selecting networks about some images that were passed over: one must be wrong.

    Else whoever made the records could have left out what was hard to attack.
    """
    ids, (networks, _) = _ids(entry), _networks(entry, cell, cell.selecting)
    try:
        manifest = find_images(cell)
    except ConfigError as e:
        raise Unknown(f"the clean images aren't here: {first_line(e)}") from e
    order = Images(cell, manifest).order()
    if unknown := sorted(ids - {e.image_id for e in order}):
        raise Unknown(f"{unknown[0]} is none of the clean images here")
    last = max(n for n, each in enumerate(order) if each.image_id in ids)
    passed = [each for each in order[:last] if each.image_id not in ids]
    looked, pixels = list[ImageEntry](), list[Any]()
    for each in sorted(passed, key=lambda e: draw(cell.id, "passed", e.image_id))[:images]:
        with suppress(BadImage):  # here as there
            pixels.append(load_image(each, cell.geometry))
            looked.append(each)
    knowing = [_right(n, pixels, [e.label for e in looked]) for n in networks.values() if pixels]
    for n, each in enumerate(looked):
        if all(of_network[n] for of_network in knowing):
            text = f"{each.image_id} was left out, and every selecting network is right about it"
            if entry.run.data and entry.run.data.fingerprint == manifest.fingerprint:
                raise ConfigError(text)
            raise Unknown(f"{text}: but the records are of another list of images")
    if not passed:
        return "none was passed over"
    return f"{len(looked)} of {len(passed)} passed over, each misclassified by a selecting network"


@torch.no_grad()
def _right(network: Source, images: Sequence[Any], labels: Sequence[int]) -> list[bool]:
    """Return for which images a network is right, and would be on any machine."""
    logits = joint(network(network.as_input(images)))
    y = torch.tensor(labels, device=logits.device)
    shares = logits.float().softmax(1)
    own = shares.gather(1, y[:, None])[:, 0]
    others = shares.scatter(1, y[:, None], 0).amax(1)
    right: list[bool] = ((predict(logits) == y) & (own - others > 2 * CLOSE)).tolist()
    return right


def _ids(entry: Entry) -> set[str]:
    return {*entry.records.read("rows", ["image_id"])["image_id"]}


def _networks(entry: Entry, cell: Cell, names: Sequence[str]) -> tuple[dict[str, Source], int]:
    """Load networks of a cell, and return the width of their batches here. Raises Unknown."""
    cell = replace(cell, config=replace(cell.config, precision="fp32"))
    bare = sorted({cell.bare(name) for name in names})
    for name in bare:
        _check_weights(entry, cell, name)
    try:
        numeric = settle(cell, None, bare)
        return {name: load(cell, name, numeric, device_of(cell)) for name in names}, numeric.width
    except ConfigError as e:
        raise Unknown(first_line(e)) from e


def _check_weights(entry: Entry, cell: Cell, name: str) -> None:
    """Raise Unknown where a network's weights aren't here, or are others than the records'."""
    network = cell.suite.networks[name]
    try:
        here = check_weights(name, network)
    except ConfigError as e:
        raise Unknown(first_line(e)) from e
    if (there := entry.run.weights.get(name)) != here:
        text = f"the weights of {name} are others here than in the records"
        raise (ConfigError if network.sha256 else Unknown)(f"{text}, {there!r:.20}")


def crafted_again(entry: Entry, cell: Cell, sample: Sequence[SampleImage]) -> str:
    """Craft images of the sample again and compare their rows; `cell` has an attack of ours."""
    passes, run = cell.config.steps * max(1, cell.config.eot), entry.run.numeric
    if passes > MOST_PASSES:
        raise Unknown(f"{passes:,} passes an image are too many to be done again for a review")
    if run and run.threads > (os.cpu_count() or 1):
        raise Unknown(f"it was made with {run.threads:,} threads, more than there are cores here")
    positions = {image.position for image in sample}
    try:
        found = list(differences(cell, entry.run, entry.records, positions))
    except ConfigError as e:
        raise Unknown(first_line(e)) from e
    if found:
        raise ConfigError(first_of(found))
    return f"{plural(len(positions), 'image')}: the same bits"
