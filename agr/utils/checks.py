"""Checks of a part's parameters; each raises ValueError with the name, the value and the range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def one_of(name: str, value: Any, known: Sequence[str]) -> None:
    """Raise ValueError unless the parameter `value` is one of the `known` ones."""
    if value not in known:
        raise ValueError(f"{name}={value} is unknown: use {' or '.join(known)}")


def number(name: str, value: float, least: float, most: float = math.inf) -> None:
    """Raise ValueError unless the parameter `value` is a finite number in [least, most]."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not least <= value <= most:
        bounds = f"{least:g} or more" if most == math.inf else f"from {least:g} to {most:g}"
        raise ValueError(f"{name}={value} cannot be: give a number, {bounds}")


def whole(name: str, value: int, least: int, most: float = math.inf) -> None:
    """Raise ValueError unless the parameter `value` is a whole number in [least, most]."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        bounds = f"{least} or more" if most == math.inf else f"{least} to {most}"
        raise ValueError(f"{name}={value} cannot be: give a whole number, {bounds}")


def flag(name: str, value: bool) -> None:
    """Raise ValueError unless the parameter `value` is true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value} cannot be: use true or false")
