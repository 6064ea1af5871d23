"""The parts of an attack put together, and the rules of how they go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from agr.attacks import contracts, parts
from agr.attacks.ball import Ball
from agr.attacks.contracts import Stage
from agr.attacks.loss import CrossEntropy
from agr.attacks.parts import Model, Pool
from agr.attacks.step import Plain, step_size
from agr.attacks.surrogate import Surrogate
from agr.attacks.views.copies import Draws
from agr.config.cost import gradients_of

Quantize = Literal["always", "end", "off"]


@dataclass(frozen=True)
class Composition:
    """The parts of a gradient attack, and what follows from them: see `Attack`."""

    ball: Ball
    steps: int = 10
    size: str | float = "even"
    start: parts.Start | None = None
    loss: parts.Loss = field(default_factory=CrossEntropy)
    objective: contracts.Objective | None = None
    views: tuple[contracts.View, ...] = ()
    surrogate: tuple[contracts.Rule, ...] = ()
    ensemble: contracts.Strategy | None = None
    chain: tuple[contracts.Stage, ...] = ()
    step: contracts.Step = field(default_factory=Plain)
    stop: contracts.Stop | None = None
    targeted: bool = False
    quantize: Quantize = "always"
    pool: Pool | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check(self)

    @property
    def direct(self) -> bool:
        """True if the gradient is taken at the iterate, whose forward is an observation too."""
        elsewhere = look_aheads(self.chain) or replaces(self.chain)
        # What an objective makes is only for rows that go on, so that a stop has to look before.
        late = bool(self.objective and self.stop)
        return not (elsewhere or late or self.views or self.surrogate or self.ensemble)

    def gradients(self, members: int = 1) -> int:
        """Return the most gradients that a step takes: one for every copy, at every point.

        Of an ensemble of `members` networks each has its own.
        """
        return gradients_of(self.views, self.chain, self.ensemble, members, charged=False)

    @property
    def once(self) -> int:
        """Number of gradients that are taken before an image's first step."""
        return sum(getattr(part, "once", 0) for part in (self.objective, *self.views))

    @property
    def prepares(self) -> bool:
        """True if something is made of images before their first step."""
        return bool(self.objective or self.surrogate or self.once)

    @property
    def pool_of_classes(self) -> int:
        """Number of the pool's first images that must be of several classes; 0 for none."""
        views = (view for view in self.views if getattr(view, "other_classes", False))
        return min((getattr(view, "pool", 0) for view in views), default=0)

    @property
    def pool_size(self) -> int:
        """Number of images that parts need in the pool; 0 for none."""
        mixing = (*self.views, *self.surrogate, *self.chain)
        return max((getattr(part, "pool", 0) for part in mixing), default=0)

    def side(self, side: int) -> int:
        """Return the side of the largest copies that the model sees, for images of `side` px."""
        for view in self.views:
            if hasattr(view, "side"):
                side = max(side, view.side(side))
        return side

    def bind(self, model: Model) -> Surrogate:
        """Find what the attack changes and reads in a model; a bound one is returned as it is.

        Raises ValueError where something isn't there.
        """
        if isinstance(model, Surrogate):
            return model
        source = Surrogate(model, self.surrogate, self.objective, self.pool, self.views)
        reads: list[Any] = [self.objective] if self.objective else []
        reads += [v for v in self.views if getattr(v, "once", 0)]
        reads += [r for r in self.surrogate if getattr(r, "clean", 0) or hasattr(r, "reference")]
        if reads and source.is_random:
            raise ValueError(
                f"{type(reads[0]).__name__} reads features, and the source's random defense draws "
                "anew in each pass: attack the network without it"
            )
        if self.ensemble and len(source.members) < 2:
            raise ValueError(
                f"{type(self.ensemble).__name__} needs a source of several networks: source=[A,B], "
                "or in Python a module whose `members` they are"
            )
        return source


def look_aheads(chain: Sequence[Stage]) -> list[int]:
    """Return the places in the chain of the stages that move the point of the gradient."""
    return [i for i, stage in enumerate(chain) if getattr(stage, "look_ahead", False)]


def replaces(chain: Sequence[Stage]) -> bool:
    """Return whether the chain's first stage needs no gradient at the iterate."""
    return bool(chain) and getattr(chain[0], "replaces", False)


def check(attack: Any) -> None:
    """Raise ValueError for parts of an `Iteration` that don't go together."""
    if attack.steps < 1:
        raise ValueError(f"steps={attack.steps} is not an attack: use 1 or more")
    if attack.quantize not in ("always", "end", "off"):
        raise ValueError(f"quantize={attack.quantize} is unknown: use always, end or off")
    if attack.ball.eps > 0:
        step_size(attack.size, attack.ball.eps, attack.steps)
    chain, ahead = attack.chain, look_aheads(attack.chain)
    if len(ahead) > 1:
        both = " and ".join(str(chain[i]) for i in ahead)
        raise ValueError(
            f"{both} both look ahead: the gradient is taken at one point, so let one of them"
        )
    if ahead and replaces(chain):
        raise ValueError(
            f"{chain[0]} takes no gradient at the iterate, and {chain[ahead[0]]} looks ahead of "
            "it: leave out one"
        )
    if late := [stage for stage in chain[1:] if getattr(stage, "replaces", False)]:
        raise ValueError(f"{late[0]} makes the gradient by itself: it must be the first stage")
    asking = [stage for stage in chain if getattr(stage, "extra", 0)]
    if attack.ensemble and (asking or attack.objective):
        raise ValueError(
            f"{attack.ensemble} makes its gradient of the members' own, of which "
            f"{asking[0] if asking else attack.objective} can't ask for more: leave out one"
        )
    if getattr(attack.ensemble, "positive", False) and not isinstance(attack.loss, CrossEntropy):
        raise ValueError(
            f"{type(attack.ensemble).__name__} weighs members by ratios of their losses, which "
            f"{attack.loss} doesn't keep above 0: use the cross-entropy"
        )
    asks = next((view for view in attack.views if getattr(view, "asks", 0)), None)
    if asks and any(isinstance(view, Draws) for view in attack.views):
        raise ValueError(
            f"{asks} asks for losses, and eot draws a random defense for its copies only: leave "
            "out one"
        )
    joint = next((view for view in attack.views if getattr(view, "joint", False)), None)
    other = asks or attack.objective
    if joint and other:
        raise ValueError(
            f"{joint} averages the logits of all copies, and {other} needs each copy's own: leave "
            "out one"
        )
    if getattr(attack.objective, "no_loss", False) and not isinstance(attack.loss, CrossEntropy):
        raise ValueError(
            f"loss={attack.loss} has no effect on {attack.objective}, which makes its own of "
            "features: leave it out"
        )
    if attack.objective and attack.targeted and not attack.objective.targeted:
        raise ValueError(f"{attack.objective} has no target: leave out targeted=true")
