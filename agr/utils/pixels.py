"""The 8-bit grid of images in [0, 1]."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agr.utils.files import write_content

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

LEVELS = 255
# Of a budget that 8-bit images keep: their sums are whole numbers, only eps itself was rounded.
EXACTLY = 1 + 1e-12
NOISE = 1e-3  # levels; float32 images are off the 8-bit grid by about 1e-5


def to_levels(x: Tensor) -> Tensor:
    """Round images in [0, 1] to their 8-bit levels (0-255, still floating point)."""
    return (x * LEVELS).round_()


def is_8bit(x: Tensor) -> bool:
    """Return whether every value of `x` lies on the grid k/255."""
    return bool(((x * LEVELS) - to_levels(x)).abs().max() < NOISE)


def digest_of(pixels: NDArray[Any]) -> str:
    """Return the sha256 of an image (H, W, 3), as `adv_sha256` in records."""
    return hashlib.sha256(pixels.tobytes()).hexdigest()  # in this order, however it lies in memory


def write_png(path: Path, pixels: NDArray[np.uint8], **options: Any) -> None:
    """Write an image (H, W, 3) whole, with Pillow's options."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", **options)
    write_content(path, content.getvalue())
