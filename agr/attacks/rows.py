"""Account of a batch's rows that the host keeps, and questions that the device answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from agr.attacks.ball import row_norm
from agr.attacks.host import sent, told
from agr.attacks.parts import Observation, State


class Host:
    """Questions of a tick, which the device answers here; the engine knows most answers itself."""

    def begins(self, s: State) -> bool:
        """Return whether a row is about to take its first step."""
        return bool((s["live"] & (s["t"] == 0)).any())

    def goes_on(self, more: Tensor, seen: Observation | None, s: State) -> bool:
        """Return whether there are rows in `more` (B,), those that take a step.

        `seen` is the observation in this tick, where it makes one, and `s` the state after it.
        """
        return bool(more.any())

    def few(self, more: Tensor) -> Tensor | None:
        """Return the numbers of the rows in `more` (B,), if two of each have room; else None."""
        rows = more.nonzero().flatten()
        return rows if 0 < 2 * len(rows) <= len(more) else None


@dataclass
class Rows(Host):
    """The host's own account of the rows: with it a GPU is asked once in a step at most."""

    steps: list[int]
    live: list[bool]
    seen: list[bool]
    last: int  # T
    trace: bool
    points: list[list[float]] = field(default_factory=list)  # columns of the last observation

    @classmethod
    def of(cls, slots: int, last: int, trace: bool) -> Rows:
        """Return the account of empty slots."""
        return cls([0] * slots, [False] * slots, [False] * slots, last, trace)

    def fill(self, row: int, y: int) -> None:
        """Note a new image, with its label."""
        self.steps[row], self.live[row], self.seen[row] = 0, y >= 0, False

    def moving(self) -> list[bool]:
        """Return the rows that take a step in a tick."""
        return [live and t < self.last for live, t in zip(self.live, self.steps, strict=True)]

    def step(self) -> None:
        """Note that the moving rows took a step."""
        for row, moves in enumerate(self.moving()):
            if moves:
                self.steps[row], self.seen[row] = self.steps[row] + 1, False

    def ask(self, seen: Observation, state: State) -> None:
        """Ask which rows go on after an observation: the one wait of a step, for all before it."""
        points = _points(seen, state) if self.trace else ()
        more, *self.points = told(seen.more, *points)
        self.live, self.seen = [*map(bool, more)], [True] * len(more)

    def point(self, row: int) -> tuple[bool, float, float]:
        """Return whether the iterate of a row fooled the source, its L2 norm and its cosine."""
        fooled, l2, cosine = (column[row] for column in self.points)
        return bool(fooled), l2, cosine

    def begins(self, s: State) -> bool:
        return any(live and t == 0 for live, t in zip(self.live, self.steps, strict=True))

    def goes_on(self, more: Tensor, seen: Observation | None, s: State) -> bool:
        if seen:
            self.ask(seen, s)
        return any(self.moving())

    def few(self, more: Tensor) -> Tensor | None:
        rows = [row for row, moves in enumerate(self.moving()) if moves]
        return sent(rows, more.device) if 0 < 2 * len(rows) <= len(more) else None


def _points(observed: Observation, state: State) -> tuple[Tensor, Tensor, Tensor]:
    """Return columns of what a trace tells of the images that the model just saw."""
    seen, clean = observed.image.double(), state["x0"].double()
    dot = (seen * clean).sum((1, 2, 3))
    cosine = dot / (row_norm(seen) * row_norm(clean)).clamp_min(1e-30)
    return observed.fooled, row_norm(seen - clean), cosine
