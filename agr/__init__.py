"""agr: which attack, crafted on which network, fools which other networks, and by how much?

From Python, without a config, a suite or a file:

    from agr import load_attack
    adv = load_attack("mifgsm", norm="linf", eps=10)(model, x, y)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agr.build import load_attack as load_attack

__version__ = "0.1.0"
__all__ = ["load_attack"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use: `import agr` alone loads neither torch nor Hydra."""
    if name == "load_attack":
        from agr.build import load_attack

        return load_attack
    raise AttributeError(f"module 'agr' has no attribute {name!r}")
