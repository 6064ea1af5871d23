"""Starts: the first iterates of an attack. Without one they are the clean images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from agr.attacks.ball import Ball
from agr.attacks.draws import normal
from agr.utils.checks import Checked, number
from agr.utils.pixels import LEVELS


@dataclass(frozen=True)
class Uniform(Checked):
    """Uniform in the ball of `radius` times the budget (PGD; Madry et al., arXiv:1706.06083).

    It is uniform in volume in L2 too: a normal direction at a radius u^(1/d).
    """

    radius: float = number(1.0, 0, 1)

    def __call__(self, x0: Tensor, ball: Ball, key: Tensor) -> Tensor:
        return ball.sample(key, x0).mul_(self.radius).add_(x0)


@dataclass(frozen=True)
class Normal(Checked):
    """Normal noise of `deviation`, on the 0-255 scale (AdaEA; Chen et al., arXiv:2308.02897)."""

    deviation: float = number(0.255, 0)

    def __call__(self, x0: Tensor, ball: Ball, key: Tensor) -> Tensor:
        return normal(key, x0.shape[1:], x0.dtype).mul_(self.deviation / LEVELS).add_(x0)
