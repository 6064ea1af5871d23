"""The gradient of an attack: of its loss or objective, through its views, on its surrogate."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor

from agr.attacks.ball import per_image
from agr.attacks.goal import Goal
from agr.attacks.host import known
from agr.attacks.packing import MOST, Made, Run, packed
from agr.attacks.parts import At, Context, State
from agr.attacks.surrogate import Features, Surrogate
from agr.models.logits import is_fooled, joint, predict
from agr.utils.errors import Refused, first_line

MemberWeights = dict[int, Tensor | float]  # members of an ensemble, and the weights of their logits


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
    few: Tensor | None = None  # the rows that live, (n,), where more than one copy of each has room

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
            total += _counted(copy, g)
            value = value if self.goal.joint else value + losses.detach()
            self.spent.add_(self.live & takes, alpha=len(mix or [0]))
        return self._signed(value), total

    def slopes(self, points: Iterable[At], c: Context) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what `slope` returns at each of some points, whose uses `c` draws for, in order.

        Where few rows live, several copies go through the source in one pass.
        """
        contexts = ((c._replace(point=at.point).at(at.use), at.make) for at in points)
        room = self._room()
        if room < 2:
            yield from (self.slope(own, make=make) for own, make in contexts)
            return
        sums = deque[tuple[Tensor, Tensor]]()  # of points that were begun

        def copies() -> Iterator[tuple[tuple[Tensor, Tensor], Made]]:
            for own, make in contexts:
                sums.append((own.point.new_zeros(len(own.point)), torch.zeros_like(own.point)))
                for copy in self._copies(own, None, make):
                    yield sums[-1], copy

        run: Run = self.source.graphs or self._run
        made = copies()
        while group := [*itertools.islice(made, room)]:
            found = packed(
                run, self.goal, [copy for _, copy in group], self.y, cast(Tensor, self.few)
            )
            for ((value, total), copy), (losses, g) in zip(group, found, strict=True):
                value += losses
                total += _counted(copy, g)
                self.spent.add_(self.live & copy.takes)
            while sums[0] is not group[-1][0]:
                yield self._signed(sums[0][0]), sums.popleft()[1]
        yield from ((self._signed(value), total) for value, total in sums)

    def _run(self, goal: Goal, image: Tensor, own: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        return one_pass(self.source, goal, own, image, *more)

    def _room(self) -> int:
        """Return how many copies of the living rows go into one pass."""
        goal, source = self.goal, self.source
        apart = goal.joint or goal.objective or source.rules or source.is_random
        if self.few is None or apart:
            return 1
        return min(MOST, len(self.live) // max(len(self.few), 1))

    def _signed(self, losses: Tensor) -> Tensor:
        return -losses if self.goal.targeted else losses

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


def _counted(copy: Made, g: Tensor) -> Tensor:
    """Return a copy's gradient in the rows that have a share: 0 times a NaN is no 0."""
    return torch.where(per_image(copy.takes, g), g, 0.0) if isinstance(copy.share, Tensor) else g


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
