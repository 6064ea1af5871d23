"""Stages that take no further gradient: normalising, momentum, smoothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from agr.attacks.ball import per_image, row_norm, within
from agr.attacks.parts import Context, State, Stateless
from agr.config.schema import LARGEST_SIDE
from agr.utils.checks import Checked, flag, number, one_of, whole


def mean_normalized(g: Tensor) -> Tensor:
    """Divide each row of `g` (B, ...) by its mean absolute value; 0 where it is 0 or not finite."""
    scale = g.abs().mean(within(g))
    good = (scale > 0) & scale.isfinite()
    # A row that cannot be normalised contributes nothing: dividing would put NaN into the
    # momentum for good, which freezes L-inf attacks silently and ruins L2 images.
    quotient = g / per_image(torch.where(good, scale, torch.inf), g)
    return quotient.nan_to_num_(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Distance(Checked, Stateless):
    """Term of PNA: g + weight * d / ||d||_2, d the perturbation (Wei et al., arXiv:2109.04176).

    That is the gradient of weight * ||d||_2, of images in [0, 1], at the point of g; none at d = 0.
    It is climbed by targeted attacks too. Authors: 0.1.
    """

    weight: float = number(0.1, 0)

    @property
    def idle(self) -> bool:
        """True if it changes nothing."""
        return self.weight == 0

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]:
        d = c.point - c.x0
        length = row_norm(d)
        return g + self.weight * d / per_image(torch.where(length > 0, length, 1.0), d), s


@dataclass(frozen=True)
class MeanNormalize(Stateless):
    """g / mean|g| of each image.

    MI-FGSM divides by the L1 norm (Dong et al., arXiv:1710.06081, Eq. 6). The mean differs from it
    by a factor that is the same at every step, which changes no direction; it is used because a
    look-ahead along the momentum (NI-FGSM) needs the momentum at the scale of one.
    """

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]:
        return mean_normalized(g), s


@dataclass(frozen=True)
class Momentum(Checked):
    """m <- decay * m + g (Dong et al., arXiv:1710.06081, Eq. 6).

    With `look_ahead` the gradient is taken at x + size * decay * m (NI-FGSM; Lin et al.,
    arXiv:1908.06281). This needs m at the scale of one: put `MeanNormalize` before it.
    """

    decay: float = number(1.0, 0)
    look_ahead: bool = flag(False)

    @property
    def idle(self) -> bool:
        """True if it changes nothing."""
        return self.decay == 0

    def init(self, x: Tensor) -> State:
        return {"m": torch.zeros_like(x)}

    def point(self, s: State, c: Context) -> Tensor:
        """Return the point (B, 3, H, W) of the gradient, with `look_ahead`."""
        return torch.add(c.image, s["m"], alpha=c.size / c.ball.ones(c.x) * self.decay)

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]:
        m = torch.add(g, s["m"], alpha=self.decay)
        return m, {"m": m}


@dataclass(frozen=True)
class Smooth(Checked, Stateless):
    """TI: the gradient convolved with a kernel, zeros around it (Dong et al., arXiv:1904.02884).

    `shape` is "gaussian" (the normal density on `size` points from -`reach` to `reach` standard
    deviations, as in the authors' code), "uniform", or "linear" (1 - |i| / (k + 1), size = 2k + 1).
    The authors' size is 15. All three are separable, and are applied along one axis at a time.
    """

    size: int = whole(15, 1, LARGEST_SIDE)
    shape: str = one_of("gaussian", ("gaussian", "uniform", "linear"))
    reach: float = number(3.0, 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size % 2 == 0:
            raise ValueError(f"size={self.size} has no middle: give an odd number")

    @property
    def idle(self) -> bool:
        """True if it changes nothing."""
        return self.size == 1

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]:
        line = _tensor_of(self, g.dtype, g.device)
        channels, half = g.shape[1], self.size // 2
        across = line.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
        down = line.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
        g = F.conv2d(g, across, padding=(0, half), groups=channels)
        return F.conv2d(g, down, padding=(half, 0), groups=channels), s

    def line(self) -> list[float]:
        """Return the line whose outer product with itself is the kernel; it sums to 1."""
        k = self.size // 2
        if self.shape == "gaussian":
            step = self.reach / k if k else 0.0
            values = [math.exp(-0.5 * (step * i) ** 2) for i in range(-k, k + 1)]
        elif self.shape == "linear":
            values = [1 - abs(i) / (k + 1) for i in range(-k, k + 1)]
        else:
            values = [1.0] * self.size
        return [value / sum(values) for value in values]


@lru_cache(maxsize=8)  # every step asks, and on a GPU a copy would wait
def _tensor_of(stage: Smooth, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(stage.line(), dtype=dtype, device=device)
