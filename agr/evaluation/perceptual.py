"""Perceptual size of perturbations: PSNR, SSIM, CIEDE2000 and LPIPS of 8-bit images, in torch.

Values of the first three agree with scikit-image's to 1e-4. All are rounded, so that they are the
same whatever images stand in one batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from agr.models.lpips import Lpips
from agr.utils.pixels import LEVELS

AT_ONCE = 8  # images; a pixel takes some hundred bytes
RADIUS, SIGMA = 5, 1.5  # of SSIM's window
K1, K2 = 0.01, 0.03
DIGITS = {"psnr": 4, "ssim": 6, "ciede2000": 4, "lpips": 6}
# From linear sRGB to XYZ, and the white point D65 of the 2 degree observer.
XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169),
       (0.019334, 0.119193, 0.950227))  # fmt: skip
WHITE = (0.95047, 1.0, 1.08883)
POW7 = 25.0**7


def perceptual_sizes(
    clean: Tensor, adversarial: Tensor, lpips: Lpips | None = None
) -> list[dict[str, float | None]]:
    """Measure each perturbation by psnr (dB), ssim (at most 1) and ciede2000 (mean over pixels).

    Args:
        clean: images (B, 3, H, W) in levels, 0-255.
        adversarial: images like `clean`.
        lpips: a measure that is to be taken as well.

    Returns:
        The values of each image; psnr is None where nothing differs, ssim where a side is shorter
        than its window.
    """
    found = []
    for one, other in zip(clean.split(AT_ONCE), adversarial.split(AT_ONCE), strict=True):
        x, y = one.double(), other.double()
        values = {"psnr": psnr(x, y), "ssim": ssim(x, y), "ciede2000": ciede2000(x, y)}
        values |= {"lpips": lpips(x, y)} if lpips else {}
        lists = {name: value.tolist() for name, value in values.items()}
        for i in range(len(x)):
            row = {name: round(v[i], DIGITS[name]) for name, v in lists.items()}
            found.append({k: v if math.isfinite(v) else None for k, v in row.items()})
    return found


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio (B,) of images in levels, dB; inf where x is y."""
    return 10 * torch.log10(LEVELS**2 / (x - y).square().flatten(1).mean(1))


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Return the structural similarity (B,), the mean over channels and places of the window.

    Wang, Bovik, Sheikh, Simoncelli: Image quality assessment (2004), with its Gaussian window of
    11 x 11 and constants; places where the window leaves the image don't count. NaN where it
    doesn't fit at all.
    """
    if min(x.shape[2:]) <= 2 * RADIUS:
        return torch.full((len(x),), math.nan)
    mx, my = _blurred(x), _blurred(y)
    vx, vy = _blurred(x * x) - mx * mx, _blurred(y * y) - my * my
    vxy = _blurred(x * y) - mx * my
    c1, c2 = (K1 * LEVELS) ** 2, (K2 * LEVELS) ** 2
    above = (2 * mx * my + c1) * (2 * vxy + c2)
    below = (mx * mx + my * my + c1) * (vx + vy + c2)
    return (above / below).flatten(1).mean(1)


def _blurred(x: Tensor) -> Tensor:
    """Average over a Gaussian window, where it fits into the image."""
    at = torch.arange(-RADIUS, RADIUS + 1, dtype=x.dtype, device=x.device)
    weights = torch.exp(-at.square() / (2 * SIGMA**2))
    weights = weights / weights.sum()
    for axis in (2, 3):
        inside = x.shape[axis] - 2 * RADIUS
        x = sum(w * x.narrow(axis, i, inside) for i, w in enumerate(weights.tolist()))
    return x


def ciede2000(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean CIEDE2000 colour difference (B,) of images in sRGB levels.

    Sharma, Wu, Dalal: The CIEDE2000 color-difference formula (2005), with all weights 1.
    """
    return _difference(_lab(x), _lab(y)).flatten(1).mean(1)


def _lab(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return L, a and b, each (B, H, W)."""
    v = x / LEVELS
    linear = torch.where(v > 0.04045, ((v + 0.055) / 1.055) ** 2.4, v / 12.92)
    r, g, b = linear.unbind(1)
    scaled = [(m[0] * r + m[1] * g + m[2] * b) / white for m, white in zip(XYZ, WHITE, strict=True)]
    fx, fy, fz = (torch.where(t > 0.008856, t ** (1 / 3), 7.787 * t + 16 / 116) for t in scaled)
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


def _difference(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> Tensor:
    (l1, a1, b1), (l2, a2, b2) = one, other
    mean7 = ((torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2) ** 7
    stretch = 1.5 - 0.5 * torch.sqrt(mean7 / (mean7 + POW7))
    c1, c2 = torch.hypot(a1 * stretch, b1), torch.hypot(a2 * stretch, b2)
    full = 2 * math.pi
    h1 = torch.remainder(torch.atan2(b1, a1 * stretch), full)
    h2 = torch.remainder(torch.atan2(b2, a2 * stretch), full)
    grey = c1 * c2 == 0  # hue has no meaning
    turn = h2 - h1
    turn = turn - full * (turn > math.pi) + full * (turn < -math.pi)
    turn = torch.where(grey, 0.0, turn)
    dl, dc, dh = l2 - l1, c2 - c1, 2 * torch.sqrt(c1 * c2) * torch.sin(turn / 2)
    light, c = (l1 + l2) / 2, (c1 + c2) / 2
    h = (h1 + h2) / 2
    far = (h1 - h2).abs() > math.pi
    h = torch.where(far, torch.where(h1 + h2 < full, h + math.pi, h - math.pi), h)
    h = torch.where(grey, h1 + h2, h)
    t = (
        1
        - 0.17 * torch.cos(h - math.pi / 6)
        + 0.24 * torch.cos(2 * h)
        + 0.32 * torch.cos(3 * h + math.pi / 30)
        - 0.20 * torch.cos(4 * h - 63 * math.pi / 180)
    )
    middle = (light - 50).square()
    sl, sc, sh = 1 + 0.015 * middle / torch.sqrt(20 + middle), 1 + 0.045 * c, 1 + 0.015 * c * t
    c7 = c**7
    rotation = -2 * torch.sqrt(c7 / (c7 + POW7))
    angle = math.pi / 3 * torch.exp(-(((h * 180 / math.pi - 275) / 25).square()))
    rotation = rotation * torch.sin(angle)
    dl, dc, dh = dl / sl, dc / sc, dh / sh
    return (dl * dl + dc * dc + dh * dh + rotation * dc * dh).clamp_min(0).sqrt()
