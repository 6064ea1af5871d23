"""Pictures of perturbations: around grey, times a factor that is given beside them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # (H, W, 3)
FACTORS = (100, 50, 20, 10, 5, 2, 1)
WITHIN = 0.995  # of the changed values must not be cut off by the factor
GREY = 128


def scaled(clean: Image, adversarial: Image, factor: int) -> Image:
    """Draw the perturbation times a factor, around grey, from exact pixels."""
    change = adversarial.astype(np.int32) - clean.astype(np.int32)
    return np.clip(GREY + factor * change, 0, 255).astype(np.uint8)


def factor_of(pairs: Iterable[tuple[Image, Image]]) -> int:
    """One round factor for clean and adversarial images, so that attacks can be compared by eye.

    The largest that still shows nearly all changes as different greys; 1 where nothing changed.
    """
    counts = np.zeros(256, np.int64)
    for clean, adversarial in pairs:
        change = np.abs(adversarial.astype(np.int16) - clean.astype(np.int16))
        counts += np.bincount(change[change > 0], minlength=256)
    if not counts.any():
        return FACTORS[-1]
    largest = int(np.searchsorted(counts.cumsum(), WITHIN * counts.sum()))
    return next((f for f in FACTORS if f * largest < GREY), FACTORS[-1])
