"""Attacks and defenses from their configs; units are converted here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from agr.attacks.attack import Attack
from agr.attacks.ball import BALLS
from agr.attacks.library import Library
from agr.attacks.views import Draws
from agr.config.compose import expand
from agr.config.instantiate import METHODS, make_part
from agr.config.schema import SLOTS, Config
from agr.config.validation import check_eps
from agr.utils.errors import ConfigError
from agr.utils.pixels import LEVELS

NEEDED = ("loss", "step", "library")  # slots that can't be empty


def build_attack(c: Config, scale: float = 1.0) -> Attack:
    """Build the attack of a config; budget and step size go from the 0-255 scale to [0, 1].

    `scale` is the suite's rescaling (`Cell.eps_scale`). Raises ConfigError.
    """
    a = c.attack
    if a.library is not None:
        raise ConfigError(f"attack={a.name} is another library's: run it, or call the library")
    try:
        return Attack(
            ball=BALLS[c.norm.name](c.eps * scale / LEVELS),
            steps=c.steps,
            size=a.size if isinstance(a.size, str) else a.size * scale / LEVELS,
            start=_attack_part(c, "start"),
            loss=_attack_part(c, "loss"),
            objective=_attack_part(c, "objective"),
            views=_attack_parts(c, "views") + ((Draws(c.eot),) if c.eot else ()),
            surrogate=_attack_parts(c, "surrogate"),
            ensemble=_attack_part(c, "ensemble"),
            chain=_attack_parts(c, "chain"),
            step=_attack_part(c, "step"),
            stop=_attack_part(c, "stop"),
            targeted=a.targeted,
            quantize=c.quantize,  # type: ignore[arg-type]
        )
    except ConfigError:
        raise
    except ValueError as e:
        raise ConfigError(f"attack={a.name}: {e}") from e


def build_library(c: Config) -> Library:
    """Build the other library's attack that a config names. Raises ConfigError."""
    return _attack_part(c, "library")


def load_attack(
    name: str,
    norm: str = "linf",
    eps: float | None = None,
    steps: int | None = None,
    overrides: Iterable[str] = (),
    quantize: str | None = None,
) -> Attack:
    """Load an attack of conf/attack by its name, to be called as ``attack(model, x, y)``.

    Args:
        name: as in ``attack=name`` on the command line.
        norm: "linf" or "l2".
        eps: the budget on the 0-255 pixel scale; the norm's default (10, 1500) when None.
            L2 budgets are taken as they are, not scaled to the image's size.
        steps: T; the attack's own when None.
        overrides: further ones, such as ``"attack.chain.momentum.decay=0.5"``.
        quantize: see `agr.attacks.Attack`; the attack's own, mostly "always", when None.

    One that mixes in other images (Admix) needs them:
    ``dataclasses.replace(load_attack("admix"), pool=agr.attacks.Pool(images, labels))``.
    Raises ConfigError for an unknown name or a value that cannot work.
    """
    if eps is not None:
        check_eps(eps)
    overrides = [f"attack={name}", f"norm={norm}", *overrides]
    if eps is not None and norm != "l2":  # an L2 budget's limit depends on the size of images
        overrides.append(f"eps={eps}")
    if steps is not None:
        overrides.append(f"steps={steps}")
    if quantize is not None:
        overrides.append(f"quantize={quantize}")
    config = expand([*overrides, "suite.l2_reference=null"])[0].config
    return build_attack(config if eps is None else replace(config, eps=eps))


def _attack_parts(c: Config, slot: str) -> tuple[Any, ...]:
    """Build the parts of the slots that are filled, in their order."""
    nodes = getattr(c.attack, slot)
    return tuple(_part(c, f"{slot}.{name}", node) for name, node in nodes.items() if node)


def _attack_part(c: Config, slot: str) -> Any:
    """Build the part of a slot that holds one; None where it is empty and may be."""
    node = getattr(c.attack, slot)
    return None if node is None and slot not in NEEDED else _part(c, slot, node)


def _part(c: Config, slot: str, node: Any) -> Any:
    module = SLOTS[slot.partition(".")[0]]
    part = make_part(f"attack.{slot}", f"agr.attacks.{module}", node, c.allow)
    lacking = [name for name in METHODS[module] if not hasattr(part, name)]
    if lacking:
        raise ConfigError(
            f"attack.{slot}: {type(part).__name__} has no {' and no '.join(lacking)}: "
            "agr.attacks.contracts says what a part is"
        )
    return part
