"""Defenses that stand in front of a network.

Named defenses are parts, alone or one after the other (conf/defense/standard.yaml):

| defense | parts | paper |
|---|---|---|
| jpeg75 | Jpeg(75) | Dziugaite et al. 2016; Das et al. 2017; Guo et al. 2018 |
| bits5 | BitDepth(5) | Xu et al. 2018 |
| median2 | Median(2) | Xu et al. 2018 |
| squeeze | BitDepth(5), Median(2) | Xu et al. 2018, two of its squeezers in a row |
| randpad | RandomResizePad() | Xie et al. 2018 |
| smooth025 | Smoothing(0.25) | Cohen et al. 2019 |
| deflect | Deflection() | Prakash et al. 2018 |
| purify:FILE | Purify(FILE) | a network of yours |

A defended target measures the transfer of attacks that don't know of the defense. A defended
source (`source=vgg16/randpad eot=10`) is attacked by one that does: its gradient goes through the
defense, or past one that has none, and is averaged over draws of a random one. Such attacks are
known to defeat JPEG, bit depth and randomisation (Athalye et al., ICML 2018, arXiv:1802.00420).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from agr.models.defenses.deflection import Deflection
from agr.models.defenses.purify import Purify
from agr.models.defenses.smoothing import Smoothing
from agr.models.defenses.transforms import (
    BitDepth,
    Defense,
    Ending,
    Jpeg,
    Median,
    RandomResizePad,
    mean_logits,
)

__all__ = [
    "BitDepth",
    "Defense",
    "Deflection",
    "Ending",
    "Jpeg",
    "Median",
    "Purify",
    "RandomResizePad",
    "Smoothing",
    "in_order",
    "mean_logits",
]


def in_order(
    defenses: Sequence[Defense | Ending], size: int
) -> tuple[tuple[Defense, ...], Ending | None]:
    """Split defenses into those of the image and the random one that ends them, or None.

    Raises ValueError unless, in this order, they suit a network of `size` pixels.
    """
    if not defenses:
        raise ValueError("defenses=[] defends nothing: name one or more, or the plain network")
    for early in defenses[:-1]:
        if replaced := getattr(early, "replaces", None):
            raise ValueError(
                f"{type(early).__name__} replaces the network's own {replaced}: put it last of the "
                "defenses"
            )
    fixed, last = cast(tuple[Defense, ...], (*defenses,)), cast(Ending, defenses[-1])
    if not hasattr(last, "replaces"):
        return fixed, None
    last.fits(size)
    return fixed[:-1], last
