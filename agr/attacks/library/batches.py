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
from torch import Tensor

from agr.attacks.ball import Ball
from agr.attacks.engine import Calls, Crafted, Item, Tag
from agr.attacks.library import Library, on_grid
from agr.models.network import Source
from agr.utils.hashing import draw
from agr.utils.pixels import to_levels


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
        found = self.library(
            network, x, y, self.ball,
            targeted=self.targeted, classes=self.classes, seed=seed, fit=fit,
        )  # fmt: skip
        if self.quantize == "off":
            return found
        if self.library.budget:
            return self.ball.round(found, x)
        with torch.no_grad():
            return on_grid(network, x, found, y, targeted=self.targeted)


def craft_chunks(
    attack: LibraryAttack,
    network: Source,
    items: Iterable[tuple[int, Item[Tag]]],
    *,
    seed: int,
    fit: Tensor | None = None,
    calls: Calls | None = None,
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
    calls, size = calls or Calls(), attack.library.chunk
    fitted = fit is None
    for number, members in groupby(items, key=lambda pair: pair[0] // size):
        chunk = [item for _, item in members]
        filled = chunk + chunk[:1] * (size - len(chunk))
        x = network.as_input([item.pixels for item in filled])
        y = torch.tensor([item.y for item in filled], device=network.device)
        # what is fitted is the same for all chunks, and so is its seed
        own = draw(seed, "chunk", number if fit is None else "all")
        if not fitted:
            attack(network, x, y, own, fit)
            fitted = True
        before = calls.forwards, calls.backwards
        with calls.attach(network):
            images = attack(network, x, y, own, fit)
        forwards, backwards = calls.forwards - before[0], calls.backwards - before[1]
        if attack.quantize != "off":
            images = to_levels(images).to(torch.uint8)
        pixels = images[: len(chunk)].cpu().contiguous().numpy()
        for item, image in zip(chunk, pixels, strict=True):
            yield Crafted(item, image, None, None, forwards, backwards)
