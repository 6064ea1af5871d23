"""Stages that take further gradients, at points around the iterate or ahead of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from agr.attacks.ball import per_image
from agr.attacks.draws import fold, symmetric
from agr.attacks.packing import MOST
from agr.attacks.parts import At, Context, State
from agr.attacks.stages.basic import mean_normalized
from agr.utils.checks import LIMIT, Checked, number, whole


@dataclass(frozen=True)
class Variance(Checked):
    """VMI: adds the variance of the gradient around the last iterate (Wang & He, arXiv:2103.15571).

    Algorithm 1: g + v, and then v <- mean of the gradients at `samples` neighbours - g. Neighbours
    are uniform within `beta` times the budget around the iterate, with a look-ahead (VNI) too, as
    in the authors' code. For L2, which the paper doesn't cover, a pixel's bound is that of a
    perturbation with the same amount everywhere.
    """

    samples: int = whole(20, 1, LIMIT)
    beta: float = number(1.5, 0)

    @property
    def extra(self) -> int:
        """Number of further gradients per step."""
        return self.samples

    @property
    def idle(self) -> bool:
        """True if it changes nothing: its neighbours are the iterate itself."""
        return self.beta == 0

    def init(self, x: Tensor) -> State:
        return {"v": torch.zeros_like(x)}

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]:
        total = torch.zeros_like(g)
        for _, near in c.slopes(At(around(c, self.beta, i), i) for i in range(self.samples)):
            total += near
        return g + s["v"], {"v": total.div_(self.samples).sub_(g)}


@dataclass(frozen=True)
class Enhance(Checked):
    """EMI: the mean gradient along the last mean gradient (Wang et al., arXiv:2103.10609).

    Gradients are taken at `samples` points, evenly spaced from -`reach` to `reach` steps along the
    last mean, which is divided by its mean absolute value. The middle point has a gradient anyway,
    so their number is odd.
    """

    samples: int = whole(11, 1, LIMIT)
    reach: float = number(7.0, 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples % 2 == 0:
            raise ValueError(f"samples={self.samples} leave out the iterate: give an odd number")

    @property
    def extra(self) -> int:
        """Number of further gradients per step."""
        return self.samples - 1

    @property
    def idle(self) -> bool:
        """True if it changes nothing: all its points are the iterate."""
        return self.samples == 1 or self.reach == 0

    def init(self, x: Tensor) -> State:
        return {"last": torch.zeros_like(x)}

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]:
        size, half = c.size / c.ball.ones(c.x), self.samples // 2
        total = g.clone()
        along = ((i, self.reach * i / half * size) for i in range(-half, half + 1) if i)
        points = (At(torch.add(c.point, s["last"], alpha=by), i + half) for i, by in along)
        for _, own in c.slopes(points):
            total += own
        mean = total.div_(self.samples)
        return mean, {"last": mean_normalized(mean)}


@dataclass(frozen=True)
class Penalize(Checked):
    """PGN: gradients at neighbours, and a step down from them (Ge et al., arXiv:2306.05225).

    As in the authors' program, the mean over `samples` neighbours x' of (1 - delta) g' + delta g*,
    with g* the gradient at x' - size * g' / mean|g'|. Neighbours are uniform within `reach` times
    the budget; no gradient is taken at the iterate. Authors: 20, 3 and 0.5.
    """

    samples: int = whole(20, 1, LIMIT)
    reach: float = number(3.0, 0)
    delta: float = number(0.5, 0, 1)
    replaces = True

    @property
    def idle(self) -> bool:
        """True if it changes nothing: all its points are the iterate."""
        return self.reach == self.delta == 0

    @property
    def extra(self) -> int:
        """Number of gradients per step."""
        return 2 * self.samples

    def init(self, x: Tensor) -> State:
        return {}

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]:
        total, size = torch.zeros_like(g), c.size / c.ball.ones(c.x)
        for first in range(0, self.samples, MOST):  # all of a pass are held
            near = {i: around(c, self.reach, i) for i in range(self.samples)[first : first + MOST]}
            own = [g for _, g in c.slopes(At(x, 2 * i) for i, x in near.items())]
            down = (
                At(torch.sub(x, mean_normalized(g), alpha=size), 2 * i + 1)
                for (i, x), g in zip(near.items(), own, strict=True)
            )
            for here, (_, below) in zip(own, c.slopes(down), strict=True):
                total += (1 - self.delta) * here + self.delta * below
        return total.div_(self.samples), s


@dataclass(frozen=True)
class Relate(Checked):
    """GRA: the gradient and the mean of its neighbours', by their cosine (Zhu et al., ICCV 2023).

    s * g + (1 - s) * mean, with s = cos(g, mean) over the image. Neighbours are uniform within
    `reach` times the budget. Authors: 20 and 3.5.
    """

    samples: int = whole(20, 1, LIMIT)
    reach: float = number(3.5, 0)

    @property
    def idle(self) -> bool:
        """True if it changes nothing: its neighbours are the iterate itself."""
        return self.reach == 0

    @property
    def extra(self) -> int:
        """Number of further gradients per step."""
        return self.samples

    def init(self, x: Tensor) -> State:
        return {}

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]:
        total = torch.zeros_like(g)
        for _, near in c.slopes(At(around(c, self.reach, i), i) for i in range(self.samples)):
            total += near
        mean = total.div_(self.samples)
        cosine = per_image(F.cosine_similarity(g.flatten(1), mean.flatten(1)), g)
        return cosine * g + (1 - cosine) * mean, s


def around(c: Context, reach: float, i: int) -> Tensor:
    """Draw neighbour `i` of the iterate (B, 3, H, W), uniform within `reach` times the budget.

    For L2 a pixel's bound is that of a perturbation with the same amount everywhere.
    """
    bound = reach * c.ball.eps / c.ball.ones(c.x)
    return symmetric(fold(c.key, i), c.x.shape[1:], c.x.dtype).mul_(bound).add_(c.image)
