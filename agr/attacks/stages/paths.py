"""Stages that make the gradient of transformed images: MuMoDIG along paths, ANDA over shifts."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from agr.attacks.ball import per_image
from agr.attacks.draws import fold, normal, symmetric, uniform
from agr.attacks.parts import At, Context, State, Stateless
from agr.attacks.views.copies import check_square
from agr.attacks.views.resized import drawn_place, resized, resizing
from agr.attacks.views.sampling import beside, between, either, summed
from agr.utils.checks import LIMIT, Checked, flag, number, whole

# Of MuMoDIG; the first has probability 1/2, the others 1/10 each.
OPERATIONS = ("resize", "roll down", "roll right", "flip rows", "flip columns", "turn")
WIDEST = math.radians(45)  # angle of a turn
Change = Callable[[Tensor], Tensor]


class Move(NamedTuple):
    """A draw of one of `Integrate`'s transforms, for each image: (B,) each."""

    operation: Tensor  # int64: its place in OPERATIONS
    roll: Tensor  # of the image's side, in [0, 1)
    angle: Tensor  # radians
    size: Tensor  # int64: of the resized image, and its place
    top: Tensor
    left: Tensor


@dataclass(frozen=True)
class Integrate(Checked, Stateless):
    """MuMoDIG: gradients on paths from baselines to transformed images (arXiv:2412.18844).

    Ren et al. (AAAI 2025), as in the authors' program. The image itself and `copies` transforms of
    it - half of them resized and padded up to `ratio` times the side and resized back, the others
    rolled, flipped or turned by up to 45 degrees - are joined to `baselines` quantised ones each,
    whose every pixel falls to the lower end of its part of its channel's range, cut at random into
    `regions`. At `points` places on each path, the i-th at (i + `position`) / `points`, the
    gradient goes back to the image and is multiplied by the path; all are summed. No gradient is
    taken at the iterate. Authors: 6, 1, 2, 1, 0.65, and 245 px for images of 224.
    """

    copies: int = whole(6, 0, LIMIT)
    baselines: int = whole(1, 1, LIMIT)
    regions: int = whole(2, 1, 256)
    points: int = whole(1, 1, LIMIT)
    position: float = number(0.65, 0, 1)
    ratio: float = number(245 / 224, 1, 4)
    replaces = True

    @property
    def extra(self) -> int:
        """Number of gradients per step."""
        return (self.copies + 1) * self.baselines * self.points

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]:
        check_square(c.x)
        total, canvas = torch.zeros_like(g), self.canvas(c.x.shape[-1])
        paths = deque[Tensor]()  # of points whose gradients are awaited

        def points() -> Iterator[At]:
            uses = itertools.count()
            for k, j in itertools.product(range(self.copies + 1), range(self.baselines)):
                moved = mover(self.move(k, c), c.image, canvas) if k else _same
                image = moved(c.image)
                low = floors(image, self.levels(k, j, c).to(image.dtype))
                for i in range(self.points):
                    paths.append(image - low)
                    place = (i + self.position) / self.points
                    make = partial(_between, moved=moved, low=low, place=place)
                    yield At(c.image, next(uses), make)

        for _, slope in c.slopes(points()):
            total += slope * paths.popleft()
        return total, s

    def canvas(self, side: int) -> int:
        """Return the side of the padded transforms of an image of `side` px."""
        return round(side * self.ratio)

    def move(self, k: int, c: Context) -> Move:
        """Draw transform `k`."""
        chance, roll = (uniform(fold(c.key, k, use), (), torch.float64) for use in (4, 5))
        operation = ((chance * 10).long() - 4).clamp_min(0)
        angle = symmetric(fold(c.key, k, 6), (), torch.float64) * WIDEST
        side = c.x.shape[-1]
        return Move(
            *(operation, roll, angle), *drawn_place(fold(c.key, k), side, self.canvas(side))
        )

    def levels(self, k: int, j: int, c: Context) -> Tensor:
        """Draw where the ranges of the channels are cut for baseline `j`, (B, 3, regions - 1)."""
        return uniform(fold(c.key, k, 7, j), (c.x.shape[1], self.regions - 1), torch.float64)


