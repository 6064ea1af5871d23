"""The budget: balls that give a direction, a projection and a rounding.

A ball is the only thing that knows the norm. Stages and steps ask it for a direction, and
`Attack` projects after each step, so no part can leave the budget and ``norm=l2`` touches no
attack. `eps` is in units of [0, 1] images here; configs speak of the 0-255 pixel scale.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from agr.attacks.draws import fold, normal, symmetric, uniform
from agr.utils.pixels import LEVELS, to_levels

# Halvings of the search in `L2.round`: finds the threshold to 0.5/2**8 of a level.
HALVINGS = 8


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Shape a (B,) tensor so that it broadcasts over the images `like` (B, ...)."""
    return values.view(-1, *[1] * (like.dim() - 1))


def within(v: Tensor) -> tuple[int, ...]:
    """The dimensions of `v` (B, ...) within an image: flattening would copy channels_last ones."""
    return tuple(range(1, v.dim()))


def row_norm(v: Tensor) -> Tensor:
    """L2 norm of each row of `v` (B, ...), shape (B,)."""
    return torch.linalg.vector_norm(v, dim=within(v))


@dataclass(frozen=True)
class Ball(abc.ABC):
    """All images within `eps` (in [0, 1] units) of a clean image, and inside [0, 1]."""

    eps: float
    p: ClassVar[float]  # of its norm

    def __post_init__(self) -> None:
        if not 0 <= self.eps < math.inf:
            raise ValueError(f"eps={self.eps} is not a budget: give a finite number, 0 or more")

    @abc.abstractmethod
    def direction(self, g: Tensor) -> Tensor:
        """The unit step of steepest ascent for gradients `g` (B, ...); 0 where `g` is 0 or NaN."""

    @abc.abstractmethod
    def unit_sign(self, g: Tensor) -> Tensor:
        """sign(g) scaled to length 1 in this norm: what a formula that prints sign() means."""

    @abc.abstractmethod
    def length(self, v: Tensor) -> Tensor:
        """The norm of each row of `v` (B, ...), (B,)."""

    @abc.abstractmethod
    def ones(self, x: Tensor) -> float:
        """The length of an image like `x` (B, ...) whose every value is 1.

        What per-pixel amounts are divided by: a perturbation of ``eps / ones`` everywhere is on
        the budget in either norm.
        """

    @abc.abstractmethod
    def sample(self, key: Tensor, x: Tensor) -> Tensor:
        """Perturbations like `x` (B, ...), uniform in the ball, drawn with `key` (B,)."""

    @abc.abstractmethod
    def project(self, x: Tensor, x0: Tensor) -> Tensor:
        """`x` (B, ...) moved into the ball around `x0` and into [0, 1]."""

    @abc.abstractmethod
    def fit(self, v: Tensor) -> Tensor:
        """Whole-level perturbations near `v` (B, ..., in levels) that keep the budget."""

    def round(self, x: Tensor, x0: Tensor) -> Tensor:
        """The 8-bit image nearest to `x` that still lies in the ball around the 8-bit `x0`.

        Each pixel goes to its nearest level; pixels that thereby left the budget are undone.
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

    unit_sign = direction

    def length(self, v: Tensor) -> Tensor:
        return v.abs().amax(within(v))

    def ones(self, x: Tensor) -> float:
        return 1.0

    def sample(self, key: Tensor, x: Tensor) -> Tensor:
        return symmetric(key, x.shape[1:], x.dtype).mul_(self.eps)

    def project(self, x: Tensor, x0: Tensor) -> Tensor:
        return torch.clamp(x, x0 - self.eps, x0 + self.eps).clamp_(0, 1)

    def fit(self, v: Tensor) -> Tensor:
        limit = int(self.eps * LEVELS + 1e-6)  # 10/255*255 may be 9.999…: that is ten levels
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

    def unit_sign(self, g: Tensor) -> Tensor:
        return self.direction(g.sign())

    def length(self, v: Tensor) -> Tensor:
        return row_norm(v)

    def ones(self, x: Tensor) -> float:
        return math.sqrt(math.prod(x.shape[1:]))

    def sample(self, key: Tensor, x: Tensor) -> Tensor:
        """A direction that is uniform on the sphere, at a radius that fills the volume evenly."""
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
        """Round to nearest; in rows that left the ball, undo the pixels rounded farthest out.

        A row that left it gets the largest threshold (by bisection) such that stepping back
        one level wherever rounding went outwards by more than the threshold fits the budget.
        Threshold 0 always fits: no pixel is then farther out than before rounding.
        """
        r = v.round()
        outwards = r.abs().sub_(v.abs())
        bound = (self.eps * LEVELS) ** 2 * (1 + 1e-6)
        # Sums of whole squares are exact up to the dtype's largest odd number, and any that is
        # above the bound stays above it: row order cannot change a verdict.
        dtype = v.dtype if bound < 1 / torch.finfo(v.dtype).eps else torch.float64

        def undone(threshold: Tensor) -> Tensor:
            return torch.where(outwards > per_image(threshold, v), r - r.sign(), r)

        def fits(threshold: Tensor) -> Tensor:
            return undone(threshold).to(dtype).square_().sum(within(v)) <= bound

        high = torch.full((len(v),), 0.5, dtype=v.dtype, device=v.device)
        if bool(fits(high).all()):
            return r
        low = torch.where(fits(high), high, 0.0)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            good = fits(middle)
            low, high = torch.where(good, middle, low), torch.where(good, high, middle)
        return undone(low)


BALLS: dict[str, type[Ball]] = {"linf": Linf, "l2": L2}
