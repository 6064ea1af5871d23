"""An attack: a ball, a loss, views, a chain of stages, a step and a stop, put together.

    attack = Attack(ball=Linf(10 / 255), chain=(MeanNormalize(), Momentum(1.0)))   # MI-FGSM
    adv = attack(model, x, y)

`Attack` holds no state. `begin` makes the rows of a run, `observe` finds those that are done,
`tick` moves every living row by a step; the plain call and the engine with its slots share these.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from agr.attacks import parts
from agr.attacks.ball import Ball, per_image
from agr.attacks.draws import GRADIENT, OWN, START, STEPS, fold
from agr.attacks.gradient import Objective, no_gradient
from agr.attacks.loss import CrossEntropy
from agr.attacks.parts import Context, Model, Observation, Pool, Seen, State, choose
from agr.attacks.step import Plain, step_size
from agr.config.cost import gradients_of
from agr.models.logits import NO_ANSWER, confidence, is_fooled, joint, predict
from agr.utils.text import came_back, no_answer, zero_gradients

Quantize = Literal["always", "end", "off"]


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
    start: parts.Start | None = None
    loss: parts.Loss = field(default_factory=CrossEntropy)
    views: tuple[parts.View, ...] = ()
    chain: tuple[parts.Stage, ...] = ()
    step: parts.Step = field(default_factory=Plain)
    stop: parts.Stop | None = None
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
        if len(self._ahead) > 1:
            both = " and ".join(str(self.chain[i]) for i in self._ahead)
            raise ValueError(
                f"{both} both look ahead: the gradient is taken at one point, so let one of them"
            )

    @property
    def direct(self) -> bool:
        """True if the gradient is taken at the iterate, whose forward is an observation too."""
        return not self.views and not self._ahead

    @property
    def gradients(self) -> int:
        """Most gradients that a step takes: one for every copy, at every point."""
        return gradients_of(self.views, self.chain, charged=False)

    @property
    def pool_size(self) -> int:
        """Number of images that the views need in the pool; 0 for none."""
        return max((getattr(view, "pool", 0) for view in self.views), default=0)

    def side(self, side: int) -> int:
        """Return the side of the largest copies that the model sees, for images of `side` px."""
        for view in self.views:
            if hasattr(view, "side"):
                side = max(side, view.side(side))
        return side

    def begin(
        self, x0: Tensor, y: Tensor, key: Tensor | None = None, label: Tensor | None = None
    ) -> State:
        """Make the rows of a run.

        Args:
            x0: clean images (B, 3, H, W) in [0, 1].
            y: labels (B,), or target labels; -1 can't be attacked.
            key: randomness of each image, (B,) int64; by default its place in the batch.
            label: true classes (B,) where `y` is something else.
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
            "live": y >= 0,  # NO_ANSWER can't be attacked
            "seen": rows > 0,  # the iterate has been observed
            "flat": rows == 0,  # every gradient so far was zero
            "forwards": rows,  # passes for the image: its observations and gradients
            "backwards": rows,
            "chain": {str(i): stage.init(x0) for i, stage in enumerate(self.chain)},
            "step": self.step.init(x0),
            "stop": self.stop.init(x0) if self.stop else {},
        }

    def tick(self, model: Model, s: State) -> tuple[Observation | None, State]:
        """Take one step with all rows that are not done.

        Where the gradient is that of the iterate (`direct`), its forward is an observation too:
        T steps cost T+1 forwards and T gradients, stop and trace included. Elsewhere there is
        none; call `observe` where it is wanted.
        """
        if not self.direct:
            return None, self._step(model, None, self._shown(s), s)
        point = self._shown(s).detach().requires_grad_()
        with torch.enable_grad():
            logits = model(point)
            seen, s = self._observe(joint(logits.detach()), point.detach(), s)
            if not bool(seen.more.any()):
                return seen, s
            losses = self._objective.losses(logits, s["y"].clamp_min(0))
            g = self._objective.gradient(losses, point)
        return seen, self._step(model, g, point.detach(), s)

    @torch.no_grad()
    def observe(self, model: Model, s: State) -> tuple[Observation, State]:
        """Find the rows that are done, by a forward pass that the next tick doesn't repeat.

        It pays where most rows are done: their gradients would be computed for nothing.
        """
        shown = self._shown(s)
        return self._observe(joint(model(shown)), shown, s)

    def final(self, s: State) -> Tensor:
        """Return the adversarial images of the rows of `s`, (B, 3, H, W), as they are scored."""
        return s["x"] if self.quantize == "off" else self.ball.round(s["x"], s["x0"])

    def __call__(
        self, model: Model, x: Tensor, y: Tensor | None = None, key: Tensor | None = None
    ) -> Tensor:
        """Craft adversarial images for `x`. T steps cost T forwards: nobody sees the last iterate.

        Args:
            model: maps images (B, 3, H, W) in [0, 1] to logits (B, classes); in eval mode.
            x: clean images, (B, 3, H, W) in [0, 1]; on the 8-bit grid unless quantize="off".
            y: labels (B,), int64; the targets when `targeted`. None: the model's own predictions,
                which also stand for the true classes where `y` are targets and a pool is used.
            key: the randomness of each image, (B,) int64; None: its place in the batch.

        Returns:
            Images like `x`, within the ball and [0, 1].

        Raises:
            ValueError: what is given isn't as described, a view needs a pool, or the model doesn't
                take the size of a view's images.
        """
        with torch.inference_mode(False), torch.no_grad():  # whatever the caller's modes are
            return self._craft(model, *map(parts.usable, (x, y, key)))

    def _craft(self, model: Model, x: Tensor, y: Tensor | None, key: Tensor | None) -> Tensor:
        parts.check_images(model, x, on_grid=self.quantize != "off")
        parts.check_pool(self.pool, self.pool_size, x)
        if y is not None:
            parts.check_labels(x, y)
        elif self.targeted:
            raise ValueError("a targeted attack needs y, the target labels")
        model, label, x = parts.CheckedModel(model, y), y, x.clamp(0, 1)
        if y is None or (self.targeted and self.pool_size):  # partners are not of the true class
            label = predict(joint(model(x)))
        s = self.begin(x, label if y is None else y, key, label)  # type: ignore[arg-type]
        while bool((s["live"] & (s["t"] < self.steps)).any()):
            if self.stop and not self.direct:
                _, s = self.observe(model, s)
            _, s = self.tick(model, s)
        found = self.final(s)
        flat = s["flat"] & (s["t"] > 0)
        same = ~flat & ~(found != x).flatten(1).any(1) & (self.ball.eps > 0)
        silent = same & (predict(joint(model(x))) == NO_ANSWER) if same.any() else same
        same &= ~silent & (s["t"] > 0)
        told = (zero_gradients, flat), (no_answer, silent), (came_back, same)
        for say, rows in told:
            if rows.any():
                warnings.warn(say(int(rows.sum()), len(x)), stacklevel=3)
        return found

    @property
    def _ahead(self) -> list[int]:
        """Places in the chain of stages that move the point of the gradient: at most one."""
        return [i for i, stage in enumerate(self.chain) if getattr(stage, "look_ahead", False)]

    @property
    def _objective(self) -> Objective:
        return Objective(self.loss, self.views, self.targeted)

    def _shown(self, s: State) -> Tensor:
        return self.ball.round(s["x"], s["x0"]) if self.quantize == "always" else s["x"]

    def _observe(self, logits: Tensor, image: Tensor, s: State) -> tuple[Observation, State]:
        pred, new = predict(logits), ~s["seen"]
        fooled = is_fooled(pred, s["y"], targeted=self.targeted)
        done, stop = s["t"] >= self.steps, s["stop"]
        if self.stop:
            seen = Seen(logits, fooled, s["y"], s["t"], self.targeted)
            stopped, after = self.stop.update(seen, stop)
            done, stop = done | stopped, choose(new, after, stop)
        more = s["live"] & ~(done & new)
        changed = {
            "first": torch.where((s["first"] < 0) & fooled & s["live"], s["t"], s["first"]),
            "live": more,
            "stop": stop,
            "seen": torch.ones_like(new),
            "forwards": s["forwards"] + new,
        }
        return Observation(pred, confidence(logits), fooled, image, more), s | changed

    def context(self, s: State, image: Tensor) -> Context:
        """Return what the parts of a step get to know."""
        size = step_size(self.size, self.ball.eps, self.steps) if self.ball.eps > 0 else 0.0
        return Context(
            x=s["x"],
            x0=s["x0"],
            image=image,
            point=image,
            label=s["label"],
            t=s["t"],
            steps=self.steps,
            size=size,
            ball=self.ball,
            root=s["key"],
            path=(STEPS, s["t"]),
            grad=no_gradient,
            pool=self.pool,
        )

    def _step(self, model: Model, g: Tensor | None, image: Tensor, s: State) -> State:
        """Take one step with the living rows; `g` is the gradient at `image` if it is known."""
        more = s["live"] & (s["t"] < self.steps)
        if g is None and not bool(more.any()):
            return s
        known, y = int(g is not None), s["y"].clamp_min(0)
        spent = torch.zeros_like(s["t"])  # gradients of each row, beyond a `g` that is known
        context = self.context(s, image)

        def of_stage(i: int) -> Context:
            """Return the context of stage i, or for -1 of the gradient itself."""

            def grad(point: Tensor, use: int) -> Tensor:
                c = context._replace(point=point).at(i + 1, GRADIENT, use)
                return self._objective.through_views(model, y, more, c, spent)

            return context._replace(grad=grad).at(i + 1, OWN)

        if g is None:
            for i in self._ahead:
                ahead = self.chain[i].point(s["chain"][str(i)], context)  # type: ignore[attr-defined]
                context = context._replace(point=ahead)
            g = of_stage(-1).grad(context.point, 0)
        flat = s["flat"] & ~(g != 0).flatten(1).any(1)
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
            "flat": flat,
            "seen": torch.zeros_like(s["seen"]),
            "forwards": s["forwards"] + spent,
            "backwards": s["backwards"] + spent + known,
        }
        return s | {"chain": chain, "step": step} | choose(more, moved, s)
