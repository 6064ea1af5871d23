"""Losses that an attack climbs. Per image, never averaged: no image feels its neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class CrossEntropy:
    """J(theta, x, y) of FGSM (Goodfellow et al., arXiv:1412.6572, section 4)."""

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, reduction="none")


@dataclass(frozen=True)
class Logit:
    """-z_y: its gradient doesn't vanish as the softmax saturates.

    For targeted attacks (which descend) by Zhao et al., arXiv:2012.11207, Eq. 3.
    """

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        return -_of_class(logits, y)


@dataclass(frozen=True)
class Margin:
    """The highest other logit minus the label's: above 0 the label has lost.

    f_6 of Carlini and Wagner, arXiv:1608.04644, section V.A, without their bound kappa: the
    confidence that is enough is a matter of the stop (`agr.attacks.stop.Margin`).
    """

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        return margin(logits, y)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """The highest other logit minus that of `y`, (B,), from logits (B, classes)."""
    others = logits.scatter(1, y[:, None], -math.inf)
    return others.amax(1) - _of_class(logits, y)


def _of_class(logits: Tensor, y: Tensor) -> Tensor:
    return torch.gather(logits, 1, y[:, None]).squeeze(1)
