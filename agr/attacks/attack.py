"""An attack: a ball, a loss, a chain of stages, a step and a stop, put together.

    attack = Attack(ball=Linf(10 / 255), chain=(MeanNormalize(), Momentum(1.0)))   # MI-FGSM
    adv = attack(model, x, y)

`Attack` holds no state. `start` makes the rows of a run, `tick` moves every living row by one
step; the plain call here and the engine with its refilled slots share these two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from agr.attacks.ball import Ball, is_8bit, per_image
from agr.attacks.loss import CrossEntropy
from agr.attacks.parts import Context, Loss, Seen, Stage, State, Step, Stop
from agr.attacks.step import Plain, step_size

# Images (B, 3, H, W) in [0, 1] -> logits (B, classes), or (B, members, classes): see `joint`.
Model = Callable[[Tensor], Tensor]
Quantize = Literal["always", "end", "off"]
NO_ANSWER = -1  # the prediction of a model whose logits are not finite


class Look(NamedTuple):
    """What one forward pass told about each row's iterate."""

    pred: Tensor  # (B,) int64, NO_ANSWER where logits are not finite
    conf: Tensor  # (B,): softmax probability of that class
    fooled: Tensor  # (B,) bool
    image: Tensor  # (B, 3, H, W): the images the model saw
    more: Tensor  # (B,) bool: rows that were alive and go on


def predict(logits: Tensor) -> Tensor:
    """The class of each row of `logits` (B, classes), or NO_ANSWER: NaN is never an answer."""
    return torch.where(logits.isfinite().all(1), logits.argmax(1), NO_ANSWER)


def confidence(logits: Tensor) -> Tensor:
    """The softmax probability of the class of each row of `logits` (B, classes)."""
    return logits.float().softmax(1).amax(1)


