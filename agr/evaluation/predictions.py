"""Predictions of networks for clean images, which are kept on disk, and for adversarial ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agr.config.cell import Cell
from agr.data.entries import Entry, Manifest
from agr.evaluation.clean_predictions import CleanPredictions, Prediction
from agr.evaluation.determinism import device_of, load, settle
from agr.evaluation.images import Images
from agr.evaluation.profiling import free_bytes, step_bytes
from agr.models.logits import confidence, joint, predict
from agr.models.lpips import Lpips, load_lpips
from agr.models.sources import Ensemble, Source
from agr.models.weights import lpips_files, weights_file
from agr.records.run_info import NumericIdentity
from agr.records.store import Records

ImageArray = NDArray[Any]  # (3, H, W): uint8, or floating point in [0, 1]


def load_source(cell: Cell, numeric: NumericIdentity) -> Source:
    """Load the source of a cell, a network or an ensemble."""
    members = [load(cell, name, numeric, device_of(cell)) for name in cell.sources]
    return members[0] if len(members) == 1 else Ensemble(members, cell.config.ensemble)


def source_and_slots(cell: Cell) -> tuple[Source, int]:
    """Load the source of a cell, with the slots that a run on it has or would have."""
    run = Records(cell.folder).run()
    numeric = settle(cell, run.numeric if run else None, cell.bare_sources)
    return load_source(cell, numeric), numeric.slots


@torch.no_grad()
def predict_batched(network: Source, images: Sequence[ImageArray], width: int) -> list[Prediction]:
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
    """The networks, in the numeric identity, the images and clean predictions of one cell."""

    def __init__(self, cell: Cell, numeric: NumericIdentity, manifest: Manifest):
        self.cell, self.numeric, self.device = cell, numeric, device_of(cell)
        self.images = Images(cell, manifest)
        self._networks: dict[str, Source] = {}
        self.clean = CleanPredictions(cell, numeric, manifest)

    @cached_property
    def source(self) -> Source:
        """The network, or ensemble, that the attack is crafted on."""
        return load_source(self.cell, self.numeric)

    @cached_property
    def lpips(self) -> Lpips | None:
        """LPIPS from the files that the config names, if it does. Raises ConfigError."""
        files = lpips_files(self.cell.config.lpips)
        return load_lpips(files, self.device) if files else None

    @cached_property
    def resident(self) -> bool:
        """True if all targets stay on the device; else they come there one at a time."""
        cell, device = self.cell, torch.device(self.device)
        if cell.config.resident is not None or device.type == "cpu":
            return cell.config.resident is not False
        others = [name for name in cell.networks if name not in cell.bare_sources]
        files = [weights_file(name, cell.suite.networks[name]) for name in others]
        need = step_bytes(self.source, cell.geometry.size) * self.numeric.slots
        return need + sum(path.stat().st_size for path in files) < free_bytes(device)

    def network(self, name: str) -> Source:
        """Return the source, or a target with its defenses, loaded on first use."""
        if name == self.cell.source:
            return self.source
        if name not in self._networks:  # every batch asks
            device = self.device if self.resident else "cpu"
            self._networks[name] = load(self.cell, name, self.numeric, device)
        return self._networks[name]

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
        found = self.images(missing)
        while batch := list(islice(found, 4 * self.numeric.width)):
            for name in names:
                clean = self.clean.of(name)
                new = [(e, p) for e, p in batch if e.image_id not in clean]
                predictions = self.predict(name, [p for _, p in new])
                ids = (e.image_id for e, _ in new)
                self.clean.add(name, dict(zip(ids, predictions, strict=True)))

    def clean_prediction(self, name: str, image_id: str) -> Prediction | None:
        """Return the network's prediction for a clean image; None if its file is bad."""
        return self.clean.of(name).get(image_id)
