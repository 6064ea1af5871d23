"""The operations of L2T, each image's own: see `agr.attacks.stages.learned`."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from agr.attacks.ball import per_image
from agr.attacks.draws import fold, integers, normal, uniform
from agr.attacks.host import known
from agr.attacks.parts import Pool
from agr.attacks.views.blocks import lengths_of
from agr.attacks.views.operators import padded, rotated
from agr.attacks.views.sampling import between, gathered, strips
from agr.attacks.views.spectrum import dct_matrix

NOISE = 16 / 255  # deviation of the noise before a spectral mask, whatever the budget is
HALVED = 3  # copies that `mix` makes of each mixture: itself, and its half and quarter


class Operation(NamedTuple):
    """An operation: what it does, how many copies it makes of an image, and its numbers."""

    kind: str
    copies: int
    values: tuple[float, ...] = (0.0,)


def _operations() -> tuple[Operation, ...]:
    drops = ["1", "12", "123", "1234", "12345", "2345", "1345", "1245", "1235", "1234"]
    rates = (0.2, 0.4, 0.5, 0.6, 0.8, 0.1, 0.3, 0.7, 0.9)
    return (
        Operation("identity", 1),
        *(Operation("rotate", 5, (30.0 * i,)) for i in range(1, 11)),
        *(Operation("scale", i) for i in range(1, 11)),
        *(Operation("resize", 1, (r / 100,)) for r in range(110, 156, 5)),
        *(Operation("shuffle", 10, (float(i),)) for i in range(3, 13)),
        *(Operation("mix", HALVED * i, (float(i), s)) for s in (0.2, 0.4) for i in range(1, 6)),
        *(Operation("drop", len(d), tuple(int(p) / 10 for p in d)) for d in drops),
        *(Operation("mask", 5, (float(i),)) for i in (2, 4, 6, 8, 10, 3, 5, 7, 9, 11)),
        *(Operation("spectrum", 5, (r,)) for r in rates),
        *(Operation("crop", 5, (i / 10,)) for i in range(1, 10)),
        *(Operation("move", 5, (r / 100,)) for r in range(50, 91, 5)),
    )


OPERATIONS = _operations()  # in the authors' order
KINDS = tuple(dict.fromkeys(o.kind for o in OPERATIONS))
STRIPS = int(max(o.values[0] for o in OPERATIONS if o.kind == "shuffle"))
# Uses of a key.
CHOICE, PLACE, FIRST, OUTER, INNER, PARTNER, KEEP, BLOCK, SPECTRUM, GAUSS = range(10)


@lru_cache(maxsize=8)
def table(name: str, device: torch.device) -> Tensor:
    """Return a number of each operation: "kind", "copies", or the place of one of its values."""
    of = {
        "kind": lambda o: KINDS.index(o.kind),
        "copies": lambda o: o.copies,
    }
    if name in of:
        return torch.tensor([of[name](o) for o in OPERATIONS], device=device)
    values = [[*o.values, *[0.0] * 5][int(name)] for o in OPERATIONS]
    return torch.tensor(values, dtype=torch.float64, device=device)


class At(NamedTuple):
    """The copies that operations make of images: which one, of which image; (B,) each."""

    operation: Tensor  # int64: its place in OPERATIONS
    copy: Tensor  # int64
    element: Tensor  # int64: number of the image, among the copies of the operation before
    key: Tensor

    def value(self, i: int = 0) -> Tensor:
        """Return the operation's value `i`, float64."""
        return table(str(i), self.key.device)[self.operation]

    def does(self, kind: str) -> Tensor:
        """Return the images whose operation is of a kind, (B,) bool."""
        return table("kind", self.key.device)[self.operation] == KINDS.index(kind)

    def draws(self, use: int, copy: Tensor | int, *shape: int) -> Tensor:
        """Draw numbers (B, *shape) in [0, 1), the same for all elements."""
        return uniform(fold(self.key, use, copy), shape, torch.float64)

    def own(self, use: int, copy: Tensor | int) -> Tensor:
        """Return the key (B,) of draws that are each element's."""
        return fold(self.key, use, copy, self.element)


