"""Networks behind defenses, and the random keys of their inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from agr.config.cell import Cell
from agr.config.instantiate import make_part
from agr.config.networks import undefended
from agr.models.defenses import Defense, Ending, Purify, in_order
from agr.models.network import Network
from agr.utils.errors import ConfigError
from agr.utils.pixels import is_8bit, to_levels


class DefendedNetwork(nn.Module):
    """A network behind defenses.

    The defenses act from left to right on the image as it is received, before the network resizes
    it. A random one that asks the network once per draw (`RandomResizePad`, `Smoothing`) must be
    the last. A network that takes one size only (`config.fixed_size`, as a ViT does) gets the
    padded image of the former scaled back to it, unlike in the paper: the image then comes out
    smaller than it went in.

    Its answers are a function of the image. Who attacks it draws for themselves, with `draw`.

    Raises ValueError as `in_order` does.
    """

    takes_side = takes_draw = True  # see `forward`

    def __init__(self, network: Network, defenses: Sequence[Defense | Ending]):
        super().__init__()
        self.fixed, self.random = in_order(defenses, network.config.size)
        self.network, self.as_input = network, network.as_input
        self.dtype, self.memory_format = network.dtype, network.memory_format
        self.images, self.changed = 0, [0] * len(self.fixed)  # seen so far; and by each defense
        self.eval()

    @property
    def is_random(self) -> bool:
        """True if a defense draws anew in each pass."""
        return self.random is not None

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.network.device

    def forward(self, x: Tensor, side: int | None = None, draw: Tensor | None = None) -> Tensor:
        """Return the logits (B, classes) of images (B, 3, H, W) in [0, 1]; NaN if not finite.

        `side` is as in `Network.forward`. With `draw`, one key per image, (B,) int64, the answer
        is that to one draw of the random defenses with these keys, as an attacker makes it.
        """
        # A defense could hide what is not finite: a codec makes a pixel of anything.
        finite = x.isfinite().flatten(1).all(1)
        return torch.where(finite[:, None], self._logits(x, side, draw), torch.nan)

    def _logits(self, x: Tensor, side: int | None, draw: Tensor | None) -> Tensor:
        keys = content_keys(x) if draw is None else draw.tolist()
        size = self.network.config.size
        seen = x.detach().flatten(1).any(1)  # batches are padded with black
        self.images += int(seen.sum())
        for i, defense in enumerate(self.fixed):
            before, x = x, defended(defense, x, keys, size)
            self.changed[i] += int((seen & (x != before).flatten(1).any(1)).sum())
        if self.random is None:
            return self.network(x, side)
        if self.random.replaces != "resize":
            x = self.network.fit(x, side)
        draws = range(self.random.draws) if draw is None else [0]
        logits = [self._own(self.random.draw(x, keys, size, n)) for n in draws]
        return logits[0] if draw is not None else self.random.joined(logits)

    def _own(self, x: Tensor) -> Tensor:
        return self.network.logits(self.network.fit(x) if self.network.config.fixed_size else x)


class _Straight(torch.autograd.Function):
    """The images that a defense made, with a backward pass that takes no notice of it (BPDA)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, made: Tensor) -> Tensor:
        return made.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def defended(defense: Defense, x: Tensor, keys: Sequence[int], size: int) -> Tensor:
    """Return what a defense makes of images, with the gradient that an attacker takes of it."""
    if defense.differentiable or not x.requires_grad:
        return defense(x, keys, size)
    with torch.no_grad():
        made = defense(x, keys, size)
    return _Straight.apply(x, made)


def content_keys(x: Tensor) -> list[int]:
    """Hash each image of `x` (B, 3, H, W) to a 64-bit number, a function of its pixels alone.

    It is the first 64 bits of the SHA-256 of the pixels in the order (H, W, 3): of their 8-bit
    levels if they lie on that grid, whatever the dtype (the records' `adv_sha256` begins with the
    same digits), else of the floating-point values as they are.
    """
    keys = []
    for image in x.detach().permute(0, 2, 3, 1).cpu():
        pixels = to_levels(image).to(torch.uint8) if is_8bit(image) else image
        digest = hashlib.sha256(pixels.contiguous().numpy().tobytes()).digest()
        keys.append(int.from_bytes(digest[:8], "big"))
    return keys


def defenses_of(cell: Cell) -> dict[str, list[Defense | Ending]]:
    """Build the defenses of each network of a cell that has some, by the network's whole name.

    Raises ConfigError, also for their order.
    """
    found: dict[str, list[Defense | Ending]] = {}
    for name in dict.fromkeys([*cell.sources, *cell.selecting, *cell.targets]):
        bare, defenses = undefended(name, cell.config.defenses)
        if not defenses:
            continue
        found[name] = []
        for defense in defenses:
            node = cell.config.defenses[defense]
            for each in node if isinstance(node, list) else [node]:
                found[name].append(_part(defense, json.dumps(each)))
        role = "source" if name in cell.sources else "target"
        try:
            in_order(found[name], cell.suite.networks[bare].size)
            for part in found[name]:
                if isinstance(part, Purify):
                    _tried(part, cell.geometry.size)
        except ValueError as e:
            raise ConfigError(f"{role} {name}: {e}") from e
    return found


@cache
def _tried(part: Purify, side: int) -> None:
    """Try a purifier once; errors aren't remembered."""
    part.trial(side)


@cache
def _part(name: str, node: str) -> Defense | Ending:
    """Build a defense from its config, once: parts are frozen, and cells of a sweep share them."""
    part: Defense | Ending = make_part(f"defenses.{name}", "agr.models.defenses", json.loads(node))
    return part
