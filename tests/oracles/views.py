"""Oracles of attacks on transformed copies of the image: BSR, SIA, DeCowA and OPS."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tests.conftest import EPS
from tests.oracles.base import PAPER, STEP, Given, Oracle, Run, drawn
from tests.oracles.classic import AGR, AHEAD, MOMENTUM, agr_on
from tests.transcriptions import sampled
from tests.transcriptions import views as papers

SHUFFLE = (
    "attack.views.shuffle=null", "attack.views.shuffle.copies=3", "attack.views.shuffle.blocks=3",
    "attack.views.shuffle.angle=0.1", "attack.views.shuffle.zero=black",
)  # fmt: skip
STRUCTURE = (
    "attack.views.structure=null", "attack.views.structure.copies=3",
    "attack.views.structure.blocks=2", "attack.views.structure.noise=8",
)  # fmt: skip
WARP = (
    "attack.views.warp=null", "attack.views.warp.copies=3", "attack.views.warp.mesh=4",
    "attack.views.warp.reach=0.5", "attack.views.warp.rate=1",
)  # fmt: skip
OPERATORS = (
    "attack.views.operators=null", "attack.views.operators.neighbours=2",
    "attack.views.operators.chains=2", "attack.views.operators.reach=1",
)  # fmt: skip
# The paper's names of our operations.
NAMES = dict(
    zip(
        ("resize", "roll down", "roll right", "flip rows", "flip columns", "turn", "scale",
         "noise", "low-pass", "drop"),
        ("resize", "vertical shift", "horizontal shift", "vertical flip", "horizontal flip",
         "rotate 180", "scale", "noise", "dct", "dropout"),
        strict=True,
    )
)  # fmt: skip


def plan(g: Given, b: int, t: int, i: int) -> tuple[Any, ...]:
    """What SIA draws, in the paper's words."""
    rows, columns, blocks = g.draws.plan(b, t, i)
    return rows, columns, [[(NAMES[name], value) for name, value in row] for row in blocks]


def shuffled_way(
    g: Given, b: int, t: int, adv: Tensor, memory: dict[str, Tensor], copies: int = 20
) -> Tensor:
    """BSR's gradient, but for its size."""
    total = torch.zeros_like(adv)
    for i in range(copies):
        view = partial(papers.bsr_view, drawn=g.draws.mix(b, t, i), spread=0.2, zero=0.5)
        total = total + papers._slope(g.model, view, adv, g.y[b : b + 1], False)
    return total


def warps(g: Given, b: int, t: int, i: int) -> Tensor:
    """How far DeCowA moves its inner points, in their rows."""
    moves = g.draws.moves(b, t, i)
    inner = math.isqrt(len(moves))
    return moves.view(inner, inner, 2)


