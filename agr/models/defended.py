"""A network behind defenses."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agr.config.schema import NetworkConfig
from agr.models.defenses import Defense, RandomResizePad, check_order
from agr.models.network import Network
from agr.utils.pixels import is_8bit, to_levels


class DefendedNetwork(nn.Module):
    """A network behind defenses, which is scored and is never a source: it has no gradient.

    The defenses act from left to right on the image as it is received, before the network brings
    it to its own size. `RandomResizePad` replaces that resize and so must be the last. A network
    that takes one size only (`config.fixed_size`, as a ViT does) gets the padded image scaled
    back to it, which departs from the paper: the image then comes out smaller than it went in.

    Raises ValueError as `check_order` does.
    """

    def __init__(self, network: Network, defenses: Sequence[Defense]):
        super().__init__()
        check_order(defenses, network.config.size)
        self.network = network
        last = defenses[-1]
        self.random = last if isinstance(last, RandomResizePad) else None
        self.fixed = tuple(defenses[:-1] if self.random else defenses)
        self.eval()

    @property
    def config(self) -> NetworkConfig:
        """The network's."""
        return self.network.config

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:
        """The network's."""
        return self.network.dtype

    @property
    def memory_format(self) -> torch.memory_format:
        """The network's."""
        return self.network.memory_format

    def as_input(self, images: Sequence[NDArray[Any]]) -> Tensor:
        """As `Network.as_input`."""
        return self.network.as_input(images)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images `x` (B, 3, H, W) in [0, 1]; NaN for one not finite."""
        # A defense could hide what is not finite: a codec makes a pixel of anything.
        good = x.isfinite().flatten(1).all(1)
        return torch.where(good[:, None], self._answer(x), torch.nan)

    def _answer(self, x: Tensor) -> Tensor:
        keys, size = content_keys(x), self.config.size
        for defense in self.fixed:
            x = defense(x, keys, size)
        if self.random is None:
            logits: Tensor = self.network(x)
            return logits
        draws = (self.random.draw(x, keys, size, n) for n in range(self.random.draws))
        return mean_answer([self._padded_logits(padded) for padded in draws])

    def _padded_logits(self, x: Tensor) -> Tensor:
        return self.network.logits(self.network.fit(x) if self.config.fixed_size else x)


def content_keys(x: Tensor) -> list[int]:
    """A 64-bit number for each image of `x` (B, 3, H, W), a function of its pixels alone.

    The first 64 bits of the SHA-256 of the pixels in the order (H, W, 3): of their 8-bit levels
    if they lie on that grid, whatever the dtype (the records' `adv_sha256` begins with the same
    digits), else of the floating-point values as they are.
    """
    return [_content_key(image) for image in x.permute(0, 2, 3, 1).cpu()]


def mean_answer(logits: Sequence[Tensor]) -> Tensor:
    """One answer from the logits (B, classes) of several draws; those of a single draw as is.

    log(mean of softmax), which is finite for finite logits. An image with logits that are not
    finite in any draw has no answer: NaN.
    """
    if len(logits) == 1:
        return logits[0]
    draws = torch.stack(list(logits))
    good = draws.isfinite().all(2).all(0)
    # In logarithms: a probability too small for its dtype must not become an infinite logit.
    mean = draws.log_softmax(2).logsumexp(0) - float(np.log(len(draws)))
    return torch.where(good[:, None], mean, torch.nan)


def _content_key(image: Tensor) -> int:
    pixels = to_levels(image).to(torch.uint8) if is_8bit(image) else image
    found = hashlib.sha256(pixels.contiguous().numpy().tobytes()).digest()
    return int.from_bytes(found[:8], "big")
