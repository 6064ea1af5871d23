"""Parts of an attack: their contracts, and the data that they get.

conf/attack has the known attacks, docs/attacks.md lists them by their parts.

Parts are frozen dataclasses. What changes during a run is a `State`: a dict of tensors whose
every leaf has one row per image, so that the engine can put any image into any row. Randomness
comes from a key per row (`agr.attacks.draws`), so that no image depends on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    # Of a view that asks: images -> losses (B,), which it may climb.
    losses: Callable[[Tensor], Tensor] | None = None
    # Of a rule that watches: images that fooled the source in a gradient's pass before this step.
    fooled: Tensor | None = None  # (B,) bool

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
    reference: Tensor | None = None  # and of the images of the rule's `reference`, (B, ...)


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


class Rule(Protocol):
    """A change to modules of the source, while gradients are taken.

    Answers and scores are those of the network without it. A rule finds its modules by their role
    (`agr.models.roles`) and says by name which role a network lacks. No row may depend on another.

    Optional attributes: `clean`, true if it needs what its modules make of the clean images;
    `pool`, the number of images that it mixes in; `unfused`, true if it needs attention maps;
    `watches`, true if it needs `c.fooled`; `reference`, a method that makes images of a context,
    which go through the source before each pass, without rules: one more forward.
    """

    def find(self, network: nn.Module) -> dict[str, nn.Module]:
        """Return the modules that it changes, by name. Raises ValueError where there are none."""
        ...

    def forward(self, own: Callable[..., Any], p: Pass) -> Callable[..., Any]:
        """Return the forward pass that stands for that of the module of `p`, `own`."""
        ...


class Ask(Protocol):
    """Passes of the source that an objective asks for before an image's first step."""

    def loss(self, logits: Tensor) -> Tensor:
        """Return what the attack's own loss climbs, (B,): its negative if it is targeted."""
        ...

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the features (B, ...) at each of the objective's layers."""
        ...

    def gradients(
        self, images: Tensor, loss: Callable[[Tensor, list[Tensor]], Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Return gradients of `loss(logits, features)` (B,): at the images, and at the features."""
        ...


class Objective(Protocol):
    """A loss over features, logits and a state that is made once for each image.

    `once` is the number of gradients that `make` takes; `targeted` false says that nothing can be
    aimed at.
    """

    once: int
    targeted: bool

    @property
    def layers(self) -> Sequence[str | float]:
        """Layers of the features: names of modules, or depths from 0 to 1."""
        ...

    def make(self, ask: Ask, y: Tensor, c: Context) -> State:
        """Make what the loss needs for the images of `c`, whose iterate is the clean image."""
        ...

    def __call__(self, logits: Tensor, y: Tensor, features: list[Tensor], s: State) -> Tensor:
        """Return losses (B,), which an attack climbs, or descends if targeted."""
        ...


# Point (B, 3, H, W), member of each row (B,) or one for all, use -> gradients of these members.
AskMember = Callable[[Tensor, Tensor | int, int], Tensor]


class Strategy(Protocol):
    """A way to make one gradient of those of an ensemble's members."""

    def gradients(self, members: int) -> int:
        """Return how many gradients of a single member a step takes."""
        ...

    def init(self, x: Tensor) -> State: ...

    def update(
        self, ask: AskMember, members: int, s: State, c: Context
    ) -> tuple[Tensor, State]: ...


class View(Protocol):
    """Copies of an image, whose gradients are averaged by their shares.

    Copies are made one at a time and have one shape, so memory doesn't grow with their number. A
    view whose attribute `asks` is n calls `c.losses` n times for a copy, for gradients of its own
    parameters; each is a pass, in which later views take no part.
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
    an attribute `extra`, the number of its calls in a step. The first one may have a true
    `replaces`: it needs no gradient at the iterate, and gets zeros.
    """

    def init(self, x: Tensor) -> State: ...

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]: ...


class Step(Stage, Protocol):
    """A rule that moves the iterate; `Attack` projects what `update` returns."""


class Stop(Protocol):
    """A rule that ends rows before their T steps are over."""

    def init(self, x: Tensor) -> State: ...

    def update(self, seen: Seen, s: State) -> tuple[Tensor, State]: ...


class Stateless:
    """A part without a state."""

    def init(self, x: Tensor) -> State:
        return {}
