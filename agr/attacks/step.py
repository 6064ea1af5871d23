"""Steps: how the iterate moves, and how long a step is.

The paper's Algorithm 1 can be read in more than one way (docs/design.md, "AGR's readings"); the
readings are `AdaGrad` or `Overwrite`, a step-size rule, and a stop or none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from agr.attacks.ball import Ball
from agr.attacks.parts import Context, State, Stateless, number, one_of
from agr.attacks.stages import mean_normalized

Direction = Literal["ball", "sign"]


def step_size(rule: str | float, eps: float, steps: int) -> float:
    """The base step of an attack, in the units of `eps`.

    `rule` is a number (taken as it is) or a name: "even" is eps/T; "decaying" is
    eps / sum_{i<=T} i^(-1/2), so that T steps which shrink as 1/sqrt(i) add up to eps;
    "full" is eps.

    Raises ValueError for another name, or a number that is not above 0.
    """
    rules = {
        "even": eps / steps,
        "decaying": eps / sum(i**-0.5 for i in range(1, steps + 1)),
        "full": eps,
    }
    if isinstance(rule, str):
        if rule not in rules:
            raise ValueError(f"step_size={rule} is unknown: use a number or one of {list(rules)}")
        return rules[rule]
    if not rule > 0:
        raise ValueError(f"step_size={rule} does not move: use a number above 0")
    return rule


def unit(ball: Ball, g: Tensor, direction: Direction) -> Tensor:
    """A step of length 1: the ball's steepest ascent ("ball"), or sign(g) in any norm ("sign")."""
    return ball.direction(g) if direction == "ball" else ball.unit_sign(g)


@dataclass(frozen=True)
class Plain(Stateless):
    """x + size * direction(g): Eq. 3 of the AGR paper (I-FGSM; Kurakin et al., 2016)."""

    direction: Direction = "ball"

    def __post_init__(self) -> None:
        one_of("direction", self.direction, ("ball", "sign"))

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]:
        return torch.add(c.x, unit(c.ball, g, self.direction), alpha=c.size), s


@dataclass(frozen=True)
class AdaGrad:
    """x + size * direction(g) / (phi * sqrt(G + delta)), with G the sum of squares so far.

    Eqs. 8, 9 and 11 of the AGR paper, G accumulated as Eq. 8 says. `of="sign"` sums sign(g)^2
    (Eq. 10): G then counts the steps with a non-zero gradient, so this is `Plain` on a
    1/sqrt(t) schedule wherever no gradient is zero. `of="gradient"` sums (g / mean|g|)^2, truly
    per pixel as in AdaGrad (Duchi et al., 2011), and moves along g / mean|g| over its root.

    `direction` is the numerator of "sign": "ball" is the norm's steepest ascent (sign(g) in
    L-inf, g/||g|| in L2); "sign" is sign(g) in either norm, as the paper prints it.
    """

    of: Literal["sign", "gradient"] = "sign"
    direction: Direction = "ball"
    phi: float = 1.0
    delta: float = 1e-7

    def __post_init__(self) -> None:
        one_of("of", self.of, ("sign", "gradient"))
        one_of("direction", self.direction, ("ball", "sign"))
        number("phi", self.phi, 1e-12)
        number("delta", self.delta, 0)

    def init(self, x: Tensor) -> State:
        return {"G": torch.zeros_like(x)}

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]:
        if self.of == "sign":
            u = g.sign()
        else:
            u = mean_normalized(torch.nan_to_num(g, posinf=1.0, neginf=-1.0))
        G = torch.addcmul(s["G"], u, u)
        root = (G + self.delta).sqrt_().mul_(self.phi)
        if self.of == "gradient":
            return torch.add(c.x, unit(c.ball, u / root, self.direction), alpha=c.size), {"G": G}
        along = unit(c.ball, g, self.direction)
        return torch.addcdiv(c.x, along, root, value=c.size), {"G": G}


@dataclass(frozen=True)
class Overwrite(Stateless):
    """x0 + size * sign(g) / (phi * sqrt(sign(g)^2 + delta)): Algorithm 1 and Eq. 11 as printed.

    "update v by" is taken as overwriting v, and nothing carries history.
    """

    direction: Direction = "sign"
    phi: float = 1.0
    delta: float = 1e-7

    def __post_init__(self) -> None:
        one_of("direction", self.direction, ("ball", "sign"))
        number("phi", self.phi, 1e-12)
        number("delta", self.delta, 0)

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]:
        root = (g.sign().square_() + self.delta).sqrt_().mul_(self.phi)
        return torch.addcdiv(c.x0, unit(c.ball, g, self.direction), root, value=c.size), s
