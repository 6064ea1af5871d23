"""The registry of oracles: see `tests.oracles.base`."""

from typing import Any

from tests.oracles import around, classic, ensembles, learned, neighbours, surrogates, views
from tests.oracles.base import Oracle

FAMILIES: list[Any] = [classic, neighbours, views, around, learned, surrogates, ensembles]
ORACLES: dict[str, Oracle] = {o.name: o for family in FAMILIES for o in family.ORACLES}

# What no oracle can see, and why.
UNSEEN = {
    "attack.step.direction": "only L2 tells; fgsm, ifgsm, mifgsm, pgd, agr and agr_literal do",
    "attack.chain.policy.pool": "how many images the engine brings along",
    "attack.views.admix.pool": "how many images the engine brings along",
}

# Attacks with other numbers in a dear view than those of the one whose oracles see all parameters.
VARIANTS = {"ops": "ops_3x3", "ops_5x5": "ops_3x3"}
