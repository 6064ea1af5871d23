"""Strategies: ways to join the gradients of an ensemble."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from agr.attacks.ball import L2
from agr.attacks.contracts import AskMembers
from agr.attacks.draws import fold, integers, uniform
from agr.attacks.parts import Context, State, Stateless
from agr.attacks.stages.basic import mean_normalized
from agr.utils.checks import LIMIT, Checked, number, one_of, whole

TINY = 1e-12  # least loss that another is divided by
AT_POINT, AROUND = 0, 1  # uses of a gradient: at the point of the step, and the first elsewhere
UNIT = L2(1.0)


@dataclass(frozen=True)
class VarianceReduction(Checked, Stateless):
    """SVRE: the momentum of inner steps with less variance (Xiong et al., arXiv:2111.10752).

    As in the authors' program: h is the gradient of the loss of the mean logits at the point x of
    the step, and v starts at x. Each of `inner` rounds draws a member for an image, takes g = its
    gradient at v - (its gradient at x - h) and the momentum G <- inner_decay * G + g / mean|g|, and
    moves v by `inner_size` steps along G, within the ball. The result is the last G. Authors: 16
    rounds (4 members), 1 and 1. They take the gradient at x anew in every round; here each member's
    is taken once.
    """

    inner: int = whole(16, 1, LIMIT)
    inner_size: float = number(1.0, 0)
    inner_decay: float = number(1.0, 0)

    def gradients(self, members: int) -> int:
        return 2 * members + self.inner

    def computed(self, members: int) -> int:
        """Return the passes of a batch in a step: rounds may take any member."""
        return (2 + self.inner) * members

    def update(self, ask: AskMembers, members: int, s: State, c: Context) -> tuple[Tensor, State]:
        whole = ask.blended(c.point, _alike(c, members, 1 / members), AT_POINT)
        there = torch.stack([ask.gradient(c.point, i, AT_POINT) for i in range(members)], 1)
        walker, G = c.point, torch.zeros_like(c.point)
        rows = torch.arange(len(walker), device=walker.device)
        for i in range(self.inner):
            member = self.member(members, i, c)
            here = ask.gradient(walker, member, AROUND + i)
            g = here - (there[rows, member] - whole)
            G = torch.add(mean_normalized(g), G, alpha=self.inner_decay)
            walker = _moved(c, walker, G, self.inner_size * c.size)
        return G, s

    def member(self, members: int, i: int, c: Context) -> Tensor:
        """Draw the member (B,) of round `i`, with replacement."""
        return integers(fold(c.key, i), 0, members)


@dataclass(frozen=True)
class Adaptive(Checked, Stateless):
    """AdaEA: logits weighted by how members' attacks transfer (Chen et al., arXiv:2308.02897).

    As in the authors' program: member k's own step leads to a_k, and with L_i the loss of member i
    the weights are softmax_k(beta * sum of L_i(a_k) / L_i(a_i) over i != k). The result is the
    gradient of the loss of the weighted logits, 0 at pixels where the mean cosine of two members'
    gradients, across channels, is below `threshold`. Targeted, the ratio is turned over. It needs
    losses above 0, as the cross-entropy's. Authors: 10 and -0.3.

    `pairs` "program": their program leaves out one half of the pairs with the last member, but
    counts them in the mean, which is then too near 0, at two members by a factor of 2; "all": every
    pair counts alike.
    """

    beta: float = number(10.0, 0)
    threshold: float = number(-0.3, -1, 1)
    pairs: str = one_of("program", ("program", "all"))
    positive = True  # of losses

    def gradients(self, members: int) -> int:
        return 2 * members

    def computed(self, members: int) -> int:
        """Return the passes of a batch in a step: each member looks at each one's step."""
        return (2 + members) * members

    def update(self, ask: AskMembers, members: int, s: State, c: Context) -> tuple[Tensor, State]:
        each = [ask.gradient(c.point, i, AT_POINT) for i in range(members)]
        looks = [ask.logits(_moved(c, c.point, g, c.size)) for g in each]
        losses = torch.stack([torch.stack([*map(ask.loss, z.unbind(1))], 1) for z in looks], 1)
        g = ask.blended(c.point, self.weights(losses, targeted=ask.targeted), AT_POINT)
        return torch.where(self.agreement(each) >= self.threshold, g, 0.0), s

    def weights(self, losses: Tensor, *, targeted: bool) -> Tensor:
        """Return weights (B, members) from what member i climbs at the step of k, (B, k, i)."""
        losses = -losses if targeted else losses
        own = losses.diagonal(dim1=1, dim2=2)[:, None].expand_as(losses)
        over, under = (own, losses) if targeted else (losses, own)
        itself = torch.eye(losses.shape[1], dtype=torch.bool, device=losses.device)
        ratios = (over / under.clamp_min(TINY)).masked_fill(itself, 0)
        return (self.beta * ratios.sum(2)).softmax(1)

    def agreement(self, each: list[Tensor]) -> Tensor:
        """Return the mean cosine of gradients across channels, (B, 1, H, W)."""
        units = [F.normalize(mean_normalized(g), dim=1) for g in each]
        total, count = torch.zeros_like(units[0][:, :1]), len(each)
        for j, b in enumerate(units):
            times = 1 if self.pairs == "program" and j == count - 1 else 2
            for a in units[:j]:
                total += (a * b).sum(1, keepdim=True) * (times / (count * (count - 1)))
        return total


