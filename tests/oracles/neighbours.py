"""Oracles of attacks that look around the iterate: PGN and GRA."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from tests.conftest import EPS
from tests.oracles.base import ALPHA, PAPER, STEP, AnySize, Given, Oracle, drawn
from tests.oracles.classic import AGR, AHEAD, DECAYING, MOMENTUM, agr_on
from tests.transcriptions import neighbours as papers

PENALIZE = (
    "attack.chain.penalize=null",
    "attack.chain.penalize.samples=19",
    "attack.chain.penalize.reach=2",
    "attack.chain.penalize.delta=0.4",
)


def penalized_way(g: Given, b: int, t: int, adv: Tensor, memory: dict[str, Tensor]) -> Tensor:
    """PGN's gradient: the mean of its gradients at 20 neighbours and a step below each."""
    label, total = g.y[b : b + 1], []
    for k in range(20):
        near = adv + 3 * EPS * g.draws.noise(b, t, k)
        first = papers._slope(g.model, near, label, False)
        step = DECAYING * papers._mean_normalised(first)
        total += [first, papers._slope(g.model, near - step, label, False)]
    return sum(total) / 40  # type: ignore[return-value]


ORACLES = [
    Oracle("pgn", PAPER, drawn(papers.pgn, ALPHA, 10, draws=lambda g: [g.draws.noise]),
           (*STEP, *MOMENTUM, *PENALIZE), n=2),
    Oracle("gra", PAPER, drawn(papers.gra, ALPHA, 10, draws=lambda g: [g.draws.noise]),
           (*STEP, *MOMENTUM, AHEAD, "attack.chain.relate=null", "attack.chain.relate.samples=19",
            "attack.chain.relate.reach=2", "attack.step.decay=0.8"), n=2,
           network=partial(AnySize, gain=8)),  # curved enough that neighbours turn signs
    Oracle("agr+pgn", "formulas", agr_on(penalized_way), (*STEP, *AGR, *PENALIZE), n=4),
]  # fmt: skip
DIFFERENCES = [
    [
        "PGN: step",
        "eps / T",
        "TransferAttack: the argument `alpha` is ignored, eps / epoch taken",
        "`attack.size`",
    ],
    [
        "GRA: where steps shrink",
        "where the momentum's sign turns",
        "torchattack: compares the momenta themselves, so every step shrinks everywhere",
        "none: it is another attack",
    ],
    [
        "GRA: targeted",
        "(untargeted)",
        "torchattack: negates the loss at the iterate, not at its neighbours",
        "none: both descend here",
    ],
]
