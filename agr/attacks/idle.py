"""Parts of an attack that change nothing."""

from __future__ import annotations

import torch

from agr.attacks import parts
from agr.attacks.attack import Attack
from agr.utils.pixels import LEVELS

ROUNDED = 1e-5  # of a value: what a transform and its inverse leave


def idle_parts(attack: Attack) -> list[parts.View | parts.Stage]:
    """Return the stages that change nothing, and the views that leave random images as they are."""
    size, generator = (16, 3, 32, 32), torch.Generator().manual_seed(0)
    x = torch.randint(LEVELS + 1, size, generator=generator) / LEVELS
    c = attack.context(attack.begin(x, torch.zeros(16, dtype=torch.int64)), x)

    def same(view: parts.View, i: int) -> bool:
        image, _, draw = view(x, i, c)  # a draw is the network's to make
        alike = image.shape == x.shape and torch.allclose(image, x, rtol=0, atol=ROUNDED)
        return alike and draw is None

    there = [view for view in attack.views if attack.pool or not getattr(view, "pool", 0)]
    views = [view for view in there if all(same(view, i) for i in range(view.copies))]
    return [*views, *(stage for stage in attack.chain if getattr(stage, "idle", False))]
