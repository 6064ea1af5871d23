"""Parameters of parts, declared with the values that they take.

    @dataclass(frozen=True)
    class Uniform(Checked):
        radius: float = number(1.0, 0, 1)  # the default, and the range

`...` stands for no default. Another value is a ValueError with its name and what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import MISSING, field, fields
from typing import Any

Check = Callable[[str, Any], None]  # of a parameter's name and value


class Checked:
    """A dataclass that checks its parameters when it is made."""

    def __post_init__(self) -> None:
        for own in fields(self):  # type: ignore[arg-type]  # a dataclass, but for this base
            if "check" in own.metadata:
                own.metadata["check"](own.name, getattr(self, own.name))


def one_of(default: Any, known: Collection[str]) -> Any:
    """Declare a parameter that is one of the `known` names, or None if that is the default."""

    def check(name: str, value: Any) -> None:
        if value not in known and (default is not None or value is not None):
            raise ValueError(f"{name}={value} is unknown: use {' or '.join(known)}")

    return _declare(default, check)


def number(default: Any, least: float, most: float = math.inf) -> Any:
    """Declare a parameter that is a finite number in [least, most]."""
    bounds = f"{least:g} or more" if most == math.inf else f"from {least:g} to {most:g}"

    def check(name: str, value: Any) -> None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or not least <= value <= most:
            raise ValueError(f"{name}={value} cannot be: give a number, {bounds}")

    return _declare(default, check)


def whole(default: Any, least: int, most: float = math.inf) -> Any:
    """Declare a parameter that is a whole number in [least, most]."""
    bounds = f"{least} or more" if most == math.inf else f"{least} to {most}"

    def check(name: str, value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"{name}={value} cannot be: give a whole number, {bounds}")

    return _declare(default, check)


def flag(default: bool) -> Any:
    """Declare a parameter that is true or false."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, bool):
            raise ValueError(f"{name}={value} cannot be: use true or false")

    return _declare(default, check)


def _declare(default: Any, check: Check) -> Any:
    return field(default=MISSING if default is ... else default, metadata={"check": check})
