"""A rule on the last linear layer: its logits become cosines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agr.attacks.parts import Pass
from agr.models.roles import classifier


@dataclass(frozen=True)
class Angle:
    """Logits as the cosines between the last features and each class's weights, without bias.

    The angle-based calibration of Logit-Margin (Weng et al., arXiv:2303.03680), as in the authors'
    program, whose loss is the wanted class's cosine: `agr.attacks.loss.Logit`. Features of 0 have
    no angle, and no gradient.
    """

    def find(self, network: nn.Module) -> dict[str, nn.Module]:
        return classifier(network)

    def forward(self, own: Callable[..., Any], p: Pass) -> Callable[..., Any]:
        weight: Any = p.module.weight
        return lambda f: F.linear(_unit(f), _unit(weight.detach()).to(f.dtype))


def _unit(v: Tensor) -> Tensor:
    """Divide vectors (..., d) by their lengths; 0 stays 0."""
    length = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
    some = length > 0
    return torch.where(some, v / torch.where(some, length, 1), 0)
