"""Initial weights of the demo's networks, and their batch norms folded after training.

A plain VGG hardly trains at a few channels, so the demo trains `vgg16_bn` and folds each norm into
the convolution before it. `agr.models.tuning` folds the norms of any network where they are, in
float64; here the plain VGG gets the weights, in the float32 that the shipped files were made with.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


def initialise_weights(network: nn.Module) -> None:
    """Fill a slim network's parameters for training, in place, from torch's global generator.

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


@torch.no_grad()
def fold_batch_norm(trained: nn.Module, plain: nn.Module) -> nn.Module:
    """Fill the plain VGG `plain` with the function of `trained`, its twin with batch norm.

    In evaluation mode both compute the same up to rounding.

    Args:
        trained: slim("vgg16_bn", ...), with running statistics.
        plain: slim("vgg16", ...) of the same width; overwritten, and returned.

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
    """Return weight and bias of `layer` with `norm` folded in, if that is a batch norm."""
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
