"""Oracles of attacks on vision transformers: PNA-PatchOut, TGR and ATT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from agr.attacks.parts import Context
from agr.attacks.views import PatchOut, SelfPaced
from tests.conftest import CLASSES, EPS
from tests.oracles.base import PAPER, STEP, Given, Oracle, find
from tests.oracles.classic import AHEAD, MOMENTUM
from tests.transcriptions import transformers as papers
from tests.transcriptions.transformers_vit import Vit

SIDE = 32
TOKENS = (
    "attack.surrogate.tokens=null", "attack.surrogate.tokens.attention=0.9",
    "attack.surrogate.tokens.qkv=0.4", "attack.surrogate.tokens.mlp=0.9",
    "attack.surrogate.tokens.at=map",
)  # fmt: skip
TUNED = (
    "attack.surrogate.tokens.gamma=0.2", "attack.surrogate.tokens.lam=0.4",
    "attack.surrogate.tokens.truncated=1",
)  # fmt: skip
PATCHES = (
    "attack.views.patches=null", "attack.views.patches.kept=0.5", "attack.views.patches.patch=8",
    "attack.surrogate.attention=null", "attack.chain.distance=null",
    "attack.chain.distance.weight=2",
)  # fmt: skip
PACED = (
    "attack.views.patches=null", "attack.views.patches.patch=8", "attack.views.patches.scale=0.1",
    "attack.views.patches.offset=0.8", "attack.views.patches.start=0.6",
    "attack.views.patches.block=3",
)  # fmt: skip


def by_hand() -> Vit:
    """Return the transcriptions' network."""
    torch.manual_seed(0)
    net = Vit(size=SIDE, classes=CLASSES)
    with torch.no_grad():
        for block in net.blocks:
            block.attn.qkv.weight *= 3  # type: ignore[union-attr,operator]
        net.head.weight *= 10
    return net.requires_grad_(False)


def timms() -> nn.Module:
    """Return the same network, of timm's modules."""
    net = VisionTransformer(
        img_size=SIDE,
        patch_size=8,
        embed_dim=24,
        depth=3,
        num_heads=3,
        mlp_ratio=2,
        num_classes=CLASSES,
    ).double()
    net.load_state_dict(by_hand().state_dict())
    return net.eval().requires_grad_(False)


def at_patches(g: Given, kind: type, b: int, t: int) -> tuple[Any, Context]:
    """Return the view of a kind, and the context that it gets in step t of image b."""
    draws = g.draws
    at, view = find(draws.attack.views, kind)
    return view, draws._context(b, draws._view(b, t, at))


def run(paper: Callable[..., Tensor], steps: int, kind: type | None = None, **keys: Any) -> Any:
    """Run a transcription, with draws of the view of a kind."""

    def order(g: Given, b: int, t: int) -> Sequence[int]:
        view, c = at_patches(g, PatchOut, b, t)
        patches = (SIDE // view.patch) ** 2
        return [int(place) for place in view.order(patches, c)[0]]

    def grid(g: Given, b: int, t: int) -> Tensor:
        view, c = at_patches(g, SelfPaced, b, t)
        return view.uniform(g.x[b : b + 1], c)[0]

    def theirs(g: Given) -> Tensor:
        draw = {PatchOut: order, SelfPaced: grid}.get(kind)  # type: ignore[arg-type]
        draws = [lambda b, t: draw(g, b, t)] if draw else []
        return paper(by_hand(), g.x, g.y, EPS, EPS / steps, steps, *draws, **keys)

    return theirs


PLACE: dict[str, Any] = {"network": timms, "side": SIDE}
ORACLES = [
    Oracle("pna", PAPER, run(papers.pna_patchout, 10, PatchOut, kept=3), (*STEP, *PATCHES),
           n=2, **PLACE),
    Oracle("tgr", PAPER, run(papers.tgr, 10), (*STEP, *MOMENTUM, AHEAD, *TOKENS), n=1, **PLACE),
    Oracle("att", PAPER, run(papers.att, 10, SelfPaced), (), n=1, **PLACE),
    Oracle("att", PAPER, run(papers.att, 4, SelfPaced),
           (*STEP, *MOMENTUM, AHEAD, *TOKENS, *TUNED, *PACED), n=1, overrides=("steps=4",),
           **PLACE),
]  # fmt: skip
NONE = "none: it is another attack"
DIFFERENCES = [
    [
        "PNA: momentum",
        "none; decay 1 in a second program",
        "TransferAttack, torchattack: decay 1",
        "`attack.chain.momentum`",
    ],
    [
        "PNA: length of the perturbation",
        "0.1 of the batch's L2 norm, beside the mean loss",
        "TransferAttack: the same; torchattack: none. Here each image's own",
        "`attack.chain.distance`",
    ],
    [
        "PNA: patches",
        "drawn once a step, for all images",
        "the same. Here for each image, and as a share of the patches",
        "`attack.views.patches.kept`",
    ],
    [
        "TGR, ATT: attention's gradient",
        "of the scores, before the softmax (hooks of torch 1.7)",
        "full hooks of today's torch: of the map, behind it; none where attention is fused",
        "`attack.surrogate.tokens.at`",
    ],
    [
        "TGR, ATT: extremes",
        "those of the batch's first image, for all images (of one in their runs)",
        "TransferAttack, torchattack: the same. Here each image's own",
        "none",
    ],
    [
        "TGR, ATT: networks",
        "ViT-B, PiT-B, CaiT-S and Visformer-S, by the names of their modules",
        "the same; torchattack: ViT, CaiT, PiT, Visformer. Here all whose attention has an "
        "`attn_drop` and calls a module `qkv`, and TGR on CaiT, with `at=map`; BEiT, Swin-V2 and "
        "most EVAs, which use the weight of their qkv alone, are refused",
        "none",
    ],
    [
        "TGR: CaiT",
        "the first of two blocks of the class token is left alone, by a slip",
        "TransferAttack: the same. Here both are changed",
        "none",
    ],
    [
        "TGR: MLP",
        "0.5 in the program",
        "TransferAttack: 0.5, with a note that 0.25 is official",
        "`attack.surrogate.tokens.mlp`",
    ],
    [
        "ATT: patches",
        "kept by their importance, drawn for each patch",
        "TransferAttack: plain MI-FGSM runs, without patches; torchattack: drawn for each pixel, "
        "with the first image's importance",
        NONE,
    ],
    [
        "ATT: variance of the block above",
        "left over from the last image in an image's importance",
        "TransferAttack: left over between all steps. Here each pass begins anew",
        "none",
    ],
]
