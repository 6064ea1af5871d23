"""DI: an image resized to a random size, and padded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agr.attacks.ball import per_image
from agr.attacks.draws import fold, integers, uniform
from agr.attacks.parts import Context, Copy
from agr.attacks.views.copies import LEVEL, check_square
from agr.utils.checks import Checked, flag, number, one_of


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
            shrink = _resizing(made, whole_canvas, none, x.shape[-1], self.shrink)
            made = _between(shrink, made, shrink)
        return made


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
