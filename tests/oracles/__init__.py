"""The registry of oracles: see `tests.oracles.base`."""

from typing import Any

from torch import nn

from tests.oracles import (
    around,
    classic,
    ensembles,
    learned,
    neighbours,
    objectives,
    surrogates,
    targeted,
    transformers,
    views,
)
from tests.oracles.base import Oracle

FAMILIES: list[Any] = [
    classic,
    neighbours,
    views,
    around,
    learned,
    objectives,
    surrogates,
    transformers,
    ensembles,
    targeted,
]
ORACLES: dict[str, Oracle] = {o.name: o for family in FAMILIES for o in family.ORACLES}


def network_for(attack: str) -> nn.Module:
    """Return a network that an attack can take, of images of `side_for` px."""
    return next(o for o in ORACLES.values() if o.attack == attack).network()


def side_for(attack: str) -> int:
    """Return the side of images that an attack can take."""
    return next(o for o in ORACLES.values() if o.attack == attack).side


# What no oracle can see, and why.
UNSEEN = {
    "attack.step.direction": "only L2 tells; fgsm, ifgsm, mifgsm, pgd, agr and agr_literal do",
    "attack.chain.policy.pool": "how many images the engine brings along",
    "attack.views.admix.pool": "how many images the engine brings along",
    "attack.surrogate.features.pool": "likewise",
}

# Attacks with other numbers in a dear view than those of the one whose oracles see all parameters.
VARIANTS = {"ops": "ops_3x3", "ops_5x5": "ops_3x3"}
