"""Views that cut an image into blocks: BSR moves and turns them, SIA transforms each by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from agr.attacks.draws import fold, symmetric, uniform
from agr.attacks.parts import Context, Copy
from agr.attacks.views.copies import LEVEL
from agr.attacks.views.sampling import Box, Strips, between, bilinear, gathered, of_blocks, strips
from agr.utils.checks import LIMIT, Checked, number, one_of, whole

WITHIN = math.erf(2 / math.sqrt(2))  # probability of two standard deviations


class Mix(NamedTuple):
    """A draw of `Shuffle`, for each image."""

    heights: Tensor  # (B, k): of the strips of rows, from the top, in proportion
    widths: Tensor  # (B, k): of the strips of columns, from the left
    rows: Tensor  # (B, k) int64: the strips in their new order
    columns: Tensor
    turns: Tensor  # (B, k, k): angle of each block in its old place, in standard deviations


@dataclass(frozen=True)
class Shuffle(Checked):
    """BSR: blocks in a new order, each rotated (Wang et al., arXiv:2308.10299, section 3.3).

    As in the authors' program, rows and columns are cut into `blocks` strips each, of lengths in
    proportion to uniform draws; both are permuted, and every block is rotated bilinearly about its
    centre by a normal angle with deviation `angle` (radians), redrawn beyond two of these. What
    comes from outside of the block is `zero`. Authors: 20 copies, 2 blocks, 0.2, grey.
    """

    copies: int = whole(20, 1, LIMIT)
    blocks: int = whole(2, 1, 64)
    angle: float = number(0.2, 0, math.pi)
    zero: str = one_of("grey", LEVEL)

    def __call__(self, x: Tensor, i: int, c: Context) -> Copy:
        mix, level = self.mix(i, c), LEVEL[self.zero]
        rows = _reordered(mix.heights, mix.rows, x.shape[2])
        columns = _reordered(mix.widths, mix.columns, x.shape[3])
        angle = of_blocks(mix.turns * self.angle, rows.strip, columns.strip)
        sin, cos = angle.sin().to(x.dtype), angle.cos().to(x.dtype)
        tall, wide = rows.length[:, :, None], columns.length[:, None, :]
        top, left = rows.start[:, :, None], columns.start[:, None, :]
        v = (rows.offset[:, :, None] - (tall - 1) / 2).to(x.dtype)  # from the block's centre
        u = (columns.offset[:, None, :] - (wide - 1) / 2).to(x.dtype)
        row = sin * u + cos * v + (top + (tall - 1) / 2)
        column = cos * u - sin * v + (left + (wide - 1) / 2)
        box = Box(top, top + tall, left, left + wide)
        return Copy(bilinear(x - level, row, column, box) + level, 1 / self.copies)

    def mix(self, i: int, c: Context) -> Mix:
        """Draw copy `i`."""

        def draw(use: int, *shape: int) -> Tensor:
            return uniform(fold(c.key, i, use), shape, torch.float64)

        k = self.blocks
        deviates = symmetric(fold(c.key, i, 4), (k, k), torch.float64) * WITHIN
        return Mix(
            *(draw(0, k), draw(1, k), draw(2, k).argsort(1), draw(3, k).argsort(1)),
            torch.erfinv(deviates) * math.sqrt(2),
        )


def lengths_of(shares: Tensor, n: int) -> Tensor:
    """Return lengths (B, k) in proportion to `shares`; the longest takes what lacks to `n`."""
    parts = shares * n / shares.sum(1, keepdim=True)
    lengths = parts.round().long()
    rest = n - lengths.sum(1, keepdim=True)
    lengths = lengths.scatter_add(1, lengths.argmax(1, keepdim=True), rest)
    # Of many strips the longest may lack more than it has: then their ends are rounded instead.
    ends = parts.cumsum(1).round().long()
    ends[:, -1] = n
    spread = ends.diff(dim=1, prepend=torch.zeros_like(ends[:, :1]))
    return torch.where((lengths < 0).any(1, keepdim=True), spread, lengths)


def _reordered(shares: Tensor, order: Tensor, n: int) -> Strips:
    """Return the strips of a line of `n` pixels in a new `order` (B, k): what each was before."""
    lengths = lengths_of(shares, n)
    starts = lengths.cumsum(1) - lengths
    new = strips(lengths.gather(1, order).cumsum(1), n)
    old = order.gather(1, new.strip)
    return new._replace(strip=old, start=starts.gather(1, old))


# What `Structure` may do to a block, in the authors' order.
OPERATIONS = (
    "resize",
    "roll down",
    "roll right",
    "flip rows",
    "flip columns",
    "turn",
    "scale",
    "noise",
    "low-pass",
    "drop",
)
SHRUNK = 0.8  # of a block's side, to which `resize` shrinks it
HIGH = 0.4  # of a block's frequencies, which `low-pass` removes
DROPPED = 0.1  # probability of a channel


class Plan(NamedTuple):
    """A draw of `Structure`, for each image with k x k blocks."""

    rows: Tensor  # (B, k) int64: where the strips of rows end
    columns: Tensor
    operation: Tensor  # (B, k, k) int64: its place in OPERATIONS
    roll: Tensor  # (B, k, k): of the block's side, in [0, 1)
    scale: Tensor  # (B, k, k) in [0, 1)
    kept: Tensor  # (B, 3, k, k) bool: channels that `drop` keeps
    noise: Tensor  # (B, 3, H, W) in (-1, 1)


@dataclass(frozen=True)
class Structure(Checked):
    """SIA: each block of a copy transformed by itself (Wang et al., arXiv:2309.14700).

    `blocks` x `blocks` blocks between random cuts, each under one of the ten operations of the
    authors' program: resized to 0.8 of its side and back, rolled down or right, flipped by rows or
    columns, turned by 180 degrees, scaled towards black by a factor from [0, 1), noise up to
    `noise` (0-255 scale), the upper 40 % of its frequencies removed, channels dropped with
    probability 0.1.
    Authors: 20 copies, 3 blocks, noise 16.
    """

    copies: int = whole(20, 1, LIMIT)
    blocks: int = whole(3, 1, 64)
    noise: float = number(16.0, 0)

    def __call__(self, x: Tensor, i: int, c: Context) -> Copy:
        height, width = x.shape[2:]
        if self.blocks > min(height, width):
            raise ValueError(
                f"blocks={self.blocks} don't fit into images of {height} x {width} px: use fewer"
            )
        p = self.plan(height, width, i, c)
        rows, columns = strips(p.rows, height), strips(p.columns, width)

        def of(table: Tensor) -> Tensor:  # (B, k, k) -> (B, 1, H, W)
            return of_blocks(table.to(x.dtype), rows.strip, columns.strip)[:, None]

        scales, drops, is_noisy, shrinks, smooths = (
            _at(p.operation, name) for name in ("scale", "drop", "noise", "resize", "low-pass")
        )
        factor = torch.where(scales, p.scale, (~(is_noisy | shrinks | smooths)).to(p.scale.dtype))
        kept = torch.cat([of(torch.where(drops, k, factor)) for k in p.kept.unbind(1)], 1)
        moved = gathered(x, *_moved(p, rows, columns))
        made = moved * kept / of(torch.where(drops, 1 - DROPPED, 1.0))
        made = made + (moved + p.noise * (self.noise / 255)).clamp(0, 1) * of(is_noisy)
        small = between(_resized(rows, x.dtype), x, _resized(columns, x.dtype)).clamp(0, 1)
        low = between(_low(rows, x.dtype), x, _low(columns, x.dtype))
        return Copy(made + small * of(shrinks) + low * of(smooths), 1 / self.copies)

    def plan(self, height: int, width: int, i: int, c: Context) -> Plan:
        """Draw copy `i` of images of `height` x `width` px."""

        def draw(use: int, *shape: int) -> Tensor:
            return uniform(fold(c.key, i, use), shape, torch.float64)

        k = self.blocks
        return Plan(
            *(_cuts(draw(0, height - 1), k), _cuts(draw(1, width - 1), k)),
            (draw(2, k, k) * len(OPERATIONS)).long(),
            *(draw(3, k, k), draw(4, k, k), draw(5, 3, k, k) >= DROPPED),
            symmetric(fold(c.key, i, 6), (3, height, width), c.x.dtype),
        )


def _cuts(draws: Tensor, k: int) -> Tensor:
    """Return where k strips of a line end, (B, k): k - 1 places of n - 1, and n."""
    n = draws.shape[1] + 1
    places = draws.argsort(1)[:, : k - 1].sort(1).values + 1
    return torch.cat([places, torch.full((len(draws), 1), n, device=draws.device)], 1)


def _at(does: Tensor, operation: str) -> Tensor:
    return does == OPERATIONS.index(operation)


def _moved(p: Plan, rows: Strips, columns: Strips) -> tuple[Tensor, Tensor]:
    """Return the row and the column (B, H, W) that each pixel comes from."""
    does = of_blocks(p.operation, rows.strip, columns.strip)
    roll = of_blocks(p.roll, rows.strip, columns.strip)
    tall, wide = rows.length[:, :, None], columns.length[:, None, :]
    row, column = rows.offset[:, :, None], columns.offset[:, None, :]
    down = (row - (roll * tall).long()) % tall
    right = (column - (roll * wide).long()) % wide
    turned = _at(does, "turn")
    row = torch.where(_at(does, "roll down"), down, row)
    row = torch.where(_at(does, "flip rows") | turned, tall - 1 - row, row)
    column = torch.where(_at(does, "roll right"), right, column)
    column = torch.where(_at(does, "flip columns") | turned, wide - 1 - column, column)
    return row + rows.start[:, :, None], column + columns.start[:, None, :]


def _resized(line: Strips, dtype: torch.dtype) -> Tensor:
    """Return matrices (B, n, n) that shrink each strip bilinearly and enlarge it again."""
    inner = (line.length * SHRUNK).long() + 1
    same = line.strip[:, :, None] == line.strip[:, None, :]

    def tents(to: Tensor, of: Tensor) -> Tensor:
        """Return weights of pixels of a strip of length `of` in one of length `to`."""
        ratio = (of.double() / to)[:, :, None]
        at = ((line.offset[:, :, None] + 0.5) * ratio - 0.5).clamp_min(0)
        at = torch.minimum(at, (of - 1)[:, :, None].double())
        weights = (1 - (at - line.offset[:, None, :]).abs()).clamp_min(0)
        return weights * same * (line.offset < to)[:, :, None]

    return (tents(line.length, inner) @ tents(inner, line.length)).to(dtype)


def _low(line: Strips, dtype: torch.dtype) -> Tensor:
    """Return matrices (B, n, n) that keep the lower frequencies of each strip of a line."""
    same = line.strip[:, :, None] == line.strip[:, None, :]
    length, k = line.length[:, :, None].double(), line.offset[:, :, None]
    waves = (math.pi / length * (line.offset[:, None, :] + 0.5) * k).cos() * same
    waves = waves * torch.where(k > 0, 2 / length, 1 / length).sqrt()
    kept = waves * (line.offset < line.length - (line.length * HIGH).long())[:, :, None]
    return (kept.transpose(1, 2) @ kept).to(dtype)