def joint(logits: Tensor) -> Tensor:
    """The logits (B, classes) that an answer is taken from.

    An ensemble whose losses are averaged gives (B, members, classes): the mean over its members.
    """
    return logits.mean(1) if logits.dim() == 3 else logits


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

    `quantize`: "always" (default) lets the model see 8-bit images only, in gradients and checks
    alike, while the iterate stays float, so that what stops an attack is what is returned;
    "end" rounds the returned image only; "off" never rounds.
    """

    ball: Ball
    steps: int = 10
    size: str | float = "even"
    loss: Loss = field(default_factory=CrossEntropy)
    chain: tuple[Stage, ...] = ()
    step: Step = field(default_factory=Plain)
    stop: Stop | None = None
    targeted: bool = False
    quantize: Quantize = "always"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps} is no attack: use 1 or more")
        if self.quantize not in ("always", "end", "off"):
            raise ValueError(f"quantize={self.quantize} is unknown: use always, end or off")
        if self.ball.eps > 0:
            step_size(self.size, self.ball.eps, self.steps)

    def start(self, x0: Tensor, y: Tensor) -> State:
        """Rows for clean images `x0` (B, 3, H, W) in [0, 1] and labels (or targets) `y` (B,)."""
        rows = torch.zeros(len(x0), dtype=torch.int64, device=x0.device)
        return {
            "x": x0.clone(),
            "x0": x0,
            "y": y,
            "t": rows,
            "first": rows - 1,  # step of the first success, -1 while there is none
            "live": y >= 0,  # a label that is no answer cannot be attacked
            "seen": rows > 0,  # the iterate has been looked at
            "chain": {str(i): stage.init(x0) for i, stage in enumerate(self.chain)},
            "step": self.step.init(x0),
            "stop": self.stop.init(x0) if self.stop else {},
        }

    def tick(self, model: Model, s: State) -> tuple[Look, State]:
        """One forward over all rows, and one step of those that are not done.

        The forward that gives step t+1 its gradient is also the check of iterate t, so a run of
        T steps costs T+1 forwards and T gradients, stop and trace included.
        """
        point = self._shown(s).detach().requires_grad_()
        with torch.enable_grad():
            logits = model(point)
            look, s = self._look(joint(logits.detach()), point.detach(), s)
            if not bool(look.more.any()):
                return look, s
            loss = self._losses(logits, s["y"].clamp_min(0)).sum()
            (g,) = torch.autograd.grad(-loss if self.targeted else loss, point)
        # Of rows that are done only the image still counts.
        after = self._advance(g, s)
        return look, after | choose(look.more, {k: after[k] for k in ("x", "t", "seen")}, s)

    @torch.no_grad()
    def look(self, model: Model, s: State) -> tuple[Look, State]:
        """The forward of a `tick` alone: which rows are done. The next tick doesn't ask again.

        It pays where most rows are done: a gradient over all of them would be for few.
        """
        shown = self._shown(s)
        return self._look(joint(model(shown)), shown, s)

    def final(self, s: State) -> Tensor:
        """The adversarial images of the rows of `s`, (B, 3, H, W), as they are to be scored."""
        return s["x"] if self.quantize == "off" else self.ball.round(s["x"], s["x0"])

    def __call__(self, model: Model, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Adversarial images for `x`.

        Args:
            model: maps images (B, 3, H, W) in [0, 1] to logits (B, classes); in eval mode.
            x: clean images, (B, 3, H, W) in [0, 1]; on the 8-bit grid unless quantize="off".
            y: labels (B,), int64; the targets when `targeted`. None: the model's own predictions.

        Returns:
            Images like `x`, within the ball and [0, 1].

        Raises:
            ValueError: the model is in training mode, or `x` or `y` is not as described.
        """
        _check(self, model, x, y)
        if y is None:
            with torch.no_grad():
                y = predict(joint(model(x)))
        s = self.start(x.detach(), y)
        # Nobody asks what the last iterate does: T steps cost T forwards here.
        while bool((s["live"] & (s["t"] < self.steps)).any()):
            _, s = self.tick(model, s)
        return self.final(s)

    def _losses(self, logits: Tensor, y: Tensor) -> Tensor:
        """The loss of each image, (B,); over an ensemble's members their mean."""
        if logits.dim() == 2:
            return self.loss(logits, y)
        return torch.stack([self.loss(own, y) for own in logits.unbind(1)]).mean(0)

    def _shown(self, s: State) -> Tensor:
        return self.ball.round(s["x"], s["x0"]) if self.quantize == "always" else s["x"]

    def _look(self, logits: Tensor, image: Tensor, s: State) -> tuple[Look, State]:
        pred, new = predict(logits), ~s["seen"]
        hit = pred == s["y"]
        fooled = hit if self.targeted else ~hit & (pred != NO_ANSWER)
        done, stop = s["t"] >= self.steps, s["stop"]
        if self.stop:
            stopped, after = self.stop.update(Seen(logits, fooled, s["y"]), stop)
            done, stop = done | stopped, choose(new, after, stop)
        more = s["live"] & ~(done & new)
        first = torch.where((s["first"] < 0) & fooled & s["live"], s["t"], s["first"])
        changed = {"first": first, "live": more, "stop": stop, "seen": torch.ones_like(new)}
        return Look(pred, confidence(logits), fooled, image, more), s | changed

    def _advance(self, g: Tensor, s: State) -> State:
        size = step_size(self.size, self.ball.eps, self.steps) if self.ball.eps > 0 else 0.0
        c = Context(s["x"], s["x0"], s["t"], size, self.ball)
        chain = {}
        for i, stage in enumerate(self.chain):
            g, chain[str(i)] = stage.update(g, s["chain"][str(i)], c)
        x, step = self.step.update(g, s["step"], c)
        if not bool(x.sum().isfinite()):  # one pass where nothing is wrong
            x = torch.where(x.isfinite(), x, s["x0"])
        x = self.ball.project(x, s["x0"])
        seen = torch.zeros_like(s["seen"])
        return s | {"x": x, "t": s["t"] + 1, "seen": seen, "chain": chain, "step": step}


def _check(attack: Attack, model: Model, x: Tensor, y: Tensor | None) -> None:
    if getattr(model, "training", False):
        raise ValueError("the model is in training mode: call model.eval() first")
    if x.dim() != 4 or not x.is_floating_point():
        raise ValueError(f"x is {x.dtype} {tuple(x.shape)}: give float images (B, 3, H, W)")
    if x.numel() and not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(f"x spans [{x.min():.3g}, {x.max():.3g}]: give images in [0, 1]")
    if attack.quantize != "off" and x.numel() and not is_8bit(x):
        raise ValueError('x is not on the 8-bit grid k/255: round it, or use quantize="off"')
    if attack.targeted and y is None:
        raise ValueError("a targeted attack needs y, the target labels")
    if y is not None and (y.shape != x.shape[:1] or y.dtype != torch.int64):
        raise ValueError(f"y is {y.dtype} {tuple(y.shape)}: give int64 labels ({len(x)},)")
