"""The libraries: their distributions, modules and classes."""

from __future__ import annotations

import importlib
import inspect
import warnings
from types import ModuleType
from typing import Any

from agr.utils.errors import first_line, nearest

# Name on the package index, by part.
DISTRIBUTIONS: dict[str, str] = {
    "Foolbox": "foolbox",
    "Art": "adversarial-robustness-toolbox",
    "Universal": "adversarial-robustness-toolbox",
    "Torchattacks": "torchattacks",
}
LEAST = {"foolbox": "3.3.4", "adversarial-robustness-toolbox": "1.20", "torchattacks": "3.5.1"}
ALONE = {"torchattacks"}  # it pins an old `requests` that clients of the hub refuse


def imported(part: str, module: str) -> Any:
    """Import a module of a part's library. Raises ValueError with what to install."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they import deprecated names of others
        try:
            return importlib.import_module(module)
        except ImportError as e:
            name = DISTRIBUTIONS[part]
            options = "--no-deps " if name in ALONE else ""
            raise ValueError(
                f"{module.partition('.')[0]} can't be imported ({first_line(e)}): "
                f"pip install {options}{name}\\>={LEAST[name]}"
            ) from e


def of_name(name: str, module: ModuleType, base: type[Any]) -> type[Any]:
    """Return the subclass of `base` that a module has under this name. Raises ValueError."""
    known = {
        k: v
        for k, v in vars(module).items()
        if isinstance(v, type) and issubclass(v, base) and v is not base
    }
    if name not in known:
        where = module.__name__
        near = nearest(name, known, f"see {where}")
        raise ValueError(f"attack.library.attack={name} is not in {where}: {near}")
    return known[name]


def parameters(kind: type[Any]) -> list[str]:
    """Return the names of a class's constructor parameters."""
    return [name for name in inspect.signature(kind.__init__).parameters if name != "self"]
