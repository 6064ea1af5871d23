"""An attack: a ball, a loss, views, rules, a chain of stages, a step and a stop, put together.

attack = Attack(ball=Linf(10 / 255), chain=(MeanNormalize(), Momentum(1.0)))   # MI-FGSM
adv = attack(model, x, y)
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from agr.attacks import calls
from agr.attacks.iteration import Iteration
from agr.attacks.parts import Model
from agr.models.logits import NO_ANSWER, joint, predict
from agr.utils.text import came_back, no_answer, zero_gradients


@dataclass(frozen=True)
class Attack(Iteration):
    """A gradient attack on images in [0, 1], composed of parts (see `agr.attacks.contracts`).

    `steps` is T; `size` is a step-size rule or a number in the units of `ball.eps`
    (see `agr.attacks.step.step_size`). `targeted` descends the loss towards the given labels.
    `objective`, where there is one, stands for the loss; `surrogate` are rules on the source while
    gradients are taken, and `ensemble` joins the gradients of its members. `pool` are the images
    that views and rules may mix in (Admix).

    `quantize`: "always" (default) lets the model see 8-bit iterates only, in gradients and checks
    alike, while the iterate itself stays float, so that what stops an attack is what is returned;
    copies and points that a part makes start from the rounded iterate. "end" rounds the returned
    image only; "off" never rounds.
    """

    def __call__(
        self, model: Model, x: Tensor, y: Tensor | None = None, key: Tensor | None = None
    ) -> Tensor:
        """Craft adversarial images for `x`. No forward is spent on the last iterate.

        Args:
            model: maps images (B, 3, H, W) in [0, 1] to logits (B, classes); in eval mode.
            x: clean images, (B, 3, H, W) in [0, 1]; on the 8-bit grid unless quantize="off".
            y: labels (B,), int64; the targets when `targeted`. None: the model's own predictions,
                which also stand for the true classes where `y` are targets and a pool is used.
            key: the randomness of each image, (B,) int64; None: its place in the batch.

        Returns:
            Images like `x`, within the ball and [0, 1].

        Raises:
            ValueError: what is given isn't as described, a part needs a pool, or the model doesn't
                take the size of a view's images.
        """
        with torch.inference_mode(False), torch.no_grad():  # whatever the caller's modes are
            return self._craft(model, *map(calls.usable, (x, y, key)))

    def _craft(self, model: Model, x: Tensor, y: Tensor | None, key: Tensor | None) -> Tensor:
        calls.check_images(model, x, on_grid=self.quantize != "off")
        calls.check_pool(self.pool, self.pool_size, x, self.pool_of_classes)
        if y is not None:
            calls.check_labels(x, y)
        elif self.targeted:
            raise ValueError("a targeted attack needs y, the target labels")
        model, label, x = self.bind(calls.CheckedModel(model, y)), y, x.clamp(0, 1)
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
