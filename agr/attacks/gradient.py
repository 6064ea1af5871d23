"""The gradient of an attack: of its loss or objective, through its views, on its surrogate."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor

from agr.attacks.ball import per_image
from agr.attacks.contracts import Objective, View
from agr.attacks.host import known
from agr.attacks.loss import CrossEntropy
from agr.attacks.parts import Context, Loss, State
from agr.attacks.surrogate import Features, Surrogate
from agr.models.logits import is_fooled, joint, predict
from agr.utils.errors import Refused, first_line

MemberWeights = dict[int, Tensor | float]  # members of an ensemble, and the weights of their logits


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


class Made(NamedTuple):
    """One copy of a point, made by the views."""

    leaf: Tensor  # the point
    image: Tensor  # made of it
    share: Tensor | float
    takes: Tensor  # (B,) bool: rows that have a share
    draw: Tensor | None
    own: Context  # of the draws of rules


class Taker(NamedTuple):
    """The gradients of a step, taken and counted."""

    goal: Goal
    source: Surrogate
    made: State  # by `Maker`, for each image; what rules keep is replaced in place
    y: Tensor  # (B,): labels, or target labels
    live: Tensor  # (B,) bool: rows that count
    spent: Tensor  # (B,): passes of each row, added to in place
    looked: Tensor  # (B,): forward passes alone, likewise
    fooled: Tensor | None = None  # (B,) bool: rows that fooled the source in one; added to in place

    def of(self, rows: Tensor | None, bare: bool = False) -> Taker:
        """Return the taker of gradients of some rows, or of bare ones: see `Slope`."""
        live = self.live if rows is None else self.live & rows
        return self._replace(live=live, goal=self.goal.bare() if bare else self.goal)

    def through_views(self, c: Context, mix: MemberWeights | None = None) -> Tensor:
        """Return the gradient at `c.point` (B, 3, H, W), over all copies by their shares.

        Copies without a share in a living row are skipped. With a `mix` it is that of an ensemble's
        members, and each of their passes counts.
        """
        return self.slope(c, mix)[1]

    def slope(
        self,
        c: Context,
        mix: MemberWeights | None = None,
        make: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return losses (B,) at `c.point` and the gradient there: see `Slope`."""
        total = torch.zeros_like(c.point)
        value, weights = total.new_zeros(len(total)), None
        if self.goal.joint:
            value, weights = self._joined(c, mix, make)
        for copy in self._copies(c, mix, make):
            leaf, image, share, takes, draw, own = copy
            with torch.enable_grad():
                if self.source.graphs:
                    _, losses, g = self.source.graphs(self.goal, image, leaf, self.y, share, takes)
                    if image is not leaf:
                        (g,) = torch.autograd.grad(image, leaf, g)
                else:
                    rows = self.live & takes
                    losses = self._losses(image, leaf, own, mix, draw, weights, rows) * share
                    losses = torch.where(takes, losses, 0.0)
                    g = self.goal.gradient(losses, leaf)
            # Rows without a share are left out, since 0 times a NaN is no 0.
            total += torch.where(per_image(takes, g), g, 0.0) if isinstance(share, Tensor) else g
            value = value if self.goal.joint else value + losses.detach()
            self.spent.add_(self.live & takes, alpha=len(mix or [0]))
        return -value if self.goal.targeted else value, total

    def _copies(
        self, c: Context, mix: MemberWeights | None, make: Callable[[Tensor], Tensor] | None
    ) -> Iterator[Made]:
        """Make the copies of `c.point` that have a share in a living row."""
        views = self.goal.views
        for copy in itertools.product(*(range(view.copies) for view in views)):
            leaf = c.point.detach().requires_grad_()
            own = c.at(*copy)
            with torch.enable_grad():
                image, share = make(leaf) if make else leaf, cast(Tensor | float, 1.0)
                draw, takes = cast(Tensor | None, None), torch.ones_like(self.live)
                for j, view in enumerate(views):
                    # All copies of a view share a key; of those before it each has its own.
                    at = c.at(j, *copy[:j])
                    if getattr(view, "asks", 0):
                        if not known((self.live & takes).any(), True):
                            break
                        at = at._replace(losses=self._asked(leaf, own, mix, draw, takes))
                    if getattr(view, "once", 0):
                        at = at._replace(made=self.made[f"view {j}"])
                    made = view(image, copy[j], at)
                    image, share = made.image, share * made.share
                    draw = draw if made.draw is None else made.draw
                    takes = share > 0 if isinstance(share, Tensor) else takes
            if isinstance(share, Tensor) and not known((self.live & takes).any(), True):
                continue
            yield Made(leaf, image, share, takes, draw, own)

    def _joined(
        self, c: Context, mix: MemberWeights | None, make: Callable[[Tensor], Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """Return losses (B,) of the mean of the copies' logits, and their gradients there.

        The loss of a copy is then the product of its logits with these: one at a time again.
        """
        mean = torch.zeros((), dtype=c.point.dtype, device=c.point.device)
        for leaf, image, share, takes, draw, own in self._copies(c, mix, make):
            with torch.no_grad():
                logits, _ = self._passed(image.detach(), leaf, own, mix, draw)
            mean = mean + torch.where(per_image(takes, logits), _times(share, logits), 0.0)
            self.looked.add_(self.live & takes, alpha=len(mix or [0]) * self.source.passes)
        with torch.enable_grad():
            mean.requires_grad_()
            losses = self.goal.own(mean, self.y)
            (weights,) = torch.autograd.grad(losses.sum(), mean)
        return losses.detach(), weights

    def _passed(
        self,
        image: Tensor,
        leaf: Tensor,
        c: Context,
        mix: MemberWeights | None,
        draw: Tensor | None,
    ) -> tuple[Tensor, Features]:
        only = next(iter(mix)) if mix and len(mix) == 1 else None
        with self.source.ruled(c, self.made, only, live=self.live) as features:
            if mix is None:
                return _logits(self.source, image, leaf, draw), features
            own = {i: _logits(self.source.members[i], image, leaf, draw) for i in mix}
            return cast(Tensor, sum(_times(mix[i], z) for i, z in own.items())), features

    def _losses(
        self,
        image: Tensor,
        leaf: Tensor,
        c: Context,
        mix: MemberWeights | None,
        draw: Tensor | None,
        weights: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Return the losses (B,) of copies; `rows` (B,) bool are those that may have fooled.

        With `weights` like the logits they are the logits' products with these.
        """
        logits, features = self._passed(image, leaf, c, mix, draw)
        if self.fooled is not None and rows is not None:
            pred = predict(joint(logits.detach()))
            self.fooled.logical_or_(rows & is_fooled(pred, self.y, targeted=self.goal.targeted))
        if weights is not None:
            return (logits * weights).flatten(1).sum(1)
        return self.goal.losses(logits, self.y, features, self.made, leaf)

    def _asked(
        self,
        leaf: Tensor,
        c: Context,
        mix: MemberWeights | None,
        draw: Tensor | None,
        takes: Tensor,
    ) -> Callable[[Tensor], Tensor]:
        """Return what a view calls for losses (B,) of a copy of its own, towards the goal.

        Rules keep nothing of it.
        """

        def losses(image: Tensor) -> Tensor:
            self.spent.add_(self.live & takes, alpha=len(mix or [0]))
            taker = self._replace(live=torch.zeros_like(self.live))
            found = taker._losses(image, leaf, c, mix, draw)
            return -found if self.goal.targeted else found

        return losses


def one_pass(
    model: Callable[..., Tensor],
    goal: Goal,
    own: Tensor,
    image: Tensor,
    y: Tensor,
    share: Tensor,
    takes: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, losses (B,) by their share in rows that take some, and the image's gradient.

    The images (B, 3, h, w) are copies of images like `own`. The goal's own loss is all that counts.
    """
    leaf = image.detach().requires_grad_()
    with torch.enable_grad():
        logits = _logits(model, leaf, own, None)
        losses = torch.where(takes, goal.own(logits, y) * share, 0.0)
        g = goal.gradient(losses, leaf)
    return logits.detach(), losses.detach(), g


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
        if isinstance(e, torch.OutOfMemoryError | Refused) or "allocate memory" in str(e):
            raise
        raise ValueError(
            f"the network doesn't take copies of {image.shape[-1]} px in place of "
            f"{own.shape[-1]} px ({first_line(e)[:200]}): Diverse(back=True), "
            "attack.views.diverse.back=true, resizes them back"
        ) from e


def _times(weight: Tensor | float, logits: Tensor) -> Tensor:
    """Multiply logits (B, classes) by one weight for all rows, or one of each."""
    each = isinstance(weight, Tensor) and weight.dim() > 0
    return logits * (per_image(cast(Tensor, weight), logits) if each else weight)