def applied(x: Tensor, at: At, pool: Pool) -> Tensor:
    """Make the copy of each square image (B, 3, S, S) that `at` describes."""
    made = _moved(x, at)
    made = torch.where(per_image(at.does("scale"), x), x / _halving(at.copy, x), made)
    if known(at.does("mix").any(), True):
        count = at.value().long().clamp_min(1)
        mixed = x + per_image(at.value(1).to(x.dtype), x) * partner(at, at.copy % count, pool)
        mixed = mixed / _halving(at.copy // count, x)
        made = torch.where(per_image(at.does("mix"), x), mixed, made)
    if known(at.does("drop").any(), True):
        kept = keep(at, at.copy, x) >= per_image(_of_copy(at).to(x.dtype), x)
        made = torch.where(per_image(at.does("drop"), x), x * kept, made)
    sized = at.does("resize") | at.does("crop")
    if known(sized.any(), True):
        down, right = (line.to(x.dtype) for line in _lines(at, x.shape[-1]))
        made = torch.where(per_image(sized, x), between(down, x, right), made)
    if known(at.does("spectrum").any(), True):
        dct = dct_matrix(x.shape[-1], x.dtype, x.device)
        factor = 1 + per_image(at.value().to(x.dtype), x) * (2 * mask(at, at.copy, x) - 1)
        masked = dct.T @ ((dct @ (x + NOISE * noise(at, at.copy, x)) @ dct.T) * factor) @ dct
        made = torch.where(per_image(at.does("spectrum"), x), masked, made)
    return made


def partner(at: At, copy: Tensor, pool: Pool) -> Tensor:
    """Draw the images (B, 3, S, S) that are mixed in."""
    return pool.images[integers(at.own(PARTNER, copy), 0, len(pool.images))]


def keep(at: At, copy: Tensor | int, x: Tensor) -> Tensor:
    """Draw numbers in [0, 1), like `x`, of which `drop` keeps the large ones."""
    return uniform(at.own(KEEP, copy), x.shape[1:], x.dtype)


def mask(at: At, copy: Tensor | int, x: Tensor) -> Tensor:
    """Draw a spectral mask, like `x`: from 0 to 1."""
    return uniform(at.own(SPECTRUM, copy), x.shape[1:], x.dtype)


def noise(at: At, copy: Tensor | int, x: Tensor) -> Tensor:
    """Draw noise of deviation 1, like `x`."""
    return normal(at.own(GAUSS, copy), x.shape[1:], x.dtype)


def _halving(times: Tensor, x: Tensor) -> Tensor:
    return per_image((2.0**times).to(x.dtype), x)


def _of_copy(at: At) -> Tensor:
    """Return each copy's own value."""
    values = torch.stack([at.value(i) for i in range(5)], 1)
    return values.gather(1, at.copy.clamp_max(4)[:, None])[:, 0]


def _moved(x: Tensor, at: At) -> Tensor:
    """Rotate, move, shuffle or mask, or leave as it is."""
    side, zero = x.shape[-1], torch.zeros_like(at.key, dtype=torch.float64)
    degrees = torch.where(at.does("rotate"), at.value() / 2.0**at.copy, zero)
    row, column = rotated(side, degrees)
    pixels = torch.where(at.does("move"), at.value() * (at.copy + 1) / 5, zero)[:, None, None]
    # A half goes to the even number: 0 is left of the first pixel, 1 the place of it, and so on.
    line = torch.arange(side, dtype=torch.float64, device=x.device)
    moved = (line - pixels).round(decimals=9).round().long()
    is_move = per_image(at.does("move"), row)
    row = torch.where(is_move, moved.transpose(1, 2).expand_as(row), row)
    column = torch.where(is_move, moved.expand_as(column), column)
    if known(at.does("shuffle").any(), True):
        is_shuffle = per_image(at.does("shuffle"), row)
        shuffled = _shuffled(at, side)
        row = torch.where(is_shuffle, shuffled[0], row)
        column = torch.where(is_shuffle, shuffled[1], column)
    inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
    inside &= ~(_masked(at, side) & per_image(at.does("mask"), row))
    made = gathered(x, row.clamp(0, side - 1), column.clamp(0, side - 1))
    return made * inside[:, None]


def _masked(at: At, side: int) -> Tensor:
    """Return the pixels (B, side, side) of one of n x n blocks."""
    n = at.value().clamp_min(1)[:, None]
    block = (at.draws(BLOCK, at.copy, 2) * n).floor()
    step = side / n
    first, end = (step * block).round(), (step * (block + 1)).round()
    line = torch.arange(side, device=n.device)[None, None]
    within = (line >= first[:, :, None]) & (line < end[:, :, None])
    return within[:, 0, :, None] & within[:, 1, None, :]


def _shuffled(at: At, side: int) -> tuple[Tensor, Tensor]:
    """Return the row and the column (B, side, side) that each pixel of shuffled blocks has."""
    outer = at.draws(OUTER, at.copy, 2, STRIPS)
    inner = at.draws(INNER, at.copy, STRIPS, 2, STRIPS)
    n = at.value().long()
    strip, along = _reordered(outer, n, side)
    many = n.repeat_interleave(STRIPS)
    _, places = _reordered(inner.flatten(0, 1), many, side)
    places = places.view(len(n), STRIPS, side)
    across = places.gather(1, strip[:, :, None].expand(-1, -1, side))
    along = along[:, :, None].expand_as(across)
    down_first = per_image(at.draws(FIRST, at.copy, 1)[:, 0] < 0.5, across)
    row = torch.where(down_first, along, across.transpose(1, 2))
    return row, torch.where(down_first, across, along.transpose(1, 2))


def _reordered(drawn: Tensor, n: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Cut lines into `n` (B,) strips each, and reorder these, by `drawn` (B, 2, STRIPS).

    Returns each pixel's new strip, and the pixel that it was before; (B, side) each.
    """
    beyond = torch.arange(STRIPS, device=n.device) >= n[:, None]
    lengths = lengths_of(drawn[:, 0].masked_fill(beyond, 0.0), side)
    order = drawn[:, 1].masked_fill(beyond, 2.0).argsort(1)
    starts = lengths.cumsum(1) - lengths
    new = strips(lengths.gather(1, order).cumsum(1), side)
    return new.strip, starts.gather(1, order).gather(1, new.strip) + new.offset


def _lines(at: At, side: int) -> tuple[Tensor, Tensor]:
    """Return matrices (B, side, side) for rows and columns of resized and cropped images."""
    full = (side * torch.where(at.does("resize"), at.value(), 1.0)).long()
    u = at.draws(PLACE, 0, 3)
    size = side + (u[:, 0] * (full - side)).long()
    lines = [padded(side, full, size, (u[:, k] * (full - size)).long(), u.dtype) for k in (1, 2)]
    ratio = at.value()
    kept = (side * (ratio + (1 - ratio) * ((at.copy.double() + 1) / 5))).long()
    offset = (side - kept) // 2
    pixels = torch.arange(side, dtype=torch.float64, device=kept.device)
    place = ((pixels + 0.5) * (kept[:, None].double() / side) - 0.5).clamp_min(0)
    place = place.minimum(kept[:, None] - 1.0) + offset[:, None]
    crop = (1 - (place[:, :, None] - pixels).abs()).clamp_min(0)
    is_crop = per_image(at.does("crop"), crop)
    return torch.where(is_crop, crop, lines[0]), torch.where(is_crop, crop, lines[1])
