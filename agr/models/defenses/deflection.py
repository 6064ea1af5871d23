"""Pixel deflection: random pixels replaced by neighbours, then wavelet denoising."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from agr.models.draws import fold, key_of, uniform
from agr.utils.checks import Checked, number, whole

SIDE = 224  # of the images that the authors count deflections of
# Y, Cb and Cr of ITU-R BT.601, up to factors and offsets, which thresholds and denoising follow.
YCBCR = torch.tensor(
    [[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]],
    dtype=torch.float64,
)


@dataclass(frozen=True)
class Deflection(Checked):
    """Values of random pixels, replaced by those of random neighbours; then noise is taken out.

    Prakash et al. (CVPR 2018, arXiv:1801.08926), without their map: a robust activation map of the
    network keeps them from the object; the authors have this as an option too. As in their code,
    each channel has pixels of its own, one after the other, and a neighbour is any pixel of the
    image within `window` rows and columns. `deflections` are for 224 px; other sizes get the
    same share of their pixels. `sigma`, in [0, 1], is the noise that `denoised` expects; 0 leaves
    that out. Their defaults are 200, 10 and 0.04.

    The pixels are a hash of (seed, key), so an image's result depends on nothing else.
    """

    random: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True

    deflections: int = whole(200, 1, 1_000_000)
    window: int = whole(10, 1, 10_000)
    sigma: float = number(0.04, 0, 1)
    seed: int = whole(0, 0, 2**31 - 1)

    def __call__(self, x: Tensor, keys: Sequence[int], size: int) -> Tensor:
        """Deflect and denoise the images, one by one."""
        height, width = x.shape[-2:]
        sources = [self.sources(key, height, width) for key in keys]
        places = torch.stack(sources).to(x.device)
        deflected = x.flatten(2).gather(2, places).view(x.shape)
        return denoised(deflected, self.sigma).clamp(0, 1) if self.sigma else deflected

    def sources(self, key: int, height: int, width: int) -> Tensor:
        """Return, for every value of an image, the pixel it comes from: (3, height * width)."""
        n = max(1, round(self.deflections * height * width / SIDE**2))
        folded = fold(torch.tensor([key_of(key)]), self.seed)
        found = [list(range(height * width)) for _ in range(3)]
        for draws in uniform(folded, (n, 3, 4), torch.float64)[0].tolist():
            for own, (row, column, down, right) in zip(found, draws, strict=True):
                y, x = int(row * height), int(column * width)
                from_y = _near(down, y, self.window, height)
                own[y * width + x] = own[from_y * width + _near(right, x, self.window, width)]
        return torch.tensor(found)


def _near(draw: float, place: int, window: int, side: int) -> int:
    """Return a place within `window` of another and inside, for a uniform draw from [0, 1)."""
    low, high = max(0, place - window), min(side - 1, place + window)
    return low + int(draw * (high - low + 1))


def denoised(x: Tensor, sigma: float) -> Tensor:
    """Take noise of standard deviation `sigma` out of images (B, 3, H, W), in Y, Cb and Cr.

    BayesShrink (Chang, Yu and Vetterli, IEEE TIP 2000) on Haar wavelets, soft thresholds, and all
    levels but the three coarsest: the defaults of scikit-image's denoise_wavelet, which the
    authors call.
    """
    matrix = YCBCR.to(x.device, x.dtype)
    sigmas = sigma * matrix.norm(dim=1)[:, None, None]
    levels = max(1, int(math.log2(min(x.shape[-2:]))) - 3)
    return _from(matrix.inverse(), _shrunk(_from(matrix, x), sigmas, levels))


def _from(matrix: Tensor, x: Tensor) -> Tensor:
    """Return mixtures of the channels of images."""
    # Not a matrix product, whose last bits may depend on the batch.
    r, g, b = x.unbind(1)
    return torch.stack([p * r + q * g + s * b for p, q, s in matrix], 1)


def _shrunk(x: Tensor, sigma: Tensor, levels: int) -> Tensor:
    """Shrink the details of `x` (B, C, H, W) on so many levels; `sigma` is (C, 1, 1)."""
    if not levels:
        return x
    height, width = x.shape[-2:]
    even = x
    if height % 2:
        even = torch.cat([even, even[..., -1:, :]], -2)
    if width % 2:
        even = torch.cat([even, even[..., -1:]], -1)
    a, b, c, d = (even[..., i::2, j::2] for i in (0, 1) for j in (0, 1))
    smooth = _shrunk((a + b + c + d) / 2, sigma, levels - 1)
    across, down, diagonal = (
        _soft(detail / 2, sigma) for detail in (a - b + c - d, a + b - c - d, a - b - c + d)
    )
    parts = [
        smooth + across + down + diagonal,
        smooth - across + down - diagonal,
        smooth + across - down - diagonal,
        smooth - across - down + diagonal,
    ]
    top, bottom = (torch.stack(pair, -1).flatten(-2) for pair in (parts[:2], parts[2:]))
    return torch.stack([top, bottom], -2).flatten(-3, -2)[..., :height, :width] / 2


def _soft(details: Tensor, sigma: Tensor) -> Tensor:
    """Shrink details by BayesShrink's threshold, sigma^2 over the deviation of what isn't noise."""
    signal = details.square().mean((-2, -1), keepdim=True) - sigma**2
    threshold = sigma**2 / signal.clamp_min(torch.finfo(details.dtype).eps).sqrt()
    return details.sign() * (details.abs() - threshold).clamp_min(0)
