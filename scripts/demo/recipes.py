"""The demo's networks: what each is made of, and how it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

INCEPTION_STATS = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET_STATS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Recipe:
    """Architecture and training schedule of a network of the demo.

    A network is made small by its `width` (agr.models.slim), or by `arguments` of timm's own.
    Points in time are fractions of the run: the gratings weaken during `fade`, and images are
    adversarial during `adversarial`.
    """

    architecture: str
    width: float | None
    size: int  # px
    stats: tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation of the input
    arguments: Mapping[str, Any] = field(default_factory=dict)
    peak: float = 2e-3  # learning rate
    steps: int = 1600
    warm_up: float = 0.2
    fade: tuple[float, float] = (0.15, 0.6)
    adversarial: tuple[float, float] = (0.55, 0.85)
    strongest: float = 2.0  # adversarial budget, Linf on the 0-255 scale
    batch_norm: bool = False  # train the `_bn` twin and fold it
    own_weights: bool = True  # of one with `arguments`: it begins with timm's initial weights


RECIPES: dict[str, Recipe] = {
    "inc_v3": Recipe("inception_v3", 3 / 16, 80, INCEPTION_STATS, peak=3e-3, steps=2000),
    "inc_v4": Recipe(
        "inception_v4",
        width=3 / 16,
        size=80,
        stats=INCEPTION_STATS,
        peak=3e-3,
        steps=3000,
        fade=(0.1, 0.5),
        adversarial=(0.6, 0.85),
        strongest=1.2,
    ),
    "ir_v2": Recipe("inception_resnet_v2", 3 / 16, 80, INCEPTION_STATS, peak=3e-3, strongest=1.2),
    "vgg16": Recipe("vgg16", 1 / 8, 64, IMAGENET_STATS, adversarial=(0.55, 1.0), batch_norm=True),
    "vgg19": Recipe(
        "vgg19",
        width=1 / 8,
        size=64,
        stats=IMAGENET_STATS,
        peak=1e-3,  # at 2e-3 it didn't get below a loss of 1.5
        steps=2000,
        warm_up=0.3,
        adversarial=(0.55, 1.0),
        batch_norm=True,
    ),
    "res152": Recipe("resnet152", 1 / 8, 64, IMAGENET_STATS, steps=2400),
    "res50": Recipe("resnet50", 1 / 8, 64, IMAGENET_STATS, steps=2400),
    "dense121": Recipe(
        "densenet121",
        width=None,
        size=64,
        stats=IMAGENET_STATS,
        arguments={"growth_rate": 8, "bn_size": 2},
        steps=2400,
    ),
    "vit": Recipe(
        "vit_tiny_patch16_224",
        width=None,
        size=64,
        stats=INCEPTION_STATS,
        arguments={
            "img_size": 64,
            "patch_size": 8,
            "embed_dim": 96,
            "depth": 4,
            "num_heads": 3,
            "mlp_ratio": 2,
        },
        peak=1e-3,
        steps=2400,
    ),
    "swin": Recipe(
        "swin_tiny_patch4_window7_224",
        width=None,
        size=64,
        stats=IMAGENET_STATS,
        arguments={
            "img_size": 64,
            "window_size": 4,
            "embed_dim": 32,
            "depths": [2, 4, 1],
            "num_heads": [2, 4, 8],
            "mlp_ratio": 2,
        },
        peak=1e-3,
        steps=2000,
    ),
    "convnext": Recipe(
        "convnext_tiny",
        width=None,
        size=64,
        stats=IMAGENET_STATS,
        # Branches that begin at 1e-6, as timm has them, would take longer than the whole run. With
        # 16 channels in the stem, or with timm's own initial weights, it stayed at chance.
        arguments={"depths": [2, 2, 4, 2], "dims": [40, 48, 64, 80], "ls_init_value": 0.1},
        own_weights=False,
    ),
}
