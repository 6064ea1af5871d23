"""What networks say about images: the clean ones, kept on disk, and the adversarial ones."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Sequence
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
from agr.models.defended import DefendedNetwork
from agr.models.defenses import build_defenses
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
KEEP_SECONDS = 20.0  # clean answers are written about so often: a file is written whole
Image = NDArray[Any]  # (3, H, W): uint8, or floating point in [0, 1]
Classifier = Network | Ensemble | DefendedNetwork


class Answer(NamedTuple):
    """A network's class for an image and its softmax probability; class -1: logits not finite."""

    pred: int
    conf: float
    least: int = NO_ANSWER  # its least likely class, where that was asked for: of clean images


def source_of(cell: Cell, numeric: NumericIdentity, device: str) -> Source:
    """What a cell's attack is crafted on, loaded: a network or an ensemble of them."""
    members = [load(cell, name, numeric, device) for name in cell.sources]
    return members[0] if len(members) == 1 else Ensemble(members, cell.config.ensemble)


@torch.no_grad()
def answers(network: Classifier, images: Sequence[Image], width: int) -> list[Answer]:
    """The network's answer to each image (3, H, W), all of one shape.

    Batches have a fixed `width` and are padded, so that an answer never depends on companions.
    """
    found: list[Answer] = []
    for start in range(0, len(images), width):
        batch = list(images[start : start + width])
        padding = [np.zeros_like(batch[0])] * (width - len(batch))
        logits = joint(network(network.as_input([*batch, *padding])))[: len(batch)]
        columns = predict(logits), confidence(logits), predict(-logits)
        found += map(Answer, *(column.tolist() for column in columns))
    return found


