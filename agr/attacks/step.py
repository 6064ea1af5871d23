"""Steps: rules that move the iterate, and the size of a step.

The paper's Algorithm 1 can be read in more than one way (docs/design.md, "AGR's readings"): as
`AdaGrad` or `Overwrite`, with one of several step sizes, with a stop or without.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agr.attacks.ball import Ball, per_image
from agr.attacks.parts import Context, State, Stateless
from agr.attacks.stages.basic import mean_normalized
from agr.config.schema import STEP_FRACTION
from agr.utils.checks import Checked, number, one_of

DIRECTIONS = ("ball", "sign")
ABOVE_0 = 1e-30  # least value of what keeps divisors from 0 where a gradient is 0
BELOW_1 = 0.999999  # largest decay of a mean


def step_size(rule: str | float, eps: float, steps: int) -> float:
    """Return the base step of an attack, in the units of `eps`.

    `rule` is a number, taken as it is, or a name: "even" is eps/T; "decaying" is
    eps / sum_{i<=T} i^(-1/2), so that T steps which shrink as 1/sqrt(i) add up to eps; "full" is
    eps; "eps/4" and the like are fractions of it.

    Raises ValueError for another name, or a number that is not above 0.
    """
    rules = {
        "even": eps / steps,
        "decaying": eps / sum(i**-0.5 for i in range(1, steps + 1)),
        "full": eps,
    }
    if isinstance(rule, str):
        if rule in rules:
            return rules[rule]
        if part := STEP_FRACTION.fullmatch(rule):
            return eps / float(part[1])
        raise ValueError(f"step_size={rule} is unknown: use a number, eps/4, or {list(rules)}")
    if not 0 < rule < math.inf:
        raise ValueError(f"step_size={rule} is not a step: use a finite number above 0")
    return rule


def _of_row(values: Tensor, like: Tensor) -> Tensor:
    """Cast one value per row (B,) to the dtype of `like`, and shape it to broadcast over it."""
    return per_image(values.to(like.dtype), like)


def unit(ball: Ball, g: Tensor, direction: str) -> Tensor:
    """Return a step of length 1: steepest ascent ("ball"), or sign(g) in any norm ("sign")."""
    return ball.direction(g if direction == "ball" else g.sign())


@dataclass(frozen=True)
class Plain(Checked, Stateless):
    """x + size * direction(g): Eq. 3 of the AGR paper (I-FGSM; Kurakin et al., 2016)."""

    direction: str = one_of("ball", DIRECTIONS)

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]:
        return torch.add(c.x, unit(c.ball, g, self.direction), alpha=c.size), s


@dataclass(frozen=True)
class _Adaptive(Checked):
    """A step whose pixels are divided by the root of a sum of squares: AGR and its relatives.

    `of="sign"` works on sign(g): the squares then count steps with a non-zero gradient, and the
    numerator is `direction`: "ball", the norm's steepest ascent (sign(g) in L-inf, g/||g|| in L2),
    or "sign", sign(g) in either norm, as the AGR paper prints it. `of="gradient"` works per pixel
    on g / mean|g|, in L2 scaled so that a step of the same amount everywhere has length `size`.
    """

    of: str = one_of("sign", ("sign", "gradient"))
    direction: str = one_of("ball", DIRECTIONS)

    def init(self, x: Tensor) -> State:
        return {"G": torch.zeros_like(x)}

    def _squared_and_along(self, g: Tensor, c: Context) -> tuple[Tensor, Tensor]:
        """Return what is squared, and the numerator: a step of length 1."""
        if self.of == "sign":
            return g.sign(), unit(c.ball, g, self.direction)
        u = mean_normalized(torch.nan_to_num(g, posinf=1.0, neginf=-1.0))
        return u, u / c.ball.ones(u)


@dataclass(frozen=True)
class AdaGrad(_Adaptive):
    """x + size * u / (phi * sqrt(G + delta)), with G the sum of the squares u^2 so far.

    Eqs. 8, 9 and 11 of the AGR paper, with G accumulated as in Eq. 8. With `of="sign"` (Eq. 10) it
    is `Plain` on a 1/sqrt(t) schedule wherever no gradient is zero; with `of="gradient"` steps
    differ by pixel, as in AdaGrad (Duchi et al., 2011).
    """

    phi: float = number(1.0, 1e-12)
    delta: float = number(1e-7, ABOVE_0)

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]:
        u, along = self._squared_and_along(g, c)
        G = torch.addcmul(s["G"], u, u)
        root = (G + self.delta).sqrt_().mul_(self.phi)
        return torch.addcdiv(c.x, along, root, value=c.size), {"G": G}


@dataclass(frozen=True)
class RMSProp(_Adaptive):
    """x + size * u / sqrt(G + delta), with G <- rho * G + (1 - rho) * u^2.

    RMSProp (Tieleman and Hinton, Neural networks for machine learning, lecture 6, 2012). G starts
    at 0, so the first steps are longer: the very first by 1 / sqrt(1 - rho).
    """

    rho: float = number(0.9, 0, BELOW_1)
    delta: float = number(1e-7, ABOVE_0)

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]:
        u, along = self._squared_and_along(g, c)
        G = torch.addcmul(s["G"] * self.rho, u, u, value=1 - self.rho)
        return torch.addcdiv(c.x, along, (G + self.delta).sqrt_(), value=c.size), {"G": G}


@dataclass(frozen=True)
class Adam(_Adaptive):
    """x + size * m / (sqrt(v) + delta), both moments bias-corrected.

    Adam (Kingma and Ba, arXiv:1412.6980, Algorithm 1). m is the mean of the numerators.
    """

    beta1: float = number(0.9, 0, BELOW_1)
    beta2: float = number(0.999, 0, BELOW_1)
    delta: float = number(1e-8, ABOVE_0)

    def init(self, x: Tensor) -> State:
        return {"m": torch.zeros_like(x), "v": torch.zeros_like(x)}

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]:
        u, along = self._squared_and_along(g, c)
        m = torch.add(s["m"] * self.beta1, along, alpha=1 - self.beta1)
        v = torch.addcmul(s["v"] * self.beta2, u, u, value=1 - self.beta2)
        n = (c.t + 1).double()
        root = (v / _of_row(1 - self.beta2**n, v)).sqrt_().add_(self.delta)
        corrected = m / _of_row(1 - self.beta1**n, m)
        return torch.addcdiv(c.x, corrected, root, value=c.size), {"m": m, "v": v}


@dataclass(frozen=True)
class Tanh(Checked):
    """x + size_t * tanh(scale * m / (sqrt(v) + delta)): AI-FGTM (Zou et al., arXiv:2007.03838).

    m and v add up mu1 * g and mu2 * g^2; size_t is proportional to
    (1 - beta1^t) / sqrt(1 - beta2^t), scaled so that T steps add up to T * size. The authors smooth
    the gradient first (`Smooth(9)`) and don't normalise it. In L2, which the paper doesn't cover, a
    step of 1 everywhere has length `size`.
    """

    mu1: float = number(1.5, ABOVE_0)
    mu2: float = number(1.9, ABOVE_0)
    beta1: float = number(0.9, 0, BELOW_1)
    beta2: float = number(0.99, 0, BELOW_1)
    scale: float = number(1.3, ABOVE_0)
    delta: float = number(1e-7, ABOVE_0)

    def init(self, x: Tensor) -> State:
        return {"m": torch.zeros_like(x), "v": torch.zeros_like(x)}

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]:
        g = torch.nan_to_num(g, 0.0, 0.0, 0.0)  # what isn't finite would stay in m for good
        m = torch.add(s["m"], g, alpha=self.mu1)
        v = torch.addcmul(s["v"], g, g, value=self.mu2)
        along = (m / v.sqrt().add_(self.delta)).mul_(self.scale).tanh_()
        mean = sum(self._growth(t + 1) for t in range(c.steps)) / c.steps
        size = self._growth((c.t + 1).double()) * (c.size / c.ball.ones(along) / mean)
        return along.mul_(_of_row(size, along)).add_(c.x), {"m": m, "v": v}

    def _growth(self, t: Any) -> Any:
        return (1 - self.beta1**t) / (1 - self.beta2**t) ** 0.5


@dataclass(frozen=True)
class Turning(Checked):
    """x + size * M * direction(g), with M lowered wherever the sign of g turns: GRA's step.

    M <- M * `decay` where sign(g) is not that of the step before (Zhu et al., ICCV 2023, section
    3.3). The first step compares with 0 and brings M to 1. Authors: 0.94, on the momentum's sign.
    """

    decay: float = number(0.94, 1e-3, 1)
    direction: str = one_of("ball", DIRECTIONS)

    def init(self, x: Tensor) -> State:
        return {"sign": torch.zeros_like(x), "M": torch.full_like(x, 1 / self.decay)}

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]:
        sign = g.sign()
        M = torch.where(sign == s["sign"], s["M"], s["M"] * self.decay)
        x = torch.addcmul(c.x, M, unit(c.ball, g, self.direction), value=c.size)
        return x, {"sign": sign, "M": M}


@dataclass(frozen=True)
class Overwrite(Checked, Stateless):
    """x0 + size * sign(g) / (phi * sqrt(sign(g)^2 + delta)): Algorithm 1 and Eq. 11 as printed.

    "update v by" is read as overwriting v, and nothing carries history.
    """

    direction: str = one_of("sign", DIRECTIONS)
    phi: float = number(1.0, 1e-12)
    delta: float = number(1e-7, ABOVE_0)

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]:
        root = (g.sign().square_() + self.delta).sqrt_().mul_(self.phi)
        return torch.addcdiv(c.x0, unit(c.ball, g, self.direction), root, value=c.size), s
