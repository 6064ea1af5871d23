"""Transformations of a target's input, and the order in which they may act."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from agr.utils.checks import Checked, number, whole
from agr.utils.hashing import draw
from agr.utils.pixels import LEVELS, to_levels


class Defense(Protocol):
    """A transformation of images before a network sees them.

    `random`: it depends on the keys. `differentiable`: autograd gives its gradient; another one is
    the identity to who attacks it (BPDA, Athalye et al., ICML 2018, arXiv:1802.00420).
    """

    random: ClassVar[bool]
    differentiable: ClassVar[bool]

    def __call__(self, x: Tensor, keys: Sequence[int], size: int) -> Tensor:
        """Return the images that the network gets instead.

        Args:
            x: images as the defender receives them, (B, 3, H, W), finite and in [0, 1].
            keys: one random 64-bit number per image, the only source of randomness.
            size: side of the network's own input, in pixels.

        Returns:
            Images in [0, 1] of the same size. An image's result never depends on the other images.
        """
        ...


class Ending(Protocol):
    """A random defense that ends a chain: it asks the network itself, once for each draw."""

    random: ClassVar[bool]
    replaces: ClassVar[str]  # what of the network: its resize, or its answer

    @property
    def draws(self) -> int:
        """Number of draws that an answer is made of."""
        ...

    def draw(self, x: Tensor, keys: Sequence[int], size: int, n: int) -> Tensor:
        """Return what the network gets in draw `n`, for images as `Defense` gets them."""
        ...

    def fits(self, size: int) -> None:
        """Raise ValueError unless it suits a network of `size` pixels."""
        ...

    def joined(self, logits: Sequence[Tensor]) -> Tensor:
        """Return the answer (B, classes) that the logits of all draws make."""
        ...


@dataclass(frozen=True)
class BitDepth(Checked):
    """Colours rounded to `bits` bits, round(x * (2^bits - 1)) / (2^bits - 1), halves to even.

    Feature squeezing (Xu et al., NDSS 2018, arXiv:1704.01155), as in the authors' code. They use
    5 bits for ImageNet and 1 for MNIST.
    """

    random: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False

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

    random: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

    window: int = whole(2, 2, 100)  # of its square each image is held

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

    random: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False

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

    random: ClassVar[bool] = True
    replaces: ClassVar[str] = "resize"

    ratio: float = number(331 / 299, 1)
    draws: int = whole(1, 1, 100_000)
    seed: int = whole(0, 0, 2**31 - 1)
    fill: float = number(0.5, 0, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ratio == 1:
            raise ValueError("ratio=1 leaves nothing to draw: give a number above 1")

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
        canvas, padded = self.canvas(size), []
        for image, key in zip(x, keys, strict=True):
            r, top, left = self.place(key, size, n)
            rows, columns = (torch.arange(r, device=x.device) * d // r for d in image.shape[-2:])
            sides = left, canvas - left - r, top, canvas - top - r
            padded.append(F.pad(image[:, rows][:, :, columns], sides, value=self.fill))
        return torch.stack(padded)

    def fits(self, size: int) -> None:
        """Raise ValueError unless a canvas for a network of `size` pixels is larger than it."""
        self.canvas(size)

    def joined(self, logits: Sequence[Tensor]) -> Tensor:
        """Return the logits of the mean probability, as `mean_logits` does."""
        return mean_logits(logits)

    def place(self, key: int, size: int, n: int) -> tuple[int, int, int]:
        """Return the size of draw `n` of an image, and the row and column it begins at."""
        canvas = self.canvas(size)
        r = size + draw(self.seed, key, n, "size") % (canvas - size)
        room = canvas - r + 1
        top, left = (draw(self.seed, key, n, edge) % room for edge in ("top", "left"))
        return r, top, left


def mean_logits(logits: Sequence[Tensor]) -> Tensor:
    """Return log(mean of softmax) over the logits (B, classes) of several draws.

    Those of a single draw stay as they are. An image with logits that aren't finite in any draw
    gets NaN.
    """
    if len(logits) == 1:
        return logits[0]
    draws = torch.stack(list(logits))
    finite = draws.isfinite().all(2).all(0)
    # In logarithms: a probability too small for its dtype must not become an infinite logit.
    mean = draws.log_softmax(2).logsumexp(0) - float(np.log(len(draws)))
    return torch.where(finite[:, None], mean, torch.nan)
