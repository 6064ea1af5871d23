"""The gradient of an attack: of its loss or objective, through its views, on its surrogate."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor

from agr.attacks.ball import per_image
from agr.attacks.parts import AskMember, Context, Loss, Objective, State, View
from agr.attacks.surrogate import Features, Surrogate
from agr.utils.errors import first_line


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

    def gradient(self, losses: Tensor, point: Tensor) -> Tensor:
        """Return the gradient of the sum of `losses` (B,) at `point`, towards the attack's goal."""
        loss = losses.sum()
        (g,) = torch.autograd.grad(-loss if self.targeted else loss, point)
        return g


class Taker(NamedTuple):
    """The gradients of a step, taken and counted."""

    goal: Goal
    source: Surrogate
    made: State  # by `Maker`, for each image
    y: Tensor  # (B,): labels, or target labels
    live: Tensor  # (B,) bool: rows that count
    spent: Tensor  # (B,): passes of each row, added to in place

    def through_views(self, c: Context, member: int | None = None) -> Tensor:
        """Return the gradient at `c.point` (B, 3, H, W), over all copies by their shares.

        Copies without a share in a living row are skipped. `member` is that of an ensemble.
        """
        total = torch.zeros_like(c.point)
        views = self.goal.views
        for copy in itertools.product(*(range(view.copies) for view in views)):
            leaf = c.point.detach().requires_grad_()
            own = c.at(*copy)  # of the draws of rules
            with torch.enable_grad():
                image, share, draw = leaf, cast(Tensor | float, 1.0), cast(Tensor | None, None)
                for j, view in enumerate(views):
                    # All copies of a view share a key; of those before it each has its own.
                    at = c.at(j, *copy[:j])
                    if getattr(view, "asks", 0):
                        at = at._replace(losses=self._asked(leaf, own, member, draw))
                    made = view(image, copy[j], at)
                    image, share = made.image, share * made.share
                    draw = draw if made.draw is None else made.draw
                takes = share > 0 if isinstance(share, Tensor) else torch.ones_like(self.live)
                if isinstance(share, Tensor) and not bool((self.live & takes).any()):
                    continue
                losses = self._losses(image, leaf, own, member, draw) * share
                g = self.goal.gradient(torch.where(takes, losses, 0.0), leaf)
            # Rows without a share are left out, since 0 times a NaN is no 0.
            total += torch.where(per_image(takes, g), g, 0.0) if isinstance(share, Tensor) else g
            self.spent.add_(self.live & takes)
        return total

    def of_members(self, c: Context) -> AskMember:
        """Return what a strategy calls for gradients of an ensemble's members."""

        def ask(point: Tensor, member: Tensor | int, use: int) -> Tensor:
            at = c._replace(point=point).at(use)
            if isinstance(member, int):
                return self.through_views(at, member)
            total = torch.zeros_like(point)
            for own in range(len(self.source.members)):
                rows = member == own
                if bool((rows & self.live).any()):  # in a batch of its own shape, as ever
                    g = self._replace(live=self.live & rows).through_views(at, own)
                    total = torch.where(per_image(rows, g), g, total)
            return total

        return ask

    def _losses(
        self, image: Tensor, leaf: Tensor, c: Context, member: int | None, draw: Tensor | None
    ) -> Tensor:
        model = self.source if member is None else self.source.members[member]
        with self.source.ruled(c, self.made, member) as features:
            logits = _logits(model, image, leaf, draw)
        return self.goal.losses(logits, self.y, features, self.made, leaf)

    def _asked(
        self, leaf: Tensor, c: Context, member: int | None, draw: Tensor | None
    ) -> Callable[[Tensor], Tensor]:
        """Return what a view calls for losses (B,) of a copy of its own, towards the goal."""

        def losses(image: Tensor) -> Tensor:
            self.spent.add_(self.live)
            found = self._losses(image, leaf, c, member, draw)
            return -found if self.goal.targeted else found

        return losses


class Maker:
    """The state that an attack makes of each image before its first step, and its passes."""

    def __init__(self, goal: Goal, source: Surrogate, y: Tensor, c: Context):
        self.goal, self.source, self.y, self.c = goal, source, y, c
        self.forwards = self.backwards = 0

    def make(self) -> State:
        """Return features of the clean images, and what the objective keeps."""
        self.source.prepare()
        self.recorded = made = self.source.record(self.c.x0)
        self.forwards += bool(made)
        if self.goal.objective:
            made = made | {"objective": self.goal.objective.make(self, self.y, self.c)}
        return made

    def loss(self, logits: Tensor) -> Tensor:
        """Return what the attack's own loss climbs, (B,): its negative if it is targeted."""
        found = self.goal.own(logits, self.y)
        return -found if self.goal.targeted else found

    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        """Return the features (B, ...) at each of the objective's layers."""
        with self.source.ruled(self.c, self.recorded) as features:
            self.source(images)
        self.forwards += 1
        return self._usable(features, images)

    def gradients(
        self, images: Tensor, loss: Callable[[Tensor, Features], Tensor]
    ) -> tuple[Tensor, Features]:
        """Return gradients of `loss(logits, features)` (B,): at the images, and at the features."""
        leaf = images.detach().requires_grad_()
        with torch.enable_grad(), self.source.ruled(self.c, self.recorded) as features:
            logits = self.source(leaf)
        with torch.enable_grad():
            self._usable(features, images)
            found = torch.autograd.grad(
                loss(logits, features).sum(), [leaf, *features], allow_unused=True
            )
        self.forwards, self.backwards = self.forwards + 1, self.backwards + 1
        at, *others = (
            torch.zeros_like(t) if g is None else g
            for g, t in zip(found, [leaf, *features], strict=True)
        )
        return at, [g.to(images.dtype) for g in others]

    def _usable(self, features: Features, images: Tensor) -> Features:
        """Return features in the images' dtype. Raises ValueError without a row for each image."""
        for name, own in zip(self.source.layers, features, strict=True):
            if len(own) != len(images):
                raise ValueError(
                    f"layer {name} makes {len(own)} rows of {len(images)} images, so that none is "
                    "an image's own: name another layer"
                )
        return [own.to(images.dtype) for own in features]


def _logits(
    model: Surrogate | Callable[..., Tensor], image: Tensor, own: Tensor, draw: Tensor | None
) -> Tensor:
    """Return the logits for copies of the images `own`; ValueError if it can't take their size.

    A model that is defended makes its draws with the keys `draw`, if there are some.
    """
    keys = {} if draw is None or not getattr(model, "takes_draw", False) else {"draw": draw}
    if image.shape == own.shape:
        return model(image, **keys)
    side = [own.shape[-1]] if getattr(model, "takes_side", False) else []
    try:
        return model(image, *side, **keys)
    except (RuntimeError, AssertionError, ValueError) as e:
        if isinstance(e, torch.OutOfMemoryError) or "allocate memory" in str(e):
            raise
        raise ValueError(
            f"the network doesn't take copies of {image.shape[-1]} px in place of "
            f"{own.shape[-1]} px ({first_line(e)[:200]}): Diverse(back=True), "
            "attack.views.diverse.back=true, resizes them back"
        ) from e


def no_gradient(point: Tensor, use: int) -> Tensor:
    """Refuse a gradient to the parts that it is made through. Raises RuntimeError."""
    raise RuntimeError("a view or a look-ahead asked for a gradient, of which it is a part")
