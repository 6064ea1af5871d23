"""Loading of networks: timm's code with the weights of a checked file, none of them left random."""

from __future__ import annotations

import warnings
from functools import partialmethod
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from unittest import mock

import timm
from safetensors import SafetensorError
from timm.models import load_state_dict
from torch import Tensor, nn

from agr.config.registry import check_architecture
from agr.config.schema import NetworkConfig
from agr.models.renaming import foreign_input, renamed, without_background, without_prefix
from agr.models.slim import load_slim
from agr.models.weights import weights_file
from agr.utils.errors import ConfigError

# What torch, timm and safetensors raise for a file that isn't what it should be.
BROKEN = (
    RuntimeError, ValueError, TypeError, LookupError, OSError, EOFError, UnpicklingError,
    SafetensorError, AttributeError, AssertionError,
)  # fmt: skip


def load_body(name: str, config: NetworkConfig) -> nn.Module:
    """Build a network from its weight file, without preprocessing. Raises ConfigError."""
    path = weights_file(name, config)
    check_architecture(config.architecture, f"network {name}")
    try:
        if config.width is not None:
            return load_slim(config.architecture, config.width, config.classes, path)
        return _pretrained(config, path).eval()
    except BROKEN as e:
        raise ConfigError(
            f"network {name}: {path} holds no weights of {config.architecture}: {reason_of(e)}"
        ) from e


def reason_of(e: Exception) -> str:
    """Say in one line why a file can't be loaded, by what was raised."""
    if "weights_only" in str(e):  # torch and timm say how to load it all the same: better not
        return "loading it could run code: save its state_dict as safetensors"
    return " ".join(str(e).split())[:300] or type(e).__name__


def _pretrained(config: NetworkConfig, path: Path) -> nn.Module:
    """Build timm's network with the weights of a file, whatever wrapper they were saved in.

    Names count as they are first: a network of one's own may call its only child "model".
    """
    weights = read_state_dict(path)
    inner, aside = without_prefix(weights)
    try:
        return _built(config, weights)
    except BROKEN:
        if inner.keys() == weights.keys():
            raise
    if unlike := foreign_input(aside, config.mean, config.std):
        raise RuntimeError(unlike)
    return _built(config, inner)


def _built(config: NetworkConfig, weights: dict[str, Tensor]) -> nn.Module:
    """Build a network with weights, which timm adapts as it does its own. Raises one of BROKEN."""
    given = {"state_dict": weights, "num_classes": config.classes, "custom_load": False}
    loaded: set[int] = set()
    load = partialmethod(_load_all_weights, classes=config.classes, loaded=loaded)
    with mock.patch.object(nn.Module, "load_state_dict", load):
        body: nn.Module = timm.create_model(
            config.architecture,
            pretrained=True,
            pretrained_cfg_overlay=given,
            num_classes=config.classes,
            **config.arguments,
        )
    for name, parameter in body.named_parameters():
        if id(parameter) not in loaded:
            raise RuntimeError(
                f"its function never loaded {name}: build it by timm's build_model_with_cfg, or "
                'load pretrained_cfg_overlay["state_dict"]'
            )
    # timm keeps the weights in it: they would stay in memory twice
    vars(body)["pretrained_cfg"] = {}
    return body


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the weights in a file, by name; no code in it is run. Raises one of BROKEN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of pickles that it refuses in the next line
        try:
            weights: dict[str, Tensor] = load_state_dict(str(path), weights_only=True)
        except (AttributeError, EOFError, KeyError, IndexError, TypeError) as e:
            raise RuntimeError("it is not a state_dict that torch can read") from e
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items()):
        raise RuntimeError("it has other things in it than named tensors")
    if not any(w.dim() for w in weights.values()):
        raise RuntimeError("there are no weights in it")  # timm would fetch its own
    return weights


_load_state_dict = nn.Module.load_state_dict


def _load_all_weights(
    module: nn.Module,
    weights: dict[str, Tensor],
    *args: Any,
    classes: int,
    loaded: set[int],
    **kwargs: Any,
) -> Any:
    """Load a state dict without leaving any weight random, as timm would in an Inception-v3.

    The ids of the parameters go into `loaded`. Raises RuntimeError, for integers too: torch would
    take those of a quantised network as they are.
    """
    state = module.state_dict()
    weights = without_background(renamed(weights, state), state)
    for name, own in state.items():
        given = weights.get(name)
        if given is not None and own.dim() and len(given) != len(own) == classes:
            if len(given) == 1:
                raise RuntimeError("its head has one logit, and agr needs one per class")
            raise RuntimeError(
                f"its head knows {len(given):,} classes, the config {classes:,}: write it into a "
                f"suite of your own with classes: {len(given)} (docs/networks.md)"
            )
        if own.is_floating_point() and name in weights and not weights[name].is_floating_point():
            raise RuntimeError(f"{name} is of {weights[name].dtype}, and {own.dtype} is needed")
    found = _load_state_dict(module, weights, *args, **kwargs)
    loaded |= {id(parameter) for parameter in module.parameters()}
    if found.missing_keys:
        n = len(found.missing_keys)
        more = f" and {n - 1} more" if n > 1 else ""
        raise RuntimeError(f"it lacks {found.missing_keys[0]}{more}")
    return found
