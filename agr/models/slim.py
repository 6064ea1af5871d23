"""Slim copies of timm's networks: the same code, layer by layer, at a fraction of the width.

The demo suite needs the paper's six networks in a size that a laptop can train and attack. timm's
constructors don't scale most of them (`ResNet(channels=...)` keeps a stem of 64 channels, VGG's
fully connected layers always have 4096), so the width is changed afterwards: `slim` builds the
full network without storage and gives every convolution, norm and linear layer fewer channels.
Depth, branches, strides, pooling and activations stay timm's own.

    load_slim("inception_v4", 3 / 16, 10, "inc_v4.safetensors")
"""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from torch import nn

IMAGE_CHANNELS = 3
VGG_HEAD_CHANNELS = 4096  # timm's constant; no other layer of these networks has this width


def slim(architecture: str, width: float, num_classes: int) -> nn.Module:
    """Build timm's network `architecture` with every layer's channels multiplied by `width`.

    The image's three channels and the `num_classes` outputs keep their number. VGG's fully
    connected layers get a quarter of `width`: they would hold most of the parameters.

    `architecture` is a timm name without a weight tag: "inception_v3", "vgg16_bn", "resnet152". The
    network is on the CPU and in evaluation mode, maps (B, 3, H, W) to logits (B, num_classes), and
    has arbitrary weights until they are initialised or loaded.

    Raises ValueError for a width outside (0, 1], one that leaves a fraction of a channel, or a
    network with grouped convolutions, and RuntimeError for one that timm doesn't know.
    """
    if not 0 < width <= 1:
        raise ValueError(f"width {width} is not a fraction in (0, 1]")
    with torch.device("meta"):  # no storage and no random numbers for the full-width network
        network: nn.Module = timm.create_model(architecture, num_classes=num_classes)
        classifier = network.get_classifier()  # type: ignore[operator]  # untyped in timm
        for name, layer in network.named_modules():
            _narrow_layer(name, layer, width, keep_outputs=layer is classifier)
    return network.to_empty(device="cpu").eval()


def _narrowed(channels: int, width: float) -> int:
    if channels == IMAGE_CHANNELS:
        return channels
    exact = channels * (width / 4 if channels == VGG_HEAD_CHANNELS else width)
    # Whole numbers only: branches are concatenated, and rounded parts wouldn't add up to the
    # rounded sum.
    if exact < 1 or abs(exact - round(exact)) > 1e-6:
        raise ValueError(
            f"width {width} turns {channels} channels into {exact:g}; "
            "take a width that divides every layer, such as 1/8 or 3/16"
        )
    return round(exact)


def _narrow_layer(name: str, layer: nn.Module, width: float, *, keep_outputs: bool) -> None:
    """Rebuild `layer`'s parameters with fewer channels, in place; containers are left alone.

    In place, because timm's layers carry more than a constructor call shows: stride and padding,
    and the activation and drop of `BatchNormAct2d`, which a fresh norm layer would lose.
    """
    if isinstance(layer, nn.Conv2d):
        if layer.groups != 1:
            raise ValueError(f"layer {name!r} has {layer.groups} groups; slim takes ungrouped ones")
        layer.in_channels = _narrowed(layer.in_channels, width)
        layer.out_channels = _narrowed(layer.out_channels, width)
        _resize(layer, weight=(layer.out_channels, layer.in_channels, *layer.kernel_size))
        _resize(layer, bias=(layer.out_channels,))
    elif isinstance(layer, nn.BatchNorm2d):  # BatchNormAct2d is one too
        size = layer.num_features = _narrowed(layer.num_features, width)
        _resize(layer, weight=(size,), bias=(size,), running_mean=(size,), running_var=(size,))
    elif isinstance(layer, nn.Linear):
        layer.in_features = _narrowed(layer.in_features, width)
        if not keep_outputs:
            layer.out_features = _narrowed(layer.out_features, width)
        _resize(layer, weight=(layer.out_features, layer.in_features), bias=(layer.out_features,))


def _resize(layer: nn.Module, **shapes: tuple[int, ...]) -> None:
    """Replace the named parameters and buffers by empty ones; absent ones stay absent."""
    for name, shape in shapes.items():
        old = getattr(layer, name)
        if isinstance(old, nn.Parameter):
            setattr(layer, name, nn.Parameter(torch.empty(shape, dtype=old.dtype)))
        elif old is not None:
            setattr(layer, name, torch.empty(shape, dtype=old.dtype))


def load_slim(architecture: str, width: float, num_classes: int, weights: str | Path) -> nn.Module:
    """Build a slim network with the weights of a safetensors file, cast to float32.

    Arguments are as in `slim`; the file holds the whole state dict, in any float type. Raises
    FileNotFoundError, and RuntimeError if its names or shapes are those of another network.
    """
    network = slim(architecture, width, num_classes)
    network.load_state_dict(load_file(weights))  # copy_ casts the halves up
    return network
