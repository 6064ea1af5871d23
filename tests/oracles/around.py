"""Oracles of attacks that look around the iterate: MEF, NCS, RAP, DEM, MuMoDIG, ANDA."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from agr.attacks.draws import GRADIENT, OWN, fold
from agr.attacks.parts import Context
from agr.attacks.stages import Collect, Flatten, Integrate, Reverse
from agr.attacks.stages.points import around
from agr.attacks.views import DiversityEnsemble
from tests.conftest import CLASSES, EPS
from tests.oracles.base import ALPHA, PAPER, STEP, AnySize, Given, Oracle, Run, _step, find
from tests.oracles.classic import AHEAD, MOMENTUM, SMOOTH
from tests.transcriptions import around as papers
from tests.transcriptions import around_views as moving


def at_stage(g: Given, kind: type, b: int, t: int) -> tuple[Any, Context]:
    """A stage, and its context in step t of image b."""
    at, stage = find(g.draws.attack.chain, kind)
    return stage, g.draws._context(b, fold(_step(b, t), at + 1, OWN))


# ---- MEF, NCS, RAP -------------------------------------------------------------------------------


def noise(g: Given, b: int, t: int, k: int) -> Tensor:
    """MEF's neighbour k in a box of -1 to 1."""
    return around(at_stage(g, Flatten, b, t)[1], 1.0, k)[0]


def begun(g: Given, b: int, t: int, _: int) -> Tensor:
    """Where RAP's inner attack starts, in a box of -1 to 1."""
    c = at_stage(g, Reverse, b, t)[1]
    return c.ball.sample(fold(c.key, 0), c.x)[0]


def mef(alpha: float, steps: int, **numbers: Any) -> Run:
    return lambda g: papers.mef(g.model, g.x, g.y, EPS, alpha, steps, partial(noise, g), **numbers)


def rap(alpha: float, steps: int, late: int, **numbers: Any) -> Run:
    numbers = {"inner_eps": EPS, "late": late} | numbers
    return lambda g: papers.rap(g.model, g.x, g.y, EPS, alpha, steps, partial(begun, g), **numbers)


# ---- DEM -----------------------------------------------------------------------------------------


def size(g: Given, b: int, t: int, k: int) -> tuple[int, int, int]:
    """Size, top and left of DEM's copy k."""
    at, view = find(g.draws.attack.views, DiversityEnsemble)
    c = g.draws._context(b, fold(_step(b, t), 0, GRADIENT, 0, at))
    side, top, left = view.place(g.x.shape[-1], k, c)
    return int(side), int(top), int(left)


def dem(alpha: float, steps: int, **numbers: Any) -> Run:
    return lambda g: papers.dem(g.model, g.x, g.y, EPS, alpha, steps, partial(size, g), **numbers)


# ---- MuMoDIG, ANDA -------------------------------------------------------------------------------

NAMES = ("resize", "down", "along", "upside_down", "mirror", "rotate")  # the paper's


def move(g: Given, b: int, t: int, k: int) -> tuple[str, tuple[float, ...]]:
    """MuMoDIG's transform k in the paper's words."""
    stage, c = at_stage(g, Integrate, b, t)
    m = stage.move(k, c)
    name, side = NAMES[int(m.operation)], g.x.shape[-1]
    shift = float((m.roll * side).long())
    numbers: dict[str, tuple[float, ...]] = {
        "resize": (int(m.size), int(m.top), int(m.left)),
        "rotate": (float(m.angle.rad2deg()),),
    }
    return name, numbers.get(name, (shift,) if name in ("down", "along") else ())


