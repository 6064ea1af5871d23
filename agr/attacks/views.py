"""Views: differentiable copies of an image whose gradients are averaged, for transfer.

Zero isn't the same everywhere: scaling, padding and mixing go towards grey where authors work in
[-1, 1], and towards black in ports that work in [0, 1]. `zero` chooses; each view's default is its
authors' own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from agr.attacks.ball import per_image
from agr.attacks.draws import fold, integers, normal, symmetric, uniform
from agr.attacks.parts import Context, Copy
from agr.utils.checks import Checked, flag, number, one_of, whole

LEVEL = {"grey": 0.5, "black": 0.0}
MOST_COPIES = 10_000  # each costs a pass


@dataclass(frozen=True)
class Scale(Checked):
    """SI: copy i is the image over 2^i, i = 0, 1, ... (Lin et al., arXiv:1908.06281).

    The gradient goes through the scaling. The authors scale towards grey.
    """

    copies: int = whole(5, 1, 64)  # the next is a level over 2^64
    zero: str = one_of("grey", LEVEL)

    def __call__(self, x: Tensor, i: int, c: Context) -> Copy:
        level = LEVEL[self.zero]
        return Copy(x if i == 0 else (x - level) / 2**i + level, 1 / self.copies)


@dataclass(frozen=True)
class Draws(Checked):
    """EOT: the image itself, each copy before a new draw of a random defense of the source.

    Expectation over transformation (Athalye et al., ICML 2018, arXiv:1802.00420, section 4.2; its
    name and first use: arXiv:1707.07397). Draws are new for each image, step and copy. Without
    such a source (`eot` puts this view before one) all copies are alike.
    """

    copies: int = whole(10, 1, MOST_COPIES)

    def __call__(self, x: Tensor, i: int, c: Context) -> Copy:
        return Copy(x, 1 / self.copies, fold(c.key, i))


@dataclass(frozen=True)
class Admix(Checked):
    """Copies with a fraction of another image mixed in: x + eta * x'.

    Admix (Wang et al., arXiv:2102.00436). Partners come from the attack's fixed pool of `pool`
    images: a new one for each image, step and copy, never of the image's own class. The authors
    apply `Scale` afterwards, and mix relative to grey.
    """

    copies: int = whole(3, 1, MOST_COPIES)
    eta: float = number(0.2, 0)
    zero: str = one_of("grey", LEVEL)
    pool: int = whole(64, 2)

    def __call__(self, x: Tensor, i: int, c: Context) -> Copy:
        partner = self.partner(i, c)
        if partner.shape != x.shape:
            raise ValueError(f"Admix of {x.shape[-1]} px: put it before what resizes images")
        return Copy(x + self.eta * (partner - LEVEL[self.zero]), 1 / self.copies)

    def partner(self, i: int, c: Context) -> Tensor:
        """Draw the images (B, 3, H, W) that are mixed into copy `i`."""
        assert c.pool is not None  # `Attack` checks it
        others = c.pool.labels != c.label[:, None]
        rank = integers(fold(c.key, i), 0, others.sum(1)) + 1
        return c.pool.images[((others.cumsum(1) == rank[:, None]) & others).int().argmax(1)]


@dataclass(frozen=True)
class Diverse(Checked):
    """DI: resized to a random size and padded at random, with probability `prob`.

    As in the authors' paper and code (Xie et al., arXiv:1803.06978, section 3.2), an image of s px
    is enlarged to a size from [s, s * ratio), by nearest neighbour, and padded to s * ratio with
    grey; otherwise it stays as it is. For s = 299 and ratio = 330/299 that is [299, 330) and 330.
    Size, place and coin are drawn per image. Images of both sizes can't share a batch, so a step
    makes two passes; an image needs one of them.

    With a ratio below 1 the image is shrunk to a size from [s * ratio, s) and padded to s, as in
    torchattacks with ratio 0.9, mode "bilinear" and zero "black". `back` resizes the enlarged image
    back to s (bilinear), as in TransferAttack with ratio 1.1 and mode "bilinear": for networks that
    take one size only.
    """

    prob: float = number(0.5, 0, 1)
    ratio: float = number(330 / 299, 0.1, 4)
    mode: str = one_of("nearest", ("nearest", "bilinear"))
    zero: str = one_of("grey", LEVEL)
    back: bool = flag(False)

    @property
    def copies(self) -> int:
        """Number of copies: two if images that stay as they are have another size."""
        return 2 if self._grows and 0 < self.prob < 1 else 1

    @property
    def charged(self) -> int:
        """Number of copies that an image needs: its coin chooses one."""
        return 1

    @property
    def _grows(self) -> bool:
        return self.ratio > 1 and not self.back

    def side(self, side: int) -> int:
        """Return the side of the copies of an image of `side` px."""
        return self._sides(side)[1] if self._grows and self.prob > 0 else side

    def _sides(self, side: int) -> tuple[int, int]:
        """Return the smallest size, and the side of the padded image, which no size reaches."""
        other = int(side * self.ratio + 1e-9)
        return min(side, other), max(side, other)

    def __call__(self, x: Tensor, i: int, c: Context) -> Copy:
        _check_square(x)
        coin = self.coin(c)
        if i == 1 or self.prob == 0:
            return Copy(x, 1.0 if self.prob == 0 else (~coin).to(x.dtype))
        made = self.padded(x, c)
        if self._grows:
            return Copy(made, coin.to(x.dtype))
        return Copy(torch.where(per_image(coin, x), made, x), 1.0)

    def coin(self, c: Context) -> Tensor:
        """Draw the images that are resized, (B,) bool."""
        return uniform(fold(c.key, 0), (), torch.float64) < self.prob

    def place(self, side: int, c: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Draw the size, top and left of each image within its padding, (B,) int64."""
        low, canvas = self._sides(side)
        size = integers(fold(c.key, 1), low, max(canvas, low + 1))
        room = (canvas - size).clamp_min(1)  # as in the authors' code, without the last offset
        return size, integers(fold(c.key, 2), 0, room), integers(fold(c.key, 3), 0, room)

    def padded(self, x: Tensor, c: Context) -> Tensor:
        """Resize and pad each image."""
        size, top, left = self.place(x.shape[-1], c)
        canvas = self._sides(x.shape[-1])[1]
        # Products with sparse matrices: every row of the batch has a size of its own.
        down = _resizing(x, size, top, canvas, self.mode)
        right = _resizing(x, size, left, canvas, self.mode)
        made = _between(down, x, right)
        inside = down.sum(2)[:, None, :, None] * right.sum(2)[:, None, None, :]
        made = made + LEVEL[self.zero] * (1 - inside)
        if self.back and canvas != x.shape[-1]:
            whole_canvas, none = torch.full_like(size, x.shape[-1]), torch.zeros_like(size)
            shrink = _resizing(made, whole_canvas, none, x.shape[-1], "bilinear")
            made = _between(shrink, made, shrink)
        return made


