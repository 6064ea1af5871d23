"""SSA: noise, and a random mask in the frequency domain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from agr.attacks.draws import fold, normal, symmetric
from agr.attacks.parts import Context, Copy
from agr.attacks.views.copies import LEVEL, check_square
from agr.utils.checks import LIMIT, Checked, flag, number, one_of, whole


@dataclass(frozen=True)
class Spectrum(Checked):
    """SSA: noise, and a random mask in the frequency domain (Long et al., arXiv:2207.05382, Eq. 6).

    idct(dct(x + n) * m) with n normal of `sigma` (0-255 scale) and m uniform in [1 - rho, 1 + rho].
    The equation's gradient goes through the transform (`through`); the authors' code takes it at
    the copy, and they found little difference. Their code works in [0, 1], so the mask scales
    towards black.
    """

    copies: int = whole(20, 1, LIMIT)
    rho: float = number(0.5, 0)
    sigma: float = number(16.0, 0)
    through: bool = flag(False)
    zero: str = one_of("black", LEVEL)

    def __call__(self, x: Tensor, i: int, c: Context) -> Copy:
        check_square(x)
        base = x if self.through else x.detach()
        level = LEVEL[self.zero]
        dct = dct_matrix(x.shape[-1], x.dtype, x.device)
        copy = base + self.noise(x, i, c) - level
        copy = dct.T @ ((dct @ copy @ dct.T) * self.mask(x, i, c)) @ dct + level
        if not self.through:
            copy = copy + (x - x.detach())  # adds 0, and lets the gradient pass unchanged
        return Copy(copy, 1 / self.copies)

    def noise(self, x: Tensor, i: int, c: Context) -> Tensor:
        """Draw the noise of copy `i`, like `x`."""
        return normal(fold(c.key, i, 0), x.shape[1:], x.dtype).mul_(self.sigma / 255)

    def mask(self, x: Tensor, i: int, c: Context) -> Tensor:
        """Draw the mask of copy `i`, like `x`: factors of its frequencies."""
        return symmetric(fold(c.key, i, 1), x.shape[1:], x.dtype).mul_(self.rho).add_(1)


@lru_cache(maxsize=8)
def dct_matrix(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the orthonormal DCT-II of n points, (n, n); its transpose is the inverse."""
    k = torch.arange(n, dtype=torch.float64)
    rows = torch.cos(math.pi / n * (k + 0.5) * k[:, None]) * math.sqrt(2 / n)
    rows[0] /= math.sqrt(2)
    return rows.to(dtype).to(device)
