"""The gradient of an attack's loss, at the iterate or through its views."""

from __future__ import annotations

import itertools
from typing import NamedTuple, cast

import torch
from torch import Tensor

from agr.attacks.ball import per_image
from agr.attacks.parts import Context, Loss, Model, View
from agr.utils.errors import first_line


class Objective(NamedTuple):
    """The loss that an attack climbs, or descends when targeted, and the views it is taken over."""

    loss: Loss
    views: tuple[View, ...]
    targeted: bool

    def losses(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the loss of each image, (B,); over an ensemble's members their mean."""
        if logits.dim() == 2:
            return self.loss(logits, y)
        return torch.stack([self.loss(own, y) for own in logits.unbind(1)]).mean(0)

    def gradient(self, losses: Tensor, point: Tensor) -> Tensor:
        """Return the gradient of the sum of `losses` (B,) at `point`, towards the attack's goal."""
        loss = losses.sum()
        (g,) = torch.autograd.grad(-loss if self.targeted else loss, point)
        return g

    def through_views(
        self, model: Model, y: Tensor, live: Tensor, c: Context, spent: Tensor
    ) -> Tensor:
        """Return the gradient at `c.point` (B, 3, H, W), over all copies by their shares.

        Copies without a share in a `live` row (B,) are skipped. `spent` (B,), the passes of each
        row, is added to in place.
        """
        total = torch.zeros_like(c.point)
        for copy in itertools.product(*(range(view.copies) for view in self.views)):
            leaf = c.point.detach().requires_grad_()
            with torch.enable_grad():
                image, share, draw = leaf, cast(Tensor | float, 1.0), cast(Tensor | None, None)
                for j, view in enumerate(self.views):
                    # All copies of a view share a key; of those before it each has its own.
                    made = view(image, copy[j], c.at(j, *copy[:j]))
                    image, share = made.image, share * made.share
                    draw = draw if made.draw is None else made.draw
                takes = share > 0 if isinstance(share, Tensor) else torch.ones_like(live)
                if isinstance(share, Tensor) and not bool((live & takes).any()):
                    continue
                losses = self.losses(_logits(model, image, leaf, draw), y) * share
                g = self.gradient(torch.where(takes, losses, 0.0), leaf)
            # Rows without a share are left out, since 0 times a NaN is no 0.
            total += torch.where(per_image(takes, g), g, 0.0) if isinstance(share, Tensor) else g
            spent += live & takes
        return total


def _logits(model: Model, image: Tensor, own: Tensor, draw: Tensor | None) -> Tensor:
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
