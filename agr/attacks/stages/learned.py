"""L2T: chains of operations, drawn by a policy that each image learns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from agr.attacks.ball import per_image
from agr.attacks.draws import fold, uniform
from agr.attacks.host import told
from agr.attacks.parts import Context, State
from agr.attacks.stages.operations import CHOICE, OPERATIONS, At, applied, table
from agr.attacks.views.copies import check_square
from agr.utils.checks import LIMIT, Checked, number, whole

MOST = max(o.copies for o in OPERATIONS)
MEAN = sum(o.copies for o in OPERATIONS) / len(OPERATIONS)


class Chains(NamedTuple):
    """The chains of a step."""

    operations: Tensor  # (B, samples, length) int64: places in OPERATIONS
    ends: Tensor  # (B, samples) int64: copies up to the end of each chain


@dataclass(frozen=True)
class Learn(Checked):
    """L2T: gradients through chains of operations, drawn by a learnt policy (arXiv:2405.14077).

    Zhu et al. (CVPR 2024), as in the authors' program. Each step draws `samples` chains of `length`
    operations out of 98, which make 1 to 15 copies of each image they get, from the softmax of a
    policy that starts at 0. The gradient is the mean over chains of the mean over their copies;
    then the policy climbs the mean over chains of the loss times the chain's probability, by `rate`
    times its gradient. Images to mix in come from a pool of `pool`. Outside of images all is black.
    No gradient is taken at the iterate alone. A chain of two makes 29 copies on average and 225 at
    most. Authors: 3, 2 and 0.01, with which the policy hardly moves.
    """

    samples: int = whole(3, 1, 100)
    length: int = whole(2, 1, 3)
    rate: float = number(0.01, 0)
    pool: int = whole(64, 1, LIMIT)
    replaces = True

    @property
    def extra(self) -> int:
        """Number of gradients per step, at most."""
        return int(self.samples * MOST**self.length)

    @property
    def charged(self) -> int:
        """Number of gradients per step, on average while the policy is even."""
        return round(self.samples * MEAN**self.length)

    def init(self, x: Tensor) -> State:
        return {"policy": x.new_zeros(len(x), len(OPERATIONS))}

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]:
        check_square(c.x)
        chains = self.chains(s["policy"], c)
        counts = chains.ends.diff(dim=1, prepend=torch.zeros_like(chains.ends[:, :1]))
        total, value = torch.zeros_like(g), g.new_zeros(len(g), self.samples)
        ((most,),) = told(chains.ends[:, -1].amax(0, keepdim=True))
        for n in range(int(most)):
            rows = n < chains.ends[:, -1]
            sample = self._sample(n, chains)[:, None]
            make = partial(self.copy, n=n, chains=chains, c=c)
            losses, slope = c.slope(c.image, n, make, rows=rows)
            share = rows.to(g.dtype) / counts.gather(1, sample)[:, 0]
            # What isn't finite would stay in the policy for good.
            losses, slope = losses.nan_to_num(0.0, 0.0, 0.0), slope.nan_to_num(0.0, 0.0, 0.0)
            total += slope * per_image(share / self.samples, slope)
            value.scatter_add_(1, sample, (losses * share)[:, None])
        return total, {"policy": s["policy"] + self.rate * self.pull(s["policy"], chains, value)}

    def chains(self, policy: Tensor, c: Context) -> Chains:
        """Draw the chains of a step."""
        drawn = [
            uniform(fold(c.key, i, place, CHOICE, 0), (), torch.float64)
            for i in range(self.samples)
            for place in range(self.length)
        ]
        passed = (
            policy.double().softmax(1).cumsum(1)[:, None, :] <= torch.stack(drawn, 1)[..., None]
        )
        operations = passed.sum(2).clamp_max(len(OPERATIONS) - 1)
        operations = operations.view(-1, self.samples, self.length)
        return Chains(operations, table("copies", policy.device)[operations].prod(2).cumsum(1))

    def pull(self, policy: Tensor, chains: Chains, value: Tensor) -> Tensor:
        """Return the gradient of the mean over chains of `value` (B, samples) times probability."""
        q, flat = policy.softmax(1), chains.operations.flatten(1)
        chance = q.gather(1, flat).view(chains.operations.shape).prod(2) * value / self.samples
        drawn = chance.repeat_interleave(self.length, 1)
        taken = torch.zeros_like(q).scatter_add_(1, flat, drawn)
        return taken - drawn.sum(1, keepdim=True) * q

    def copy(self, x: Tensor, *, n: int, chains: Chains, c: Context) -> Tensor:
        """Make copy `n` of each image; its chains' copies are counted one after the other."""
        assert c.pool is not None  # `Attack` checks it
        sample = self._sample(n, chains)
        ends = torch.cat([torch.zeros_like(chains.ends[:, :1]), chains.ends], 1)
        left = n - ends.gather(1, sample[:, None])[:, 0]
        size, element = torch.ones_like(left), torch.zeros_like(left)
        for place in range(self.length):
            operation = chains.operations[:, :, place].gather(1, sample[:, None])[:, 0]
            copies = table("copies", x.device)[operation]
            at = At(operation, left % copies, element, fold(c.key, sample, place))
            x = applied(x, at, c.pool.first(self.pool))
            # As if each operation put its copies of a whole stack one after the other.
            element, left, size = at.copy * size + element, left // copies, size * copies
        return x

    def _sample(self, n: int, chains: Chains) -> Tensor:
        """Return the chain (B,) of copy `n`, the last one beyond its end."""
        return (n >= chains.ends).sum(1).clamp_max(self.samples - 1)
