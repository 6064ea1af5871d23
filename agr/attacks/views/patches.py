"""Views that take the perturbation off some patches of the image: PatchOut, of PNA and of ATT."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agr.attacks.contracts import Ask
from agr.attacks.draws import uniform
from agr.attacks.parts import Context, Copy, State
from agr.attacks.views.copies import check_square
from agr.config.schema import LARGEST_SIDE
from agr.models.roles import Modules, blocks, channels_at
from agr.utils.checks import LIMIT, Checked, number, whole


@dataclass(frozen=True)
class PatchOut(Checked):
    """PNA's PatchOut: random patches keep their perturbation (Wei et al., arXiv:2109.04176).

    The image is cut into patches of `patch` x `patch` px; a share `kept` of them is as it is, the
    others are those of the clean image. Authors: 130 of the 196 patches of 16 x 16.
    """

    kept: float = number(130 / 196, 0, 1)
    patch: int = whole(16, 1, LARGEST_SIDE)
    copies = 1

    def __call__(self, x: Tensor, i: int, c: Context) -> Copy:
        order = self.order(math.prod(_grid(x, self.patch)), c)
        kept = torch.zeros_like(order, dtype=torch.bool)
        kept = kept.scatter(1, order[:, : round(self.kept * order.shape[1])], True)
        return Copy(_patched(x, c, kept.view(-1, *_grid(x, self.patch)), self.patch), 1.0)

    def order(self, patches: int, c: Context) -> Tensor:
        """Draw permutations (B, patches), row by row; the first patches of each are kept."""
        return uniform(c.key, (patches,), torch.float64).argsort(1)


@dataclass(frozen=True)
class SelfPaced(Checked):
    """ATT's PatchOut: important patches keep their perturbation longer (Ming et al., NeurIPS 2024).

    As in the authors' program. A patch's importance s in [0, 1] is made once, on the clean image:
    the output of transformer block `block`, counted from the last one, 1, times the gradient that
    the sum of all logits has there, under the attack's rules, summed over channels, resized to the
    image, averaged over the patch, and brought to [0, 1] over the image. In step t of T, from 0, a
    patch keeps its perturbation if a uniform draw is at most
    start - (start - offset - scale * s) * (t + 1) / T. Authors, on ViT-B: patches of 16 x 16, 0.4,
    0.4, 0.99, the last block but one.
    """

    patch: int = whole(16, 1, LARGEST_SIDE)
    scale: float = number(0.4, 0)
    offset: float = number(0.4, 0, 1)
    start: float = number(0.99, 0, 1)
    block: int = whole(2, 1, LIMIT)
    copies = once = 1

    def find(self, network: nn.Module) -> Modules:
        """Return the block that is read."""
        found = [*blocks(network).items()]
        if len(found) < self.block:
            raise ValueError(
                f"block={self.block} is counted from the last, and the network has {len(found)} "
                f"transformer blocks: use {len(found)} or less"
            )
        return dict([found[-self.block]])

    def make(self, ask: Ask, y: Tensor, c: Context) -> State:
        """Make the importance of patches, (B, patches down, patches across)."""
        check_square(c.image)
        down, across = _grid(c.image, self.patch)
        outputs: list[Tensor] = []

        def total(logits: Tensor, features: list[Tensor]) -> Tensor:
            outputs.extend(features)
            return logits.sum(1)

        _, (g,) = ask.gradients(c.image, total)
        (module,) = ask.layers.values()
        tokens = (outputs[0].detach() * g).sum(channels_at(module, g))
        if tokens.dim() == 2:  # class tokens and the like go before those of a square
            side = math.isqrt(tokens.shape[1])
            tokens = tokens[:, -(side * side) :].unflatten(1, (side, side))
        size = list(c.image.shape[2:])
        fine = F.interpolate(tokens[:, None], size, mode="bilinear").squeeze(1)
        patches = fine.unflatten(2, (across, -1)).unflatten(1, (down, -1)).mean((2, 4))
        low, high = patches.amin((1, 2), keepdim=True), patches.amax((1, 2), keepdim=True)
        return {"importance": (patches - low) / torch.where(high > low, high - low, 1.0)}

    def __call__(self, x: Tensor, i: int, c: Context) -> Copy:
        assert c.made is not None
        lowest = self.offset + self.scale * c.made["importance"]
        past = ((c.t + 1).to(lowest.dtype) / c.steps)[:, None, None]
        # Negated, so that a patch whose importance is NaN is kept and shows in its gradient.
        kept = ~(self.uniform(x, c) > self.start - (self.start - lowest) * past)
        return Copy(_patched(x, c, kept, self.patch), 1.0)

    def uniform(self, x: Tensor, c: Context) -> Tensor:
        """Draw a number for each patch, (B, patches down, patches across)."""
        return uniform(c.key, _grid(x, self.patch), x.dtype)


def _grid(x: Tensor, patch: int) -> tuple[int, int]:
    """Return how many patches images `x` (B, 3, H, W) have, down and across."""
    height, width = x.shape[2:]
    if height % patch or width % patch:
        raise ValueError(
            f"patch={patch} doesn't divide images of {width} x {height} px: give a divisor of both"
        )
    return height // patch, width // patch


def _patched(x: Tensor, c: Context, kept: Tensor, patch: int) -> Tensor:
    """Return images `x` (B, 3, H, W), clean in the patches that aren't `kept`."""
    if x.shape != c.x0.shape:
        raise ValueError(f"PatchOut of {x.shape[-1]} px: put it before what resizes images")
    pixels = kept.repeat_interleave(patch, 1).repeat_interleave(patch, 2)
    return torch.where(pixels[:, None], x, c.x0)
