"""Parts of attacks and defenses from their config nodes."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any

from agr.config.security import check_target, targets_of
from agr.utils.errors import ConfigError, first_line, nearest

# Members that the parts of a slot's module must have; `agr.attacks.contracts` says why.
METHODS = {
    "start": ["__call__"],
    "loss": ["__call__"],
    "objectives": ["__call__", "make", "layers", "once", "targeted"],
    "views": ["__call__", "copies"],
    "rules": ["find", "forward"],
    "ensembles": ["gradients", "init", "update"],
    "stages": ["init", "update"],
    "step": ["init", "update"],
    "stop": ["init", "update"],
    "library": ["__call__", "check", "chunk", "budget", "fit_images"],
}


def make_part(key: str, module: str, node: Any, allow: Collection[str] = ()) -> Any:
    """Build the part that a config node describes.

    Only parts of the key's module are ever made, and those of packages that the user allows: a
    config may come from anywhere, and must not be able to run any function it likes.
    """
    from hydra.utils import instantiate

    if not isinstance(node, dict) or "_target_" not in node:
        raise ConfigError(
            f"{key}={node} names no part: write '{key}={{_target_:{module}.NAME}}'; "
            f"{nearest(str(node), _parts_of(module))}"
        )
    for target in targets_of(node):
        check_target(key, target, module, allow)
        if target.partition(".")[0] not in allow and not _is_part(target, module):
            known = nearest(target.rpartition(".")[2], _parts_of(module))
            raise ConfigError(
                f"{key} has _target_={target}: it must name a part of {module}: {known}"
            )
    try:
        return instantiate(node, _convert_="all")
    except Exception as e:
        first: BaseException = e  # of what Hydra wraps, the first says why
        while first.__cause__ or first.__context__:
            first = first.__cause__ or first.__context__  # type: ignore[assignment]
        hint = ": is its folder on PYTHONPATH?" if isinstance(first, ImportError) else ""
        if isinstance(first, TypeError):
            hint = ": docs/attacks.md has the parameters of our parts"
        raise ConfigError(f"{key}: {first_line(first)}{hint}") from e


def _parts_of(module: str) -> list[str]:
    """Names of the parts in a module."""
    names = vars(importlib.import_module(module))
    return [name for name in names if _is_part(f"{module}.{name}", module)]


def _is_part(target: str, module: str) -> bool:
    """True if a target is a public class of the module, not something that it imports."""
    home, _, name = target.rpartition(".")
    if home != module or name.startswith("_"):
        return False
    found = getattr(importlib.import_module(module), name, None)
    return isinstance(found, type) and found.__module__.startswith(module)
