"""Pictures of perturbations: scaled around grey."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

RgbArray = NDArray[np.uint8]  # (H, W, 3)
FACTORS = (100, 50, 20, 10, 5, 2, 1)
UNCLIPPED = 0.995  # of the changed values, at least
GREY = 128


def scaled(clean: RgbArray, adversarial: RgbArray, factor: int) -> RgbArray:
    """Return the perturbation times a factor, around grey."""
    change = adversarial.astype(np.int32) - clean.astype(np.int32)
    return np.clip(GREY + factor * change, 0, 255).astype(np.uint8)


def common_factor(pairs: Iterable[tuple[RgbArray, RgbArray]]) -> int:
    """Return one factor for pairs of clean and adversarial images, to compare attacks by eye.

    It is the largest of FACTORS that clips nearly no change; 1 where nothing changed.
    """
    counts = np.zeros(256, np.int64)
    for clean, adversarial in pairs:
        change = np.abs(adversarial.astype(np.int16) - clean.astype(np.int16))
        counts += np.bincount(change[change > 0], minlength=256)
    if not counts.any():
        return FACTORS[-1]
    largest = int(np.searchsorted(counts.cumsum(), UNCLIPPED * counts.sum()))
    return next((f for f in FACTORS if f * largest < GREY), FACTORS[-1])