@dataclass(frozen=True)
class CommonWeakness(Checked):
    """CWA: a step down the loss, then one up that of each member (Chen et al., arXiv:2303.09105).

    As in the authors' MI-CWA: v starts at the point x of the step, moved by `reverse` times the
    budget down the loss of the sum of all logits (or, with `over`, their mean). For each member in
    turn n <- inner_decay * n + g / ||g||_2, with g its gradient at v, and v <- v + inner_size * n,
    within the ball; n lives on through all steps. The result is v - x. `inner_size` is an L2 length
    of images in [0, 1]: the authors' 250 mostly leads to the bounds. Authors: 1/15, 250, 1, sum.
    """

    reverse: float = number(1 / 15, 0)
    inner_size: float = number(250.0, 0)
    inner_decay: float = number(1.0, 0)
    over: str = one_of("sum", ("sum", "mean"))

    def gradients(self, members: int) -> int:
        return 2 * members

    def init(self, x: Tensor) -> State:
        return {"n": torch.zeros_like(x)}

    def update(self, ask: AskMembers, members: int, s: State, c: Context) -> tuple[Tensor, State]:
        share = 1.0 if self.over == "sum" else 1 / members
        down = -ask.blended(c.point, _alike(c, members, share), AT_POINT)
        walker, n = _moved(c, c.point, down, self.reverse * c.ball.eps), s["n"]
        for i in range(members):
            g = UNIT.direction(ask.gradient(walker, i, AROUND + i))
            n = torch.add(g, n, alpha=self.inner_decay)
            walker = c.ball.project(torch.add(walker, n, alpha=self.inner_size), c.x0)
        return walker - c.point, {"n": n}


@dataclass(frozen=True)
class Reweighing(Checked):
    """SMER: the momentum of inner steps in members that are reweighed (Tang et al., CVPR 2024).

    As in the authors' program: weights w are 1 before the first step, and live on through all. v
    starts at the point of the step. Each of `rounds` goes through all members in an order drawn for
    an image. With g the gradient of the loss of w_k times member k's logits at v,
    G <- inner_decay * G + g / mean|g|, and v moves by `inner_size` steps along G, within the ball;
    w <- w + rate * (d log L / dw - shrink * w), with L the loss of the mean of w_j times member j's
    logits at v, before that move. The result is the last G. Targeted, w goes down log L. Authors: 4
    rounds, 0.02, 0.002, 1 and 1.
    """

    rounds: int = whole(4, 1, LIMIT)
    rate: float = number(0.02, 0)
    shrink: float = number(0.002, 0)
    inner_size: float = number(1.0, 0)
    inner_decay: float = number(1.0, 0)

    def gradients(self, members: int) -> int:
        return self.rounds * members

    def computed(self, members: int) -> int:
        """Return the passes of a batch in a step: any member's gradient, and all their logits."""
        return 2 * self.rounds * members**2

    def init(self, x: Tensor) -> State:
        return {"weights": x.new_ones(len(x), 1)}  # of any number of members

    def update(self, ask: AskMembers, members: int, s: State, c: Context) -> tuple[Tensor, State]:
        weights = s["weights"].expand(-1, members)
        walker, G = c.point, torch.zeros_like(c.point)
        for i in range(self.rounds * members):
            if i % members == 0:
                order = self.order(members, i // members, c)
            member = order[:, i % members]
            weight = weights.gather(1, member[:, None]).squeeze(1)
            g = ask.gradient(walker, member, AROUND + i, weight)
            weights = self.reweighed(weights, ask, walker)
            G = torch.add(mean_normalized(g), G, alpha=self.inner_decay)
            walker = _moved(c, walker, G, self.inner_size * c.size)
        return G, {"weights": weights}

    def order(self, members: int, i: int, c: Context) -> Tensor:
        """Draw the order (B, members) of round `i`."""
        return uniform(fold(c.key, i), (members,), torch.float64).argsort(1)

    def reweighed(self, weights: Tensor, ask: AskMembers, point: Tensor) -> Tensor:
        """Return the weights (B, members) after a step at a point."""
        logits, leaf = ask.logits(point), weights.detach().requires_grad_()
        with torch.enable_grad():
            losses = ask.loss((leaf[:, :, None] * logits).mean(1))
            (g,) = torch.autograd.grad(losses.sum(), leaf)
        pull = (g / losses.detach().abs()[:, None]).nan_to_num(0.0, 0.0, 0.0)  # a loss may be 0
        return weights + self.rate * (pull - self.shrink * weights)


def _alike(c: Context, members: int, weight: float) -> Tensor:
    """Return the same weight for all members, (B, members)."""
    return c.x.new_full((len(c.x), members), weight)


def _moved(c: Context, x: Tensor, along: Tensor, length: float) -> Tensor:
    """Return `x` moved by a length in the ball's norm, within the ball."""
    return c.ball.project(torch.add(x, c.ball.direction(along), alpha=length), c.x0)
