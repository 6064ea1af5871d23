"""Data that the parts of an attack get; `agr.attacks.contracts` says what parts are.

conf/attack has the known attacks, docs/attacks.md lists them by their parts.

Parts are frozen dataclasses. What changes during a run is a `State`: a dict of tensors whose
every leaf has one row per image, so that the engine can put any image into any row. Randomness
comes from a key per row (`agr.attacks.draws`), so that no image depends on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from agr.attacks.ball import Ball, per_image
from agr.attacks.draws import fold

# Images (B, 3, H, W) in [0, 1] -> logits (B, classes), or (B, members, classes): see `joint`.
Model = Callable[..., Tensor]
State = dict[str, Any]  # str -> Tensor (B, ...) | State
# Clean images (B, 3, H, W), ball, key (B,) -> the first iterates, which `Attack` projects.
Start = Callable[[Tensor, Ball, Tensor], Tensor]
# Logits (B, classes), labels (B,) -> losses (B,), which an attack climbs, or descends if targeted.
Loss = Callable[[Tensor, Tensor], Tensor]


class Slope(Protocol):
    """Losses (B,) at a point, towards the attack's goal, and their gradient there (B, 3, H, W).

    They are taken through the views, of what `make` makes of the point, if there is one. With
    `rows` (B,) bool, others don't count: without a living one no pass is made, and all is 0. `bare`
    ones are of the cross-entropy, without views.
    """

    def __call__(
        self,
        point: Tensor,
        use: int,
        make: Callable[[Tensor], Tensor] | None = None,
        *,
        rows: Tensor | None = None,
        bare: bool = False,
    ) -> tuple[Tensor, Tensor]: ...


class At(NamedTuple):
    """A point where a gradient is asked for."""

    point: Tensor  # (B, 3, H, W)
    use: int  # of the key: each has draws of its own
    make: Callable[[Tensor], Tensor] | None = None  # what the source gets of it


class Slopes(Protocol):
    """Losses (B,) and gradients as of `Slope`, at points that don't depend on each other.

    They come in the order of the points; where few images are left their copies share passes.
    """

    def __call__(self, points: Iterable[At]) -> Iterator[tuple[Tensor, Tensor]]: ...


def no_gradient(*_: Any, **__: Any) -> Any:
    """Refuse a gradient to the parts that it is made through. Raises RuntimeError."""
    raise RuntimeError("a view or a look-ahead asked for a gradient, of which it is a part")


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

    def first(self, count: int) -> Pool:
        """Return the pool of the first images: another part may have asked for more."""
        return Pool(self.images[:count], self.labels[:count])


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
    # Of a view that asks: images -> losses (B,), which it may climb.
    losses: Callable[[Tensor], Tensor] | None = None
    slope: Slope = no_gradient  # `grad`, with losses and options
    slopes: Slopes = no_gradient  # likewise, at several points
    # Of a rule that watches: images that fooled the source in a gradient's pass before this step.
    fooled: Tensor | None = None  # (B,) bool
    made: State | None = None  # of a view with `once`: what it made before the first step

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
    draw: Tensor | None = None  # (B,) int64: keys with which a random defense draws for it


class Pass(NamedTuple):
    """Data that a rule may use about a module, in one pass of the source."""

    c: Context  # its key is for this pass and module
    name: str
    module: nn.Module
    clean: Tensor | None  # what the module makes of the clean images, (B, ...); see `Rule`
    benign: Tensor | None  # and of the images of the pool, (K, ...)
    shared: dict[str, Any]  # empty at first: what a rule's modules tell each other in this pass
    reference: Tensor | None = None  # what the module makes of the rule's `reference`
    state: Tensor | None = None  # what the rule keeps of the module, (B, ...)
    keep: Callable[[Tensor], None] | None = None  # replaces it, where this pass may


class Seen(NamedTuple):
    """Data that a stop may use: the model's logits for the iterate."""

    logits: Tensor  # (B, classes)
    fooled: Tensor  # (B,) bool: not the label, or the target label when targeted
    y: Tensor  # (B,) int64: label, or target label when targeted
    t: Tensor  # (B,) int64: steps taken
    targeted: bool


class Observation(NamedTuple):
    """One forward pass over the iterates: predictions, and the rows that go on."""

    pred: Tensor  # (B,) int64, NO_ANSWER where logits are not finite
    conf: Tensor  # (B,): softmax probability of that class
    fooled: Tensor  # (B,) bool
    image: Tensor  # (B, 3, H, W): the images the model saw
    more: Tensor  # (B,) bool: rows that were alive and go on


class Stateless:
    """A part without a state."""

    def init(self, x: Tensor) -> State:
        return {}
