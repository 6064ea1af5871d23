"""The passes of an ensemble's members, which a strategy asks for."""

from __future__ import annotations

import torch
from torch import Tensor

from agr.attacks.ball import nonzero, per_image
from agr.attacks.gradient import Taker
from agr.attacks.host import known
from agr.attacks.parts import Context


class Members:
    """Passes of an ensemble's members that a strategy asks for in a step: see `AskMembers`."""

    def __init__(self, taker: Taker, c: Context):
        self.taker, self.c, self.targeted = taker, c, taker.goal.targeted
        self.flat = torch.ones_like(taker.live)  # every gradient so far was zero

    def gradient(
        self, point: Tensor, member: Tensor | int, use: int, weight: Tensor | float = 1.0
    ) -> Tensor:
        """Return the gradient of the loss of a member's logits, times `weight`."""
        at = self.c._replace(point=point).at(use)
        if isinstance(member, int):
            return self._noted(self.taker.through_views(at, {member: weight}))
        total = torch.zeros_like(point)
        for own in range(len(self.taker.source.members)):
            rows = self.taker.live & (member == own)
            if known(rows.any(), True):  # in a batch of its own shape, as ever
                g = self.taker.of(rows).through_views(at, {own: weight})
                total = torch.where(per_image(rows, g), g, total)
        return self._noted(total)

    def blended(self, point: Tensor, weights: Tensor, use: int) -> Tensor:
        """Return the gradient of the loss of the logits' sum, by `weights` (B, members)."""
        at = self.c._replace(point=point).at(use)
        return self._noted(self.taker.through_views(at, dict(enumerate(weights.unbind(1)))))

    @torch.no_grad()
    def logits(self, point: Tensor) -> Tensor:
        """Return all members' logits (B, members, classes), without a gradient, views or rules."""
        members = self.taker.source.members
        self.taker.looked.add_(self.taker.live, alpha=len(members))
        return torch.stack([member(point) for member in members], 1)

    def loss(self, logits: Tensor) -> Tensor:
        """Return what the attack's own loss climbs, (B,): its negative if it is targeted."""
        return self.taker.goal.climbed(logits, self.taker.y)

    def _noted(self, g: Tensor) -> Tensor:
        self.flat &= ~nonzero(g)
        return g
