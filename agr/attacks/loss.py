"""Losses that an attack climbs. Per image, never averaged: no image feels its neighbours."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class CrossEntropy:
    """J(theta, x, y) of FGSM (Goodfellow et al., arXiv:1412.6572, section 4)."""

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, reduction="none")