@dataclass(frozen=True)
class Spectrum(Checked):
    """SSA: noise, and a random mask in the frequency domain (Long et al., arXiv:2207.05382, Eq. 6).

    idct(dct(x + n) * m) with n normal of `sigma` (0-255 scale) and m uniform in [1 - rho, 1 + rho].
    The equation's gradient goes through the transform (`through`); the authors' code takes it at
    the copy, and they found little difference. Their code works in [0, 1], so the mask scales
    towards black.
    """

    copies: int = whole(20, 1, MOST_COPIES)
    rho: float = number(0.5, 0)
    sigma: float = number(16.0, 0)
    through: bool = flag(False)
    zero: str = one_of("black", LEVEL)

    def __call__(self, x: Tensor, i: int, c: Context) -> Copy:
        _check_square(x)
        base = x if self.through else x.detach()
        level = LEVEL[self.zero]
        dct = _dct(x.shape[-1], x.dtype, x.device)
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


def _check_square(x: Tensor) -> None:
    if x.shape[-1] != x.shape[-2]:
        raise ValueError(
            f"images are {x.shape[-2]} x {x.shape[-1]} px: this view takes square ones"
        )


def _between(down: Tensor, x: Tensor, right: Tensor) -> Tensor:
    """Resize `x` (B, 3, h, w) by `down` (B, H, h) along its columns and `right` (B, W, w)."""
    return down[:, None] @ x @ right[:, None].transpose(2, 3)


def _resizing(x: Tensor, size: Tensor, offset: Tensor, canvas: int, mode: str) -> Tensor:
    """Return matrices (B, canvas, side) that resize a line of `x` to `size` (B,), at `offset` (B,).

    "nearest" is floor(i * side / size), "bilinear" with pixel centres at half: both as in
    torch.nn.functional.interpolate without antialiasing. Lines outside are 0.
    """
    side = x.shape[-1]
    at = torch.arange(canvas, device=x.device) - offset[:, None]  # (B, canvas): place in the image
    inside = (at >= 0) & (at < size[:, None])
    pixels = torch.arange(side, device=x.device)
    if mode == "nearest":
        source = at * side // size[:, None]
        weights = (source[..., None] == pixels).to(x.dtype)
    else:
        ratio = side / size.double()[:, None]
        source = ((at + 0.5) * ratio - 0.5).clamp_(0, side - 1)
        weights = (1 - (source[..., None] - pixels).abs()).clamp_min_(0).to(x.dtype)
    return weights * inside[..., None]


@lru_cache(maxsize=8)
def _dct(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the orthonormal DCT-II of n points, (n, n); its transpose is the inverse."""
    k = torch.arange(n, dtype=torch.float64)
    rows = torch.cos(math.pi / n * (k + 0.5) * k[:, None]) * math.sqrt(2 / n)
    rows[0] /= math.sqrt(2)
    return rows.to(dtype).to(device)