def levels(g: Given, b: int, t: int, i: int) -> Tensor:
    """Where the channels' ranges are cut for baseline i of all."""
    stage, c = at_stage(g, Integrate, b, t)
    return stage.levels(i // stage.baselines, i % stage.baselines, c)[0]


def mumodig(alpha: float, steps: int, **numbers: Any) -> Run:
    def run(g: Given) -> Tensor:
        draws = partial(move, g), partial(levels, g)
        return moving.mumodig(g.model, g.x, g.y, EPS, alpha, steps, *draws, **numbers)

    return run


def normals(g: Given, b: int) -> Tensor:
    """The numbers of ANDA's last step, by step and shift."""
    each = []
    for t in range(g.draws.attack.steps):
        stage, c = at_stage(g, Collect, b, t)
        each += [stage.draw(i, c) for i in range(stage.side**2)]
    return torch.cat(each)


def anda(alpha: float, steps: int, sample: bool = False, **numbers: Any) -> Run:
    def run(g: Given) -> Tensor:
        draw = partial(normals, g) if sample else None
        return moving.anda(g.model, g.x, g.y, EPS, alpha, steps, draw, **numbers)

    return run


FLATTEN = "attack.chain.flatness"
REVERSE = "attack.chain.reverse"
INTEGRATE = "attack.chain.integrate"
COLLECT = "attack.chain.collect"
DIVERSE = "attack.views.diverse"
SMALL = ("steps=4", f"{FLATTEN}.samples=3")
FLAT = (
    *STEP, *MOMENTUM,
    f"{FLATTEN}=null", f"{FLATTEN}.samples=4", f"{FLATTEN}.reach=1", f"{FLATTEN}.along=0.3",
    f"{FLATTEN}.inner_decay=0.5",
)  # fmt: skip
curved = partial(AnySize, gain=8)


def light(side: int = 6) -> nn.Module:
    """A small network, for attacks of thousands of gradients."""
    torch.manual_seed(0)
    head = nn.Linear(8, CLASSES)
    body = nn.Sequential(nn.Flatten(), nn.Linear(3 * side**2, 8), nn.Tanh(), head)
    return body.double().eval().requires_grad_(False)


ORACLES = [
    Oracle("mef", PAPER, mef(ALPHA, 20), (), n=1),
    Oracle("mef", PAPER, mef(ALPHA, 4, n=3), (*FLAT, f"{FLATTEN}.penalty=300"),
           overrides=SMALL, n=2, network=curved),
    Oracle("ncs", PAPER, mef(ALPHA, 10, inner=1.0, decay=1.0, lamb=ALPHA / 10), (), n=1),
    Oracle("ncs", PAPER, mef(EPS / 4, 4, n=3, inner=1.0, decay=1.0, lamb=300 * EPS / 16),
           (*FLAT, f"{FLATTEN}.penalty=1"),
           overrides=(*SMALL, f"{FLATTEN}.penalty=300"), n=2, network=curved),
    Oracle("rap", PAPER, rap(EPS / 8, 400, 100), (), n=1, side=6, network=light),
    Oracle("rap", PAPER, rap(EPS / 8, 4, 2, inner_steps=3),
           (*STEP, f"{REVERSE}=null", f"{REVERSE}.inner=2", f"{REVERSE}.reach=0.8",
            f"{REVERSE}.late=0.75"),
           overrides=("steps=4", f"{REVERSE}.late=0.5", f"{REVERSE}.inner=3"), network=curved),
    Oracle("dem", PAPER, dem(ALPHA, 10),
           (*STEP, *MOMENTUM, AHEAD, *SMOOTH, f"{DIVERSE}=null", f"{DIVERSE}.copies=4",
            f"{DIVERSE}.most=1.4", f"{DIVERSE}.least=1.4", f"{DIVERSE}.mode=bilinear",
            f"{DIVERSE}.zero=black"), n=1, side=20),
    Oracle("dem", "transcription as TransferAttack", dem(EPS, 3, how="bilinear", zero=0, kernel=1),
           (), n=1, side=20,
           overrides=("steps=3", "attack.size=full", "attack.chain.smooth.size=1",
                      f"{DIVERSE}.mode=bilinear", f"{DIVERSE}.zero=black")),
    Oracle("mumodig", PAPER, mumodig(ALPHA, 10, large=26), (), n=1, side=24),
    Oracle("mumodig", PAPER,
           mumodig(EPS / 2, 2, n=8, baselines=2, points=2, lamb=0.4, large=24),
           (*STEP, *MOMENTUM, f"{INTEGRATE}=null", f"{INTEGRATE}.copies=7",
            f"{INTEGRATE}.baselines=1", f"{INTEGRATE}.regions=2", f"{INTEGRATE}.points=1",
            f"{INTEGRATE}.position=0.65", f"{INTEGRATE}.ratio=1.2"), n=2, side=16,
           overrides=("steps=2", f"{INTEGRATE}.copies=8", f"{INTEGRATE}.baselines=2",
                      f"{INTEGRATE}.regions=4", f"{INTEGRATE}.points=2",
                      f"{INTEGRATE}.position=0.4", f"{INTEGRATE}.ratio=1.5")),
    Oracle("anda", PAPER, anda(ALPHA, 10), (), n=1),
    Oracle("anda", PAPER, anda(EPS / 4, 4, sample=True, side=3),
           (*STEP, f"{COLLECT}=null", f"{COLLECT}.side=2", f"{COLLECT}.reach=0.2",
            f"{COLLECT}.sample=false"), n=2, network=curved,
           overrides=("steps=4", f"{COLLECT}.side=3", f"{COLLECT}.sample=true")),
]  # fmt: skip

DIFFERENCES = [
    [
        "MEF: step",
        "eps / 10 for T = 20",
        "TransferAttack: the same, though it says eps / T",
        "`attack.size`",
    ],
    [
        "MEF: with views",
        "(no views)",
        "TransferAttack: the views change the noise too, three times over",
        "none: here they change the neighbours alone",
    ],
    [
        "RAP: momentum",
        "an option that is off",
        "TransferAttack: MI",
        "`attack=mifgsm`, the stage of `rap.yaml`",
    ],
    [
        "RAP: targeted",
        "the logit loss, with DI; cross-entropy in the inner steps",
        "TransferAttack: cross-entropy",
        "`attack.loss`, the view of `_di.yaml`; the inner steps see neither",
    ],
    [
        "DEM: copies",
        "nearest, both ways, on grey",
        "TransferAttack: bilinear, on black",
        "`attack.views.diverse.mode=bilinear` `attack.views.diverse.zero=black`",
    ],
    ["DEM: TI", "15 px", "TransferAttack: none", "`attack.chain.smooth=null`"],
    [
        "DEM: step",
        "eps / T for one network, eps (region fitting) for ensembles",
        "TransferAttack: eps",
        "`attack.size=full`",
    ],
    [
        "MuMoDIG: padded side",
        "245 px, for images of 224",
        "TransferAttack: 245 px for all, so that larger images fail",
        "`attack.chain.integrate.ratio`",
    ],
    [
        "MuMoDIG: draws",
        "one for a batch, but for angles",
        "TransferAttack: likewise",
        "none: here each image has its own",
    ],
    [
        "ANDA: targeted",
        "(untargeted)",
        "TransferAttack: drives away from the target",
        "none: here towards it",
    ],
]
