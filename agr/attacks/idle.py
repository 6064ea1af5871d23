"""Parts of an attack that change nothing."""

from __future__ import annotations

from typing import Any

import torch

from agr.attacks import contracts
from agr.attacks.attack import Attack
from agr.utils.pixels import LEVELS

ROUNDED = 1e-5  # of a value: what a transform and its inverse leave


def idle_parts(attack: Attack, side: int = 32) -> list[Any]:
    """Return rules and stages that change nothing, and views that leave random images as they are.

    Images have `side` px. Raises ValueError where a view can't take them.
    """
    size, generator = (16, 3, side, side), torch.Generator().manual_seed(0)
    x, x0 = (torch.randint(LEVELS + 1, size, generator=generator) / LEVELS for _ in range(2))
    c = attack.context(attack.begin(x0, torch.zeros(16, dtype=torch.int64)) | {"x": x}, x)

    def same(view: contracts.View, i: int) -> bool:
        image, _, draw = view(x, i, c)  # a draw is the network's to make
        alike = image.shape == x.shape and torch.allclose(image, x, rtol=0, atol=ROUNDED)
        return alike and draw is None

    def there(view: contracts.View) -> bool:
        asks = getattr(view, "once", 0) or getattr(view, "asks", 0)
        return bool(attack.pool or not getattr(view, "pool", 0)) and not asks

    views = [v for v in attack.views if there(v) and all(same(v, i) for i in range(v.copies))]
    others = (*attack.surrogate, *attack.chain)
    return [*views, *(part for part in others if getattr(part, "idle", False))]
