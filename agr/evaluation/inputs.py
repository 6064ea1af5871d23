"""Inputs of a cell: weight files and the list of images, checked without torch.

A cell goes on with the weights, images and numeric identity it was begun with, or not at all.
"""

from __future__ import annotations

from typing import NamedTuple

from agr.config.cell import Cell
from agr.data.entries import Manifest
from agr.data.manifest import read_manifest
from agr.models.weights import check_lpips, check_weights
from agr.records.run_info import RunInfo
from agr.utils.errors import ConfigError


class Inputs(NamedTuple):
    """The checked inputs of a cell."""

    weights: dict[str, str]  # sha256 of the weight file of each network
    networks: dict[str, str]  # hash of the config of each target, with its defenses
    manifest: Manifest
    lpips: list[str]  # sha256 of its weight files, none if it isn't asked for


def check_inputs(cell: Cell) -> Inputs:
    """Find and hash what `cell` reads. Raises ConfigError for what is missing or wrong."""
    networks, manifest = cell.suite.networks, find_images(cell)
    weights = {name: check_weights(name, networks[name]) for name in cell.networks}
    digests = {target: cell.network_digest(target) for target in cell.targets}
    return Inputs(weights, digests, manifest, check_lpips(cell.config.lpips))


def find_images(cell: Cell) -> Manifest:
    """List the images of `cell`; the index of a large tree is kept beside the records.

    Raises ConfigError, also if networks and images differ in their number of classes.
    """
    classes = {name: cell.suite.networks[name].classes for name in cell.networks}
    if len(set(classes.values())) > 1:
        said = ", ".join(f"{name} {n}" for name, n in classes.items())
        raise ConfigError(f"the networks know different numbers of classes: {said}")
    if cell.image_classes not in (None, cell.classes):
        raise ConfigError(
            f"{cell.networks[0]} knows {cell.classes:,} classes, the images of suite="
            f"{cell.suite.name} have {cell.image_classes:,}: choose a network of these classes, or "
            "images that it knows (data.root=…, or another suite)"
        )
    return read_manifest(cell.config.data, cell.suite, cell.classes, cell.data_folder)


def check_unchanged(cell: Cell, run: RunInfo, inputs: Inputs) -> None:
    """Compare a cell's inputs with its run.json. Raises ConfigError for a difference.

    Of the numeric identity only what the config sets is compared; `determinism.settle` does the
    rest.
    """
    c = cell.config
    if run.numeric:
        # the config's slots and width don't count any more where memory ran out
        keys = ("threads", "precision")
        for key in keys if run.narrowed else ("slots", "width", *keys):
            requested, before = getattr(c, key), getattr(run.numeric, key)
            if requested not in (None, before):
                refuse(cell, key, before, requested)
        for tuning in run.numeric.networks.values():
            if c.memory_format not in ("auto", "try", tuning.memory_format):
                refuse(cell, "memory_format", tuning.memory_format, c.memory_format)
            if tuning.folded and not c.fold:
                refuse(cell, "fold", True, False)
    weights, configs = inputs.weights.items(), inputs.networks.items()
    changed = [f"the weights of {k}" for k, found in weights if run.weights.get(k, found) != found]
    changed += [f"the config of {k}" for k, found in configs if run.networks.get(k, found) != found]
    if inputs.lpips and run.lpips not in ([], inputs.lpips):
        changed.append("the weights of LPIPS")
    if run.data and run.data.fingerprint != inputs.manifest.fingerprint:
        changed.append("the images or their labels")
    if changed:
        raise ConfigError(
            f"{cell.folder}: {changed[0]} changed since it was begun: restore them, or use another "
            "outputs=… folder"
        )


def refuse(cell: Cell, key: str, stored: object, requested: object) -> None:
    """Raise the ConfigError for another numeric identity."""
    raise ConfigError(
        f"{cell.folder} was begun with {key}={stored}, this run has {key}={requested}: such "
        "numbers are not mixed; go on as it was begun, or use another outputs=… folder"
    )