def mover(move: Move, x: Tensor, canvas: int) -> Change:
    """Return a transform of images such as `x` (B, 3, H, W); what comes from outside is black.

    What it takes is worked out once: it is applied to the image, and again for its gradient.
    """
    height, width = x.shape[2:]
    roll, angle = move.roll[:, None, None], move.angle[:, None, None]
    row = torch.arange(height, device=x.device, dtype=torch.float64)[None, :, None]
    column = torch.arange(width, device=x.device, dtype=torch.float64)[None, None, :]

    def at(operation: str) -> Tensor:
        return (move.operation == OPERATIONS.index(operation))[:, None, None]

    v, u = row - (height - 1) / 2, column - (width - 1) / 2  # from the centre
    sin, cos = angle.sin(), angle.cos()
    down, right = sin * u + cos * v + (height - 1) / 2, cos * u - sin * v + (width - 1) / 2
    down = torch.where(at("turn"), down, row)
    right = torch.where(at("turn"), right, column)
    down = torch.where(at("roll down"), (row - (roll * height).floor()) % height, down)
    right = torch.where(at("roll right"), (column - (roll * width).floor()) % width, right)
    down = torch.where(at("flip rows"), height - 1 - row, down)
    right = torch.where(at("flip columns"), width - 1 - column, right)
    pixels, resize = beside(down, right, x), at("resize")[:, None]
    large = [
        resizing(width, move.size, offset, canvas, "bilinear", x.dtype)
        for offset in (move.top, move.left)
    ]

    def change(x: Tensor) -> Tensor:
        small = resized(between(large[0], x, large[1]), width, "bilinear")
        return either(resize, small, summed(x, pixels))

    return change


def _same(x: Tensor) -> Tensor:
    return x


def floors(x: Tensor, levels: Tensor) -> Tensor:
    """Lower each pixel of `x` (B, C, H, W) to the next cut, or to the least of its channel.

    The cuts of a channel are its range's least plus `levels` (B, C, cuts) of its length.
    """
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    floor = low.expand_as(x)
    for level in levels.unbind(2):
        cut = level[:, :, None, None] * (high - low) + low
        floor = torch.where(x >= cut, torch.maximum(floor, cut), floor)
    return floor


def _between(x: Tensor, *, moved: Change, low: Tensor, place: float) -> Tensor:
    return low + place * (moved(x) - low)


@dataclass(frozen=True)
class Collect(Checked):
    """ANDA: the mean of all gradients so far, over shifts of the image (arXiv:2209.11964).

    Fang et al. (CVPR 2024). As in the authors' program, every step takes the gradients of
    `side` x `side` shifts of the image, evenly spaced within `reach` times half of it each way,
    bilinear and with black around. None is normalised. With `sample` the last step is along a
    draw from the normal distribution that has the mean and the covariance of all of them. No
    gradient is taken at the iterate. Authors: 5 and 0.3; their output a is the mean, b the
    draw.
    """

    side: int = whole(5, 1, 100)
    reach: float = number(0.3, 0, 2)
    sample: bool = flag(False)
    replaces = True

    @property
    def extra(self) -> int:
        """Number of gradients per step."""
        return self.side**2

    def init(self, x: Tensor) -> State:
        return {name: torch.zeros_like(x) for name in ("total", "away")[: 1 + self.sample]}

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]:
        n = self.side
        line = [self.reach * (2 * i / (n - 1) - 1) for i in range(n)] if n > 1 else [0.0]
        total, drawn = s["total"].clone(), torch.zeros_like(g)
        z = torch.zeros_like(c.t, dtype=g.dtype)  # the sum of the draws
        shifts = (partial(shifted, down=d, right=r) for r, d in itertools.product(line, line))
        points = (At(c.image, i, shift) for i, shift in enumerate(shifts))
        for i, (_, slope) in enumerate(c.slopes(points)):
            slope = slope.nan_to_num_(0.0, 0.0, 0.0)  # it would stay in the sum for good
            total += slope
            if self.sample:
                own = self.draw(i, c).to(g.dtype)
                z, drawn = z + own, drawn + slope * per_image(own, g)
        mean = total / per_image((c.t + 1) * self.extra, g)
        if not self.sample:
            return mean, {"total": total}
        # Deviations from each step's mean, each times its own normal number.
        away = s["away"] + drawn - mean * per_image(z, g)
        deviation = away / math.sqrt(max(c.steps * self.extra - 1, 1))
        last = per_image(c.t + 1 == c.steps, g)
        return torch.where(last, mean + deviation, mean), {"total": total, "away": away}

    def draw(self, i: int, c: Context) -> Tensor:
        """Draw the factor of the deviation of shift `i`, (B,)."""
        return normal(fold(c.key, i), (), torch.float64)


def shifted(x: Tensor, *, down: float, right: float) -> Tensor:
    """Shift images `x` (B, C, H, W) up and left by shares of half of it, with black around."""
    return _shift(x, x.shape[2], down) @ x @ _shift(x, x.shape[3], right).T


def _shift(x: Tensor, n: int, share: float) -> Tensor:
    """Return the matrix (n, n) that reads a line of `n` pixels `share` * n / 2 further on."""
    at = torch.arange(n, dtype=torch.float64, device=x.device)
    return (1 - (at[:, None] + share * n / 2 - at).abs()).clamp_min_(0).to(x.dtype)
