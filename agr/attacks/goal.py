"""The goal of an attack: what its gradients climb."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from agr.attacks.contracts import Objective, View
from agr.attacks.loss import CrossEntropy
from agr.attacks.parts import Loss, State
from agr.attacks.surrogate import Features


class Goal(NamedTuple):
    """The loss that an attack climbs, or descends when targeted, and the views it is taken over."""

    loss: Loss
    objective: Objective | None
    views: tuple[View, ...]
    targeted: bool

    def losses(
        self, logits: Tensor, y: Tensor, features: Features, made: State, image: Tensor
    ) -> Tensor:
        """Return the loss of each image, (B,), or its objective, where features were taken."""
        if not (part := self.objective):
            return self.own(logits, y)
        seen = [*features, image] if getattr(part, "image", False) else features
        value = part(logits, y, seen, made["objective"])
        if self.targeted and getattr(part, "climbs", False):
            value = -value  # `gradient` descends
        return self.own(logits, y) + value if getattr(part, "adds", False) else value

    def own(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the attack's own loss of each image, (B,); over an ensemble's members the mean."""
        if logits.dim() == 2:
            return self.loss(logits, y)
        return torch.stack([self.loss(own, y) for own in logits.unbind(1)]).mean(0)

    @property
    def joint(self) -> bool:
        """True if the loss is that of the mean of the copies' logits."""
        return any(getattr(view, "joint", False) for view in self.views)

    def bare(self) -> Goal:
        """Return the goal of the plain loss, without views."""
        return Goal(CrossEntropy(), None, (), self.targeted)

    def climbed(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return what the attack's own loss climbs, (B,): its negative if it is targeted."""
        found = self.own(logits, y)
        return -found if self.targeted else found

    def gradient(self, losses: Tensor, point: Tensor) -> Tensor:
        """Return the gradient of the sum of `losses` (B,) at `point`, towards the attack's goal."""
        loss = losses.sum()
        (g,) = torch.autograd.grad(-loss if self.targeted else loss, point)
        return g
