"""Oracles of attacks on several networks: SVRE, AdaEA, MI-CWA and SMER, on three of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from agr.attacks.draws import OWN, START, fold
from agr.attacks.parts import Context
from agr.config.schema import NetworkConfig
from agr.models.network import Network
from agr.models.sources import Ensemble
from tests.conftest import CLASSES, EPS
from tests.oracles.base import ALPHA, PAPER, STEP, AnySize, Given, Oracle, Run, _step
from tests.oracles.classic import AHEAD
from tests.transcriptions import ensembles as papers

MEMBERS = 3


def network(seed: int, gain: float = 3) -> Network:
    config = NetworkConfig(
        architecture="", weights="", classes=CLASSES, size=12, mean=[0.0] * 3, std=[1.0] * 3
    )
    return Network(AnySize(seed, gain), config, "contiguous", "fp64")


def three(gain: float = 3) -> Ensemble:
    return Ensemble([network(seed, gain) for seed in range(MEMBERS)], "logits")


def on_members(f: Callable[..., Tensor], *args: Any, draws: Any = None, **kwargs: Any) -> Run:
    """A transcription on the members of the source; `draws(given, b, t, i)` makes its numbers."""

    def run(g: Given) -> Tensor:
        drawn = [partial(draws, g)] if draws else []
        return f([*g.model.members], g.x, g.y, EPS, *args, *drawn, **kwargs)  # type: ignore[misc]

    return run


def context(g: Given, b: int, t: int) -> Context:
    """What a strategy draws with."""
    key = fold(_step(b, t), 0, OWN)
    return g.draws._context(b, key)


def pick(g: Given, b: int, t: int, i: int) -> int:
    """SVRE's member of round i."""
    return int(g.draws.attack.ensemble.member(MEMBERS, i, context(g, b, t)))  # type: ignore[union-attr]


def order(g: Given, b: int, t: int, r: int) -> list[int]:
    """SMER's members in the order of round r."""
    drawn: list[int] = g.draws.attack.ensemble.order(MEMBERS, r, context(g, b, t))[0].tolist()  # type: ignore[union-attr]
    return drawn


def noise(g: Given, b: int, t: int, i: int) -> Tensor:
    """AdaEA's noise, but so that its start, which isn't clipped there, is an image as ours is."""
    attack, x = g.draws.attack, g.x[b : b + 1]
    assert attack.start
    start = replace(attack.start, deviation=0.255)(x, attack.ball, fold(torch.tensor([b]), START))  # type: ignore[type-var]
    return (start.clamp(0, 1) - x)[0] / 0.001


def part(**values: Any) -> tuple[str, ...]:
    """The changes of a strategy's parameters; without it, the mean of logits is attacked."""
    return ("attack.ensemble=null", *(f"attack.ensemble.{k}={v}" for k, v in values.items()))


SHORT = ("steps=4", "attack.size=eps/10")
CHANGES = (
    *STEP, "attack.chain.momentum.decay=0.3", "attack.chain.momentum=null",
    "attack.chain.normalize=null", AHEAD,
)  # fmt: skip
CURVED = partial(three, gain=8)  # so that gradients along a walk differ in length
SVRE = part(inner=3, inner_size=0.5, inner_decay=0.5)
ADAEA = (
    "attack.start=null", "attack.start.deviation=1",
    *part(beta=0.1, threshold=0.3, pairs="all"),
)  # fmt: skip
CWA = part(reverse=0.2, inner_size=0.1, inner_decay=0.5, over="mean")
SMER = part(rounds=1, rate=0.5, shrink=5, inner_size=0.5, inner_decay=0.5)

few = partial(Oracle, by=PAPER, n=2, network=three)
ORACLES = [
    few("svre", run=on_members(papers.svre, ALPHA, 10, draws=pick), changes=(), n=1),
    few("svre", run=on_members(papers.svre, ALPHA, 4, draws=pick, inner=4),
        changes=(*CHANGES, *SVRE), overrides=(*SHORT, "attack.ensemble.inner=4"), network=CURVED),
    few("adaea", run=on_members(papers.adaea, EPS / 4, 10, draws=noise),
        changes=(*CHANGES, *ADAEA)),
    few("adaea", run=on_members(papers.adaea, EPS / 4, 10, draws=noise, rows_of="all"),
        changes=(), overrides=("attack.ensemble.pairs=all",)),
    few("cwa", run=on_members(papers.mi_cwa, EPS / 5, 10, reverse=EPS / 15), changes=()),
    few("cwa", run=on_members(papers.mi_cwa, EPS / 5, 10, reverse=EPS / 15, inner_step=0.05),
        changes=(*CHANGES, *CWA), overrides=("attack.ensemble.inner_size=0.05",)),
    few("smer", run=on_members(papers.smer, ALPHA, 10, draws=order), changes=(), n=1),
    few("smer", run=on_members(papers.smer, ALPHA, 4, draws=order, rounds=2),
        changes=(*CHANGES, *SMER), overrides=(*SHORT, "attack.ensemble.rounds=2"), network=CURVED),
]  # fmt: skip
DIFFERENCES = [
    [
        "SVRE, AdaEA, MI-CWA, SMER: start",
        "the clean image; AdaEA: normal noise of 0.001, not clipped",
        "TransferAttack: uniform in the ball; AdaEA: as the authors",
        "`attack.start={_target_:agr.attacks.start.Uniform}`; AdaEA's is clipped to an image here",
    ],
    [
        "SVRE, AdaEA, SMER: what is drawn, weights",
        "one member, order or weight for the batch, from mean losses",
        "likewise; TransferAttack's SMER: weights go on from one batch to the next",
        "none: here each image has its own",
    ],
    [
        "SVRE: inner rounds",
        "16 (4 members); with SI or Admix 32",
        "TransferAttack: 4 for each member",
        "`attack.ensemble.inner=8` for two members",
    ],
    [
        "SVRE: gradients at the iterate",
        "anew in each round",
        "likewise",
        "none: each member's is taken once, which changes no image unless views are drawn",
    ],
    [
        "SVRE: inner steps",
        "signs of an inner momentum that starts anew in each step",
        "huanranchen: adds signs, takes members in turn, keeps the inner momentum",
        "none: it is another attack",
    ],
    [
        "AdaEA: pairs of gradients",
        "a slip counts those with the last member half, so that the order of members matters",
        "TransferAttack: likewise",
        "`attack.ensemble.pairs=all`",
    ],
    [
        "AdaEA: sizes",
        "steps of eps / 4, decay 0.9",
        "TransferAttack: eps / 10, decay 1",
        "`attack.size=even attack.chain.momentum.decay=1`",
    ],
    [
        "MI-CWA: first step",
        "down the loss of the sum of logits",
        "TransferAttack: of their mean",
        "`attack.ensemble.over=mean`",
    ],
    [
        "MI-CWA: lengths",
        "written for eps = 16, whatever eps is",
        "likewise",
        "none: shares of eps here, alike at 16",
    ],
    [
        "MI-CWA: the step's length",
        "divided by the L1 norm over the batch",
        "likewise",
        "none: by the image's own mean of abs",
    ],
    ["SMER: targeted", "(untargeted)", "TransferAttack: raises the target's loss", "none"],
]
