"""Networks behind defenses, and the random keys of their inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from agr.config.cell import Cell
from agr.config.instantiate import make_part
from agr.config.networks import undefended
from agr.models.defenses import Defense, RandomResizePad, check_order
from agr.models.network import Network
from agr.utils.errors import ConfigError
from agr.utils.pixels import is_8bit, to_levels


class DefendedNetwork(nn.Module):
    """A network behind defenses. It has no gradient: it is a target and never a source.

    The defenses act from left to right on the image as it is received, before the network resizes
    it. `RandomResizePad` replaces that resize, so it must be the last. A network that takes one
    size only (`config.fixed_size`, as a ViT does) gets the padded image scaled back to it, unlike
    in the paper: the image then comes out smaller than it went in.

    Raises ValueError as `check_order` does.
    """

    def __init__(self, network: Network, defenses: Sequence[Defense]):
        super().__init__()
        check_order(defenses, network.config.size)
        self.network, self.as_input = network, network.as_input
        last = defenses[-1]
        self.random = last if isinstance(last, RandomResizePad) else None
        self.fixed = tuple(defenses[:-1] if self.random else defenses)
        self.images, self.changed = 0, [0] * len(self.fixed)  # seen so far; and by each defense
        self.eval()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, 3, H, W) in [0, 1]; NaN if not finite."""
        # A defense could hide what is not finite: a codec makes a pixel of anything.
        finite = x.isfinite().flatten(1).all(1)
        return torch.where(finite[:, None], self._logits(x), torch.nan)

    def _logits(self, x: Tensor) -> Tensor:
        keys, size = content_keys(x), self.network.config.size
        seen = x.flatten(1).any(1)  # batches are padded with black
        self.images += int(seen.sum())
        for i, defense in enumerate(self.fixed):
            before, x = x, defense(x, keys, size)
            self.changed[i] += int((seen & (x != before).flatten(1).any(1)).sum())
        if self.random is None:
            logits: Tensor = self.network(x)
            return logits
        draws = (self.random.draw(x, keys, size, n) for n in range(self.random.draws))
        return mean_logits([self._padded_logits(padded) for padded in draws])

    def _padded_logits(self, x: Tensor) -> Tensor:
        return self.network.logits(self.network.fit(x) if self.network.config.fixed_size else x)


def content_keys(x: Tensor) -> list[int]:
    """Hash each image of `x` (B, 3, H, W) to a 64-bit number, a function of its pixels alone.

    It is the first 64 bits of the SHA-256 of the pixels in the order (H, W, 3): of their 8-bit
    levels if they lie on that grid, whatever the dtype (the records' `adv_sha256` begins with the
    same digits), else of the floating-point values as they are.
    """
    keys = []
    for image in x.permute(0, 2, 3, 1).cpu():
        pixels = to_levels(image).to(torch.uint8) if is_8bit(image) else image
        digest = hashlib.sha256(pixels.contiguous().numpy().tobytes()).digest()
        keys.append(int.from_bytes(digest[:8], "big"))
    return keys


def mean_logits(logits: Sequence[Tensor]) -> Tensor:
    """Return log(mean of softmax) over the logits (B, classes) of several draws.

    Those of a single draw stay as they are. An image with logits that aren't finite in any draw
    gets NaN.
    """
    if len(logits) == 1:
        return logits[0]
    draws = torch.stack(list(logits))
    finite = draws.isfinite().all(2).all(0)
    # In logarithms: a probability too small for its dtype must not become an infinite logit.
    mean = draws.log_softmax(2).logsumexp(0) - float(np.log(len(draws)))
    return torch.where(finite[:, None], mean, torch.nan)


def defenses_of(cell: Cell) -> dict[str, list[Defense]]:
    """Build the defenses of each target that has some. Raises ConfigError, also for their order."""
    found: dict[str, list[Defense]] = {}
    for target in cell.targets:
        bare, names = undefended(target, cell.config.defenses)
        if not names:
            continue
        found[target] = []
        for name in names:
            node = cell.config.defenses[name]
            for each in node if isinstance(node, list) else [node]:
                found[target].append(_part(name, json.dumps(each)))
        try:
            check_order(found[target], cell.suite.networks[bare].size)
        except ValueError as e:
            raise ConfigError(f"target {target}: {e}") from e
    return found


@cache
def _part(name: str, node: str) -> Defense:
    """Build a defense from its config, once: parts are frozen, and cells of a sweep share them."""
    part: Defense = make_part(f"defenses.{name}", "agr.models.defenses", json.loads(node))
    return part
