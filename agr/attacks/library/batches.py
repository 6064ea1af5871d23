"""Chunks in which another library's attack runs over the selection.

Such an attack does its own batching, and an image's companions may matter to it. So what is
attacked together is fixed: chunk k holds the positions from k * size on, is always crafted as a
whole, and has a seed of its own. Where images run out, the last chunk is filled up with copies of
its first one. A chunk's results are bitwise the same wherever it is run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from agr.attacks.ball import Ball, nonzero, per_image
from agr.attacks.engine import Calls, Crafted, Item, Tag
from agr.attacks.library import Library
from agr.models.logits import is_fooled, joint, predict
from agr.models.sources import Source
from agr.utils.hashing import draw
from agr.utils.pixels import LEVELS, to_levels

STRETCHES = tuple(2 ** (k / 8) for k in range(25))  # from 1 to 8 in steps of 9 %


@dataclass(frozen=True)
class LibraryAttack:
    """A library's attack with the settings of a run.

    Images are 8-bit unless `quantize` is "off": those within a budget are rounded inside it, the
    smallest perturbations are stretched until the rounded image fools (`on_grid`).
    """

    library: Library
    ball: Ball
    targeted: bool
    classes: int
    quantize: str

    def __call__(
        self, network: Source, x: Tensor, y: Tensor, seed: int, fit: Tensor | None = None
    ) -> Tensor:
        """Craft adversarial images for one chunk `x` (B, 3, H, W), as they are to be scored.

        Raises ValueError as `agr.attacks.library.Library` does.
        """
        return self.craft(network, x, y, seed, fit)[0]

    def craft(
        self, network: Source, x: Tensor, y: Tensor, seed: int, fit: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the images of `__call__`, and before they were rounded."""
        found = self.library(
            network, x, y, self.ball,
            targeted=self.targeted, classes=self.classes, seed=seed, fit=fit,
        )  # fmt: skip
        if self.quantize == "off":
            return found, found
        if self.library.budget:
            return self.ball.round(found, x), found
        return on_grid(network, x, found, y, targeted=self.targeted), found


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
    open_ = nonzero(v)
    for stretch in STRETCHES:
        if not bool(open_.any()):
            break
        tried = to_levels((x + stretch * v).clamp(0, 1)).div_(LEVELS)
        # all rows at once: the shape of a batch decides last bits
        hit = open_ & is_fooled(predict(joint(model(tried))), y, targeted=targeted)
        made = torch.where(per_image(hit, x), tried, made)
        open_ = open_ & ~hit
    return made


def craft_chunks(
    attack: LibraryAttack,
    network: Source,
    items: Iterable[tuple[int, Item[Tag]]],
    *,
    seed: int,
    fit: Tensor | None,
    calls: Calls,
) -> Iterator[Crafted[Tag]]:
    """Attack the images of whole chunks on `network`.

    Args:
        attack: what to run.
        network: the source, on its device.
        items: (position, image) in the order of positions; of a chunk all or none.
        seed: of the run; each chunk has its own by its number.
        fit: the images (K, 3, H, W) that a universal perturbation is fitted on.
        calls: counts whole passes over a chunk.

    An image's own passes are those of its chunk: the library asks about all of it at once. Fitting
    is not counted. Raises ValueError as `agr.attacks.library.Library` does.
    """
    size = attack.library.chunk
    chunks = groupby(items, key=lambda pair: pair[0] // size)
    for i, (number, members) in enumerate(chunks):
        chunk = [item for _, item in members]
        filled = chunk + chunk[:1] * (size - len(chunk))
        x = network.as_input([item.pixels for item in filled])
        y = torch.tensor([item.y for item in filled], device=network.device)
        # what is fitted is the same for all chunks, and so is its seed
        own = draw(seed, "chunk", number if fit is None else "all")
        if i == 0 and fit is not None:
            attack(network, x, y, own, fit)  # the perturbation is kept: fitting isn't counted
        before = calls.forwards, calls.backwards
        with calls.attach(network):
            images, found = attack.craft(network, x, y, own, fit)
        forwards, backwards = calls.forwards - before[0], calls.backwards - before[1]
        if attack.quantize != "off":
            images = to_levels(images).to(torch.uint8)
        pixels = images[: len(chunk)].cpu().contiguous().numpy()
        sizes: list[tuple[float | None, float | None]] = [(None, None)] * len(chunk)
        if not attack.library.budget:
            v = LEVELS * (found - x)[: len(chunk)].double().flatten(1)
            linf, l2 = v.abs().amax(1).tolist(), torch.linalg.vector_norm(v, 2, 1).tolist()
            sizes = list(zip(linf, l2, strict=True))
        for item, image, norms in zip(chunk, pixels, sizes, strict=True):
            yield Crafted(item, image, None, None, forwards, backwards, found=norms)
