"""Predictions for clean images, kept on disk for all cells of the same networks and images."""

from __future__ import annotations

import io
import time
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa

from agr.config.cell import Cell
from agr.data.entries import Manifest
from agr.models.logits import NO_ANSWER
from agr.models.weights import check_weights
from agr.records.run_info import NumericIdentity
from agr.utils.files import is_whole, write_named
from agr.utils.hashing import digest, slug
from agr.utils.locks import locked
from agr.utils.signals import unbroken

COLUMNS = ["image_id", "pred", "conf", "least"]
KEEP_SECONDS = 20.0  # predictions are written about so often: a file is written whole


class Prediction(NamedTuple):
    """A network's class for an image and its softmax probability; class -1: logits not finite."""

    pred: int
    conf: float
    least: int = NO_ANSWER  # the least likely class; of clean images only


class CleanPredictions:
    """Predictions of networks for the clean images of a cell, by network and image id."""

    def __init__(self, cell: Cell, numeric: NumericIdentity, manifest: Manifest):
        self.cell, self.numeric, self.manifest = cell, numeric, manifest
        self.known: dict[str, dict[str, Prediction]] = {}
        self._changed: set[str] = set()
        self._saved = time.monotonic()

    def of(self, name: str) -> dict[str, Prediction]:
        """Return a network's predictions by image id, read on first use."""
        if name not in self.known:
            self.known[name] = {}
            for path in self._files(name):
                self.known[name] |= _predictions_in(path)
        return self.known[name]

    def add(self, name: str, predictions: dict[str, Prediction]) -> None:
        """Add predictions of a network; they reach the disk every now and then."""
        self.of(name).update(predictions)
        self._changed.add(name)
        if time.monotonic() - self._saved > KEEP_SECONDS:
            self.save()

    def save(self) -> None:
        """Write what is new, merged with what another process may have written meanwhile."""
        folder = self.cell.suite_folder / "clean"
        for name in sorted(self._changed):
            stem = self.stem(name)
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / f".{stem}.lock"), unbroken():
                mine = self.known.pop(name)
                self.known[name] = merged = self.of(name) | mine
                content = io.BytesIO()
                frame = pd.DataFrame([(i, *a) for i, a in merged.items()], columns=COLUMNS)
                frame.to_parquet(content, index=False)
                written = write_named(folder, stem, ".parquet", content.getvalue())
                for older in self._files(name):
                    if older != written:
                        older.unlink(missing_ok=True)
        self._changed.clear()
        self._saved = time.monotonic()

    def nonfinite_counts(self) -> dict[str, tuple[int, int]]:
        """Count, by network, the clean images whose logits weren't finite, and all of them."""
        found = {}
        for name, known in self.known.items():
            nonfinite = sum(p.pred == NO_ANSWER for p in known.values())
            if nonfinite:
                found[name] = nonfinite, len(known)
        return found

    def stem(self, name: str) -> str:
        """Return how the names of files of clean predictions begin.

        It hashes what decides them: configs of network and defenses, weights, geometry, data and
        numeric identity.
        """
        cell = self.cell
        members = cell.sources if name == cell.source else [name]
        bare = [*map(cell.bare, members)]
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
        return sorted((self.cell.suite_folder / "clean").glob(f"{self.stem(name)}-*.parquet"))


def _predictions_in(path: Path) -> dict[str, Prediction]:
    """Read the clean predictions in a file; none if it is damaged or gone: they are made again."""
    try:
        frame = pd.read_parquet(path) if is_whole(path) else pd.DataFrame()
    except (OSError, pa.ArrowException):
        frame = pd.DataFrame()
    if not {*COLUMNS} <= {*frame.columns}:
        return {}
    ids, *columns = (frame[c].tolist() for c in COLUMNS)
    return dict(zip(ids, map(Prediction, *columns), strict=True))
