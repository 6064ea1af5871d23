"""Defenses that transform the input of a target.

Named defenses are parts, alone or one after the other (conf/defense/standard.yaml):

| defense | parts | paper |
|---|---|---|
| jpeg75 | Jpeg(75) | Dziugaite et al. 2016; Das et al. 2017; Guo et al. 2018 |
| bits5 | BitDepth(5) | Xu et al. 2018 |
| median2 | Median(2) | Xu et al. 2018 |
| squeeze | BitDepth(5), Median(2) | Xu et al. 2018, two of its squeezers in a row |
| randpad | RandomResizePad() | Xie et al. 2018 |

None of them is trained or has a gradient: a `DefendedNetwork` is scored and never attacked. This
measures the transfer of attacks that don't know of the defense. Attacks that adapt to it are
another matter, and are known to defeat JPEG, bit depth and randomisation (Athalye et al.,
ICML 2018, arXiv:1802.00420).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from agr.utils.checks import Checked, number, whole
from agr.utils.hashing import draw
from agr.utils.pixels import LEVELS, to_levels


class Defense(Protocol):
    """A transformation of images before a network sees them."""

    def __call__(self, x: Tensor, keys: Sequence[int], size: int) -> Tensor:
        """Return the images that the network gets instead.

        Args:
            x: images as the defender receives them, (B, 3, H, W), finite and in [0, 1].
            keys: one random 64-bit number per image, the only source of randomness.
            size: side of the network's own input, in pixels.

        Returns:
            Images in [0, 1], of the same size unless the defense is `RandomResizePad`. An image's
            result never depends on the other images.
        """
        ...


@dataclass(frozen=True)
class BitDepth(Checked):
    """Colours rounded to `bits` bits, round(x * (2^bits - 1)) / (2^bits - 1), halves to even.

    Feature squeezing (Xu et al., NDSS 2018, arXiv:1704.01155), as in the authors' code. They use
    5 bits for ImageNet and 1 for MNIST.
    """

    bits: int = whole(5, 1, 8)

    def __call__(self, x: Tensor, keys: Sequence[int], size: int) -> Tensor:
        """Round the images to the coarser grid."""
        top = 2**self.bits - 1
        return (x * top).round() / top


@dataclass(frozen=True)
class Median(Checked):
    """Median filter with a square window, channel by channel.

    Feature squeezing (Xu et al., NDSS 2018, arXiv:1704.01155), with a window of 2 for ImageNet.
    The result is that of the authors' scipy.ndimage.median_filter with mode "reflect": a window
    covers `window // 2` pixels above and to the left and `(window - 1) // 2` below and to the
    right, borders are mirrored with the edge repeated, and of an even number of values the upper
    of the middle two is taken, so that no new value arises.
    """

    window: int = whole(2, 2)

    def __call__(self, x: Tensor, keys: Sequence[int], size: int) -> Tensor:
        """Smooth the images, one by one: the filter holds window^2 copies of its input."""
        return torch.stack([self._one(image) for image in x])

    def _one(self, image: Tensor) -> Tensor:
        n, (h, w) = self.window, image.shape[-2:]
        around = n // 2, (n - 1) // 2
        rows, columns = (np.pad(np.arange(side), around, "symmetric") for side in (h, w))
        wide = image[:, rows][:, :, columns]
        values = [wide[:, i : i + h, j : j + w] for i in range(n) for j in range(n)]
        # Selection by exchanges of whole images: several times as fast as sorting every window
        # (ten times for windows of 2), and the same on every device.
        rank = n * n // 2
        for k in range(rank + 1):
            for j in range(k + 1, len(values)):
                a, b = values[k], values[j]
                values[k], values[j] = torch.minimum(a, b), torch.maximum(a, b)
        return values[rank]


@dataclass(frozen=True)
class Jpeg(Checked):
    """A round trip through JPEG, with Pillow's default chroma subsampling.

    The image is rounded to 8 bits first. Quality 75 is that of Dziugaite et al. (2016,
    arXiv:1608.00853) and Guo et al. (ICLR 2018, arXiv:1711.00117), and Pillow's default; Das et
    al. (2017, arXiv:1705.02900) compare several.
    """

    quality: int = whole(75, 1, 100)

    def __call__(self, x: Tensor, keys: Sequence[int], size: int) -> Tensor:
        """Encode and decode the images; the result is on the 8-bit grid."""
        levels = to_levels(x).clamp(0, LEVELS).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        decoded = np.stack([self._one(image) for image in levels])
        return torch.from_numpy(decoded).permute(0, 3, 1, 2).to(x.device).to(x.dtype) / LEVELS

    def _one(self, image: NDArray[Any]) -> NDArray[Any]:
        file = BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=self.quality)
        with Image.open(file) as decoded:
            return np.asarray(decoded)


@dataclass(frozen=True)
class RandomResizePad(Checked):
    """The image at a random size, at a random place of a larger canvas.

    Xie et al. (ICLR 2018, arXiv:1711.01991): a network of 299 px gets r x r pixels, r uniform in
    [299, 331), on 331 x 331, each place as likely as any other. Other networks get the same
    ratio. As in the authors' code, resizing takes the nearest pixel, rounded down. The paper pads
    with zeros in [-1, 1], the range of all its networks: that is grey, `fill` 0.5, in [0, 1].

    The authors' challenge entry differs from the paper and from this: r in [310, 331), mirrored
    images, 30 draws of a whole batch, and 0.4 of the auxiliary head's logits.

    The randomness is a hash of (seed, key, draw), so an image's draws depend on nothing else.
    `DefendedNetwork` averages over draws 0 to `draws` - 1.
    """

    ratio: float = number(331 / 299, 1)
    draws: int = whole(1, 1)
    seed: int = whole(0, 0)
    fill: float = number(0.5, 0, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ratio == 1:
            raise ValueError("ratio=1 leaves nothing to draw: give a number above 1")

    def __call__(self, x: Tensor, keys: Sequence[int], size: int) -> Tensor:
        """Return draw 0 of every image, (B, 3, canvas, canvas)."""
        return self.draw(x, keys, size, 0)

    def canvas(self, size: int) -> int:
        """Return the side of the padded image for a network of `size` pixels.

        Raises ValueError if that is no more than `size`.
        """
        pixels = round(size * self.ratio)
        if pixels <= size:
            raise ValueError(
                f"ratio={self.ratio:g} adds no pixel to {size} px: "
                f"give {(size + 1) / size:.4f} or more"
            )
        return pixels

    def draw(self, x: Tensor, keys: Sequence[int], size: int, n: int) -> Tensor:
        """Return draw `n` of every image: (B, 3, canvas, canvas) from (B, 3, H, W)."""
        canvas = self.canvas(size)
        padded = x.new_full((len(x), 3, canvas, canvas), self.fill)
        for image, key, out in zip(x, keys, padded, strict=True):
            r, top, left = self.place(key, size, n)
            rows, columns = (torch.arange(r, device=x.device) * d // r for d in image.shape[-2:])
            out[:, top : top + r, left : left + r] = image[:, rows][:, :, columns]
        return padded

    def place(self, key: int, size: int, n: int) -> tuple[int, int, int]:
        """Return the size of draw `n` of an image, and the row and column it begins at."""
        canvas = self.canvas(size)
        r = size + draw(self.seed, key, n, "size") % (canvas - size)
        room = canvas - r + 1
        top, left = (draw(self.seed, key, n, edge) % room for edge in ("top", "left"))
        return r, top, left


def check_order(defenses: Sequence[Defense], size: int) -> None:
    """Raise ValueError unless these defenses, in this order, suit a network of `size` pixels."""
    if not defenses:
        raise ValueError("defenses=[] defends nothing: name one or more, or the plain network")
    if any(isinstance(d, RandomResizePad) for d in defenses[:-1]):
        raise ValueError(
            "RandomResizePad replaces the network's own resize: put it last of the defenses"
        )
    if isinstance(defenses[-1], RandomResizePad):
        defenses[-1].canvas(size)
