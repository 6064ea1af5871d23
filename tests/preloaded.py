"""What forked programs find in their memory: configs that are composed and networks that are tuned.

Imported by the process alone from which programs are forked. What they would make themselves is the
same, two seconds later; whoever changes a file or a setting has it made again.
"""

from __future__ import annotations

from agr.config.compose import expand
from agr.evaluation.determinism import settle

for source in ("inc_v3", "vgg16"):
    for attack in ("agr", "ifgsm", "mifgsm"):
        (cell,) = expand([f"attack={attack}", f"source={source}", "threads=1"])
    settle(cell, None)  # no gradient: torch would start threads for it, which forks would lack
