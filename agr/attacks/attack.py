"""An attack: a ball, a loss, views, a chain of stages, a step and a stop, put together.

    attack = Attack(ball=Linf(10 / 255), chain=(MeanNormalize(), Momentum(1.0)))   # MI-FGSM
    adv = attack(model, x, y)

`Attack` holds no state. `begin` makes the rows of a run, `look` finds those that are done, `tick`
moves every living row by one step; the plain call here and the engine with its refilled slots
share these.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from agr.attacks.ball import Ball, per_image
from agr.attacks.draws import fold
from agr.attacks.loss import CrossEntropy
from agr.attacks.parts import Context, Loss, Pool, Seen, Stage, Start, State, Step, Stop, View
from agr.attacks.step import Plain, step_size
from agr.models.logits import confidence, is_fooled, joint, predict
from agr.utils.pixels import is_8bit

# Images (B, 3, H, W) in [0, 1] -> logits (B, classes), or (B, members, classes): see `joint`.
Model = Callable[..., Tensor]
Quantize = Literal["always", "end", "off"]
START, STEPS = 0, 1  # what a key is folded with: the start, or the step t
OWN, GRADIENT = 0, 1  # of a stage: its own draws, or those of a gradient that it asks for


class Look(NamedTuple):
    """What one forward pass told about each row's iterate."""

    pred: Tensor  # (B,) int64, NO_ANSWER where logits are not finite
    conf: Tensor  # (B,): softmax probability of that class
    fooled: Tensor  # (B,) bool
    image: Tensor  # (B, 3, H, W): the images the model saw
    more: Tensor  # (B,) bool: rows that were alive and go on


def choose(rows: Tensor, new: State, old: State) -> State:
    """`new` in the rows (B,) that are True, else `old`, leaf by leaf."""

    def pick(k: str, v: Any) -> Any:
        if v is old[k]:  # the clean image, the labels: no copy
            return v
        if isinstance(v, dict):
            return choose(rows, v, old[k])
        return torch.where(per_image(rows, v), v, old[k])

    return {k: pick(k, v) for k, v in new.items()}


