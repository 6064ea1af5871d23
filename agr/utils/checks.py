"""Parameters of parts, declared with the values that they take.

    @dataclass(frozen=True)
    class Uniform(Checked):
        radius: float = number(1.0, 0, 1)  # the default, and the range

`...` stands for no default. Another value is a ValueError with its name and what is allowed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import MISSING, field, fields
from typing import Any

LIMIT = 10_000  # of copies, passes and whatever else a part counts: more is a slip


class Checked:
    """A dataclass that checks its parameters when it is made."""

    def __post_init__(self) -> None:
        for own in fields(self):  # type: ignore[arg-type]  # a dataclass, but for this base
            value = getattr(self, own.name)
            if own.metadata and not own.metadata["fits"](value):
                raise ValueError(f"{own.name}={value} {own.metadata['otherwise']}")


def one_of(default: Any, known: Collection[str]) -> Any:
    """Declare a parameter that is one of the `known` names, or None if that is the default."""

    def fits(value: Any) -> bool:
        return value in known or (default is None and value is None)

    return _declare(default, fits, f"is unknown: use {' or '.join(known)}")


def number(default: Any, least: float, most: float = math.inf) -> Any:
    """Declare a parameter that is a finite number in [least, most]."""
    bounds = f"{least:g} or more" if most == math.inf else f"from {least:g} to {most:g}"

    def fits(value: Any) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and least <= value <= most and abs(value) <= sys.float_info.max

    return _declare(default, fits, f"cannot be: give a number, {bounds}")


def place(default: str | float) -> Any:
    """Declare a parameter that is a place in a network: a module's name, or a depth from 0 to 1."""
    otherwise = "cannot be: give a module's name, or a depth from 0 to 1"
    return _declare(default, _is_layer, otherwise)


def whole(default: Any, least: int, most: int) -> Any:
    """Declare a parameter that is a whole number in [least, most]."""

    def fits(value: Any) -> bool:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return is_whole and least <= value <= most

    return _declare(default, fits, f"cannot be: give a whole number, {least} to {most}")


def flag(default: bool) -> Any:
    """Declare a parameter that is true or false."""
    return _declare(default, lambda value: isinstance(value, bool), "cannot be: use true or false")


def layer(default: str | float) -> Any:
    """Declare a parameter that is a layer of a network: its depth, or the name of a module."""
    otherwise = "is not a layer: give a depth from 0 to 1, or the name of a module"
    return _declare(default, _is_layer, otherwise)


def layers(default: Sequence[str | float]) -> Any:
    """Declare a parameter that is several layers, as `layer` takes each."""

    def fits(value: Any) -> bool:
        return isinstance(value, list | tuple) and bool(value) and all(map(_is_layer, value))

    otherwise = "are not layers: give a list of depths from 0 to 1, or of names of modules"
    return _declare(default, fits, otherwise)


def _is_layer(value: Any) -> bool:
    if isinstance(value, str):
        return value != ""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _declare(default: Any, fits: Callable[[Any], bool], otherwise: str) -> Any:
    metadata = {"fits": fits, "otherwise": otherwise}
    return field(default=MISSING if default is ... else default, metadata=metadata)
