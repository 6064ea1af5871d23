"""Parts of an attack: their contracts, and the data that they get.

Known attacks, named by their parts (conf/attack has them, docs/attacks.md lists them all):

| attack | views | chain | step | step size | stop |
|---|---|---|---|---|---|
| FGSM | - | - | Plain | eps, T = 1 | - |
| I-FGSM | - | - | Plain | eps/T | - |
| MI-FGSM | - | MeanNormalize, Momentum(1) | Plain | eps/T | - |
| NI-FGSM | - | MeanNormalize, Momentum(1, look_ahead) | Plain | eps/T | - |
| VMI-FGSM | - | Variance, MeanNormalize, Momentum(1) | Plain | eps/T | - |
| SI-NI-DI-TI | Scale, Diverse | Smooth, and as NI-FGSM | Plain | eps/T | - |
| AGR | - | - | AdaGrad(of="sign") | eps / sum of 1/sqrt(i) | OnceFooled |
| AGR, Algorithm 1 as printed | - | - | Overwrite | eps | OnceFooled |

Parts are frozen dataclasses. What changes during a run is a `State`: a dict of tensors whose
every leaf has one row per image, so that the engine can put any image into any row. Randomness
comes from a key per row (`agr.attacks.draws`), so that no image depends on the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from agr.attacks.ball import Ball, per_image
from agr.attacks.draws import fold

# Images (B, 3, H, W) in [0, 1] -> logits (B, classes), or (B, members, classes): see `joint`.
Model = Callable[..., Tensor]
State = dict[str, Any]  # str -> Tensor (B, ...) | State


def leafwise(f: Callable[[Tensor, Tensor], Tensor], new: State, old: State) -> State:
    """Combine two states of one form, leaf by leaf, with ``f(new, old)``."""
    return {
        k: leafwise(f, v, old[k]) if isinstance(v, dict) else f(v, old[k]) for k, v in new.items()
    }


def choose(rows: Tensor, new: State, old: State) -> State:
    """Take `new` in the rows (B,) that are True and `old` elsewhere, leaf by leaf."""

    def pick(a: Tensor, b: Tensor) -> Tensor:  # of the clean image and the labels: no copy
        return a if a is b else torch.where(per_image(rows, a), a, b)

    return leafwise(pick, new, old)


class Pool(NamedTuple):
    """A fixed set of images that views may mix in."""

    images: Tensor  # (K, 3, H, W) in [0, 1]
    labels: Tensor  # (K,) int64: their true classes


class Context(NamedTuple):
    """Data that a view, a stage or a step may use; B rows, one image each."""

    x: Tensor  # iterate, (B, 3, H, W) in [0, 1]
    x0: Tensor  # clean image, like x
    image: Tensor  # the iterate as the model sees it: rounded to 8 bits, if the attack rounds
    point: Tensor  # where the gradient was taken: `image`, unless a stage looks ahead
    label: Tensor  # true class, (B,) int64
    t: Tensor  # steps already taken by each row, (B,) int64
    steps: int  # T
    size: float  # step size, in [0, 1] units of the ball's norm
    ball: Ball
    root: Tensor  # random key of each image, (B,) int64
    path: tuple[int | Tensor, ...]  # numbers that it is folded with: step, use, …
    grad: Callable[[Tensor, int], Tensor]  # (point, use) -> gradient there, through the views
    pool: Pool | None

    @property
    def key(self) -> Tensor:
        """Random key of (image, step, use), (B,) int64; made on demand, since few parts need it."""
        return fold(self.root, *self.path)

    def at(self, *use: int) -> Context:
        """Return the same context with another key, for one more use."""
        return self._replace(path=(*self.path, *use))


class Copy(NamedTuple):
    """One copy of the images, as a view makes it."""

    image: Tensor  # (B, 3, h, w), differentiable in what it was made from
    share: Tensor | float  # (B,) or one for all: weight of its gradient; 1 over all copies


class Seen(NamedTuple):
    """Data that a stop may use: the model's logits for the iterate."""

    logits: Tensor  # (B, classes)
    fooled: Tensor  # (B,) bool: not the label, or the target label when targeted
    y: Tensor  # (B,) int64: label, or target label when targeted
    t: Tensor  # (B,) int64: steps taken
    targeted: bool


class Start(Protocol):
    """The first iterates of an attack."""

    def __call__(self, x0: Tensor, ball: Ball, key: Tensor) -> Tensor:
        """Return first iterates (B, 3, H, W) for clean images `x0`; `Attack` projects them."""
        ...


class Loss(Protocol):
    """A loss that an attack climbs, or descends when targeted."""

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the loss of each image, (B,), from logits (B, classes) and labels (B,)."""
        ...


class View(Protocol):
    """Copies of an image, whose gradients are averaged by their shares.

    Copies are made one at a time and have one shape, so memory doesn't grow with their number.
    """

    @property
    def copies(self) -> int:
        """Number of copies."""
        ...

    def __call__(self, x: Tensor, i: int, c: Context) -> Copy:
        """Make copy `i` of the images `x` (B, 3, H, W). `c.key` is the same for all copies."""
        ...


class Stage(Protocol):
    """A transformation of the gradient before the step: normalising, momentum, smoothing.

    A stage whose attribute `look_ahead` is true also has `point(s, c)`, which returns the point
    where the gradient is taken; an attack has at most one of these. A stage that calls `c.grad` has
    an attribute `extra`, the number of its calls in a step.
    """

    def init(self, x: Tensor) -> State: ...

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]: ...


class Step(Protocol):
    """A rule that moves the iterate; `Attack` projects what `update` returns."""

    def init(self, x: Tensor) -> State: ...

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]: ...


class Stop(Protocol):
    """A rule that ends rows before their T steps are over."""

    def init(self, x: Tensor) -> State: ...

    def update(self, seen: Seen, s: State) -> tuple[Tensor, State]: ...


class Stateless:
    """A part without a state."""

    def init(self, x: Tensor) -> State:
        return {}


def looks_ahead(stage: Stage) -> bool:
    """Return whether the stage moves the point at which the gradient is taken."""
    return bool(getattr(stage, "look_ahead", False))
