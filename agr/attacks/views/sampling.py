"""Images sampled at places of their own: pixels moved, or interpolated between."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Box(NamedTuple):
    """Bounds of the pixels that a place may read, each (B, h, w) int64; the ends are outside."""

    top: Tensor
    bottom: Tensor
    left: Tensor
    right: Tensor


class Strips(NamedTuple):
    """A line of n pixels cut into strips: for each pixel, where it is in its strip; (B, n) each."""

    strip: Tensor  # its number
    start: Tensor  # its first pixel
    length: Tensor
    offset: Tensor  # of the pixel in it


def strips(ends: Tensor, n: int) -> Strips:
    """Return the strips of a line of `n` pixels that end before the pixels `ends` (B, strips)."""
    at = torch.arange(n, device=ends.device).expand(len(ends), n)
    index = (at[:, :, None] >= ends[:, None, :]).sum(2)
    starts = torch.cat([torch.zeros_like(ends[:, :1]), ends[:, :-1]], 1)
    start = starts.gather(1, index)
    return Strips(index, start, (ends - starts).gather(1, index), at - start)


def of_blocks(table: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return a table's value (B, k, k) for each pixel: `rows` (B, H), `columns` (B, W) name it."""
    by_row = table.gather(1, rows[:, :, None].expand(-1, -1, table.shape[2]))
    return by_row.gather(2, columns[:, None, :].expand(-1, rows.shape[1], -1))


def between(down: Tensor, x: Tensor, right: Tensor) -> Tensor:
    """Return `x` (B, C, h, w) between matrices on its rows (B, H, h) and its columns (B, W, w)."""
    return down[:, None] @ x @ right[:, None].transpose(2, 3)


def gathered(x: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Return the pixels of `x` (B, C, H, W) at `row` and `column`, (B, h, w) int64 each."""
    index = (row * x.shape[3] + column).flatten(1)[:, None].expand(-1, x.shape[1], -1)
    # Not grid_sample, whose gradients are not deterministic on a GPU.
    return x.flatten(2).gather(2, index).view(*x.shape[:2], *row.shape[1:])


def bilinear(x: Tensor, row: Tensor, column: Tensor, box: Box | None = None) -> Tensor:
    """Interpolate `x` (B, C, H, W) at `row` and `column` (B, h, w): pixels from the first's centre.

    Pixels outside of `box`, or of the image, count as 0. Differentiable in image and places.
    """
    height, width = x.shape[2:]
    down, right = row.detach().floor(), column.detach().floor()
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    for i in (0, 1):
        for j in (0, 1):
            r, c = down.long() + i, right.long() + j
            share = (1 - (row - (down + i)).abs()) * (1 - (column - (right + j)).abs())
            if box:
                inside = (r >= box.top) & (r < box.bottom) & (c >= box.left) & (c < box.right)
            else:
                inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            pixels = gathered(x, r.clamp(0, height - 1), c.clamp(0, width - 1))
            total = total + pixels * (share * inside).to(x.dtype)[:, None]
    return total
