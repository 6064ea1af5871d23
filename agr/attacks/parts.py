"""What a part of an attack is: the contracts, and what a part may look at.

Known attacks, named by their parts (all of them start at the clean image and take T steps):

| attack | chain | step | step size | stop |
|---|---|---|---|---|
| FGSM | - | Plain | eps, T = 1 | - |
| I-FGSM | - | Plain | eps/T | - |
| MI-FGSM | MeanNormalize, Momentum(1) | Plain | eps/T | - |
| AGR | - | AdaGrad(of="sign") | eps / sum of 1/sqrt(i) | OnceFooled |
| AGR, Algorithm 1 as printed | - | Overwrite | eps | OnceFooled |

Parts are frozen dataclasses. What changes during a run is a `State`: a dict of tensors whose
every leaf has one row per image, so that the engine can put any image into any row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from agr.attacks.ball import Ball

State = dict[str, Any]  # str -> Tensor (B, ...) | State


class Context(NamedTuple):
    """What a stage or a step may look at; B rows, one image each."""

    x: Tensor  # iterate, (B, 3, H, W) in [0, 1]
    x0: Tensor  # clean image, like x
    t: Tensor  # steps already taken by each row, (B,) int64
    size: float  # step size, in [0, 1] units of the ball's norm
    ball: Ball


class Seen(NamedTuple):
    """What a stop may look at: the model's answer to the iterate."""

    logits: Tensor  # (B, classes)
    fooled: Tensor  # (B,) bool: not the label, or the target label when targeted
    y: Tensor  # (B,) int64: label, or target label when targeted


class Loss(Protocol):
    """What an attack climbs (descends, when targeted)."""

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Loss of each image, (B,), from logits (B, classes) and labels (B,)."""
        ...


class Stage(Protocol):
    """Turns a gradient into what the step gets to see: normalising, momentum, smoothing."""

    def init(self, x: Tensor) -> State: ...

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]: ...


class Step(Protocol):
    """Moves the iterate. Returns the next one *before* projection; `Attack` projects it."""

    def init(self, x: Tensor) -> State: ...

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]: ...


class Stop(Protocol):
    """Says which rows are done before their T steps are over."""

    def init(self, x: Tensor) -> State: ...

    def update(self, seen: Seen, s: State) -> tuple[Tensor, State]: ...


def one_of(name: str, value: str, known: Sequence[str]) -> None:
    """Raise ValueError unless the parameter `value` is one of the `known` ones."""
    if value not in known:
        raise ValueError(f"{name}={value} is unknown: use {' or '.join(known)}")


def number(name: str, value: float, least: float) -> None:
    """Raise ValueError unless the parameter `value` is a finite number, `least` or more."""
    fine = isinstance(value, int | float) and not isinstance(value, bool)
    if not fine or not math.isfinite(value) or value < least:
        raise ValueError(f"{name}={value} cannot be: give a number, {least:g} or more")


class Stateless:
    """A part that remembers nothing from step to step."""

    def init(self, x: Tensor) -> State:
        return {}
