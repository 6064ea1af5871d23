"""The 8-bit grid of images in [0, 1]."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LEVELS = 255
NOISE = 1e-3  # levels; float32 images are off the 8-bit grid by about 1e-5


def to_levels(x: Tensor) -> Tensor:
    """Round images in [0, 1] to their 8-bit levels (0-255, still floating point)."""
    return (x * LEVELS).round_()


def is_8bit(x: Tensor) -> bool:
    """Return whether every value of `x` lies on the grid k/255."""
    return bool(((x * LEVELS) - to_levels(x)).abs().max() < NOISE)
