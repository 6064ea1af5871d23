"""Stops: when an image needs no further step. (Every attack ends after its T steps anyway.)"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from agr.attacks.parts import Seen, State, Stateless


@dataclass(frozen=True)
class OnceFooled(Stateless):
    """Stop an image as soon as the source is fooled: ``while f(x+v) = f(x)`` of Algorithm 1."""

    def update(self, seen: Seen, s: State) -> tuple[Tensor, State]:
        return seen.fooled, s
