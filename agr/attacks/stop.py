"""Stops: rules that end an image's run before its T steps are over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agr.attacks.contracts import Stop
from agr.attacks.loss import margin
from agr.attacks.parts import Seen, State, Stateless
from agr.config.validation import RANGES
from agr.utils.checks import Checked, number, whole


@dataclass(frozen=True)
class OnceFooled(Stateless):
    """Stop an image as soon as the source is fooled: ``while f(x+v) = f(x)`` of Algorithm 1."""

    def update(self, seen: Seen, s: State) -> tuple[Tensor, State]:
        return seen.fooled, s


@dataclass(frozen=True)
class FooledInARow(Checked):
    """Stop an image once `times` iterates in a row fool the source."""

    times: int = whole(2, *RANGES["steps"])

    def init(self, x: Tensor) -> State:
        return {"row": torch.zeros(len(x), dtype=torch.int64, device=x.device)}

    def update(self, seen: Seen, s: State) -> tuple[Tensor, State]:
        row = torch.where(seen.fooled, s["row"] + 1, 0)
        return row >= self.times, {"row": row}


@dataclass(frozen=True)
class After(Checked, Stateless):
    """Stop an image after `n` steps, fewer than the T that set the step size."""

    n: int = whole(..., 0, RANGES["steps"][1])

    def update(self, seen: Seen, s: State) -> tuple[Tensor, State]:
        return seen.t >= self.n, s


@dataclass(frozen=True)
class Margin(Checked, Stateless):
    """Stop an image once it fools the source by a difference of logits of `by` or more.

    Untargeted that is the highest other logit minus the label's, targeted the target's minus the
    highest other one.
    """

    by: float = number(0.0, 0)

    def update(self, seen: Seen, s: State) -> tuple[Tensor, State]:
        ahead = margin(seen.logits, seen.y.clamp_min(0))
        return seen.fooled & ((-ahead if seen.targeted else ahead) >= self.by), s


@dataclass(frozen=True)
class AnyOf:
    """Stop an image as soon as one of several stops would."""

    stops: Sequence[Stop]

    def __post_init__(self) -> None:
        if not isinstance(self.stops, Sequence) or not self.stops:
            raise ValueError(f"stops={self.stops} cannot be: give a list of stops")
        for stop in self.stops:
            if not hasattr(stop, "update") or not hasattr(stop, "init"):
                raise ValueError(f"stops={self.stops} cannot be: {stop} is not a stop")
        object.__setattr__(self, "stops", tuple(self.stops))

    def init(self, x: Tensor) -> State:
        return {str(i): stop.init(x) for i, stop in enumerate(self.stops)}

    def update(self, seen: Seen, s: State) -> tuple[Tensor, State]:
        updates = [stop.update(seen, s[str(i)]) for i, stop in enumerate(self.stops)]
        done = torch.stack([done for done, _ in updates]).any(0)
        return done, {str(i): state for i, (_, state) in enumerate(updates)}
