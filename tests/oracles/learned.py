"""The oracle of L2T."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from agr.attacks.draws import OWN, fold, uniform
from agr.attacks.stages import Learn, operations
from tests.conftest import EPS
from tests.oracles.base import PAPER, Given, Oracle, Run, _step, drawn, find
from tests.oracles.classic import MOMENTUM
from tests.transcriptions import learned as papers

USES = {
    "choice": operations.CHOICE, "place": operations.PLACE, "first": operations.FIRST,
    "outer": operations.OUTER, "inner": operations.INNER, "block": operations.BLOCK,
}  # fmt: skip
OF_ELEMENTS = {
    "keep": operations.keep, "spectrum": operations.mask, "gauss": operations.noise
}  # fmt: skip


def draw(g: Given, name: str, where: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """Our draws, in the words of the transcription."""
    b, t, sample, place, copy = where
    at, _ = find(g.draws.attack.chain, Learn)
    key = fold(fold(_step(b, t), at + 1, OWN), sample, place)
    if name in USES:
        most = {"outer": (2, operations.STRIPS), "inner": (operations.STRIPS, 2, operations.STRIPS)}
        wide = most.get(name, () if name == "choice" else shape)
        made = uniform(fold(key, USES[name], copy), wide, torch.float64)[0]
        if name == "outer":
            return made[:, : shape[1]]
        return made[: shape[0], :, : shape[2]] if name == "inner" else made.view(shape)
    rows = []
    for element in range(shape[0]):
        own = operations.At(*(torch.tensor([n]) for n in (0, copy, element)), key)
        like = torch.zeros(1, *shape[1:], dtype=torch.float64)
        if name == "partner":
            rows.append(operations.partner(own, torch.tensor([copy]), g.draws.attack.pool))
        else:
            rows.append(OF_ELEMENTS[name](own, torch.tensor([copy]), like))
    return torch.cat(rows)


def l2t(steps: int, **how: Any) -> Run:
    """L2T, with our draws."""

    def run(g: Given) -> Tensor:
        def ours(name: str, where: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
            return draw(g, name, where, shape)

        return drawn(papers.l2t, EPS / steps, steps, draws=lambda _: [ours], **how)(g)

    return run


POLICY = (
    "attack.chain.policy=null", "attack.chain.policy.samples=2", "attack.chain.policy.length=2",
    "attack.chain.policy.rate=0",
)  # fmt: skip
ORACLES = [
    Oracle("l2t", PAPER, l2t(2), (), ("steps=2",), n=2, side=24),
    Oracle("l2t", PAPER, l2t(3, samples=3, length=1, rate=1e3),
           ("eps=11", "steps=4", "attack.size=eps/4", *MOMENTUM, *POLICY),
           ("steps=3", "attack.chain.policy.length=1", "attack.chain.policy.rate=1e3"), n=2,
           side=24),
]  # fmt: skip
DIFFERENCES = [
    [
        "L2T: copies of a spectrum",
        "5",
        "TransferAttack, torchattack: 10",
        "none",
    ],
    [
        "L2T: policy",
        "one for a batch; climbs the loss times the chain's probability, so hardly moves",
        "the same; torchattack draws 5 chains a step",
        "`attack.chain.policy.rate`; one for each image here",
    ],
]
