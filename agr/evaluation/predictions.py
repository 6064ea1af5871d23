"""Predictions of networks for clean images, which are kept on disk, and for adversarial ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agr.attacks.parts import Pool
from agr.config.cell import Cell
from agr.config.networks import undefended
from agr.data.cache import PixelCache
from agr.data.decode import BadImage, ChangedImage, Pixels
from agr.data.entries import Entry, Manifest
from agr.data.index import forget
from agr.data.loader import stream
from agr.evaluation.clean_predictions import CleanPredictions, Prediction
from agr.evaluation.determinism import load
from agr.evaluation.profiling import free_bytes, step_bytes
from agr.models.defended import DefendedNetwork, defenses_of
from agr.models.defenses import Defense
from agr.models.logits import confidence, joint, predict
from agr.models.network import Ensemble, Network, Source
from agr.models.weights import weights_file
from agr.records.run_info import NumericIdentity
from agr.utils.errors import ConfigError
from agr.utils.hashing import draw

DECODED_BYTES = 2**28  # decoded images that are kept for crafting: 1,000 of 299 px
ImageArray = NDArray[Any]  # (3, H, W): uint8, or floating point in [0, 1]
Classifier = Network | Ensemble | DefendedNetwork


def source_of(cell: Cell, numeric: NumericIdentity, device: str) -> Source:
    """Load the source of a cell: a network or an ensemble of them."""
    members = [load(cell, name, numeric, device) for name in cell.sources]
    return members[0] if len(members) == 1 else Ensemble(members, cell.config.ensemble)


@torch.no_grad()
def predict_batched(
    network: Classifier, images: Sequence[ImageArray], width: int
) -> list[Prediction]:
    """Return the network's prediction for each image (3, H, W), all of one shape.

    Batches have a fixed `width` and are padded, so that none depends on its companions.
    """
    found: list[Prediction] = []
    for start in range(0, len(images), width):
        batch = list(images[start : start + width])
        padding = [np.zeros_like(batch[0])] * (width - len(batch))
        logits = joint(network(network.as_input([*batch, *padding])))[: len(batch)]
        columns = predict(logits), confidence(logits), predict(-logits)
        found += map(Prediction, *(column.tolist() for column in columns))
    return found


class Evaluator:
    """The networks, images and clean predictions of one cell.

    Args:
        cell: the cell.
        numeric: the numeric identity that networks are loaded in.
        device: torch's name of the device.
        manifest: the images.
        defenses: by target, of those that have some; None: built from the config.
    """

    def __init__(
        self,
        cell: Cell,
        numeric: NumericIdentity,
        device: str,
        manifest: Manifest,
        defenses: Mapping[str, Sequence[Defense]] | None = None,
    ):
        self.cell, self.numeric, self.device, self.manifest = cell, numeric, device, manifest
        self.bad: dict[str, str] = {}  # image id -> what is wrong with its file
        self.read: set[str] = set()  # ids of those whose files were fine
        self.cache: PixelCache | None = None
        if cell.config.data.cache:
            self.cache = PixelCache(cell.data_folder, manifest, cell.geometry)
        self.defenses = defenses_of(cell) if defenses is None else defenses
        self._networks: dict[str, Classifier] = {}
        self._decoded: dict[str, Pixels] = {}
        self.clean = CleanPredictions(cell, numeric, manifest)

    @cached_property
    def source(self) -> Source:
        """The network, or ensemble, that the attack is crafted on."""
        return source_of(self.cell, self.numeric, self.device)

    @cached_property
    def resident(self) -> bool:
        """True if all targets stay on the device; else they come there one at a time."""
        cell, device = self.cell, torch.device(self.device)
        if cell.config.resident is not None or device.type == "cpu":
            return cell.config.resident is not False
        others = [name for name in cell.networks if name not in cell.sources]
        files = [weights_file(name, cell.suite.networks[name]) for name in others]
        need = step_bytes(self.source, cell.geometry.size) * self.numeric.slots
        return need + sum(path.stat().st_size for path in files) < free_bytes(device)

    def network(self, name: str) -> Classifier:
        """Return the source, or a target with its defenses, loaded on first use."""
        if name not in self._networks:  # every batch asks
            self._networks[name] = self._load(name)
        return self._networks[name]

    def _load(self, name: str) -> Classifier:
        if name == self.cell.source:
            return self.source
        bare, _ = undefended(name, self.cell.config.defenses)
        device = self.device if self.resident else "cpu"
        network = load(self.cell, bare, self.numeric, device)
        if name not in self.defenses:
            return network
        return DefendedNetwork(network, self.defenses[name])

    def images(self, entries: Iterable[Entry]) -> Iterable[tuple[Entry, Pixels]]:
        """Yield entries with their pixels; bad files are noted in `bad` and left out.

        An image that was decoded for its clean predictions isn't decoded again, as far as
        DECODED_BYTES go: memory doesn't grow with the number of images.
        """
        entries = list(entries)
        decoded = {
            e.image_id: self._decoded.pop(e.image_id)
            for e in entries
            if e.image_id in self._decoded
        }
        files = [e for e in entries if e.image_id not in decoded]
        stored = stream(files, self.cell.geometry, self.cell.config.workers, self.cache)
        for entry in entries:
            if entry.image_id in decoded:
                yield entry, decoded.pop(entry.image_id)
                continue
            _, pixels = next(stored)
            if isinstance(pixels, ChangedImage):
                forget(self.cell.data_folder)
            if isinstance(pixels, BadImage):
                self.bad[entry.image_id] = str(pixels)
            else:
                self.read.add(entry.image_id)
                yield entry, pixels

    def order(self, *use: str) -> list[Entry]:
        """Return all images in the seeded order of the selection, or in another one of a `use`."""
        seed = self.cell.config.seed
        return sorted(self.manifest.entries, key=lambda e: draw(seed, *use, e.image_id))

    def fit(self, size: int, attacked: set[str]) -> Tensor:
        """Return the images that a universal perturbation is fitted on: the last of the order.

        (size, 3, H, W), the same for every shard. Raises ConfigError where they are attacked too.
        """
        order = self.order()[::-1]
        found = list(islice(self.images(order), size))
        if len(found) < size or attacked & {entry.image_id for entry, _ in found}:
            raise ConfigError(
                f"n_images={self.cell.config.n_images} and attack.library.fit_images={size}: the "
                f"{len(order):,} images are too few to fit on others than are attacked: lower one"
            )
        return self.source.as_input([pixels for _, pixels in found])

    def pool(self, size: int) -> Pool:
        """Return the `size` images that an attack may mix in, the first of an order of their own.

        Raises ConfigError where they are all of one class.
        """
        found = list(islice(self.images(self.order("pool")), size))
        if len(found) < size:
            raise ConfigError(
                f"attack={self.cell.config.attack.name} mixes in images of a pool of {size}, and "
                f"{self.cell.config.data.root} has {len(found)}: give a smaller pool"
            )
        labels = torch.tensor([entry.label for entry, _ in found], device=self.device)
        if len(labels.unique()) < 2:
            raise ConfigError(
                f"attack={self.cell.config.attack.name} mixes in images of other classes, and the "
                f"{len(found)} of its pool have one class: use more images, or a larger pool"
            )
        return Pool(self.source.as_input([pixels for _, pixels in found]), labels)

    def predict(self, name: str, images: Sequence[ImageArray]) -> list[Prediction]:
        """Return a network's predictions for images in the cell's geometry."""
        network = self.network(name)
        if self.resident or name == self.cell.source or not images:
            return predict_batched(network, images, self.numeric.width)
        try:  # one at a time
            return predict_batched(network.to(self.device), images, self.numeric.width)
        finally:
            network.to("cpu")

    def ensure_clean_predictions(self, names: Iterable[str], entries: Sequence[Entry]) -> None:
        """Predict the classes of clean images that aren't known yet."""
        names = list(names)
        known = [self.clean.of(name) for name in names]
        missing = [e for e in entries if any(e.image_id not in k for k in known)]
        found = iter(self.images(missing))
        while batch := list(islice(found, 4 * self.numeric.width)):
            for name in names:
                clean = self.clean.of(name)
                new = [(e, p) for e, p in batch if e.image_id not in clean]
                predictions = self.predict(name, [p for _, p in new])
                ids = (e.image_id for e, _ in new)
                self.clean.add(name, dict(zip(ids, predictions, strict=True)))
            for entry, pixels in batch:
                if (len(self._decoded) + 1) * pixels.nbytes <= DECODED_BYTES:
                    self._decoded[entry.image_id] = pixels
            self.clean.save_if_due()

    def drop_decoded(self, entries: Iterable[Entry]) -> None:
        """Forget the pixels of images that won't be attacked."""
        for entry in entries:
            self._decoded.pop(entry.image_id, None)

    def clean_prediction(self, name: str, image_id: str) -> Prediction | None:
        """Return the network's prediction for a clean image; None if its file is bad."""
        return self.clean.of(name).get(image_id)
