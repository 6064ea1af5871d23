"""Images sampled at places of their own: pixels moved, or interpolated between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]


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


def tents(place: Tensor, n: int) -> list[Pair]:
    """Return the pixels before and after places (B, m) on a line of `n`, and their shares.

    A share is 1 less the distance, and 0 for the pixel after the last.
    """
    before = place.floor()
    return [
        (at.long().clamp(0, n - 1), (1 - (place - at).abs()).clamp_min(0))
        for at in (before, before + 1)
    ]


def between(down: Tensor, x: Tensor, right: Tensor) -> Tensor:
    """Return `x` (B, C, h, w) between matrices on its rows (B, H, h) and its columns (B, W, w)."""
    return down[:, None] @ x @ right[:, None].transpose(2, 3)


def either(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return `a` where the condition holds and `b` elsewhere: finite images of (B, C, H, W).

    `torch.where` and its gradient take three times as long on a CPU.
    """
    share = condition.to(a.dtype)
    return a * share + b * (1 - share)


def gathered(x: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Return the pixels of `x` (B, C, H, W) at `row` and `column`, (B, h, w) int64 each."""
    return _pixels(x, row * x.shape[3] + column)


def _pixels(x: Tensor, index: Tensor) -> Tensor:
    """Return the pixels of `x` (B, C, H, W) that are counted by `index` (B, h, w), row by row."""
    places = index.flatten(1)[:, None].expand(-1, x.shape[1], -1)
    # Not grid_sample, whose gradients are not deterministic on a GPU.
    return x.flatten(2).gather(2, places).view(*x.shape[:2], *index.shape[1:])


def bilinear(x: Tensor, row: Tensor, column: Tensor, box: Box | None = None) -> Tensor:
    """Interpolate `x` (B, C, H, W) at `row` and `column` (B, h, w): pixels from the first's centre.

    Pixels outside of `box`, or of the image, count as 0. Differentiable in image and places.
    """
    return summed(x, beside(row, column, x, box))


def beside(row: Tensor, column: Tensor, x: Tensor, box: Box | None = None) -> list[Pair]:
    """Return the four pixels of `x` beside each place, for `summed`: counted, and their shares."""
    height, width = x.shape[2:]
    top, bottom, left, right = box or (0, height, 0, width)
    rows, columns = _on_line(row, top, bottom, height), _on_line(column, left, right, width)
    return [(r * width + c, (tall * wide).to(x.dtype)) for r, tall in rows for c, wide in columns]


def summed(x: Tensor, pixels: Sequence[Pair]) -> Tensor:
    """Return the sum of pixels of `x` times their shares, (B, C, h, w)."""
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    for index, share in pixels:
        total = total + _pixels(x, index) * share[:, None]
    return total


def _on_line(place: Tensor, first: Tensor | int, end: Tensor | int, n: int) -> list[Pair]:
    """Return the pixels before and after a place on a line of `n`, and the share of each.

    That of pixels outside of [`first`, `end`) is 0.
    """
    before = place.detach().floor()
    pixel, part = before.long(), place - before
    return [
        (p.clamp(0, n - 1), share * ((p >= first) & (p < end)))
        for p, share in ((pixel, 1 - part), (pixel + 1, part))
    ]
