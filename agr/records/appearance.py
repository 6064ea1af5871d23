"""PSNR, SSIM and CIEDE2000 for the audit: in numpy, apart from the code that wrote the records."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from agr.utils.pixels import LEVELS

Array = NDArray[Any]
# How far apart two computations may be: values are rounded to 4, 6 and 4 digits, and where two hues
# are opposite, the last bits decide which way round a pixel's mean hue is.
CLOSE = {"psnr": 1e-4, "ssim": 2e-6, "ciede2000": 1e-3}
RADIUS, SIGMA = 5, 1.5  # pixels, of SSIM's window
PRIMARIES = np.array([  # of linear sRGB in XYZ, each divided by the white point D65
    [0.412453 / 0.95047, 0.357580 / 0.95047, 0.180423 / 0.95047],
    [0.212671, 0.715160, 0.072169],
    [0.019334 / 1.08883, 0.119193 / 1.08883, 0.950227 / 1.08883],
])  # fmt: skip


def appearances(clean: Array, adversarial: Array) -> dict[str, float]:
    """Measure two images (H, W, 3) in levels, 0-255; psnr is inf where nothing differs.

    SSIM is left out of images that are smaller than its window.
    """
    x, y = clean.astype(float), adversarial.astype(float)
    error = np.square(x - y).mean()
    found = {"psnr": float(10 * np.log10(LEVELS**2 / error)) if error else np.inf}
    if min(x.shape[:2]) > 2 * RADIUS:
        found["ssim"] = _ssim(x, y)
    return found | {"ciede2000": float(_colour_difference(x, y).mean())}


def _ssim(x: Array, y: Array) -> float:
    """Return Wang et al.'s structural similarity (2004)."""

    def blur(z: Array) -> Array:
        blurred: Array = gaussian_filter(z, SIGMA, radius=RADIUS, axes=(0, 1))
        return blurred[RADIUS:-RADIUS, RADIUS:-RADIUS]

    mx, my = blur(x), blur(y)
    light = (0.01 * LEVELS) ** 2
    contrast = (0.03 * LEVELS) ** 2
    covariance = blur(x * y) - mx * my
    variances = blur(x * x) - mx**2 + blur(y * y) - my**2
    means = (2 * mx * my + light) / (mx**2 + my**2 + light)
    return float((means * (2 * covariance + contrast) / (variances + contrast)).mean())


def _colour_difference(x: Array, y: Array) -> Array:
    """Return CIEDE2000 of each pixel; a colour's a and b are one complex number.

    Sharma, Wu, Dalal (2005), Eq. 2 to 22. The mean hue is halfway along the shorter arc.
    """
    (l1, z1), (l2, z2) = _lab(x), _lab(y)

    def of_chroma(c: Array) -> Array:
        share: Array = np.sqrt(c**7 / (c**7 + 25.0**7))
        return share

    g = (1 - of_chroma((abs(z1) + abs(z2)) / 2)) / 2
    z1, z2 = (z + g * z.real for z in (z1, z2))
    c1, c2 = abs(z1), abs(z2)
    turn = np.angle(z2 * z1.conj())
    hue = np.where(c1 == 0, np.angle(z2), np.angle(z1) + turn / 2) % (2 * np.pi)
    c, offset = (c1 + c2) / 2, ((l1 + l2) / 2 - 50) ** 2

    def wave(times: int, degrees: float) -> Array:
        cosine: Array = np.cos(times * hue + np.deg2rad(degrees))
        return cosine

    t = 1 - 0.17 * wave(1, -30) + 0.24 * wave(2, 0) + 0.32 * wave(3, 6) - 0.2 * wave(4, -63)
    lightness = (l2 - l1) / (1 + 0.015 * offset / np.sqrt(20 + offset))
    chroma = (c2 - c1) / (1 + 0.045 * c)
    hues = 2 * np.sqrt(c1 * c2) * np.sin(turn / 2) / (1 + 0.015 * c * t)
    blue = np.deg2rad(60 * np.exp(-(((np.rad2deg(hue) - 275) / 25) ** 2)))
    rotation = -2 * of_chroma(c) * np.sin(blue) * chroma * hues
    difference: Array = np.sqrt(np.maximum(lightness**2 + chroma**2 + hues**2 + rotation, 0))
    return difference


def _lab(x: Array) -> tuple[Array, Array]:
    """Return L and a + bi of CIELAB, from sRGB levels."""
    v = x / LEVELS
    linear = np.where(v > 0.04045, ((v + 0.055) / 1.055) ** 2.4, v / 12.92)
    xyz = linear @ PRIMARIES.T
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return 116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]) + 200j * (f[..., 1] - f[..., 2])
