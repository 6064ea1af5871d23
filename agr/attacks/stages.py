"""Stages: what happens to a gradient on its way to the step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agr.attacks.ball import per_image, within
from agr.attacks.parts import Context, State, Stateless, number


def mean_normalized(g: Tensor) -> Tensor:
    """Each row of `g` (B, ...) over its mean absolute value; 0 where `g` is 0 or not finite."""
    scale = g.abs().mean(within(g))
    good = (scale > 0) & scale.isfinite()
    # A row that cannot be normalised contributes nothing: dividing would put NaN into the
    # momentum for good, which freezes L-inf attacks silently and ruins L2 images.
    shared = g / per_image(torch.where(good, scale, torch.inf), g)
    return shared.nan_to_num_(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class MeanNormalize(Stateless):
    """g / mean|g| of each image.

    MI-FGSM divides by the L1 norm (Dong et al., arXiv:1710.06081, Eq. 6). The mean differs from
    it by a factor that is the same at every step and that no direction sees; it is used because
    a look-ahead along the momentum (NI-FGSM) needs the momentum at the scale of one.
    """

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]:
        return mean_normalized(g), s


@dataclass(frozen=True)
class Momentum:
    """m <- decay * m + g (Dong et al., arXiv:1710.06081, Eq. 6)."""

    decay: float = 1.0

    def __post_init__(self) -> None:
        number("decay", self.decay, 0)

    def init(self, x: Tensor) -> State:
        return {"m": torch.zeros_like(x)}

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]:
        m = torch.add(g, s["m"], alpha=self.decay)
        return m, {"m": m}
