"""Attacks and defenses from their configs; units are converted here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from agr.compose import expand
from agr.errors import ConfigError, first_line
from agr.schema import LEVELS, Config

if TYPE_CHECKING:
    from agr.attacks import Attack
    from agr.models.defenses import Defense


def build_attack(c: Config, scale: float = 1.0) -> Attack:
    """The attack of a config. Budget and step size go from the 0-255 scale to [0, 1] here.

    `scale` is the suite's rescaling (`Cell.eps_scale`). Raises ConfigError.
    """
    from agr.attacks import Attack
    from agr.attacks.ball import BALLS

    a = c.attack
    stages = {k: part for k, part in a.chain.items() if part is not None}
    try:
        return Attack(
            ball=BALLS[c.norm.name](c.eps * scale / LEVELS),
            steps=c.steps,
            size=a.size if isinstance(a.size, str) else a.size * scale / LEVELS,
            loss=_attack_part("loss", "loss", a.loss),
            chain=tuple(_attack_part(f"chain.{k}", "stages", part) for k, part in stages.items()),
            step=_attack_part("step", "step", a.step),
            stop=None if a.stop is None else _attack_part("stop", "stop", a.stop),
            targeted=a.targeted,
            quantize=c.quantize,  # type: ignore[arg-type]
        )
    except ConfigError:
        raise
    except ValueError as e:
        raise ConfigError(f"attack={a.name}: {e}") from e


def load_attack(
    name: str,
    norm: str = "linf",
    eps: float | None = None,
    steps: int | None = None,
    overrides: Iterable[str] = (),
    quantize: str = "always",
) -> Attack:
    """An attack of conf/attack by its name, to be called as ``attack(model, x, y)``.

    Args:
        name: as in ``attack=name`` on the command line.
        norm: "linf" or "l2".
        eps: the budget on the 0-255 pixel scale; the norm's default (10, 1500) when None.
            L2 budgets are taken as they are, not scaled to the image's size.
        steps: T; the attack's own when None.
        overrides: further words, as ``"attack.chain.momentum.decay=0.5"``.
        quantize: see `agr.attacks.Attack`.

    Raises ConfigError for an unknown name or a value that cannot work.
    """
    words = [f"attack={name}", f"norm={norm}", *overrides]
    words += [f"eps={eps}"] if eps is not None else []
    words += [f"steps={steps}"] if steps is not None else []
    return build_attack(
        expand([*words, f"quantize={quantize}", "suite.l2_reference=null"])[0].config
    )


def build_defenses(c: Config, names: Iterable[str]) -> list[Defense]:
    """The parts of defenses by their names in the config, in that order. Raises ConfigError."""
    found = []
    for name in names:
        node = c.defenses[name]
        parts = node if isinstance(node, list) else [node]
        found += [_part(f"defenses.{name}", "agr.models.defenses", part) for part in parts]
    return found


def _attack_part(slot: str, module: str, node: Any) -> Any:
    return _part(f"attack.{slot}", f"agr.attacks.{module}", node)


def _part(key: str, module: str, node: Any) -> Any:
    """The part that a node describes; only our own parts in the key's module are ever made."""
    from hydra.utils import instantiate

    target = node.get("_target_") if isinstance(node, dict) else None
    if not isinstance(target, str) or target.rpartition(".")[0] != module:
        raise ConfigError(
            f"{key} has _target_={target}: it must name a part of {module}, as the files in conf do"
        )
    try:
        return instantiate(node, _convert_="all")
    except Exception as e:
        raise ConfigError(f"{key}: {first_line(e.__cause__ or e)}") from e
