"""Contracts of an attack's parts: what a part of each slot has to have.

Attributes that a docstring calls optional are false, or 0, where a part lacks them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from agr.attacks.parts import Context, Copy, Pass, Seen, State


class Rule(Protocol):
    """A change to modules of the source, while gradients are taken.

    Answers and scores are those of the network without it. A rule finds its modules by their role
    (`agr.models.roles`) and says by name which role a network lacks. No row may depend on another.

    Optional attributes: `clean`, true if it needs what its modules make of the clean images;
    `pool`, the number of images that it mixes in; `unfused`, true if it needs attention maps;
    `watches`, true if it needs `c.fooled`; `reference`, a method that makes images of a context,
    which go through the source before each pass, without rules: one more forward; `unfolded`, true
    if it needs batch norms apart from convolutions; `optional`, true if modules that the network
    never calls are left alone; `cuts`, true if gradients of what lies inside of its modules don't
    reach the image; `idle`, true if its values change nothing; and `init(p)`, which returns what it
    keeps of a module from step to step, (B, ...), or None: `p.keep` replaces it, in a gradient's
    own pass.
    """

    def find(self, network: nn.Module) -> dict[str, nn.Module]:
        """Return the modules that it changes, by name. Raises ValueError where there are none."""
        ...

    def forward(self, own: Callable[..., Any], p: Pass) -> Callable[..., Any]:
        """Return the forward pass that stands for that of the module of `p`, `own`."""
        ...


class Ask(Protocol):
    """Passes of the source that a part asks for before an image's first step."""

    layers: Mapping[str, nn.Module]  # of its features

    def loss(self, logits: Tensor) -> Tensor:
        """Return what the attack's own loss climbs, (B,): its negative if it is targeted."""
        ...

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the features (B, ...) at each of the layers."""
        ...

    def gradients(
        self, images: Tensor, loss: Callable[[Tensor, list[Tensor]], Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Return gradients of `loss(logits, features)` (B,): at the images, and at the features."""
        ...


class Objective(Protocol):
    """A loss over features, logits and a state that is made once for each image.

    Optional attributes: `adds`, true if the attack's own loss is added to it; `no_loss`, true if
    that takes no part, not even in `make`; `climbs`, true if targeted attacks climb it, too;
    `image`, true if the image follows the features in its list; and `fits(side)`, which raises
    ValueError for images of `side` px that it can't take.
    """

    @property
    def targeted(self) -> bool:
        """False if nothing can be aimed at."""
        ...

    @property
    def once(self) -> int:
        """Number of gradients that `make` takes."""
        ...

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


class AskMembers(Protocol):
    """Passes of an ensemble's members, each charged to the rows that it is for.

    Gradients are taken towards the attack's goal at points (B, 3, H, W), through views whose draws
    are those of `use`.
    """

    targeted: bool

    def gradient(
        self, point: Tensor, member: Tensor | int, use: int, weight: Tensor | float = 1.0
    ) -> Tensor:
        """Return the gradient of the loss of a member's logits, times `weight`.

        `member` and `weight` are those of each row, (B,), or one for all.
        """
        ...

    def blended(self, point: Tensor, weights: Tensor, use: int) -> Tensor:
        """Return the gradient of the loss of the logits' sum, by `weights` (B, members)."""
        ...

    def logits(self, point: Tensor) -> Tensor:
        """Return all members' logits (B, members, classes), without a gradient, views or rules."""
        ...

    def loss(self, logits: Tensor) -> Tensor:
        """Return what the attack's own loss climbs, (B,): its negative if it is targeted."""
        ...


class Strategy(Protocol):
    """A way to make one gradient of those of an ensemble's members.

    One that takes further passes has a method `computed(members)`: how many a batch computes in a
    step, forwards alone and the members that not all rows take included.
    """

    def gradients(self, members: int) -> int:
        """Return how many gradients of a single member a step takes for an image."""
        ...

    def init(self, x: Tensor) -> State: ...

    def update(
        self, ask: AskMembers, members: int, s: State, c: Context
    ) -> tuple[Tensor, State]: ...


class View(Protocol):
    """Copies of an image, whose gradients are averaged by their shares.

    Copies are made one at a time and have one shape, so memory doesn't grow with their number. A
    view whose attribute `asks` is n calls `c.losses` n times for a copy, for gradients of its own
    parameters; each is a pass, in which later views take no part. With a true `joint` the loss is
    that of the mean of all copies' logits, which takes one more forward pass of each copy first.

    A view whose attribute `once` is n takes n gradients before an image's first step. It has
    `find(network)`, which returns the one module that it reads, by name, and `make(ask, y, c)`, as
    an objective; `c.made` is what this returned.
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
    where the gradient is taken; an attack has at most one of these. A stage that calls `c.grad` or
    `c.slope` has an attribute `extra`, the number of its calls in a step, and `bare`, that of its
    bare ones on top, of which all steps together leave out `left_out(steps)`; one that calls it
    less often on average says of how often it is `charged`. One that changes nothing with its
    values says so with a true `idle`. The first stage may have a true
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
