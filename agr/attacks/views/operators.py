"""OPS: chains of operators on neighbours of the image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from agr.attacks.ball import per_image
from agr.attacks.draws import fold, symmetric, uniform
from agr.attacks.parts import Context, Copy
from agr.attacks.views.copies import check_square
from agr.attacks.views.sampling import between, either, gathered, tents
from agr.utils.checks import Checked, number, whole

# The operators' numbers: 0 none, 1 and 2 flips of rows and of columns, 3 and 4 rolls down and to
# the right, then rotations, divisions, and resizing with padding, in the authors' order.
ROTATIONS = (5, -5, 15, -15, 45, -45, 90, -90, 180)  # degrees, counter-clockwise
DIVISORS = (2, 3, 4, 5, 6, 7, 8)
RATES = (1.1, 1.3, 1.5, 1.7, 1.9, 2.1, 2.3, 2.5, 2.7, 2.9)  # of the padded side
ROTATE, DIVIDE = 5, 5 + len(ROTATIONS)
RESIZE = DIVIDE + len(DIVISORS)
KINDS = RESIZE + len(RATES)
LENGTHS = (2, 3, 4)  # of chains, of which there are KINDS each to choose from
RADII = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


class Chain(NamedTuple):
    """A draw of `Operators`, for each image."""

    operators: Tensor  # (B, 4) int64, 0 from the chain's end on
    numbers: Tensor  # (B, 4, 3) in [0, 1): size or shift, top, left


@dataclass(frozen=True)
class Operators(Checked):
    """OPS: the image, and chains of operators on neighbours of it (Guo et al., CVPR 2025).

    As in the authors' program, each step takes `neighbours` of a pool of 6 * `neighbours` noises
    that stays the same for an image, uniform within `reach` times the budget times 0.25 to 1.5. On
    each neighbour act `chains` chains of 2 to 4 of 31 operators: flips, rolls, rotations (nearest
    pixel), divisions by 2 to 8, resizing to up to 1.1 to 2.9 of the side with padding. Outside all
    is black. The image itself counts as one copy. Authors: 10, 20 and 2; their scripts go from
    1 x 1 to 30 x 30.
    """

    neighbours: int = whole(10, 1, 1000)
    chains: int = whole(20, 1, KINDS * len(LENGTHS))
    reach: float = number(2.0, 0)

    @property
    def copies(self) -> int:
        """Number of copies: the image, and each chain on each neighbour."""
        return 1 + self.neighbours * self.chains

    def __call__(self, x: Tensor, i: int, c: Context) -> Copy:
        if i == 0:
            return Copy(x, 1 / self.copies)
        check_square(x)
        if x.shape != c.x.shape:
            raise ValueError(f"Operators of {x.shape[-1]} px: put them before what resizes images")
        k, m = divmod(i - 1, self.chains)
        made, chain = x + self.noise(self.pick(k, c), c), self.chain(k, m, c)
        for at in range(max(LENGTHS)):
            made = applied(made, chain.operators[:, at], chain.numbers[:, at])
        return Copy(made, 1 / self.copies)

    def pick(self, k: int, c: Context) -> Tensor:
        """Draw the noise of the pool that makes neighbour `k` of this step, (B,) int64."""
        pool = len(RADII) * self.neighbours
        return uniform(fold(c.key, 0), (pool,), torch.float64).argsort(1)[:, k]

    def noise(self, j: Tensor, c: Context) -> Tensor:
        """Draw noise `j` (B,) of each image's pool, which is the same in every step."""
        radii = _table(RADII, j.device).to(c.x.dtype)[j // self.neighbours]
        bound = self.reach * c.ball.eps / c.ball.ones(c.x) * radii
        return symmetric(fold(c.root, POOL, j), c.x.shape[1:], c.x.dtype) * per_image(bound, c.x)

    def chain(self, k: int, m: int, c: Context) -> Chain:
        """Draw chain `m` on neighbour `k`: one of KINDS of each length, none of them twice."""
        choices = KINDS * len(LENGTHS)
        choice = uniform(fold(c.key, 1, k), (choices,), torch.float64).argsort(1)[:, m]
        key = fold(c.key, 2, k, choice)
        drawn = (uniform(fold(key, 0), (max(LENGTHS),), torch.float64) * KINDS).long()
        places = torch.arange(max(LENGTHS), device=key.device)
        ends = LENGTHS[0] + (choice // KINDS)[:, None]
        numbers = uniform(fold(key, 1), (max(LENGTHS), 3), torch.float64)
        return Chain(torch.where(places < ends, drawn, 0), numbers)


POOL = 1 << 21  # use of an image's own key, apart from its start and steps


def applied(x: Tensor, operator: Tensor, numbers: Tensor) -> Tensor:
    """Apply an operator (B,) to each square image, with its numbers (B, 3) in [0, 1)."""
    is_resize = per_image(operator >= RESIZE, x)
    return either(is_resize, _resized(x, operator, numbers), _moved(x, operator, numbers))


def _moved(x: Tensor, operator: Tensor, numbers: Tensor) -> Tensor:
    """Flip, roll, rotate or divide each image."""
    side, n = x.shape[-1], operator[:, None, None]
    row, column = rotated(side, _of(ROTATIONS, operator - ROTATE, 0.0))
    shift = (numbers[:, :1, None] * side).long()
    row = torch.where(n == 1, side - 1 - row, torch.where(n == 3, _back(row, shift, side), row))
    column = torch.where(n == 2, side - 1 - column, column)
    column = torch.where(n == 4, _back(column, shift, side), column)
    inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
    made = gathered(x, row.clamp(0, side - 1), column.clamp(0, side - 1))
    share = inside / _of(DIVISORS, operator - DIVIDE, 1.0)[:, None, None]
    return made * share.to(x.dtype)[:, None]


def _back(place: Tensor, shift: Tensor, side: int) -> Tensor:
    """Return places on a line, less a shift below `side`, which come again from the end."""
    moved = place - shift  # `%` takes three times as long on a CPU
    return moved + (moved < 0) * side


def rotated(side: int, degrees: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest row and column (B, side, side) that each pixel has after a rotation."""
    at = torch.arange(side, dtype=torch.float64, device=degrees.device) - (side - 1) / 2
    v, u = at[None, :, None], at[None, None, :]
    sin, cos = (f(degrees * (math.pi / 180))[:, None, None] for f in (torch.sin, torch.cos))

    def nearest(place: Tensor) -> Tensor:  # a tie goes to the even one, whatever the rounding
        return (place + (side - 1) / 2).round(decimals=9).round().long()

    return nearest(sin * u + cos * v), nearest(cos * u - sin * v)


def _resized(x: Tensor, operator: Tensor, numbers: Tensor) -> Tensor:
    """Enlarge each image to a random size, pad it to its full one, and shrink that to the side."""
    side = x.shape[-1]
    full = (side * _of(RATES, operator - RESIZE, RATES[0])).long()
    size = side + (numbers[:, 0] * (full - side)).long()
    top, left = ((numbers[:, k] * (full - size)).long() for k in (1, 2))
    down, right = (padded(side, full, size, at, x.dtype) for at in (top, left))
    return between(down, x, right)


def padded(side: int, full: Tensor, size: Tensor, offset: Tensor, dtype: torch.dtype) -> Tensor:
    """Return matrices (B, side, side) of `_resized` for a line, of each image's numbers (B,)."""
    pixels = torch.arange(side, dtype=torch.float64, device=full.device)
    made = torch.zeros(len(full), side, side, dtype=torch.float64, device=full.device)
    full, size, offset = (t[:, None].double() for t in (full, size, offset))
    place = ((pixels + 0.5) * (full / side) - 0.5).clamp_min(0).minimum(full - 1)  # padded
    for at in (place.floor(), place.floor() + 1):
        inside = (at >= offset) & (at < offset + size)
        source = ((at - offset + 0.5) * (side / size) - 0.5).clamp(0, side - 1)
        share = (1 - (place - at).abs()) * inside
        for pixel, tent in tents(source, side):
            made.scatter_add_(2, pixel[:, :, None], (tent * share)[:, :, None])
    return made.to(dtype)


def _of(values: tuple[float, ...], index: Tensor, otherwise: float) -> Tensor:
    """Return the value at each index (B,), or another one where there is none; float64."""
    last = len(values)
    return _table((*values, otherwise), index.device)[
        torch.where((index >= 0) & (index < last), index, last)
    ]


@lru_cache(maxsize=16)  # every operator asks, and on a GPU a copy would wait
def _table(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=device)
