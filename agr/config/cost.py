"""Cost of an attack: gradients for a step, and the steps that a budget of gradients allows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from agr.config.instantiate import make_part
from agr.utils.errors import ConfigError


class TooDear(ConfigError):
    """Error of an attack that one step takes more gradients than `gradients` allows."""


def gradients_of(views: Iterable[Any], chain: Iterable[Any], *, charged: bool = True) -> int:
    """Return the gradients of a step: one for every copy, at every point.

    A view may make more copies than an image needs, as DI does, and says of how many it is
    `charged`. Without that, all are counted that a batch computes.
    """
    points = 1 + sum(getattr(stage, "extra", 0) for stage in chain)
    copies = (getattr(v, "charged", v.copies) if charged else v.copies for v in views)
    return points * math.prod(copies)


def set_steps(config: DictConfig, overrides: Sequence[str] = ()) -> None:
    """Set `steps` of a config, composed from `overrides`, to what its `gradients` allow.

    T = floor(gradients / gradients per step). An attack of one step keeps to it. An ensemble's
    gradients are those of its members, and `eot` multiplies them.
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
    views, chain = (
        [
            make_part(f"attack.{slot}.{key!s}", f"agr.attacks.{module}", node, config.allow)
            for key, node in nodes.items()
            if node is not None
        ]
        for slot, module in (("views", "views"), ("chain", "stages"))
        if isinstance(nodes := OmegaConf.to_container(config.attack[slot], resolve=True), dict)
    )
    members = 1 if isinstance(config.source, str) else len(config.source)
    each = gradients_of(views, chain) * members * max(1, config.eot)
    if each > budget:
        raise TooDear(
            f"attack={name} takes {each} gradients for one step, and gradients={budget} allows "
            "fewer: give more"
        )
    config.steps = 1 if config.attack.steps == 1 else budget // each
