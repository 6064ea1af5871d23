"""Networks built from their configs: timm's code, a checked weight file and preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from agr.config.schema import NetworkConfig, Tuning
from agr.models.loading import load_body
from agr.models.tuning import (
    MEMORY_FORMATS,
    CannotFold,
    faster_format,
    fold_batch_norms,
    in_format,
    preferred_format,
)
from agr.models.weights import check_weights
from agr.utils.pixels import LEVELS

DTYPES = {"fp64": torch.float64} | dict.fromkeys(("fp32", "tf32", "bf16"), torch.float32)
TRIAL_IMAGES = 8  # in a batch, where memory formats are timed


class Network(nn.Module):
    """Classifier of images in [0, 1] of any size, which it resizes and normalises itself.

    Its parameters need no gradient, so attacks pay for the input's gradient only.
    """

    takes_side = True  # see `forward`

    def __init__(self, body: nn.Module, config: NetworkConfig, memory_format: str, precision: str):
        super().__init__()
        self.config = config
        self.precision = precision
        self.dtype = DTYPES[precision]
        self.memory_format = MEMORY_FORMATS[memory_format]
        self.mean = nn.Buffer(torch.tensor(config.mean).view(1, 3, 1, 1))
        self.std = nn.Buffer(torch.tensor(config.std).view(1, 3, 1, 1))
        self.body = body
        self.eval().requires_grad_(False)
        in_format(self.to(self.dtype), self.memory_format)

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.mean.device

    def as_input(self, images: Sequence[NDArray[Any]]) -> Tensor:
        """Stack images (3, H, W), uint8 or floating point in [0, 1], to one batch.

        Returns (B, 3, H, W) in [0, 1], on the network's device and in its dtype.
        """
        x = torch.from_numpy(np.stack(images))
        if self.device.type == "cuda":  # from pinned memory a copy doesn't wait for the GPU
            x = x.pin_memory()
        scale = LEVELS if x.dtype == torch.uint8 else 1
        return x.to(self.device, non_blocking=True).to(self.dtype) / scale

    def forward(self, x: Tensor, side: int | None = None) -> Tensor:
        """Return the logits (B, classes) of images (B, 3, H, W) in [0, 1].

        `side` is that of the images that `x` are copies of, if an attack has enlarged or shrunk
        them. Copies are resized by the factor of the originals, so that they reach the network at
        another size than its own. Raises ValueError if the network takes no other size.
        """
        return self.logits(self.fit(x, side))

    def fit(self, x: Tensor, side: int | None = None) -> Tensor:
        """Resize images to the network's size, or copies of images of `side` px by its factor."""
        own, side = self.config.size, side or x.shape[-1]
        if x.shape[-1] != side and self.config.fixed_size:
            raise ValueError(f"it takes {own} px only")
        size = [own, own] if x.shape[-1] == side else [round(n * own / side) for n in x.shape[-2:]]
        if list(x.shape[-2:]) == size:
            return x
        return F.interpolate(x, size, mode=str(self.config.resize), antialias=True)

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images in [0, 1], without resizing them."""
        x = ((x - self.mean) / self.std).contiguous(memory_format=self.memory_format)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits: Tensor = self.body(x)
        return logits.to(self.dtype)


def load_network(
    name: str,
    config: NetworkConfig,
    *,
    memory_format: str,
    precision: str,
    device: str,
    folded: bool = False,
) -> Network:
    """Load a network of the suite, or return it if this process has loaded it before.

    Raises ConfigError, with its `name`, if the weight file is missing, has another hash, or is
    another network's.
    """
    key = _key(name, config, memory_format, folded, precision, device)
    if key not in _loaded:
        body = load_body(name, config)
        if folded:
            blank = torch.zeros(1, 3, config.size, config.size, dtype=DTYPES[precision])
            body = fold_batch_norms(body.to(blank.dtype), blank, check=False, in_place=True)
        _loaded[key] = Network(body, config, memory_format, precision).to(device)
    return _loaded[key]


def choose_tuning(
    name: str, config: NetworkConfig, *, memory_format: str, fold: bool, precision: str, device: str
) -> Tuning:
    """Choose the tuning of the network `name` at its own size.

    `memory_format` "auto" follows the rule of `preferred_format`, "try" times both formats on the
    device, any other is taken. With `fold`, batch norms are folded unless a self-check in float64
    forbids it. Raises ConfigError as `load_network` does.
    """
    body, why = load_body(name, config).to(DTYPES[precision]), ""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 3, config.size, config.size, generator=generator).to(DTYPES[precision])
    folded = fold and any(isinstance(layer, nn.BatchNorm2d) for layer in body.modules())
    if folded:
        try:
            body = fold_batch_norms(body, noise, in_place=True)
        except CannotFold as e:
            folded, why = False, str(e)
    if memory_format == "auto":
        memory_format = preferred_format(body)
    elif memory_format == "try":
        body = body.requires_grad_(False).to(device)
        batch = noise.to(device).repeat(TRIAL_IMAGES, 1, 1, 1)
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=precision == "bf16"):
            memory_format = faster_format(body, batch)
    tuning = Tuning(memory_format, folded, why)
    if device == "cpu":  # it will be used; on a GPU it might not fit beside the others
        key = _key(name, config, memory_format, folded, precision, device)
        _loaded[key] = Network(body, config, memory_format, precision)
    return tuning


def _key(name: str, config: NetworkConfig, *how: object) -> str:
    return repr((check_weights(name, config), config, how))


# One process runs the cells of a whole sweep: a network is built once.
_loaded: dict[str, Network] = {}
