"""The passes of an attack before an image's first step, and the state made in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from agr.attacks.goal import Goal
from agr.attacks.parts import Context, State
from agr.attacks.surrogate import Features, Surrogate


class Maker:
    """The state that an attack makes of each image before its first step, and its passes."""

    def __init__(self, goal: Goal, source: Surrogate, y: Tensor, c: Context, members: int = 1):
        self.goal, self.source, self.y, self.c = goal, source, y, c
        self.members = members  # whose passes are counted each
        self.layers: Mapping[str, nn.Module] = source.layers  # of the part that asks
        self.forwards = self.backwards = 0

    def make(self) -> State:
        """Return features of the clean images, and what the objective and views keep."""
        self.source.prepare()
        self.recorded = made = self.source.record(self.c)
        self.forwards += len(self.source.clean) * self.members
        if self.goal.objective:
            made = made | {"objective": self.goal.objective.make(self, self.y, self.c)}
        for j, (view, layers) in self.source.reading.items():
            self.layers = layers
            made = made | {f"view {j}": view.make(self, self.y, self.c)}
        return made

    def loss(self, logits: Tensor) -> Tensor:
        """Return what the attack's own loss climbs, (B,): its negative if it is targeted."""
        return self.goal.climbed(logits, self.y)

    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        """Return the features (B, ...) at each of the layers."""
        with self.source.ruled(self.c, self.recorded, layers=self.layers) as features:
            self.source(images)
        self.forwards += self.source.passes
        return self._usable(features, images)

    def gradients(
        self, images: Tensor, loss: Callable[[Tensor, Features], Tensor]
    ) -> tuple[Tensor, Features]:
        """Return gradients of `loss(logits, features)` (B,): at the images, and at the features."""
        leaf = images.detach().requires_grad_()
        with torch.enable_grad():
            with self.source.ruled(self.c, self.recorded, layers=self.layers) as features:
                logits = self.source(leaf)
            self._usable(features, images)
            found = torch.autograd.grad(
                loss(logits, features).sum(), [leaf, *features], allow_unused=True
            )
        self.forwards += self.source.passes
        self.backwards += 1
        at, *others = (
            torch.zeros_like(t) if g is None else g
            for g, t in zip(found, [leaf, *features], strict=True)
        )
        return at, [g.to(images.dtype) for g in others]

    def _usable(self, features: Features, images: Tensor) -> Features:
        """Return features in the images' dtype. Raises ValueError without a row for each image."""
        for name, own in zip(self.layers, features, strict=True):
            if len(own) != len(images):
                raise ValueError(
                    f"layer {name} makes {len(own)} rows of {len(images)} images, so that none is "
                    "an image's own: name another layer"
                )
        return [own.to(images.dtype) for own in features]
