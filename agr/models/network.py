"""Networks by their config: timm's code, a weight file that is checked, and its preprocessing."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast
from unittest import mock

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from timm.models import load_state_dict
from torch import Tensor, nn
from torch.nn import functional as F

from agr.config.registry import check_architecture
from agr.config.schema import NetworkConfig
from agr.models.slim import load_slim
from agr.models.tuning import (
    MEMORY_FORMATS,
    CannotFold,
    Tuning,
    faster_format,
    fold_batch_norms,
    gradient_seconds,
    in_format,
    preferred_format,
)
from agr.models.weights import check_weights, weights_file
from agr.utils.errors import ConfigError
from agr.utils.pixels import LEVELS

# What torch, timm and safetensors raise for a file that isn't what it should be.
BROKEN = (
    RuntimeError, ValueError, TypeError, KeyError, OSError, EOFError, UnpicklingError,
    SafetensorError,
)  # fmt: skip
DTYPES = {"fp64": torch.float64} | dict.fromkeys(("fp32", "tf32", "bf16"), torch.float32)
TRIAL_SECONDS = 0.5  # of one gradient in the trials that choose a memory format
TRIAL_IMAGES = 32


class Network(nn.Module):
    """A classifier of images in [0, 1], of any size: it resizes and normalises them itself.

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
        self.to(self.dtype)
        in_format(self, memory_format)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.mean.device

    def as_input(self, images: Sequence[NDArray[Any]]) -> Tensor:
        """Images (3, H, W), uint8 or floating point in [0, 1], as (B, 3, H, W) in [0, 1].

        On the network's device and in its dtype.
        """
        x = torch.from_numpy(np.stack(images))
        if self.device.type == "cuda":  # from pinned memory a copy doesn't wait for the GPU
            x = x.pin_memory()
        x = x.to(self.device, non_blocking=True)
        whole = x.dtype == torch.uint8
        return x.to(self.dtype) / LEVELS if whole else x.to(self.dtype)

    def forward(self, x: Tensor, side: int | None = None) -> Tensor:
        """Logits (B, classes) of images `x` (B, 3, H, W) in [0, 1].

        `side`: they are copies of images of that many pixels, which an attack has made larger or
        smaller. They are resized as those would be, and no further, so that they reach the network
        at another size than its own. Raises ValueError if it takes no other.
        """
        return self.logits(self.fit(x, side))

    def fit(self, x: Tensor, side: int | None = None) -> Tensor:
        """Images at the network's own size; copies of images of `side` px by the same factor."""
        own, side = self.config.size, side or x.shape[-1]
        if x.shape[-1] != side and self.config.fixed_size:
            raise ValueError(f"it takes {own} px only")
        size = [own, own] if x.shape[-1] == side else [round(n * own / side) for n in x.shape[-2:]]
        if list(x.shape[-2:]) == size:
            return x
        return F.interpolate(x, size, mode=str(self.config.resize), antialias=True)

    def logits(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images in [0, 1] at whatever size they have."""
        x = ((x - self.mean) / self.std).contiguous(memory_format=self.memory_format)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits: Tensor = self.body(x)
        return logits.to(self.dtype)


class Ensemble(nn.Module):
    """Several networks as one source, as Liu et al. (ICLR 2017, arXiv:1611.02770) craft on them.

    Averaging is over "logits" (Dong et al., CVPR 2018, arXiv:1710.06081, section 3.4), so that
    the ensemble is a network like any other, or over "losses": then it returns each member's
    logits, (B, members, classes), and the attack averages their losses. In both, its answer is
    that of the mean logits.
    """

    takes_side = True

    def __init__(self, members: Sequence[Network], over: str):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.over = over
        first = members[0]
        self.dtype, self.memory_format = first.dtype, first.memory_format
        self.as_input = first.as_input
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where its members are."""
        return cast(Network, self.members[0]).device

    def forward(self, x: Tensor, side: int | None = None) -> Tensor:
        """Logits (B, classes), or (B, members, classes), of images `x`, as by `Network.forward`."""
        each = torch.stack([member(x, side) for member in self.members], 1)
        return each if self.over == "losses" else each.mean(1)


Source = Network | Ensemble  # what an attack is crafted on


def load_network(
    name: str,
    config: NetworkConfig,
    *,
    memory_format: str,
    precision: str,
    device: str,
    folded: bool = False,
) -> Network:
    """The network `name`, ready for use; one that this process has loaded before is reused.

    `folded`: its batch norms go into the convolutions before them (see `choose_tuning`).
    Raises ConfigError if the weight file is missing, has another hash, or is another network's.
    """
    key = _key(name, config, Tuning(memory_format, folded), precision, device)
    if key not in _loaded:
        body = _body(name, config)
        if folded:
            body = body.to(DTYPES[precision])
            body = fold_batch_norms(body, _blank(config).to(DTYPES[precision]), check=False)
        _loaded[key] = Network(body, config, memory_format, precision).to(device)
    return _loaded[key]


def choose_tuning(
    name: str, config: NetworkConfig, *, memory_format: str, fold: bool, precision: str, device: str
) -> Tuning:
    """Choose the tuning of the network `name` at its own size.

    Args:
        name: of the network, for messages.
        config: its entry in the suite.
        memory_format: "auto" follows the rule of `preferred_format`, "try" times both formats on
            this machine, a name is taken as it is.
        fold: fold batch norms, unless a self-check in float64 forbids it.
        precision: as in the config.
        device: of the trial.

    Raises ConfigError as `load_network` does.
    """
    body, why = _body(name, config).to(DTYPES[precision]), ""
    noise = torch.rand(_blank(config).shape, generator=torch.Generator().manual_seed(0))
    noise = noise.to(DTYPES[precision])
    folded = fold and any(isinstance(layer, nn.BatchNorm2d) for layer in body.modules())
    if folded:
        try:
            body = fold_batch_norms(body, noise)
        except CannotFold as e:
            folded, why = False, str(e)
    if memory_format == "auto":
        memory_format = preferred_format(body)
    elif memory_format == "try":
        body = body.requires_grad_(False).to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16"):
            memory_format = _trial(body, noise.to(device))
    tuning = Tuning(memory_format, folded, why)
    if device == "cpu":  # it will be used; on a GPU it might not fit beside the others
        network = Network(body, config, memory_format, precision)
        _loaded[_key(name, config, tuning, precision, device)] = network
    return tuning


def _trial(body: nn.Module, x: Tensor) -> str:
    """The faster memory format for as many images like `x` as there is time and memory for."""
    gradient_seconds(body, x)  # the first pays for setting up
    n = max(1, min(int(TRIAL_SECONDS / gradient_seconds(body, x)), TRIAL_IMAGES))
    while True:
        try:
            return faster_format(body, x.repeat(n, 1, 1, 1))
        except torch.OutOfMemoryError:
            if n == 1:
                raise
        n //= 2


def _key(name: str, config: NetworkConfig, tuning: Tuning, precision: str, device: str) -> str:
    own = tuning.memory_format, tuning.folded
    return repr((check_weights(name, config), config, own, precision, device))


def _blank(config: NetworkConfig) -> Tensor:
    return torch.zeros(1, 3, config.size, config.size)


# One process runs the cells of a whole sweep: a network is built once.
_loaded: dict[str, Network] = {}


def _body(name: str, config: NetworkConfig) -> nn.Module:
    path = weights_file(name, config)
    check_architecture(config.architecture, f"network {name}")
    try:
        if config.width is not None:
            return load_slim(config.architecture, config.width, config.classes, str(path))
        return _pretrained(config, path).eval()
    except BROKEN as e:
        reason = " ".join(str(e).split())[:300] or type(e).__name__
        if "weights_only" in str(e):  # torch and timm say how to load it all the same: better not
            reason = "loading it could run code: save its state_dict as safetensors"
        raise ConfigError(
            f"network {name}: {path} holds no weights of {config.architecture}: {reason}"
        ) from e


def _pretrained(config: NetworkConfig, path: Path) -> nn.Module:
    """timm's network with the weights of a file, which timm adapts as it does its own."""
    weights = _state_dict(path)
    given = {"state_dict": weights, "num_classes": config.classes, "custom_load": False}
    with mock.patch.object(nn.Module, "load_state_dict", _load_whole):
        body: nn.Module = timm.create_model(
            config.architecture,
            pretrained=True,
            pretrained_cfg_overlay=given,
            num_classes=config.classes,
            **config.arguments,
        )
    # timm keeps the weights in it: they would stay in memory twice
    vars(body)["pretrained_cfg"] = {}
    return body


def _state_dict(path: Path) -> dict[str, Tensor]:
    """The weights in a file, by name. Raises BROKEN; nothing in the file is ever run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of pickles that it refuses in the next line
        try:
            weights: dict[str, Tensor] = load_state_dict(str(path), weights_only=True)
        except (AttributeError, EOFError, KeyError, IndexError, TypeError) as e:
            raise RuntimeError("it is no state_dict that torch can read") from e
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items()):
        raise RuntimeError("it has other things in it than named tensors")
    return weights


_load_some = nn.Module.load_state_dict


def _load_whole(module: nn.Module, weights: dict[str, Tensor], **kwargs: Any) -> Any:
    """`load_state_dict` that never leaves a weight random, as timm would in an Inception-v3.

    Whole numbers are no weights: torch would take those of a quantised network as they are.
    """
    for name, own in module.state_dict().items():
        if own.is_floating_point() and name in weights and not weights[name].is_floating_point():
            raise RuntimeError(f"{name} is of {weights[name].dtype}, and {own.dtype} is needed")
    found = _load_some(module, weights, **kwargs)
    if found.missing_keys:
        n = len(found.missing_keys)
        raise RuntimeError(f"it lacks {found.missing_keys[0]}" + (f" and {n - 1} more" * (n > 1)))
    return found
