"""DI and DEM: an image resized to a random size, and padded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agr.attacks.ball import per_image
from agr.attacks.draws import fold, integers, uniform
from agr.attacks.parts import Context, Copy
from agr.attacks.views.copies import LEVEL, check_square
from agr.attacks.views.sampling import between, either, tents
from agr.utils.checks import LIMIT, Checked, flag, number, one_of, whole


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
    take one size only; `shrink` "nearest" does that as RDI's program does (Zou et al., ECCV 2020).
    """

    prob: float = number(0.5, 0, 1)
    ratio: float = number(330 / 299, 0.1, 4)
    mode: str = one_of("nearest", ("nearest", "bilinear"))
    zero: str = one_of("grey", LEVEL)
    back: bool = flag(False)
    shrink: str = one_of("bilinear", ("bilinear", "nearest"))

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
        check_square(x)
        coin = self.coin(c)
        if i == 1 or self.prob == 0:
            return Copy(x, 1.0 if self.prob == 0 else (~coin).to(x.dtype))
        made = self.padded(x, c)
        if self._grows:
            return Copy(made, coin.to(x.dtype))
        return Copy(either(per_image(coin, x), made, x), 1.0)

    def coin(self, c: Context) -> Tensor:
        """Draw the images that are resized, (B,) bool."""
        return uniform(fold(c.key, 0), (), torch.float64) < self.prob

    def place(self, side: int, c: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Draw the size, top and left of each image within its padding, (B,) int64."""
        low, canvas = self._sides(side)
        return drawn_place(c.key, low, canvas)

    def padded(self, x: Tensor, c: Context) -> Tensor:
        """Resize and pad each image."""
        place, canvas = self.place(x.shape[-1], c), self._sides(x.shape[-1])[1]
        made = placed(x, *place, canvas, self.mode, self.zero)
        return resized(made, x.shape[-1], self.shrink) if self.back else made


@dataclass(frozen=True)
class DiversityEnsemble(Checked):
    """DEM: copies enlarged up to a ratio each, whose logits are averaged (arXiv:2112.06011).

    Zou et al. (ECCV 2020), as in the authors' program. Copy i is resized to a random size from
    [s, L), padded at random to L = r_i * s, and resized back to s px; the ratios r_i are evenly
    spaced from `most` to `least`. The loss is that of the mean of the copies' logits. Size and
    place are drawn per image. Authors: 5 copies, 500/299 to 340/299, nearest both ways, grey.
    """

    copies: int = whole(5, 1, LIMIT)
    most: float = number(500 / 299, 1, 4)
    least: float = number(340 / 299, 1, 4)
    mode: str = one_of("nearest", ("nearest", "bilinear"))
    zero: str = one_of("grey", LEVEL)
    joint = True

    def __call__(self, x: Tensor, i: int, c: Context) -> Copy:
        check_square(x)
        side = x.shape[-1]
        made = placed(x, *self.place(side, i, c), self.canvas(side, i), self.mode, self.zero)
        return Copy(resized(made, side, self.mode), 1 / self.copies)

    def canvas(self, side: int, i: int) -> int:
        """Return the side of the padded copy `i` of an image of `side` px."""
        return round(side * (self.most + (self.least - self.most) * i / max(self.copies - 1, 1)))

    def place(self, side: int, i: int, c: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Draw the size, top and left of copy `i` of each image within its padding, (B,) int64."""
        return drawn_place(fold(c.key, i), side, self.canvas(side, i))


def drawn_place(key: Tensor, low: int, canvas: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a size in [low, canvas), top and left in [0, canvas - size), (B,) int64 each."""
    size = integers(fold(key, 1), low, max(canvas, low + 1))
    room = (canvas - size).clamp_min(1)  # as in the authors' code, without the last offset
    return size, integers(fold(key, 2), 0, room), integers(fold(key, 3), 0, room)


def placed(
    x: Tensor, size: Tensor, top: Tensor, left: Tensor, canvas: int, mode: str, zero: str
) -> Tensor:
    """Resize each image of `x` to its size (B,), at its place on a canvas of the level `zero`."""
    # Products with sparse matrices: every row of the batch has a size of its own.
    down, right = (resizing(x.shape[-1], size, at, canvas, mode, x.dtype) for at in (top, left))
    inside = down.sum(2)[:, None, :, None] * right.sum(2)[:, None, None, :]
    return between(down, x, right) + LEVEL[zero] * (1 - inside)


def resized(x: Tensor, side: int, mode: str) -> Tensor:
    """Resize all images of `x` (B, 3, h, h) to `side`."""
    if side == x.shape[-1]:
        return x
    none = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    line = resizing(x.shape[-1], none + side, none, side, mode, x.dtype)
    return between(line, x, line)


def resizing(
    side: int, size: Tensor, offset: Tensor, canvas: int, mode: str, dtype: torch.dtype
) -> Tensor:
    """Return matrices (B, canvas, side) that resize a line to `size` (B,), at `offset` (B,).

    "nearest" is floor(i * side / size), "bilinear" with pixel centres at half: both as in
    torch.nn.functional.interpolate without antialiasing. Lines outside are 0.
    """
    at = torch.arange(canvas, device=size.device) - offset[:, None]  # place in the image
    inside = (at >= 0) & (at < size[:, None])
    made = torch.zeros(len(size), canvas, side, dtype=dtype, device=size.device)
    if mode == "nearest":
        source = at * side // size[:, None]
        taps = [(source.clamp(0, side - 1), torch.ones_like(source))]
    else:
        ratio = side / size.double()[:, None]
        taps = tents(((at + 0.5) * ratio - 0.5).clamp_(0, side - 1), side)
    for pixel, share in taps:
        made.scatter_add_(2, pixel[..., None], (share * inside).to(dtype)[..., None])
    return made
