"""Oracles of attacks that change the source's modules: SGM, LinBP, BPA, ILPD, Ghost, DHF."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from agr.attacks.draws import GRADIENT, fold, normal, symmetric, uniform
from agr.attacks.surrogate import RULES
from tests.conftest import CLASSES, EPS
from tests.oracles.base import ALPHA, PAPER, STEP, Given, Oracle, _step, drawn, paper
from tests.oracles.classic import AHEAD, MOMENTUM
from tests.transcriptions import surrogates as papers
from tests.transcriptions.surrogates_net import Block, Residual, blocks


class BasicBlock(Block):
    """The block by its name in timm."""


def residual() -> Residual:
    """The transcriptions' network, with what tells timm's by their roles."""
    net = Residual(CLASSES)
    for block in blocks(net).values():
        block.__class__ = BasicBlock
    net.feature_info = [{"module": name} for name in ("act1", "layer1", "layer2")]  # type: ignore[assignment]
    return net


def key(g: Given, b: int, t: int, name: str = "", *copy: int) -> Tensor:
    """Key of the attack's only rule, at one of its modules, by the name in the transcriptions."""
    at = fold(_step(b, t), 0, GRADIENT, 0, *copy, RULES, 0, 0)
    if not name:
        return at
    names = name, name.removesuffix(".downsample"), f"{name} (dropout)"
    places = [*g.draws.attack.surrogate[0].find(g.model)]
    return fold(at, next(places.index(each) for each in names if each in places))


def noise(g: Given) -> list[Any]:
    """ILPD's, for one copy or several."""

    def draw(b: int, t: int, i: int) -> Tensor:
        copy = [i] if g.draws.attack.views else []
        return normal(key(g, b, t, "", *copy), g.x.shape[1:], torch.float64)[0]

    return [draw]


def factors(g: Given) -> list[Any]:
    """Those of shortcuts' channels."""
    return [lambda b, t, name, shape: symmetric(key(g, b, t, name), shape, torch.float64)[0]]


def chances(g: Given) -> list[Any]:
    """Those of features to be dropped."""
    return [lambda b, t, name, shape: uniform(key(g, b, t, name), shape, torch.float64)[0]]


def shares(g: Given) -> list[Any]:
    """DHF's u and v."""

    def draw(b: int, t: int, name: str, shape: torch.Size) -> tuple[Tensor, ...]:
        own = key(g, b, t, name)
        return tuple(uniform(fold(own, use), shape, torch.float64)[0] for use in (0, 1))

    return [draw]


ACTIVATIONS = ("attack.surrogate.activations=null", "attack.surrogate.activations.start=0.75")
ILPD = (
    "attack.surrogate.features=null", "attack.surrogate.features.layer=1.0",
    "attack.surrogate.features.gamma=0.3", "attack.surrogate.features.sigma=5",
)  # fmt: skip
DHF = (
    "attack.surrogate.features=null", "attack.surrogate.features.start=0.3",
    "attack.surrogate.features.most=0.3", "attack.surrogate.features.keep=0.8",
)  # fmt: skip
DROPOUT = ("attack.surrogate.noise.spread=0", "attack.surrogate.noise.keep=0.9")
EVERY = ("layer1.0", "layer1.1", "layer2.0", "layer2.1")
ORACLES = [
    Oracle("sgm", PAPER, paper(papers.sgm, EPS / 8, 10),
           (*STEP, "attack.surrogate.branches=null", "attack.surrogate.branches.gamma=0.4",
            "attack.surrogate.branches.first=true"), n=2, network=residual),
    Oracle("linbp", PAPER, paper(papers.linbp, EPS / 7.65, 300), (), n=1, network=residual),
    Oracle("linbp", PAPER, paper(papers.linbp, EPS / 7.65, 10, first="layer1.1"),
           (*STEP, *ACTIVATIONS, "attack.surrogate.activations.start=0"), n=2, network=residual,
           overrides=("steps=10", "attack.surrogate.activations.start=layer1.1")),
    Oracle("bpa", PAPER, paper(papers.bpa, EPS / 5, 10),
           (*STEP, *MOMENTUM, AHEAD, *ACTIVATIONS, "attack.surrogate.pools=null",
            "attack.surrogate.pools.heat=1"), n=2, network=residual),
    Oracle("ilpd", PAPER, drawn(papers.ilpd, EPS / 8, 100, draws=noise), (), n=1, network=residual),
    Oracle("ilpd", PAPER, drawn(papers.ilpd, EPS / 8, 10, draws=noise), (*STEP, *ILPD), n=2,
           network=residual, overrides=("steps=10",)),
    Oracle("ghost", PAPER, drawn(papers.ghost, EPS / 8, 10, draws=factors),
           (*STEP, *MOMENTUM, AHEAD, "attack.surrogate.noise=null",
            "attack.surrogate.noise.spread=0.1", "attack.surrogate.noise.keep=0.95"),
           n=2, network=residual),
    Oracle("ghost", PAPER, drawn(papers.ghost, EPS / 8, 10, spread=0, keep=0.9, draws=chances),
           ("attack.surrogate.noise.keep=0.95",), n=2, network=residual, overrides=DROPOUT),
    Oracle("dhf", PAPER, drawn(papers.dhf, ALPHA, 10, places=EVERY, draws=shares),
           (*STEP, *MOMENTUM, AHEAD, *DHF), n=2, network=residual),
]  # fmt: skip
DIFFERENCES = [
    [
        "SGM: where",
        "once per residual branch, but in the first block of a stage; every other block",
        "TransferAttack, torchattack: by names with `relu`, of which timm has none: nothing is "
        "changed; the authors' test on names spares layer3.10 and layer3.20 too",
        "`attack.surrogate.branches.first`",
    ],
    [
        "SGM, LinBP, ILPD: momentum",
        "none (I-FGSM)",
        "TransferAttack, torchattack: MI-FGSM",
        "`attack=mifgsm` with the rule, or `attack.chain`",
    ],
    [
        "LinBP: norms",
        "a branch's linear gradient is as long as its true one",
        "the same, for blocks of three convolutions only",
        "none: any residual block",
    ],
    [
        "LinBP: targeted",
        "(untargeted)",
        "TransferAttack: climbs the target's loss, away from it",
        "none: it is descended here",
    ],
    [
        "BPA: exp(10 z) of poolings",
        "as written: NaN in float32 above 8.87",
        "the same",
        "none: softmax here, without overflow",
    ],
    [
        "ILPD: network, steps",
        "any; 100 steps of eps/8",
        "TransferAttack: ResNet-50 whatever is asked for; torchattack: 10 steps",
        "`attack.steps`, `attack.size`",
    ],
    [
        "Ghost: spread",
        "0.22, 0.16, 0.12 by the depth of the ResNet; drawn for a batch",
        "TransferAttack: parameters are ignored, one factor for a batch",
        "`attack.surrogate.noise.spread`; each image has its own draws",
    ],
    [
        "DHF: switch",
        "on for good once the image has fooled the source",
        "TransferAttack: as the last step alone says",
        "none",
    ],
    [
        "DHF: place",
        "after the branch's inner ReLUs, and at its end",
        "TransferAttack: before the ReLUs, after each batch norm",
        "none",
    ],
]
