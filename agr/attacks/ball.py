"""The budget: balls that give a direction, a projection and a rounding.

Only a ball knows the norm. Stages and steps ask it for a direction, and `Attack` projects after
each step, so no part can leave the budget, and ``norm=l2`` works with every attack. `eps` is in
units of [0, 1] images here; configs use the 0-255 pixel scale.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from agr.attacks.draws import fold, normal, symmetric, uniform
from agr.attacks.host import known
from agr.utils.pixels import EXACTLY, LEVELS, to_levels

HALVINGS = 8  # in the search of `L2.fit`, which finds its threshold to 0.5/2**8 of a level


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Shape a (B,) tensor so that it broadcasts over the images `like` (B, ...)."""
    return values.view(-1, *[1] * (like.dim() - 1))


def within(v: Tensor) -> tuple[int, ...]:
    """Return the dimensions within an image of `v`; flattening would copy channels_last ones."""
    return tuple(range(1, v.dim()))


def nonzero(v: Tensor) -> Tensor:
    """Return which rows of `v` (B, ...) have a value that isn't 0, (B,); of NaN it is True."""
    return v.abs().amax(within(v)) != 0  # a sixth of the time of asking each value


def row_norm(v: Tensor) -> Tensor:
    """Return the L2 norm of each row of `v` (B, ...), (B,)."""
    return torch.linalg.vector_norm(v, dim=within(v))


@dataclass(frozen=True)
class Ball(abc.ABC):
    """All images within `eps` (in [0, 1] units) of a clean image, and inside [0, 1]."""

    eps: float
    p: ClassVar[float]  # exponent of its norm

    def __post_init__(self) -> None:
        if not 0 <= self.eps < math.inf:
            raise ValueError(f"eps={self.eps} is not a budget: give a finite number, 0 or more")

    @abc.abstractmethod
    def direction(self, g: Tensor) -> Tensor:
        """Return the unit step of steepest ascent for gradients `g` (B, ...), 0 where 0 or NaN."""

    def length(self, v: Tensor) -> Tensor:
        """Return the norm of each row of `v` (B, ...), (B,)."""
        return torch.linalg.vector_norm(v, self.p, within(v))

    @abc.abstractmethod
    def ones(self, x: Tensor) -> float:
        """Return the length of an image like those of `x` (B, ...) whose every value is 1.

        Amounts per pixel are divided by it: a perturbation of ``eps / ones`` everywhere is on the
        budget in either norm.
        """

    @abc.abstractmethod
    def sample(self, key: Tensor, x: Tensor) -> Tensor:
        """Draw perturbations like `x` (B, ...), uniform in the ball, with `key` (B,)."""

    @abc.abstractmethod
    def project(self, x: Tensor, x0: Tensor) -> Tensor:
        """Move `x` (B, ...) into the ball around `x0` and into [0, 1]."""

    @abc.abstractmethod
    def fit(self, v: Tensor) -> Tensor:
        """Round perturbations `v` (B, ...), in levels, to whole levels that keep the budget."""

    def round(self, x: Tensor, x0: Tensor) -> Tensor:
        """Round `x` (B, ...) to 8-bit images that still lie in the ball around the 8-bit `x0`.

        Each pixel goes to its nearest level; those that leave the budget by it are moved back.
        The result is bitwise what ``uint8 / 255`` gives, so a stored image is the scored one.
        """
        v = self.fit((x - x0).mul_(LEVELS))
        return v.add_(to_levels(x0)).clamp_(0, LEVELS).div_(LEVELS)


@dataclass(frozen=True)
class Linf(Ball):
    """max |v| <= eps."""

    p = math.inf

    def direction(self, g: Tensor) -> Tensor:
        return g.sign()  # of NaN it is 0, of infinity 1

    def ones(self, x: Tensor) -> float:
        return 1.0

    def sample(self, key: Tensor, x: Tensor) -> Tensor:
        return symmetric(key, x.shape[1:], x.dtype).mul_(self.eps)

    def project(self, x: Tensor, x0: Tensor) -> Tensor:
        return torch.clamp(x, x0 - self.eps, x0 + self.eps).clamp_(0, 1)

    def fit(self, v: Tensor) -> Tensor:
        limit = int(self.eps * LEVELS * EXACTLY)  # 10/255*255 may be 9.999…: that is ten levels
        return v.round().clamp_(-limit, limit)


@dataclass(frozen=True)
class L2(Ball):
    """sqrt(sum v^2) <= eps, over all pixels and channels of an image."""

    p = 2

    def direction(self, g: Tensor) -> Tensor:
        g = torch.nan_to_num(g, posinf=1.0, neginf=-1.0)
        # Scaled by the largest entry first: squares of tiny gradients would underflow to 0.
        largest = g.abs().amax(within(g)).clamp_min_(torch.finfo(g.dtype).tiny)
        g = g.div_(per_image(largest, g))
        return g.div_(per_image(row_norm(g).clamp_min_(1), g))  # the norm is >= 1 unless g is 0

    def ones(self, x: Tensor) -> float:
        return math.sqrt(math.prod(x.shape[1:]))

    def sample(self, key: Tensor, x: Tensor) -> Tensor:
        """Draw a uniform direction, and a radius that fills the volume evenly."""
        v = normal(fold(key, 0), x.shape[1:], x.dtype)
        radius = uniform(fold(key, 1), (), torch.float64).pow_(1 / math.prod(x.shape[1:]))
        radius *= self.eps
        return v.mul_(per_image((radius / row_norm(v)).to(x.dtype), v))

    def project(self, x: Tensor, x0: Tensor) -> Tensor:
        v = x - x0
        length = self.length(v)
        scale = torch.where(length > self.eps, self.eps / length.clamp_min(1e-30), 1.0)
        return v.mul_(per_image(scale, v)).add_(x0).clamp_(0, 1)

    def fit(self, v: Tensor) -> Tensor:
        """Round to nearest; in rows that leave the ball, move back the pixels rounded farthest out.

        Such a row gets the largest threshold (by bisection) with which stepping back one level
        wherever rounding went outwards by more than the threshold fits the budget. With 0 no pixel
        is farther out than before rounding, which fits but for the rounding of `v` itself; with -1
        every pixel steps back.
        """
        r = v.round()
        outwards = r.abs().sub_(v.abs())
        bound = math.floor((self.eps * LEVELS) ** 2 * EXACTLY)
        # Sums of whole squares are exact up to the dtype's largest odd number, and any that is
        # above the bound stays above it: row order cannot change a verdict.
        dtype = v.dtype if bound < 1 / torch.finfo(v.dtype).eps else torch.float64

        def undone(threshold: Tensor) -> Tensor:
            return torch.where(outwards > per_image(threshold, v), r - r.sign(), r)

        def fits(threshold: Tensor) -> Tensor:
            return undone(threshold).to(dtype).square_().sum(within(v)) <= bound

        high = torch.full((len(v),), 0.5, dtype=v.dtype, device=v.device)
        at_once = fits(high)
        if known(at_once.all(), False):
            return r
        enough = fits(torch.zeros_like(high))
        low = torch.where(at_once, high, torch.where(enough, 0.0, -1.0))
        high = torch.where(enough, high, 0.0)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            good = fits(middle)
            low, high = torch.where(good, middle, low), torch.where(good, high, middle)
        return undone(low)


BALLS: dict[str, type[Ball]] = {"linf": Linf, "l2": L2}
