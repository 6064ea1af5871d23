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


def key(g: Given, b: int, t: int, name: str = "") -> Tensor:
    """Key of the attack's only rule, at one of its modules; "downsample" may have none."""
    at = fold(_step(b, t), 0, GRADIENT, 0, RULES, 0, 0)
    if not name:
        return at
    places = [*g.draws.attack.surrogate[0].find(g.model)]
    return fold(at, places.index(name if name in places else name.removesuffix(".downsample")))


def noise(g: Given) -> list[Any]:
    """ILPD's."""
    return [lambda b, t, i: normal(key(g, b, t), g.x.shape[1:], torch.float64)[0]]


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
DROPOUT = "attack.surrogate.noise={_target_: agr.attacks.rules.DropoutErosion, keep: 0.9}"
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
            "attack.surrogate.noise.spread=0.1"),
           n=2, network=residual),
    Oracle("ghost", PAPER, drawn(papers.ghost, EPS / 8, 10, spread=0, keep=0.9, draws=chances),
           ("attack.surrogate.noise.keep=0.95",), n=2, network=residual, overrides=(DROPOUT,)),
    Oracle("dhf", PAPER, drawn(papers.dhf, ALPHA, 10, places=EVERY, draws=shares),
           (*STEP, *MOMENTUM, AHEAD, *DHF), n=2, network=residual),
]  # fmt: skip
DIFFERENCES: list[list[str]] = []
