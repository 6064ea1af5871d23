"""Slim copies of timm's networks: the same code, layer by layer, at a fraction of the width.

The demo suite needs the paper's six networks in a size that a laptop can train and attack. timm's
constructors don't scale most of them (`ResNet(channels=...)` keeps a 64-channel stem, VGG's
fully connected layers are hard-coded to 4096), so the width is changed afterwards: `slim` builds
the full network without storage, and gives every convolution, norm and linear layer fewer
channels. Depth, branches, strides, pooling and activations stay timm's own.

    slim("inception_v4", 3 / 16, num_classes=10)           # storage filled, ready for training
    load_slim("inception_v4", 3 / 16, 10, "inc_v4.safetensors")        # ready for use
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

IMAGE_CHANNELS = 3
VGG_HEAD_CHANNELS = 4096  # timm's constant; no other layer of these networks has this width

Narrow = Callable[[int], int]


def slim(
    architecture: str,
    width: float,
    num_classes: int,
    *,
    head_width: float | None = None,
    initialise: bool = True,
) -> nn.Module:
    """timm's network `architecture` with every layer's channels multiplied by `width`.

    The image's three channels and the `num_classes` outputs keep their number.

    Args:
        architecture: a timm name without a weight tag: "inception_v3", "vgg16_bn", "resnet152".
        width: fraction of the channels, in (0, 1]; it must leave every layer a whole number.
        num_classes: number of outputs.
        head_width: the same for VGG's 4096-wide fully connected layers; default `width / 4`,
            since at `width` they would hold most of the parameters.
        initialise: fill the weights for training. Without it the storage holds arbitrary numbers
            until a state dict is loaded, and building is faster.

    Returns:
        A network in evaluation mode on the CPU; it maps (B, 3, H, W) to logits (B, num_classes).

    Raises:
        ValueError: a width outside (0, 1], one that leaves a fraction of a channel, or a network
            with grouped convolutions.
        RuntimeError: timm doesn't know `architecture`.
    """
    narrow = _narrower(width, width / 4 if head_width is None else head_width)
    with torch.device("meta"):  # no storage and no random numbers for the full-width network
        network: nn.Module = timm.create_model(architecture, num_classes=num_classes)
        classifier = network.get_classifier()  # type: ignore[operator]  # untyped in timm
        for name, layer in network.named_modules():
            _narrow_layer(name, layer, narrow, keep_outputs=layer is classifier)
    network.to_empty(device="cpu")
    if initialise:
        initialise_weights(network)
    return network.eval()


def _narrower(width: float, head_width: float) -> Narrow:
    """The map from a full number of channels to the slim one, which refuses fractions."""
    for value in (width, head_width):
        if not 0 < value <= 1:
            raise ValueError(f"width {value} is not a fraction in (0, 1]")

    def narrow(channels: int) -> int:
        if channels == IMAGE_CHANNELS:
            return channels
        exact = channels * (head_width if channels == VGG_HEAD_CHANNELS else width)
        # Whole numbers only: branches are concatenated, and rounded parts wouldn't add up to the
        # rounded sum.
        if exact < 1 or abs(exact - round(exact)) > 1e-6:
            raise ValueError(
                f"width {width} turns {channels} channels into {exact:g}; "
                "take a width that divides every layer, such as 1/8 or 3/16"
            )
        return round(exact)

    return narrow


def _narrow_layer(name: str, layer: nn.Module, narrow: Narrow, *, keep_outputs: bool) -> None:
    """Rebuild `layer`'s parameters with fewer channels, in place; containers are left alone.

    In place, because timm's layers carry more than a constructor call shows: stride and padding,
    and the activation and drop of `BatchNormAct2d`, which a fresh norm layer would lose.
    """
    if isinstance(layer, nn.Conv2d):
        if layer.groups != 1:
            raise ValueError(f"layer {name!r} has {layer.groups} groups; slim takes ungrouped ones")
        layer.in_channels = narrow(layer.in_channels)
        layer.out_channels = narrow(layer.out_channels)
        _resize(layer, weight=(layer.out_channels, layer.in_channels, *layer.kernel_size))
        _resize(layer, bias=(layer.out_channels,))
    elif isinstance(layer, nn.BatchNorm2d):  # BatchNormAct2d is one too
        size = layer.num_features = narrow(layer.num_features)
        _resize(layer, weight=(size,), bias=(size,), running_mean=(size,), running_var=(size,))
    elif isinstance(layer, nn.Linear):
        layer.in_features = narrow(layer.in_features)
        layer.out_features = layer.out_features if keep_outputs else narrow(layer.out_features)
        _resize(layer, weight=(layer.out_features, layer.in_features), bias=(layer.out_features,))


def _resize(layer: nn.Module, **shapes: tuple[int, ...]) -> None:
    """Replace the named parameters and buffers by empty ones; absent ones stay absent."""
    for name, shape in shapes.items():
        old = getattr(layer, name)
        if isinstance(old, nn.Parameter):
            setattr(layer, name, nn.Parameter(torch.empty(shape, dtype=old.dtype)))
        elif old is not None:
            setattr(layer, name, torch.empty(shape, dtype=old.dtype))


def initialise_weights(network: nn.Module) -> None:
    """Fill a network's parameters for training, in place, from torch's global generator.

    Weights follow He et al. (2015, arXiv 1502.01852) with the fan-in, since VGG's fully connected
    layers have no norm to repair the scale. ResNet's residual branches start at zero (Goyal et
    al. 2017, arXiv 1706.02677), as in timm: at 152 layers it won't train well otherwise.
    """
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for layer in network.modules():
        if hasattr(layer, "zero_init_last"):
            layer.zero_init_last()  # type: ignore[operator]  # untyped in timm


def load_slim(
    architecture: str,
    width: float,
    num_classes: int,
    weights: str | Path,
    *,
    head_width: float | None = None,
) -> nn.Module:
    """`slim` with the weights of a safetensors file, cast to float32, in evaluation mode.

    Args:
        architecture, width, num_classes, head_width: as in `slim`.
        weights: a safetensors file with the network's whole state dict, in any float type.

    Raises:
        FileNotFoundError: there is no such file.
        RuntimeError: the file's names or shapes are those of another network.
    """
    network = slim(architecture, width, num_classes, head_width=head_width, initialise=False)
    network.load_state_dict(load_file(weights))  # copy_ casts the halves up
    return network


@torch.no_grad()
def fold_batch_norm(trained: nn.Module, plain: nn.Module) -> nn.Module:
    """Fill the plain VGG `plain` with the function of `trained`, its twin with batch norm.

    A plain VGG hardly trains at a few channels, so the demo trains `vgg16_bn` and folds each norm
    into the convolution before it. In evaluation mode both compute the same up to rounding.

    Args:
        trained: slim("vgg16_bn", ...), with running statistics.
        plain: slim("vgg16", ...) of the same widths; overwritten, and returned.

    Raises:
        ValueError: the two don't have the same number of layers with weights.
        RuntimeError: a layer's shape differs.
    """
    layers = [m for m in trained.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.Linear)]
    after: list[nn.Module | None] = [*layers[1:], None]
    pairs = [
        (a, b) for a, b in zip(layers, after, strict=True) if not isinstance(a, nn.BatchNorm2d)
    ]
    targets = [m for m in plain.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    if len(pairs) != len(targets):
        raise ValueError(f"{len(pairs)} layers can't be folded into {len(targets)}")
    for (layer, norm), target in zip(pairs, targets, strict=True):
        weight, bias = _folded(layer, norm)
        assert target.bias is not None  # plain VGGs have biases, which take the norms' shifts
        target.weight.copy_(weight)
        target.bias.copy_(bias)
    return plain.eval()


def _folded(layer: nn.Module, norm: nn.Module | None) -> tuple[Tensor, Tensor]:
    """Weight and bias of `layer` followed by `norm`, or by nothing if that is no batch norm."""
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    assert layer.bias is not None
    if not isinstance(norm, nn.BatchNorm2d):
        return layer.weight, layer.bias
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    return fuse_conv_bn_weights(
        layer.weight, layer.bias, mean, variance, norm.eps, norm.weight, norm.bias
    )
