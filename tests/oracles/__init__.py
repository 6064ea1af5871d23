"""The registry of oracles: see `tests.oracles.base`."""

from typing import Any

from tests.oracles import classic, neighbours, objectives, views
from tests.oracles.base import Oracle

FAMILIES: list[Any] = [classic, neighbours, views, objectives]
ORACLES: dict[str, Oracle] = {o.name: o for family in FAMILIES for o in family.ORACLES}

# What no oracle can see, and why.
UNSEEN = {
    "attack.step.direction": "only L2 tells; fgsm, ifgsm, mifgsm, pgd, agr and agr_literal do",
    "attack.views.admix.pool": "how many images the engine brings along",
}