@dataclass(frozen=True)
class Attack:
    """A gradient attack on images in [0, 1], composed of parts (see `agr.attacks.parts`).

    `steps` is T; `size` is a step-size rule or a number in the units of `ball.eps`
    (see `agr.attacks.step.step_size`). `targeted` descends the loss towards the given labels.
    `pool` are the images that views may mix in (Admix).

    `quantize`: "always" (default) lets the model see 8-bit iterates only, in gradients and checks
    alike, while the iterate itself stays float, so that what stops an attack is what is returned;
    copies and points that a part makes start from the rounded iterate. "end" rounds the returned
    image only; "off" never rounds.
    """

    ball: Ball
    steps: int = 10
    size: str | float = "even"
    start: Start | None = None
    loss: Loss = field(default_factory=CrossEntropy)
    views: tuple[View, ...] = ()
    chain: tuple[Stage, ...] = ()
    step: Step = field(default_factory=Plain)
    stop: Stop | None = None
    targeted: bool = False
    quantize: Quantize = "always"
    pool: Pool | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps} is no attack: use 1 or more")
        if self.quantize not in ("always", "end", "off"):
            raise ValueError(f"quantize={self.quantize} is unknown: use always, end or off")
        if self.ball.eps > 0:
            step_size(self.size, self.ball.eps, self.steps)
        ahead = [stage for stage in self.chain if _looks_ahead(stage)]
        if len(ahead) > 1:
            raise ValueError(
                f"{' and '.join(map(str, ahead))} both look ahead: the gradient is taken at one "
                "point, so let one of them"
            )

    @property
    def direct(self) -> bool:
        """Whether the gradient is that of the iterate itself, so that its forward is a look too."""
        return not self.views and not any(map(_looks_ahead, self.chain))

    @property
    def gradients(self) -> int:
        """How many gradients a step takes at most: of every copy, at every point."""
        points = 1 + sum(getattr(stage, "extra", 0) for stage in self.chain)
        return points * math.prod(view.copies for view in self.views)

    @property
    def pool_size(self) -> int:
        """How many images of a pool the views ask for; 0: none."""
        return max((getattr(view, "pool", 0) for view in self.views), default=0)

    def side(self, side: int) -> int:
        """Pixels of the largest images that the model sees, for images of `side` px."""
        for view in self.views:
            if hasattr(view, "side"):
                side = max(side, view.side(side))
        return side

    def begin(
        self, x0: Tensor, y: Tensor, key: Tensor | None = None, label: Tensor | None = None
    ) -> State:
        """Rows for clean images `x0` (B, 3, H, W) in [0, 1] and labels (or targets) `y` (B,).

        `key` (B,) int64 is each image's own randomness, by default its place in the batch; `label`
        (B,) the true classes where `y` is something else.
        """
        rows = torch.zeros(len(x0), dtype=torch.int64, device=x0.device)
        key = torch.arange(len(x0), device=x0.device) if key is None else key
        x = x0.clone()
        if self.start:
            started = self.ball.project(self.start(x0, self.ball, fold(key, START)), x0)
            x = torch.where(per_image(y >= 0, x), started, x)  # an image without a label stays
        return {
            "x": x,
            "x0": x0,
            "y": y,
            "label": y if label is None else label,
            "key": key,
            "t": rows,
            "first": rows - 1,  # step of the first success, -1 while there is none
            "live": y >= 0,  # a label that is no answer cannot be attacked
            "seen": rows > 0,  # the iterate has been looked at
            "forwards": rows,  # what the image needed: its looks, and the passes of its gradients
            "backwards": rows,
            "chain": {str(i): stage.init(x0) for i, stage in enumerate(self.chain)},
            "step": self.step.init(x0),
            "stop": self.stop.init(x0) if self.stop else {},
        }

    def tick(self, model: Model, s: State) -> tuple[Look | None, State]:
        """One step of all rows that are not done.

        Where the gradient is that of the iterate (`direct`), its forward is the check of the
        iterate too, so a run of T steps costs T+1 forwards and T gradients, stop and trace
        included. Elsewhere nobody is looked at (None); `look` does, where that is wanted.
        """
        if not self.direct:
            return None, self._step(model, None, self._shown(s), s)
        point = self._shown(s).detach().requires_grad_()
        with torch.enable_grad():
            logits = model(point)
            look, s = self._look(joint(logits.detach()), point.detach(), s)
            if not bool(look.more.any()):
                return look, s
            g = self._of(self._losses(logits, s["y"].clamp_min(0)), point)
        return look, self._step(model, g, point.detach(), s)

    @torch.no_grad()
    def look(self, model: Model, s: State) -> tuple[Look, State]:
        """A forward alone: which rows are done. The next tick doesn't ask again.

        It pays where most rows are done: a gradient over all of them would be for few.
        """
        shown = self._shown(s)
        return self._look(joint(model(shown)), shown, s)

    def final(self, s: State) -> Tensor:
        """The adversarial images of the rows of `s`, (B, 3, H, W), as they are to be scored."""
        return s["x"] if self.quantize == "off" else self.ball.round(s["x"], s["x0"])

    def __call__(
        self, model: Model, x: Tensor, y: Tensor | None = None, key: Tensor | None = None
    ) -> Tensor:
        """Adversarial images for `x`.

        Args:
            model: maps images (B, 3, H, W) in [0, 1] to logits (B, classes); in eval mode.
            x: clean images, (B, 3, H, W) in [0, 1]; on the 8-bit grid unless quantize="off".
            y: labels (B,), int64; the targets when `targeted`. None: the model's own predictions,
                which also stand for the true classes where `y` are targets and a pool is used.
            key: the randomness of each image, (B,) int64; None: its place in the batch.

        Returns:
            Images like `x`, within the ball and [0, 1].

        Raises:
            ValueError: the model is in training mode, `x` or `y` is not as described, a view needs
                a pool, or makes images of a size that the model doesn't take.
        """
        _check(self, model, x, y)
        label = y
        if y is None or (self.targeted and self.pool_size):  # partners are not of the true class
            with torch.no_grad():
                label = predict(joint(model(x)))
        s = self.begin(x.detach(), label if y is None else y, key, label)  # type: ignore[arg-type]
        # Nobody asks what the last iterate does: T steps cost T forwards here.
        while bool((s["live"] & (s["t"] < self.steps)).any()):
            if self.stop and not self.direct:
                _, s = self.look(model, s)
            _, s = self.tick(model, s)
        return self.final(s)

    def _losses(self, logits: Tensor, y: Tensor) -> Tensor:
        """The loss of each image, (B,); over an ensemble's members their mean."""
        if logits.dim() == 2:
            return self.loss(logits, y)
        return torch.stack([self.loss(own, y) for own in logits.unbind(1)]).mean(0)

    def _of(self, losses: Tensor, point: Tensor) -> Tensor:
        """The gradient of the sum of `losses` (B,) at `point`, towards what the attack wants."""
        loss = losses.sum()
        (g,) = torch.autograd.grad(-loss if self.targeted else loss, point)
        return g

    def _shown(self, s: State) -> Tensor:
        return self.ball.round(s["x"], s["x0"]) if self.quantize == "always" else s["x"]

    def _look(self, logits: Tensor, image: Tensor, s: State) -> tuple[Look, State]:
        pred, new = predict(logits), ~s["seen"]
        fooled = is_fooled(pred, s["y"], targeted=self.targeted)
        done, stop = s["t"] >= self.steps, s["stop"]
        if self.stop:
            seen = Seen(logits, fooled, s["y"], s["t"], self.targeted)
            stopped, after = self.stop.update(seen, stop)
            done, stop = done | stopped, choose(new, after, stop)
        more = s["live"] & ~(done & new)
        first = torch.where((s["first"] < 0) & fooled & s["live"], s["t"], s["first"])
        changed = {"first": first, "live": more, "stop": stop, "seen": torch.ones_like(new)}
        changed |= {"forwards": s["forwards"] + new}
        return Look(pred, confidence(logits), fooled, image, more), s | changed

    def _step(self, model: Model, g: Tensor | None, image: Tensor, s: State) -> State:
        """One step of the living rows, with the gradient `g` at their `image` if it is known."""
        more = s["live"] & (s["t"] < self.steps)
        if g is None and not bool(more.any()):
            return s
        known = int(g is not None)
        spent = torch.zeros_like(s["t"])  # gradients of each row, beyond a `g` that is known
        size = step_size(self.size, self.ball.eps, self.steps) if self.ball.eps > 0 else 0.0
        context = Context(
            *(s["x"], s["x0"], image, image, s["label"], s["t"], self.steps, size, self.ball),
            root=s["key"], path=(STEPS, s["t"]), grad=_no_gradient, pool=self.pool,
        )  # fmt: skip

        def of_stage(i: int) -> Context:
            """Stage i's context; -1: of the gradient itself."""

            def grad(point: Tensor, use: int) -> Tensor:
                c = context._replace(point=point).at(i + 1, GRADIENT, use)
                return self._gradient(model, s["y"].clamp_min(0), more, c, spent)

            return context._replace(grad=grad).at(i + 1, OWN)

        if g is None:
            for i, stage in enumerate(self.chain):
                if _looks_ahead(stage):
                    point = stage.point(s["chain"][str(i)], context)  # type: ignore[attr-defined]
                    context = context._replace(point=point)
            g = of_stage(-1).grad(context.point, 0)
        chain = {}
        for i, stage in enumerate(self.chain):
            g, chain[str(i)] = stage.update(g, s["chain"][str(i)], of_stage(i))
        x, step = self.step.update(g, s["step"], of_stage(len(self.chain)))
        if not bool(x.sum().isfinite()):  # one pass where nothing is wrong
            x = torch.where(x.isfinite(), x, s["x0"])
        # Of rows that are done only the image and the counts still matter.
        moved = {
            "x": self.ball.project(x, s["x0"]),
            "t": s["t"] + 1,
            "seen": torch.zeros_like(s["seen"]),
            "forwards": s["forwards"] + spent,
            "backwards": s["backwards"] + spent + known,
        }
        return s | {"chain": chain, "step": step} | choose(more, moved, s)

    def _gradient(self, model: Model, y: Tensor, more: Tensor, c: Context, spent: Tensor) -> Tensor:
        """The gradient at `c.point` (B, 3, H, W) through the views; `spent` counts its passes."""
        total = torch.zeros_like(c.point)
        for copy in itertools.product(*(range(view.copies) for view in self.views)):
            leaf = c.point.detach().requires_grad_()
            with torch.enable_grad():
                image, share = leaf, cast(Tensor | float, 1.0)
                for j, view in enumerate(self.views):
                    # All copies of a view share a key; of those before it each has its own.
                    made = view(image, copy[j], c.at(j, *copy[:j]))
                    image, share = made.image, share * made.share
                takes = share > 0 if isinstance(share, Tensor) else torch.ones_like(more)
                if isinstance(share, Tensor) and not bool((more & takes).any()):
                    continue
                losses = self._losses(_ask(model, image, leaf), y) * share
                g = self._of(torch.where(takes, losses, 0.0), leaf)
            # Also of what is left out: 0 times a NaN is no 0.
            total += torch.where(per_image(takes, g), g, 0.0) if isinstance(share, Tensor) else g
            spent += more & takes
        return total


