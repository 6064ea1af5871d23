"""Stages that make the gradient around the iterate: at neighbours (MEF, NCS) or the worst (RAP)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from agr.attacks.ball import per_image
from agr.attacks.draws import fold
from agr.attacks.parts import At, Context, State, Stateless
from agr.attacks.stages.basic import mean_normalized
from agr.attacks.stages.points import around
from agr.utils.checks import LIMIT, Checked, number, whole


@dataclass(frozen=True)
class Flatten(Checked):
    """MEF: the mean gradient at neighbours, each moved along its last ones (arXiv:2405.16181).

    Qiu et al., as in the authors' program: point k is a neighbour, uniform within `reach` times the
    budget, plus `along` times the budget in a direction d_k of its own; then
    d_k <- g_k / mean|g_k| - `inner_decay` * d_k, from 0. No gradient is taken at the iterate. The
    state holds `samples` directions for each image. Authors: 20, 2, 0.15 and 0.9.

    With `penalty` it is NCS, the paper's first version: g_k is weighted by
    1/n - lambda 2 (n - 1)/n^2 (J_k - mean J), with lambda `penalty` times the step size over T.
    """

    samples: int = whole(20, 1, 1000)  # each is an image in the state
    reach: float = number(2.0, 0)
    along: float = number(0.15, 0)
    inner_decay: float = number(0.9, 0)
    penalty: float = number(0.0, 0)
    replaces = True

    @property
    def idle(self) -> bool:
        """True if it changes nothing: all its points are the iterate."""
        return self.reach == self.along == 0

    @property
    def extra(self) -> int:
        """Number of gradients per step."""
        return self.samples

    def init(self, x: Tensor) -> State:
        return {str(k): torch.zeros_like(x) for k in range(self.samples)}

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]:
        n, ones = self.samples, c.ball.ones(c.x)
        along, lamb = self.along * c.ball.eps / ones, self.penalty * c.size / ones / c.steps
        total, found, waiting = torch.zeros_like(g), State(), list[tuple[Tensor, Tensor]]()

        def take(k: int, part: Tensor) -> None:
            total.add_(part)
            last = s[str(k)]
            found[str(k)] = torch.sub(mean_normalized(part), last, alpha=self.inner_decay)

        points = (torch.add(around(c, self.reach, k), s[str(k)], alpha=along) for k in range(n))
        for k, (loss, slope) in enumerate(c.slopes(map(At, points, range(n)))):
            if lamb:  # weights need all losses
                waiting.append((loss, slope))
            else:
                take(k, slope / n)
        mean = sum(loss for loss, _ in waiting) / n
        for k, (loss, slope) in enumerate(waiting):
            weight = 1 / n - lamb * 2 * (n - 1) / n**2 * (loss - mean)
            take(k, slope * per_image(weight, slope).to(slope.dtype))
        return total, found


@dataclass(frozen=True)
class Reverse(Checked, Stateless):
    """RAP: the gradient at the worst point nearby for the attack (Qin et al., arXiv:2210.05968).

    That is found by `inner` steps down the attack's goal, each of an equal share of `reach` times
    the budget, from a random point within `reach` and never beyond it. As in the authors' program
    these steps are on the cross-entropy, whatever the loss, and without views. The first `late` of
    the T steps go without (RAP-LS). Authors: 8, 1 (16/255), and 100 of 400 steps.
    """

    inner: int = whole(8, 1, LIMIT)
    reach: float = number(1.0, 0)
    late: float = number(0.25, 0, 1)
    replaces = True
    extra = 1

    @property
    def idle(self) -> bool:
        """True if it changes nothing: its point is the iterate."""
        return self.reach == 0 or self.late == 1

    @property
    def bare(self) -> int:
        """Number of gradients per step that no view takes part in."""
        return self.inner

    def left_out(self, steps: int) -> int:
        """Return how many of these the first of all `steps` do without."""
        return self.inner * self._first(steps)

    def _first(self, steps: int) -> int:
        return math.floor(self.late * steps + 1e-9)

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]:
        first = self._first(c.steps)
        rows = c.t >= first if first else None  # others' points stay where they are
        ball = replace(c.ball, eps=self.reach * c.ball.eps)
        point = ball.project(ball.sample(fold(c.key, 0), c.x).add_(c.image), c.image)
        for i in range(self.inner):
            _, slope = c.slope(point, i, rows=rows, bare=True)
            down = torch.sub(point, ball.direction(slope), alpha=ball.eps / self.inner)
            point = ball.project(down, c.image)
        if rows is not None:
            point = torch.where(per_image(rows, point), point, c.image)
        return c.grad(point, self.inner), s