class Lab:
    """The networks, images and clean answers that one cell works with."""

    def __init__(self, cell: Cell, numeric: NumericIdentity, device: str, manifest: Manifest):
        self.cell, self.numeric, self.device, self.manifest = cell, numeric, device, manifest
        self.bad: dict[str, str] = {}  # image id -> what is wrong with its file
        self.read: set[str] = set()  # ids of those whose files were fine
        self.cache: PixelCache | None = None
        if cell.config.data.cache:
            self.cache = PixelCache(cell.data_folder, manifest, cell.geometry)
        self._networks: dict[str, Classifier] = {}
        self._clean: dict[str, dict[str, Answer]] = {}
        self._changed: set[str] = set()
        self._kept = time.monotonic()

    @cached_property
    def source(self) -> Source:
        """What the attack is crafted on."""
        return source_of(self.cell, self.numeric, self.device)

    @cached_property
    def resident(self) -> bool:
        """Whether all targets stay on the device, or come there one at a time."""
        cell, device = self.cell, torch.device(self.device)
        if cell.config.resident is not None or device.type == "cpu":
            return cell.config.resident is not False
        others = [name for name in cell.networks if name not in cell.sources]
        files = [weights_file(name, cell.suite.networks[name]) for name in others]
        need = step_bytes(self.source, cell.geometry.size) * self.numeric.slots
        return need + sum(path.stat().st_size for path in files) < free_bytes(device)

    def network(self, name: str) -> Classifier:
        """The source, or a target with its defenses, loaded on first use."""
        if name not in self._networks:  # every batch asks
            self._networks[name] = self._load(name)
        return self._networks[name]

    def _load(self, name: str) -> Classifier:
        if name == self.cell.source:
            return self.source
        bare, defenses = undefended(name, self.cell.config.defenses)
        device = self.device if self.resident else "cpu"
        network = load(self.cell, bare, self.numeric, device)
        if not defenses:
            return network
        return DefendedNetwork(network, build_defenses(self.cell.config, defenses))

    def images(self, entries: Iterable[Entry]) -> Iterable[tuple[Entry, Pixels]]:
        """The entries with their pixels; bad files are noted in `bad` and left out."""
        workers = self.cell.config.workers
        for entry, pixels in stream(entries, self.cell.geometry, workers, self.cache):
            if isinstance(pixels, ChangedImage):
                forget(self.cell.data_folder)
            if isinstance(pixels, BadImage):
                self.bad[entry.image_id] = str(pixels)
            else:
                self.read.add(entry.image_id)
                yield entry, pixels

    def order(self, *use: str) -> list[Entry]:
        """All images in the seeded order that they are chosen in, or in another one for a `use`."""
        seed = self.cell.config.seed
        return sorted(self.manifest.entries, key=lambda e: draw(seed, *use, e.image_id))

    def fit(self, size: int, attacked: set[str]) -> Tensor:
        """The images that a universal perturbation is fitted on: the last of the seeded order.

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
        """The images that an attack may mix in: `size` of the suite's, in an order of their own.

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

    def answer(self, name: str, images: Sequence[Image]) -> list[Answer]:
        """A network's answers to images in the cell's geometry."""
        network = self.network(name)
        if self.resident or name == self.cell.source or not images:
            return answers(network, images, self.numeric.width)
        try:  # one at a time
            return answers(network.to(self.device), images, self.numeric.width)
        finally:
            network.to("cpu")

    def clean(self, names: Iterable[str], entries: Sequence[Entry]) -> None:
        """See that the clean answers of the networks to the entries are known.

        They reach the disk every now and then, and with `keep`.
        """
        names = list(names)
        known = [self._known(name) for name in names]
        missing = [e for e in entries if any(e.image_id not in k for k in known)]
        found = iter(self.images(missing))
        while batch := list(islice(found, 4 * self.numeric.width)):
            for name in names:
                answered = self._known(name)
                new = [(e, p) for e, p in batch if e.image_id not in answered]
                said = self.answer(name, [p for _, p in new])
                answered |= {e.image_id: a for (e, _), a in zip(new, said, strict=True)}
                self._changed.add(name)
            if time.monotonic() - self._kept > KEEP_SECONDS:
                self.keep()

    def keep(self) -> None:
        """Write the clean answers that are new to their files."""
        for name in sorted(self._changed):
            self._keep(name)
        self._changed.clear()
        self._kept = time.monotonic()

    def clean_answer(self, name: str, image_id: str) -> Answer | None:
        """The network's answer to a clean image, if `clean` found one."""
        return self._clean[name].get(image_id)

    def silent(self) -> dict[str, tuple[int, int]]:
        """Networks that had no finite answer to some clean images: to how many, of how many."""
        found = {}
        for name, known in self._clean.items():
            silent = sum(answer.pred == NO_ANSWER for answer in known.values())
            if silent:
                found[name] = silent, len(known)
        return found

    def _stem(self, name: str) -> str:
        """What files of clean answers begin with, by network, geometry, data and identity.

        What decides the answers is their configs, of defenses too, and their weights.
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
        """Where clean answers are kept: one file, two where a writer was killed."""
        return sorted((self.cell.suite_folder / "clean").glob(f"{self._stem(name)}-*.parquet"))

    def _known(self, name: str) -> dict[str, Answer]:
        if name not in self._clean:
            self._clean[name] = {}
            for path in self._files(name):
                self._clean[name] |= _answers_in(path)
        return self._clean[name]

    def _keep(self, name: str) -> None:
        """Add what is known to what is kept; another process may have added to it meanwhile."""
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


def _answers_in(path: Path) -> dict[str, Answer]:
    """The clean answers in a file; none where it is damaged or gone: they are asked for again."""
    try:
        frame = pd.read_parquet(path) if is_whole(path) else pd.DataFrame()
    except (OSError, pa.ArrowException):
        frame = pd.DataFrame()
    if not {*CLEAN_COLUMNS} <= {*frame.columns}:
        return {}
    ids, *said = (frame[c].tolist() for c in CLEAN_COLUMNS)
    return dict(zip(ids, map(Answer, *said), strict=True))
