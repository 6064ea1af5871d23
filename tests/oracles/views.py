"""Oracles of attacks on transformed copies of the image: BSR, SIA."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from tests.oracles.base import ALPHA, PAPER, STEP, Given, Oracle, drawn
from tests.oracles.classic import AGR, MOMENTUM, agr_on
from tests.transcriptions import views as papers

SHUFFLE = (
    "attack.views.shuffle=null", "attack.views.shuffle.copies=19", "attack.views.shuffle.blocks=3",
    "attack.views.shuffle.angle=0.1", "attack.views.shuffle.zero=black",
)  # fmt: skip
STRUCTURE = (
    "attack.views.structure=null", "attack.views.structure.copies=19",
    "attack.views.structure.blocks=2", "attack.views.structure.noise=8",
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


def shuffled_way(g: Given, b: int, t: int, adv: Tensor, memory: dict[str, Tensor]) -> Tensor:
    """BSR's gradient, but for its size."""
    total = torch.zeros_like(adv)
    for i in range(20):
        view = partial(papers.bsr_view, drawn=g.draws.mix(b, t, i), spread=0.2, zero=0.5)
        total = total + papers._slope(g.model, view, adv, g.y[b : b + 1], False)
    return total


ORACLES = [
    Oracle("bsr", PAPER, drawn(papers.bsr, ALPHA, 10, draws=lambda g: [g.draws.mix]),
           (*STEP, *MOMENTUM, *SHUFFLE), n=2),
    Oracle("sia", PAPER, drawn(papers.sia, ALPHA, 10, draws=lambda g: [partial(plan, g)]),
           (*STEP, *MOMENTUM, *STRUCTURE), n=2),
    Oracle("agr+bsr", "formulas", agr_on(shuffled_way), (*STEP, *AGR, *SHUFFLE), n=4),
]  # fmt: skip
DIFFERENCES: list[list[str]] = []
