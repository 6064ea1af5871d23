"""Smallest perturbations as 8-bit images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agr.attacks.ball import per_image
from agr.attacks.library.adapter import fooled
from agr.models.logits import joint
from agr.utils.pixels import LEVELS, to_levels

STRETCHES = tuple(2 ** (k / 8) for k in range(25))  # from 1 to 8 in steps of 9 %


@torch.no_grad()
def on_grid(model: nn.Module, x: Tensor, found: Tensor, y: Tensor, *, targeted: bool) -> Tensor:
    """Turn the smallest perturbations into 8-bit images that still fool the model.

    Rounding undoes changes below half a level, which are most of a smallest perturbation. So it is
    stretched by the first of `STRETCHES` with which the rounded image fools; Carlini and Wagner
    (arXiv:1608.04644, section V-A) search the grid for the same reason.

    Args:
        model, y, targeted: as in `Library`.
        x: clean images (B, 3, H, W), on the 8-bit grid k/255.
        found: adversarial images of an attack without a budget, like `x`.

    Returns:
        Images like `x`, on the grid; exactly `x` where no stretch will do or `found` is `x`.
    """
    made, v = x, found - x
    open_ = v.flatten(1).any(1)
    for stretch in STRETCHES:
        if not bool(open_.any()):
            break
        tried = to_levels((x + stretch * v).clamp(0, 1)).div_(LEVELS)
        # all rows at once: the shape of a batch decides last bits
        hit = open_ & fooled(joint(model(tried)), y, targeted=targeted)
        made = torch.where(per_image(hit, x), tried, made)
        open_ = open_ & ~hit
    return made
