"""Predictions of networks for clean images, which are kept on disk, and for adversarial ones."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
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
from agr.evaluation.determinism import load
from agr.evaluation.profiling import free_bytes, step_bytes
from agr.models.defended import DefendedNetwork, defenses_of
from agr.models.defenses import Defense
from agr.models.logits import NO_ANSWER, confidence, joint, predict
from agr.models.network import Ensemble, Network, Source
from agr.models.weights import check_weights, weights_file
from agr.records.run_info import NumericIdentity
from agr.utils.errors import ConfigError
from agr.utils.files import is_whole, write_named
from agr.utils.hashing import digest, draw, slug
from agr.utils.locks import locked
from agr.utils.signals import unbroken

CLEAN_COLUMNS = ["image_id", "pred", "conf", "least"]
KEEP_SECONDS = 20.0  # clean predictions are written about so often: a file is written whole
DECODED_BYTES = 2**28  # decoded images that are kept for crafting: 1,000 of 299 px
ImageArray = NDArray[Any]  # (3, H, W): uint8, or floating point in [0, 1]
Classifier = Network | Ensemble | DefendedNetwork


class Prediction(NamedTuple):
    """A network's class for an image and its softmax probability; class -1: logits not finite."""

    pred: int
    conf: float
    least: int = NO_ANSWER  # the least likely class; of clean images only


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
        self._clean: dict[str, dict[str, Prediction]] = {}
        self._changed: set[str] = set()
        self._kept = time.monotonic()

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
        """Predict the classes of clean images that aren't known yet.

        Predictions reach the disk every now and then, and with `save_clean_predictions`.
        """
        names = list(names)
        known = [self._known(name) for name in names]
        missing = [e for e in entries if any(e.image_id not in k for k in known)]
        found = iter(self.images(missing))
        while batch := list(islice(found, 4 * self.numeric.width)):
            for name in names:
                clean = self._known(name)
                new = [(e, p) for e, p in batch if e.image_id not in clean]
                predictions = self.predict(name, [p for _, p in new])
                clean |= {e.image_id: p for (e, _), p in zip(new, predictions, strict=True)}
                self._changed.add(name)
            for entry, pixels in batch:
                if (len(self._decoded) + 1) * pixels.nbytes <= DECODED_BYTES:
                    self._decoded[entry.image_id] = pixels
            if time.monotonic() - self._kept > KEEP_SECONDS:
                self.save_clean_predictions()

    def drop_decoded(self, entries: Iterable[Entry]) -> None:
        """Forget the pixels of images that won't be attacked."""
        for entry in entries:
            self._decoded.pop(entry.image_id, None)

    def save_clean_predictions(self) -> None:
        """Write the clean predictions that are new to their files."""
        for name in sorted(self._changed):
            self._keep(name)
        self._changed.clear()
        self._kept = time.monotonic()

    def clean_prediction(self, name: str, image_id: str) -> Prediction | None:
        """Return the network's prediction for a clean image; None if its file is bad."""
        return self._clean[name].get(image_id)

    def nonfinite_counts(self) -> dict[str, tuple[int, int]]:
        """Count, by network, the clean images whose logits weren't finite, and all of them."""
        found = {}
        for name, known in self._clean.items():
            nonfinite = sum(p.pred == NO_ANSWER for p in known.values())
            if nonfinite:
                found[name] = nonfinite, len(known)
        return found

    def _stem(self, name: str) -> str:
        """Return how the names of files of clean predictions begin.

        It hashes what decides them: configs of network and defenses, weights, geometry, data and
        numeric identity.
        """
        cell = self.cell
        members = cell.sources if name == cell.source else [name]
        bare = [undefended(member, cell.config.defenses)[0] for member in members]
        key = digest(
            {
                "networks": [cell.network_digest(member) for member in members],
                "weights": [check_weights(name, cell.suite.networks[name]) for name in bare],
                "geometry": asdict(cell.geometry),
                "data": self.manifest.fingerprint,
                "numeric": self.numeric.of_predictions(bare),
            }
        )
        return f"{slug(name)}-{cell.geometry.size}px-{key}"

    def _files(self, name: str) -> list[Path]:
        """Return the files of clean predictions: one, or two if a writer was killed."""
        return sorted((self.cell.suite_folder / "clean").glob(f"{self._stem(name)}-*.parquet"))

    def _known(self, name: str) -> dict[str, Prediction]:
        if name not in self._clean:
            self._clean[name] = {}
            for path in self._files(name):
                self._clean[name] |= _predictions_in(path)
        return self._clean[name]

    def _keep(self, name: str) -> None:
        """Merge what is known into the file; another process may have added to it meanwhile."""
        stem = self._stem(name)
        folder = self.cell.suite_folder / "clean"
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f".{stem}.lock"), unbroken():
            mine = self._clean.pop(name)
            self._clean[name] = merged = self._known(name) | mine
            content = io.BytesIO()
            frame = pd.DataFrame([(i, *a) for i, a in merged.items()], columns=CLEAN_COLUMNS)
            frame.to_parquet(content, index=False)
            written = write_named(folder, stem, ".parquet", content.getvalue())
            for older in self._files(name):
                if older != written:
                    older.unlink(missing_ok=True)


def _predictions_in(path: Path) -> dict[str, Prediction]:
    """Read the clean predictions in a file; none if it is damaged or gone: they are made again."""
    try:
        frame = pd.read_parquet(path) if is_whole(path) else pd.DataFrame()
    except (OSError, pa.ArrowException):
        frame = pd.DataFrame()
    if not {*CLEAN_COLUMNS} <= {*frame.columns}:
        return {}
    ids, *columns = (frame[c].tolist() for c in CLEAN_COLUMNS)
    return dict(zip(ids, map(Prediction, *columns), strict=True))
