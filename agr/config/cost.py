"""Cost of an attack: gradients for a step, and the steps that a budget of gradients allows."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from agr.config.instantiate import make_part
from agr.config.schema import GROUPS, SLOTS
from agr.utils.errors import ConfigError


class TooDear(ConfigError):
    """Error of an attack that one step takes more gradients than `gradients` allows."""


def gradients_of(
    views: Iterable[Any],
    chain: Iterable[Any],
    ensemble: Any = None,
    members: int = 1,
    *,
    charged: bool = True,
    eot: int = 0,
) -> int:
    """Return the gradients of a step: one for every copy, at every point, of every member.

    A view may make more copies than an image needs, as DI does, and says of how many it is
    `charged`. Without that, all are counted that a batch computes. One that `asks` for gradients
    of its own takes these for each copy, and a strategy for ensembles says what it takes for an
    image, or what a batch computes. Gradients that a stage says are `bare` see no copies.
    """
    chain = list(chain)
    own = not any(getattr(stage, "replaces", False) for stage in chain)
    each = [getattr(stage, "charged", 0) * charged or getattr(stage, "extra", 0) for stage in chain]
    points = own + sum(each)
    bare = sum(getattr(stage, "bare", 0) for stage in chain)
    copies = math.prod(
        (getattr(v, "charged", v.copies) if charged else v.copies) * (1 + getattr(v, "asks", 0))
        for v in views
    )
    if ensemble:
        own_share = ensemble.gradients
        members = (own_share if charged else getattr(ensemble, "computed", own_share))(members)
    return (points * copies * max(1, eot) + bare) * members


def left_out(chain: Iterable[Any], steps: int) -> int:
    """Return the bare gradients that stages leave out in T steps, as RAP does in the first ones."""
    return sum(stage.left_out(steps) for stage in chain if hasattr(stage, "left_out"))


@dataclass(frozen=True)
class Cost:
    """Gradients that an attack takes for an image."""

    once: int  # before the first step
    each: int  # for a step
    chain: Sequence[Any]  # its stages
    members: int  # networks of the source
    drawn: float  # what a step costs on average, where that is drawn; else 0

    @classmethod
    def of(
        cls, attack: Mapping[Any, Any], members: int, *, eot: int = 0, allow: Collection[str] = ()
    ) -> Cost:
        """Return the cost of an attack's config, whose parts are made for it."""
        views, chain, ensemble, objective = (
            [
                make_part(f"attack.{key}", f"agr.attacks.{SLOTS[slot]}", node, allow)
                for key, node in _nodes(attack, slot)
            ]
            for slot in ("views", "chain", "ensemble", "objective")
        )
        joined = ensemble[0] if ensemble else None
        each = gradients_of(views, chain, joined, members, eot=eot)
        once = sum(getattr(part, "once", 0) for part in (*objective, *views))
        drawn = [stage.charged for stage in chain if hasattr(stage, "charged")]
        return cls(once, each, chain, members, drawn[0] if drawn else 0)

    def total(self, steps: int) -> int:
        """Return the gradients of so many steps."""
        return self.once + steps * self.each - left_out(self.chain, steps) * self.members


def set_steps(config: DictConfig, overrides: Sequence[str] = ()) -> None:
    """Set `steps` of a config, composed from `overrides`, to what its `gradients` allow.

    T = floor(gradients / gradients per step), or more where steps leave some out. An attack of one
    step keeps to it. An ensemble's gradients are those of its members, and `eot` multiplies them.
    Raises TooDear, and ConfigError where the cost can't be known or `steps` is given too.
    """
    if (budget := config.gradients) is None:
        return
    name = config.attack.name
    given = not OmegaConf.is_interpolation(config, "steps")
    if given or any(word.startswith("attack.steps=") for word in overrides):
        raise ConfigError(
            f"gradients={budget} and steps={config.steps}: the steps follow from the gradients, "
            "give one of them"
        )
    if config.attack.library is not None or config.attack.images is not None:
        raise ConfigError(
            f"gradients={budget}: nothing says what a step of attack={name} costs, since another "
            "program takes it: leave gradients out, and compare the gradients that it took"
        )
    attack = OmegaConf.to_container(config.attack, resolve=True)
    assert isinstance(attack, dict)
    members = 1 if isinstance(config.source, str) else len(config.source)
    cost = Cost.of(attack, members, eot=config.eot, allow=config.allow)
    if cost.drawn:
        raise ConfigError(
            f"gradients={budget}: what a step of attack={name} costs is drawn, {cost.drawn} "
            "on average: give steps, and compare the gradients that it took"
        )
    if cost.once + cost.each > budget:
        before = f" after {cost.once} before the first" if cost.once else ""
        raise TooDear(
            f"attack={name} takes {cost.each} gradients for one step{before}, and "
            f"gradients={budget} allows fewer: give more"
        )
    steps = (budget - cost.once) // cost.each
    while cost.total(steps + 1) <= budget:
        steps += 1
    config.steps = 1 if config.attack.steps == 1 else steps


def _nodes(attack: Mapping[Any, Any], slot: str) -> list[tuple[str, Any]]:
    """Return the nodes of the filled parts of a slot, with their keys."""
    found = {slot: attack[slot]}
    if slot in GROUPS:
        found = {f"{slot}.{name}": node for name, node in attack[slot].items()}
    return [(key, node) for key, node in found.items() if node is not None]
