"""Rules of how parts go together, which an attack checks when it is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agr.attacks.parts import Stage
from agr.attacks.step import step_size


def look_aheads(chain: Sequence[Stage]) -> list[int]:
    """Return the places in the chain of the stages that move the point of the gradient."""
    return [i for i, stage in enumerate(chain) if getattr(stage, "look_ahead", False)]


def replaces(chain: Sequence[Stage]) -> bool:
    """Return whether the chain's first stage needs no gradient at the iterate."""
    return bool(chain) and getattr(chain[0], "replaces", False)


def check(attack: Any) -> None:
    """Raise ValueError for parts of an `Iteration` that don't go together."""
    if attack.steps < 1:
        raise ValueError(f"steps={attack.steps} is no attack: use 1 or more")
    if attack.quantize not in ("always", "end", "off"):
        raise ValueError(f"quantize={attack.quantize} is unknown: use always, end or off")
    if attack.ball.eps > 0:
        step_size(attack.size, attack.ball.eps, attack.steps)
    chain, ahead = attack.chain, look_aheads(attack.chain)
    if len(ahead) > 1:
        both = " and ".join(str(chain[i]) for i in ahead)
        raise ValueError(
            f"{both} both look ahead: the gradient is taken at one point, so let one of them"
        )
    if ahead and replaces(chain):
        raise ValueError(
            f"{chain[0]} takes no gradient at the iterate, and {chain[ahead[0]]} looks ahead of "
            "it: leave out one"
        )
    if late := [stage for stage in chain[1:] if getattr(stage, "replaces", False)]:
        raise ValueError(f"{late[0]} makes the gradient by itself: it must be the first stage")
    asking = [stage for stage in chain if getattr(stage, "extra", 0)]
    if attack.ensemble and (asking or attack.objective):
        raise ValueError(
            f"{attack.ensemble} makes its gradient of the members' own, of which "
            f"{asking[0] if asking else attack.objective} can't ask for more: leave out one"
        )
    joint = next((view for view in attack.views if getattr(view, "joint", False)), None)
    other = next((view for view in attack.views if getattr(view, "asks", 0)), attack.objective)
    if joint and other:
        raise ValueError(
            f"{joint} averages the logits of all copies, and {other} needs each copy's own: leave "
            "out one"
        )
    if attack.objective and attack.targeted and not attack.objective.targeted:
        raise ValueError(f"{attack.objective} has no target: leave out targeted=true")
