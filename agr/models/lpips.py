"""LPIPS 0.1: a distance of two images that was fitted to what people see.

Zhang, Isola, Efros, Shechtman, Wang: The unreasonable effectiveness of deep features as a
perceptual metric (CVPR 2018, arXiv:1801.03924), Eq. 1. The authors' package has the weights of its
heads, torchvision those of its networks; nothing is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models

from agr.models.loading import BROKEN, read_state_dict, reason_of
from agr.utils.errors import ConfigError
from agr.utils.pixels import LEVELS

# By the shape of the first weights: the network, its layers that are compared, their channels.
BACKBONES = {
    (64, 3, 11, 11): (models.alexnet, (1, 4, 7, 9, 11), (64, 192, 384, 256, 256)),
    (64, 3, 3, 3): (models.vgg16, (3, 8, 15, 22, 29), (64, 128, 256, 512, 512)),
}
FIRST = "features.0.weight"
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of images in [-1, 1]
EPSILON = 1e-10
# What each kind of file is, for messages.
BACKBONE_FILE = "torchvision's AlexNet (alexnet-owt-7be5be79.pth) or VGG16"
HEADS_FILE = "LPIPS's own (weights/v0.1/alex.pth or vgg.pth of the package lpips)"


class Lpips:
    """The measure, in float64 and one pair of images at a time, whatever else there is."""

    def __init__(self, layers: nn.Sequential, heads: dict[int, Tensor], device: str = "cpu"):
        """Take a network's layers, and the weights (1, C, 1, 1) of those that are compared."""
        self.layers = layers.eval().requires_grad_(False).to(device, torch.float64)
        self.heads = {i: head.to(device, torch.float64) for i, head in heads.items()}

    @torch.no_grad()
    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the distances (B,) of images (B, 3, H, W) in levels, 0-255; 0: no difference."""
        pairs = zip(x.double().split(1), y.double().split(1), strict=True)
        return torch.stack([self._distance(torch.cat(pair)) for pair in pairs])

    def _distance(self, pair: Tensor) -> Tensor:
        """Return the distance of two images (2, 3, H, W)."""
        shift, scale = (pair.new_tensor(values).view(3, 1, 1) for values in (SHIFT, SCALE))
        features = (2 * pair / LEVELS - 1 - shift) / scale
        distance = pair.new_zeros(())
        for i, layer in enumerate(self.layers):
            features = layer(features)
            if i in self.heads:
                unit = features / (features.norm(dim=1, keepdim=True) + EPSILON)
                squares = (unit[:1] - unit[1:]).square()
                distance = distance + (self.heads[i] * squares).sum(1).mean()
        return distance


def load_lpips(files: Sequence[Path], device: str = "cpu") -> Lpips:
    """Build LPIPS from files that together hold a network's weights and those of its heads.

    The state dict of the authors' module, which has both, is known as well.
    Raises ConfigError for a file that can't be read, and for the first weights that are missing.
    """
    weights: dict[str, Tensor] = {}
    for path in files:
        try:
            found = read_state_dict(path)
        except BROKEN as e:
            raise ConfigError(f"lpips: {path} holds no weights: {reason_of(e)}") from e
        weights |= {re.sub(r"^net\.slice\d\.", "features.", name): w for name, w in found.items()}
    first = tuple(_of_all(weights, FIRST, BACKBONE_FILE).shape)
    if first not in BACKBONES:
        raise ConfigError(f"lpips: {FIRST} is of shape {first}: give {BACKBONE_FILE}")
    build, compared, channels = BACKBONES[first]
    with torch.device("meta"):  # takes neither memory nor time
        layers: nn.Sequential = build().features[: compared[-1] + 1]
    names = {f"features.{name}": w.shape for name, w in layers.state_dict().items()}
    heads = {f"lin{i}.model.1.weight": (1, n, 1, 1) for i, n in enumerate(channels)}
    for name, shape in (names | heads).items():
        what = HEADS_FILE if name in heads else BACKBONE_FILE
        own = _of_all(weights, name, what)
        if own.shape != shape or not own.is_floating_point() or not own.isfinite().all():
            raise ConfigError(
                f"lpips: {name} is {own.dtype} of shape {tuple(own.shape)}, and finite numbers of "
                f"shape {tuple(shape)} are needed: give files of one network, {what}"
            )
    own_names = {name.removeprefix("features."): weights[name] for name in names}
    layers.load_state_dict(own_names, assign=True)
    own_heads = [weights[name] for name in heads]
    return Lpips(layers, dict(zip(compared, own_heads, strict=True)), device)


def _of_all(weights: dict[str, Tensor], name: str, what: str) -> Tensor:
    """Return weights by name. Raises ConfigError if no file has them."""
    if name not in weights:
        raise ConfigError(
            f"lpips: no file has {name}: give lpips=[BACKBONE,HEADS] with {what} among them"
        )
    return weights[name]
