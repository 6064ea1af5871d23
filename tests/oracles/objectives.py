"""Oracles of attacks on features: FIA, NAA, BFA, ILA, RPA, TAP."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from agr.attacks.draws import OWN, fold, normal, uniform
from tests.oracles.base import ALPHA, PAPER, STEP, AnySize, Given, Oracle, Run, _step
from tests.oracles.classic import AGR, AHEAD, agr_on
from tests.oracles.classic import MOMENTUM as OWN_MOMENTUM
from tests.transcriptions import objectives as papers


class Listed(AnySize):
    """A classifier that lists its layers as timm's do: at depths 0, 0.5 and 1."""

    feature_info = tuple({"module": f"body.{i}"} for i in (1, 2, 3))


def features(model: Any, i: int, x: Tensor) -> Tensor:
    """What layer `i` of the body makes of images."""
    made: Tensor = model.body[: i + 1](x)
    return made


def head(model: Any, i: int, f: Tensor) -> Tensor:
    """Logits from what layer `i` of the body makes."""
    logits: Tensor = model.head(model.body[i + 1 :](f).mean((2, 3)))
    return logits


def cut(
    f: Callable[..., Tensor],
    *draws: Callable[..., Tensor],
    at: int = 2,
    several: bool = False,
    **how: float,
) -> Run:
    """A transcription on budget 10 with ten even steps, of features at a layer; or at several."""

    def run(g: Given) -> Tensor:
        own: Any = partial(features, g.model, at)
        own = [partial(features, g.model, i) for i in (1, 2, 3)] if several else own
        drawn = [partial(draw, g) for draw in draws]
        return f(own, partial(head, g.model, at), g.x, g.y, ALPHA * 10, ALPHA, 10, *drawn, **how)

    return run


# ---- the random numbers, all drawn before the first step -----------------------------------------


def _key(b: int, *use: int) -> Tensor:
    return fold(_step(b, 0), OWN, *use)


def chance(g: Given, b: int, t: int, i: int, *use: int) -> Tensor:
    """A number from 0 to 1 for each value of copy i."""
    return uniform(_key(b, i, *use), g.x.shape[1:], torch.float64)[0]


def noise(g: Given, b: int, t: int, i: int) -> Tensor:
    """Noise of copy i, of deviation 1."""
    return normal(_key(b, i), g.x.shape[1:], torch.float64)[0]


def pick(g: Given, b: int, t: int, i: int) -> Tensor:
    """Numbers for the values of copy i, or an order of its patches."""
    size = (1, 3, 5, 7)[i % 4]
    if size == 1:
        return chance(g, b, t, i, 0)
    count = 3 * (g.x.shape[2] // size) * (g.x.shape[3] // size)
    return uniform(_key(b, i, 0), (count,), torch.float64)[0].argsort()


def fill(g: Given, b: int, t: int, i: int) -> Tensor:
    """What copy i's patches are multiplied by."""
    return chance(g, b, t, i, 1)


# ---- AGR's steps on BFA --------------------------------------------------------------------------


def fitted_way(g: Given, b: int, t: int, adv: Tensor, memory: dict[str, Tensor]) -> Tensor:
    """BFA's gradient, but for its size."""
    clean, label = g.x[b : b + 1], g.y[b : b + 1]
    f, h = partial(features, g.model, 2), partial(head, g.model, 2)
    if not memory:
        fitted, total = clean, torch.zeros_like(f(clean))
        for _ in range(30):
            slope = papers._slope(papers._entropy(f, h, label, False), fitted)
            fitted = clean + 28 * slope / slope.norm()
            total = total + papers._slope(papers._logit(h, label), f(fitted))
        memory["w"] = total
    return papers._slope(papers._weighted(f, memory["w"], False), adv)


def changes(**others: object) -> tuple[str, ...]:
    """Overrides of an objective."""
    return tuple(f"attack.objective.{name}={value}" for name, value in others.items())


# Curved enough that gradients turn; or so little that images far away, BFA's, saturate nothing.
STEEP, FLAT = partial(Listed, gain=12), partial(Listed, gain=0.7)
MOMENTUM = (*OWN_MOMENTUM, AHEAD)
FITTING = ("attack.objective=null", *changes(layer=1, rounds=5, distance=4))
ORACLES = [
    Oracle("fia", PAPER, cut(papers.fia, chance),
           (*STEP, *MOMENTUM, "attack.objective=null", *changes(layer=1, copies=29, keep=0.8)),
           n=2, network=STEEP),
    Oracle("naa", PAPER, cut(papers.naa, noise),
           (*STEP, *MOMENTUM, "attack.objective=null",
            *changes(layer="body.3", copies=29, sigma=20, gamma=0.7)), n=2, network=STEEP),
    Oracle("bfa", PAPER, cut(papers.bfa), (*STEP, *FITTING), n=2, network=FLAT),
    Oracle("bfa", PAPER, cut(papers.bfa, n=3, eta=2.0), MOMENTUM, n=2, network=STEEP,
           overrides=changes(rounds=3, distance=2)),
    Oracle("ila", PAPER, cut(papers.ila, at=3),
           (*STEP, "attack.objective=null", *changes(layer=0, guide_steps=4, guide_ratio=0.5)),
           n=2, network=Listed),
    Oracle("rpa", PAPER, cut(papers.rpa, pick, fill),
           (*STEP, *MOMENTUM, "attack.objective=null",
            *changes(layer=1, copies=20, keep=0.8, largest=5)), n=2, network=STEEP),
    Oracle("tap", PAPER, cut(papers.tap, at=3, several=True),
           (*STEP, "attack.objective=null",
            *changes(layers="[0,1]", distance=0.05, power=1, smooth=10, size=2)),
           n=2, network=Listed),
    Oracle("agr+bfa", "formulas", agr_on(fitted_way), (*STEP, *AGR, *FITTING), n=4,
           network=FLAT),
]  # fmt: skip
DIFFERENCES = [
    [
        "FIA, RPA: what is differentiated",
        "the label's logit",
        "TransferAttack, torchattack: its probability, small where the source is sure",
        "none",
    ],
    [
        "FIA, NAA: steps",
        "with momentum",
        "TransferAttack, TransferAttackEval: without",
        "`attack.chain.momentum=null`",
    ],
    [
        "NAA: points",
        "from the noisy image to 1/30 of it",
        "from black to 29/30 of the image, without noise",
        "`attack.objective.sigma=0` for the noise",
    ],
    [
        "FIA, NAA: black",
        "0 of the image",
        "TransferAttackEval: 0 of the normalised image, the mean colour",
        "none",
    ],
    [
        "BFA: targeted",
        "(untargeted)",
        "TransferAttack: drives away from the target; torchattack: mirrors the last loss only",
        "none: all is mirrored here",
    ],
    [
        "ILA: guide",
        "I-FGSM, 10 steps of 0.8 times the size",
        "TransferAttack: MI-FGSM with ILA's own steps",
        "`attack.objective.guide_ratio=1`",
    ],
    [
        "RPA: patches",
        "1, 3, 5 and 7 px, 60 copies; the published program takes 1 px only",
        "TransferAttack: 1, 3 and 5 px, 30 copies, at the same places for a batch",
        "`attack.objective.largest=5` `attack.objective.copies=30`",
    ],
    [
        "TAP: terms",
        "(no program of theirs found) ILA's authors: loss averaged over a batch, the rest summed",
        "TransferAttack: 100 steps; targeted turns all terms round",
        "none: all is per image, and only the loss is aimed",
    ],
]
