"""Oracles of targeted attacks, Logit, Logit-Margin, CFM and FTM, and of DI + TI + MI."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from agr.attacks.draws import GRADIENT, fold
from agr.attacks.rules import Mixup
from agr.attacks.surrogate import RULES
from agr.attacks.views import Diverse
from tests.conftest import CLASSES, EPS
from tests.oracles.base import ALPHA, PAPER, STEP, AnySize, Given, Oracle, Run, _step, find
from tests.oracles.classic import AHEAD, GREY, MOMENTUM, OURS_DI, SMOOTH
from tests.transcriptions import classic
from tests.transcriptions import targeted as papers

SIZE, SIDE = 2 / 255, 40  # the authors' step; px


def placed(g: Given, b: int, t: int, prob: float = 0.7) -> tuple[bool, int, int, int]:
    """(resized, size, top, left) of a diverse copy, with the authors' probability."""
    at, view = find(g.draws.attack.views, Diverse)
    c = g.draws._context(b, g.draws._view(b, t, at))
    size, top, left = view.place(SIDE, c)
    return bool(replace(view, prob=prob).coin(c)), int(size), int(top), int(left)


def resized(g: Given) -> papers.Transform:
    """RDI: always enlarged and padded with black, and back, by nearest neighbour."""
    larger = papers.diverse(partial(placed, g, prob=1.0), int(SIDE * 340 / 299))
    return lambda x, b, t: F.interpolate(larger(x, b, t), size=(SIDE, SIDE), mode="nearest")


def mixing(g: Given, b: int, t: int, i: int) -> tuple[float, int, Tensor]:
    """(coin, donor, ratios) of a layer of `papers.SmallNet`."""
    _, rule = find(g.draws.attack.surrogate, Mixup)
    c = g.draws._context(b, fold(_step(b, t), 0, GRADIENT, 0, 0, RULES, 0, 0, i))
    channels = (4, 6, CLASSES)[i]
    mix = rule.mix(c, len(g.draws.attack.pool.images), (1, channels))  # type: ignore[union-attr]
    return float(mix.coin), int(mix.donor), mix.ratios[0, 0]


def net() -> papers.SmallNet:
    """The transcription's network, curved enough that momentum turns."""
    torch.manual_seed(3)
    made = papers.SmallNet(CLASSES).double().eval().requires_grad_(False)
    for layer, gain in ((made.conv1, 4.0), (made.conv2, 4.0), (made.fc, 10.0)):
        layer.weight *= gain
    return made


