"""agr: which attack, crafted on which network, fools which other networks, and by how much?

From Python, without a config, a suite or a file:

    from agr import load_attack, tune
    adv = load_attack("mifgsm", norm="linf", eps=10)(tune(model, x), x, y)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agr.attacks.build import load_attack as load_attack
    from agr.models.tuning import tune as tune

__version__ = "0.1.0"
__all__ = ["load_attack", "tune"]
MODULES = {"load_attack": "agr.attacks.build", "tune": "agr.models.tuning"}


def __getattr__(name: str) -> Any:
    """Import the public names on first use: `import agr` alone loads neither torch nor Hydra."""
    if name not in MODULES:
        raise AttributeError(f"module 'agr' has no attribute {name!r}")
    return getattr(import_module(MODULES[name]), name)
