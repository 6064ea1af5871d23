"""Pixel deflection: which pixels go where, and wavelets against matrices."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from agr.attacks.views import Draws
from agr.models.defended import DefendedNetwork
from agr.models.defenses import Deflection
from agr.models.defenses.deflection import SIDE, denoised
from tests.conftest import images
from tests.test_adaptive import network, through


def many(n: int, side: int, **more: Any) -> Deflection:
    """As many deflections of an image of `side` px."""
    return Deflection(round(n * SIDE**2 / side**2), **more)


def test_values_come_from_where_sources_says() -> None:
    part, x = many(30, 12, sigma=0, window=3), images(4)
    found = part(x, [5, 6, 7, 8], 12)
    for image, key, out in zip(x, [5, 6, 7, 8], found, strict=True):
        sources = part.sources(key, 12, 12).view(3, 12, 12)
        for c, i, j in np.ndindex(3, 12, 12):
            row, column = divmod(int(sources[c, i, j]), 12)
            assert out[c, i, j] == image[c, row, column]
    assert not torch.equal(part.sources(5, 12, 12), part.sources(6, 12, 12))
    other = many(30, 12, sigma=0, window=3, seed=1)
    assert not torch.equal(part.sources(5, 12, 12), other.sources(5, 12, 12))


@pytest.mark.slow
def test_one_deflection_is_uniform_within_the_window() -> None:
    part, side, moves = many(1, 9, window=2), 9, Counter[tuple[int, int]]()
    places, n = Counter[int](), 6000
    plain = torch.arange(81)
    for key in range(n):
        for own in part.sources(key, side, side):
            changed = (own != plain).nonzero().flatten().tolist()
            assert len(changed) <= 1
            for place in changed:
                y, x = divmod(place, side)
                from_y, from_x = divmod(int(own[place]), side)
                assert max(abs(y - from_y), abs(x - from_x)) <= 2
                places[place] += 1
                if 2 <= y < side - 2 and 2 <= x < side - 2:
                    moves[from_y - y, from_x - x] += 1
    assert len(places) == 81
    assert len(moves) == 24  # of 25, one of which moves nothing
    mean = 3 * n * 25 / 81 / 25
    assert all(abs(count - mean) < 5 * mean**0.5 for count in moves.values())


def test_the_number_follows_the_size() -> None:
    """Of 200 at 224 px, 100 stay at 158 px; few meet, so that most differ."""
    differ = (Deflection(200).sources(1, 158, 158) != torch.arange(158**2)).sum(1)
    assert ((differ > 85) & (differ <= 100)).all()


# ---- wavelets -----------------------------------------------------------------------------------


def haar(n: int) -> NDArray[Any]:
    """Orthonormal: means of pairs above, differences below."""
    matrix = np.zeros((n, n))
    for i in range(n // 2):
        matrix[i, 2 * i : 2 * i + 2] = math.sqrt(0.5)
        matrix[n // 2 + i, 2 * i : 2 * i + 2] = math.sqrt(0.5), -math.sqrt(0.5)
    return matrix


def by_matrices(x: NDArray[Any], sigma: float, levels: int) -> NDArray[Any]:
    if levels == 0:
        return x
    height, width = x.shape
    x = np.pad(x, ((0, height % 2), (0, width % 2)), "symmetric")
    rows, columns = haar(x.shape[0]), haar(x.shape[1])
    coefficients = rows @ x @ columns.T
    h, w = x.shape[0] // 2, x.shape[1] // 2
    coefficients[:h, :w] = by_matrices(coefficients[:h, :w], sigma, levels - 1)
    for part in (np.s_[:h, w:], np.s_[h:, :w], np.s_[h:, w:]):
        band = coefficients[part]
        excess = max((band**2).mean() - sigma**2, np.finfo(float).eps)
        threshold = sigma**2 / math.sqrt(excess)
        coefficients[part] = np.sign(band) * np.maximum(np.abs(band) - threshold, 0)
    return (rows.T @ coefficients @ columns)[:height, :width]


@pytest.mark.parametrize(("height", "width", "levels"), [(32, 32, 2), (30, 45, 1), (75, 131, 3)])
@pytest.mark.parametrize("sigma", [0.04, 0.2])
def test_denoising_is_that_of_matrices(height: int, width: int, levels: int, sigma: float) -> None:
    """With skimage's own YCbCr, in which noise of a channel has the norm of the matrix's row."""
    from skimage.color import rgb2ycbcr, ycbcr2rgb

    x = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1)).double()
    found = denoised(x, sigma)
    for image, out in zip(x.permute(0, 2, 3, 1).numpy(), found, strict=True):
        ycc = rgb2ycbcr(image)
        unit = rgb2ycbcr(np.eye(3)[None]) - rgb2ycbcr(np.zeros((1, 1, 3)))
        for c in range(3):
            own = sigma * float(np.linalg.norm(unit[0, :, c]))
            ycc[..., c] = by_matrices(ycc[..., c], own, levels)
        assert np.allclose(out.permute(1, 2, 0).numpy(), ycbcr2rgb(ycc), rtol=0, atol=1e-6)


def test_denoising_takes_noise_and_leaves_flat_images() -> None:
    flat = torch.full((1, 3, 64, 64), 0.3, dtype=torch.float64)
    assert torch.allclose(denoised(flat, 0.04), flat, rtol=0, atol=1e-12)
    noise = 0.04 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).double()
    left = denoised(flat + noise, 0.04) - flat
    assert float(left.std()) < 0.5 * float(noise.std())


def test_its_gradient() -> None:
    """Along a random direction, by differences."""
    plain, y = network(), torch.tensor([0, 1])
    x = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(2)).double()
    part = many(20, 12)
    defended = DefendedNetwork(plain, [part])
    keys = torch.tensor([3, 4])

    def loss(z: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(defended(z, None, keys), y, reduction="sum")

    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(loss(leaf), leaf)
    way = torch.randn(x.shape, generator=torch.Generator().manual_seed(3)).double()
    slope = (loss(x + 1e-6 * way) - loss(x - 1e-6 * way)) / 2e-6
    assert float((g * way).sum()) == pytest.approx(float(slope), rel=1e-4)
    assert not torch.equal(through(defended, x, y, Draws(2)), through(defended, x, y, Draws(1)))


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"deflections": 0}, "deflections=0"),
        ({"window": 0}, "window=0"),
        ({"sigma": -1}, "sigma=-1"),
    ],
)
def test_wrong_parameters(parameters: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Deflection(**parameters)
