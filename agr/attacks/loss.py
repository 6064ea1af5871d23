"""Losses that an attack climbs, per image: a mean would let images change each other's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from agr.utils.checks import Checked, number, one_of

TIED = 1e-12  # the least margin of two logits that something is divided by


@dataclass(frozen=True)
class CrossEntropy:
    """J(theta, x, y) of FGSM (Goodfellow et al., arXiv:1412.6572, section 4)."""

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, reduction="none")


@dataclass(frozen=True)
class Logit:
    """-z_y, whose gradient doesn't vanish as the softmax saturates.

    Zhao et al., arXiv:2012.11207, Eq. 3, use it for targeted attacks, which descend it.
    """

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        return -logit_of(logits, y)


@dataclass(frozen=True)
class Margin:
    """The highest other logit minus the label's, above 0 where the label isn't predicted.

    f_6 of Carlini and Wagner, arXiv:1608.04644, section V.A, without their bound kappa: the
    confidence that is enough is up to the stop (`agr.attacks.stop.Margin`).
    """

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        return margin(logits, y)


@dataclass(frozen=True)
class Calibrated(Checked):
    """Cross-entropy of logits that are divided by their margin, or by a temperature.

    Logit-Margin (Weng et al., arXiv:2303.03680), as in the authors' program: `by` "margin" divides
    them by the largest minus the second largest of the image's own logits, through which no
    gradient goes, "temperature" by `temperature`. The third, by angle, is the rule `Angle`. The
    authors' temperature is 0.5 in their program, and 5 in TransferAttack.
    """

    by: str = one_of("margin", ("margin", "temperature"))
    temperature: float = number(0.5, 1e-6)

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        if self.by == "temperature":
            return F.cross_entropy(logits / self.temperature, y, reduction="none")
        two = logits.detach().topk(2, dim=1).values
        gap = (two[:, :1] - two[:, 1:]).clamp_min(TIED)
        return F.cross_entropy(logits / gap, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the highest other logit minus that of `y`, (B,), from logits (B, classes)."""
    others = logits.scatter(1, y[:, None], -math.inf)
    return others.amax(1) - logit_of(logits, y)


def logit_of(logits: Tensor, y: Tensor) -> Tensor:
    """Return the logit of `y`, (B,), from logits (B, classes)."""
    return torch.gather(logits, 1, y[:, None]).squeeze(1)