def ops(steps: int = 10, **how: int) -> Run:
    """OPS, with our draws."""

    def run(g: Given) -> Tensor:
        def noise(b: int, t: int, j: int) -> Tensor:
            view, c = g.draws.operators(b, t)
            at = torch.tensor([j])
            return view.noise(at, c)[0] / (2 * sampled_radii[j // view.neighbours])

        def pick(b: int, t: int, k: int) -> int:
            view, c = g.draws.operators(b, t)
            return int(view.pick(k, c))

        def chain(b: int, t: int, k: int, m: int) -> tuple[int, ...]:
            view, c = g.draws.operators(b, t)
            return tuple(view.chain(k, m, c).operators[0].tolist())

        def numbers(b: int, t: int, k: int, m: int, s: int) -> Tensor:
            view, c = g.draws.operators(b, t)
            return view.chain(k, m, c).numbers[0, s]

        draws = [noise, pick, chain, numbers]
        return drawn(sampled.ops, EPS / steps, steps, draws=lambda _: draws, **how)(g)

    return run


sampled_radii = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


def bsr(steps: int = 10, **how: int) -> Run:
    """BSR, with our draws."""
    return drawn(papers.bsr, EPS / steps, steps, draws=lambda g: [g.draws.mix], **how)


def sia(steps: int = 10, **how: int) -> Run:
    """SIA, with our draws."""
    return drawn(papers.sia, EPS / steps, steps, draws=lambda g: [partial(plan, g)], **how)


def decowa(steps: int = 10, **how: int) -> Run:
    """DeCowA, with our draws."""
    return drawn(sampled.decowa, EPS / steps, steps, draws=lambda g: [partial(warps, g)], **how)


def small(slot: str, **how: int) -> tuple[str, ...]:
    """Overrides of an attack that takes three steps, with less of a view."""
    return ("steps=3", *(f"attack.views.{slot}.{key}={value}" for key, value in how.items()))


CHANGED = ("eps=11", "steps=4", "attack.size=eps/4", *MOMENTUM, AHEAD)
ORACLES = [
    Oracle("bsr", PAPER, bsr(), (), n=1),
    Oracle("bsr", PAPER, bsr(3, copies=2), (*CHANGED, *SHUFFLE), small("shuffle", copies=2)),
    Oracle("agr+bsr", "formulas", agr_on(shuffled_way), (), n=2),
    Oracle("agr+bsr", "formulas", agr_on(partial(shuffled_way, copies=2)),
           (*STEP, *AGR, *SHUFFLE), ("attack.views.shuffle.copies=2",)),
    Oracle("sia", PAPER, sia(), (), n=1),
    Oracle("sia", PAPER, sia(3, copies=2), (*CHANGED, *STRUCTURE), small("structure", copies=2)),
    Oracle("decowa", PAPER, decowa(), (), n=1),
    Oracle("decowa", PAPER, decowa(3, copies=2), (*CHANGED, *WARP), small("warp", copies=2)),
    Oracle("ops_3x3", PAPER, ops(neighbours=3, operators=3), (), n=1),
    Oracle("ops_3x3", PAPER, ops(3, neighbours=3, operators=3), (*CHANGED, *OPERATORS),
           ("steps=3",), n=2),
    Oracle("ops_5x5", PAPER, ops(5, neighbours=5, operators=5), (), ("steps=5",), n=1),
    Oracle("ops", PAPER, ops(1), (), ("steps=1",), n=1),
]  # fmt: skip
DIFFERENCES = [
    [
        "BSR: blocks",
        "2 x 2, cut and ordered once for all rows and columns, each turned by itself",
        "TransferAttack, torchattack: 3 x 3, whole strips are turned, each is cut anew",
        "`attack.views.shuffle.blocks=3` for the number",
    ],
    [
        "BSR: angles",
        "normal, deviation 0.2 radians, none beyond 0.4; grey corners",
        "TransferAttack, torchattack: uniform within 24 degrees; black corners",
        "`attack.views.shuffle.zero=black` for the corners",
    ],
    [
        "BSR, SIA, DeCowA, OPS: draws",
        "BSR's angles, SIA's noise and dropout for each image, all else once for a batch",
        "the same",
        "none: all is drawn for each image here, so that no image depends on others",
    ],
    [
        "SIA: operations",
        "ten",
        "TransferAttack: seven, without resizing, low-pass and dropout",
        "none",
    ],
    [
        "SIA: blocks of one or two pixels",
        "the low-pass makes them black, by a slip",
        "torchattack: the same",
        "none: they stay as they are here",
    ],
    [
        "DeCowA: momentum and gradients",
        "momentum, gradients at the second warp",
        "torchattack: momentum starts anew in each step, gradients of both warps add up",
        "none: it is another attack",
    ],
    [
        "OPS: neighbours and chains",
        "10 and 20; 1 and 1 to 30 and 30 in their scripts",
        "TransferAttack: 30 and 30 since 2026-02",
        "`attack.views.operators.neighbours` and `.chains`",
    ],
]
