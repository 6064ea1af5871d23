"""Rules on residual branches: the gradient goes through the shortcuts more than through them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from agr.attacks.parts import Pass
from agr.models import roles
from agr.utils.checks import Checked, number

Forward = Callable[..., Any]


def with_gradient(made: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Return `made`, whose gradient is changed on its way back."""
    if made.requires_grad:
        made.register_hook(change)
    return made


@dataclass(frozen=True)
class SkipGradient(Checked):
    """SGM: the gradient through each residual branch times `decay`.

    Wu et al., ICLR 2020, arXiv:2002.05990, Eq. 5. Authors: 0.2 in ResNet-152, 0.5 in DenseNet-201.
    """

    decay: float = number(0.2, 0, 1)

    def find(self, network: nn.Module) -> roles.Modules:
        return roles.residual_branches(network)

    def forward(self, own: Forward, p: Pass) -> Forward:
        return lambda *x, **k: with_gradient(own(*x, **k), lambda g: g * self.decay)