def _looks_ahead(stage: Stage) -> bool:
    return bool(getattr(stage, "look_ahead", False))


def _no_gradient(point: Tensor, use: int) -> Tensor:
    raise RuntimeError("a view or a look-ahead asked for a gradient, of which it is a part")


def _ask(model: Model, image: Tensor, own: Tensor) -> Tensor:
    """The model's logits for copies `image` of the images `own`, of whatever size."""
    if image.shape == own.shape:
        return model(image)
    side = [own.shape[-1]] if getattr(model, "takes_side", False) else []
    try:
        return model(image, *side)
    except (RuntimeError, AssertionError, ValueError) as e:
        if isinstance(e, torch.OutOfMemoryError) or "allocate memory" in str(e):
            raise
        raise ValueError(
            f"the network doesn't take copies of {image.shape[-1]} px in place of "
            f"{own.shape[-1]} px ({str(e).splitlines()[0][:200]}): Diverse(back=True), "
            "attack.views.diverse.back=true, resizes them back"
        ) from e


def _check(attack: Attack, model: Model, x: Tensor, y: Tensor | None) -> None:
    if getattr(model, "training", False):
        raise ValueError("the model is in training mode: call model.eval() first")
    if x.dim() != 4 or not x.is_floating_point():
        raise ValueError(f"x is {x.dtype} {tuple(x.shape)}: give float images (B, 3, H, W)")
    if x.numel() and not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(f"x spans [{x.min():.3g}, {x.max():.3g}]: give images in [0, 1]")
    if attack.quantize != "off" and x.numel() and not is_8bit(x):
        raise ValueError('x is not on the 8-bit grid k/255: round it, or use quantize="off"')
    if attack.pool_size and attack.pool is None:
        raise ValueError(
            "a view mixes in other images: dataclasses.replace(attack, pool=Pool(images, labels))"
        )
    if attack.pool and len(attack.pool.labels.unique()) < 2:
        raise ValueError("the images of the pool have one class: give images of several")
    if attack.pool and attack.pool.images.shape[1:] != x.shape[1:]:
        shapes = f"{tuple(attack.pool.images.shape[1:])} and {tuple(x.shape[1:])}"
        raise ValueError(f"images of the pool and x have different shapes: {shapes}")
    if attack.targeted and y is None:
        raise ValueError("a targeted attack needs y, the target labels")
    if y is not None and (y.shape != x.shape[:1] or y.dtype != torch.int64):
        raise ValueError(f"y is {y.dtype} {tuple(y.shape)}: give int64 labels ({len(x)},)")
