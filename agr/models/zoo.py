"""Networks by their config: timm's code, a weight file that is checked, and its preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from agr.config import LEVELS, ConfigError, NetworkConfig, first_line
from agr.inputs import check_weights
from agr.models.slim import load_slim

DTYPES = {"fp32": torch.float32, "bf16": torch.float32, "fp64": torch.float64}
MEMORY_FORMATS = {
    "channels_last": torch.channels_last,
    "contiguous": torch.contiguous_format,
}


class Network(nn.Module):
    """A classifier of images in [0, 1], of any size: it resizes and normalises them itself.

    Its parameters need no gradient, so attacks pay for the input's gradient only.
    """

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
        self.to(self.dtype).to(memory_format=self.memory_format)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.mean.device

    def as_input(self, images: Sequence[NDArray[Any]]) -> Tensor:
        """Images (3, H, W), uint8 or floating point in [0, 1], as (B, 3, H, W) in [0, 1].

        On the network's device and in its dtype.
        """
        x = torch.from_numpy(np.stack(images)).to(self.device)
        whole = x.dtype == torch.uint8
        return x.to(self.dtype) / LEVELS if whole else x.to(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images `x` (B, 3, H, W) in [0, 1]."""
        size = (self.config.size, self.config.size)
        if x.shape[-2:] != size:
            x = F.interpolate(x, size, mode=self.config.resize, antialias=True)
        x = ((x - self.mean) / self.std).contiguous(memory_format=self.memory_format)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits: Tensor = self.body(x)
        return logits.to(self.dtype)


def load_network(
    name: str, config: NetworkConfig, *, memory_format: str, precision: str, device: str
) -> Network:
    """The network `name`, ready for use; one that this process has loaded before is reused.

    Raises ConfigError if the weight file is missing, has another hash, or is another network's.
    """
    key = repr((check_weights(name, config), config, memory_format, precision, device))
    if key not in _loaded:
        body = _body(name, config)
        _loaded[key] = Network(body, config, memory_format, precision).to(device)
    return _loaded[key]


# One process runs the cells of a whole sweep: a network is built once.
_loaded: dict[str, Network] = {}


def _body(name: str, config: NetworkConfig) -> nn.Module:
    try:
        if config.width is not None:
            return load_slim(config.architecture, config.width, config.classes, config.weights)
        body: nn.Module = timm.create_model(config.architecture, num_classes=config.classes)
        body.load_state_dict(load_file(config.weights))
        return body
    except (RuntimeError, ValueError, SafetensorError) as e:
        raise ConfigError(
            f"network {name}: {config.weights} holds no weights of {config.architecture}: "
            f"{first_line(e)}"
        ) from e
