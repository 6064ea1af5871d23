"""agr: which attack, crafted on which network, fools which other networks, and by how much?

From Python, without a config, a suite or a file:

    from agr import load_attack, tune
    adv = load_attack("mifgsm", norm="linf", eps=10)(tune(model, x), x, y)
"""

from __future__ import annotations

import os
import re
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from agr.utils.program import __version__ as __version__

if TYPE_CHECKING:
    from agr.attacks.build import load_attack as load_attack
    from agr.models.tuning import tune as tune

__all__ = ["load_attack", "tune"]
MODULES = {"load_attack": "agr.attacks.build", "tune": "agr.models.tuning"}


def _is_program() -> bool:
    """True in a process of a command or of a program in scripts/, false in a user's own."""
    if sys.argv[:1] == ["-m"]:  # so long as Python looks for the module
        return re.search(r" -m ?agr(\.\w+)?( |$)", " ".join(sys.orig_argv)) is not None
    program = os.path.realpath("".join(sys.argv[:1]))
    scripts = os.path.join(os.path.dirname(os.path.dirname(__file__)), "scripts", "")
    return program.startswith(scripts) or os.path.basename(program) == "agr"


def _end(number: int, frame: object) -> None:
    os.write(2, b"stopped by Ctrl-C\n")
    os._exit(128 + number)


# Until `guard` has a better one: imports take a second, and Ctrl-C would be their traceback.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler and _is_program():
    signal.signal(signal.SIGINT, _end)


def __getattr__(name: str) -> Any:
    """Import the public names on first use: `import agr` alone loads neither torch nor Hydra."""
    if name not in MODULES:
        raise AttributeError(f"module 'agr' has no attribute {name!r}")
    return getattr(import_module(MODULES[name]), name)