def aimed(f: Callable[..., Tensor], steps: int, **how: Any) -> Run:
    """A transcription towards the labels, on budget 10."""

    def run(g: Given) -> Tensor:
        view = papers.diverse(partial(placed, g), SIDE * 330 // 299)
        kernel = papers.gaussian()
        return f(g.model, g.x, g.y, EPS, SIZE, steps, view, kernel=kernel, targeted=True, **how)

    return run


def by_angle(g: Given) -> Tensor:
    """Logit-Margin by angle, on the last layer of `AnySize`."""
    body: Any = g.model
    known = {"features": lambda x: body.body(x).mean((2, 3)), "weight": body.head.weight}
    return aimed(papers.logit_margin, 10, calibration="angle", **known)(g)


def mixed(f: Callable[..., Tensor], steps: int, prob: float = 0.1, never: bool = False) -> Run:
    """CFM or FTM with the attack's pool; `never` mixes nothing."""

    def run(g: Given) -> Tensor:
        pool = g.x if never else g.draws.attack.pool.images  # type: ignore[union-attr]
        nothing = (2.0, 0, torch.zeros(CLASSES))
        draw = (lambda b, t, i: nothing) if never else partial(mixing, g)
        return f(
            *(g.model, g.x, g.y, EPS, SIZE, steps, draw, resized(g)),
            **{"pool": pool, "mix": (prob, 0.0, 0.75, 4), "recording": 0},
            **{"kernel": papers.gaussian(), "targeted": True},
        )

    return run


def diverse_smooth(g: Given) -> Tensor:
    """DI, TI and MI: the normalised, smoothed gradients of diverse copies."""
    rows, kernel = [], classic.kernel("gaussian", 15)
    for b in range(len(g.x)):
        clean = adv = g.x[b : b + 1]
        momentum = torch.zeros_like(clean)
        for t in range(10):
            leaf = adv.detach().clone().requires_grad_()
            seen = classic._diverse(leaf, g.draws.diverse(b, t, 0), GREY, False)
            loss = classic.cross_entropy(g.model, seen, g.y[b : b + 1])
            gradient = classic._smoothed(torch.autograd.grad(loss, leaf)[0], kernel)
            momentum = momentum + classic._mean_normalised(gradient)
            adv = classic._clip(adv + ALPHA * momentum.sign(), clean, EPS)
        rows.append(adv)
    return torch.cat(rows)


DIVERSE = (
    "attack.views.diverse=null", "attack.views.diverse.prob=0.2", "attack.views.diverse.ratio=1.2",
    "attack.views.diverse.mode=bilinear", "attack.views.diverse.zero=grey",
)  # fmt: skip
ALL = (
    *STEP, *SMOOTH, *MOMENTUM, AHEAD, "attack.targeted=false",
    "attack.loss._target_=agr.attacks.loss.CrossEntropy",
)  # fmt: skip
BACK = "attack.views.diverse.back=true"
NORMALIZE = "attack.chain.normalize={_target_: agr.attacks.stages.MeanNormalize}"
LOGIT = (
    *(each for each in ALL if each != "attack.chain.normalize=null"),
    *(*DIVERSE, BACK, NORMALIZE),
)  # fmt: skip
MARGIN = (*ALL[:-1], *DIVERSE, BACK)
RDI = ("attack.views.diverse.back=false", "attack.views.diverse.shrink=bilinear")
FEATURES = (
    "attack.surrogate.features=null", "attack.surrogate.features.prob=0.3",
    "attack.surrogate.features.most=0.5", "attack.surrogate.features.divisor=2",
)  # fmt: skip
BETA = "attack.surrogate.features.beta=0.1"
PLAIN = ("steps=4", "attack.surrogate.features=null")
small = partial(Oracle, n=2, side=SIDE)
on_net = partial(small, network=net)

ORACLES = [
    Oracle("di_ti_mi", "formulas", diverse_smooth,
           (*STEP, *MOMENTUM, AHEAD, *OURS_DI, *SMOOTH), n=2, side=SIDE),
    small("targeted/logit", PAPER, aimed(papers.logit, 10), LOGIT, ("steps=10",),
          network=partial(AnySize, gain=8)),  # so steep that a look-ahead tells
    small("targeted/logit_margin", PAPER, aimed(papers.logit_margin, 10),
          (*MARGIN, "attack.loss.by=temperature"), ("steps=10",)),
    small("targeted/logit_margin", PAPER,
          aimed(papers.logit_margin, 10, calibration="temperature", temperature=5.0),
          ("attack.loss.by=margin", "attack.loss.temperature=0.5"),
          ("steps=10", "attack.loss.by=temperature", "attack.loss.temperature=5")),
    small("targeted/logit_angle", PAPER, by_angle,
          (*ALL, *DIVERSE, BACK, "attack.surrogate.features=null"), ("steps=10",)),
    on_net("targeted/cfm", PAPER, mixed(papers.cfm, 10), (*ALL, *DIVERSE, *FEATURES),
           ("steps=10",)),
    on_net("targeted/cfm", f"{PAPER}, RDI alone", mixed(papers.cfm, 4, never=True), RDI, PLAIN),
    on_net("targeted/ftm", PAPER, mixed(papers.ftm, 10), (*ALL, *DIVERSE, *FEATURES, BETA),
           ("steps=10",)),
    on_net("targeted/ftm", f"{PAPER}, RDI alone", mixed(papers.cfm, 4, never=True), RDI, PLAIN),
]  # fmt: skip
DIFFERENCES = [
    [
        "Logit, Logit-Margin: DI",
        "the network sees 330 px, padded with black; by a slip of their program not square",
        "TransferAttack: enlarged by 1.1, bilinear, resized back",
        "`attack=field/logit`",
    ],
    [
        "Logit: momentum",
        "over gradients that aren't normalised",
        "put together from other attacks: normalised, another attack from the second step on",
        f"`{NORMALIZE.replace('{_target_: ', '{_target_:')}`",
    ],
    [
        "Logit-Margin: temperature",
        "0.5 in their program",
        "TransferAttack: 5",
        "`attack.loss.by=temperature attack.loss.temperature=5`",
    ],
    [
        "Logit-Margin by angle: untargeted",
        "(targeted)",
        "TransferAttack: still climbs the label's cosine",
        "none: climbs its negative here",
    ],
    [
        "CFM, FTM: draws",
        "a coin for a batch and layer, a permutation of the batch",
        "TransferAttack: likewise, so that a batch of one mixes with itself",
        "none: here each image has its own, and clean images come from a fixed pool",
    ],
    [
        "CFM, FTM: steps",
        "300, of which the first only records clean features",
        "TransferAttack: likewise",
        "`steps=299`: here all of them move the image",
    ],
    [
        "CFM: untargeted",
        "cross-entropy",
        "TransferAttack: the negative logit, as here",
        "`attack.loss._target_=agr.attacks.loss.CrossEntropy`",
    ],
    [
        "CFM, FTM: largest maps",
        "a quarter of the image's width",
        "TransferAttack: 56 px, whatever the image's",
        "`attack.surrogate.features.divisor`",
    ],
    [
        "FTM: perturbations of features",
        "learned",
        "TransferAttack: stay 0, so that it is CFM",
        "`attack.surrogate.features.beta=0`",
    ],
    [
        "FTM: batch norms",
        "apart from convolutions, whose norm counts",
        "",
        "none: a source's aren't folded for it, whatever `fold` is",
    ],
]
