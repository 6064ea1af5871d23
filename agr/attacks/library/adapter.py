"""The contract of a library's attack, and the shared code: call, settings, checks of the result."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from agr.attacks.ball import Ball, per_image
from agr.attacks.calls import check_images, check_labels
from agr.attacks.library.isolation import Face, isolated
from agr.attacks.library.sources import parameters
from agr.config.schema import CHUNK, MOST_IMAGES
from agr.models.logits import NO_ANSWER, is_fooled, joint, predict
from agr.utils.checks import Checked, one_of, whole
from agr.utils.errors import first_line, nearest

NOISE = 1e-5  # rounding of float32; beyond the budget by more than that is an error
TARGETS = ("runner_up", "least_likely")
NEEDS_TARGET = (
    "only goes to a wanted class: make the run targeted, or say where it aims with "
    f"attack.library.target={'|'.join(TARGETS)}"
)


class RunSettings(NamedTuple):
    """Settings of a run that an attack may refuse; they need no network."""

    ball: Ball
    targeted: bool  # towards target labels, the run's or those of the part's `target`
    classes: int
    values: int  # per image; 1 where its size isn't known


class LibraryCall(NamedTuple):
    """Arguments of one call of a library, for one chunk of images in [0, 1]."""

    face: Face
    x: Tensor
    y: Tensor  # labels, or target labels if `targeted`; none is -1
    ball: Ball
    targeted: bool
    classes: int
    fit: Tensor | None


@dataclass(frozen=True)
class Library(Checked, abc.ABC):
    """An attack of a library on whole chunks of images, since the library does its own batching.

    Results may depend on the others in a chunk, so chunks are fixed. Arguments: see `Foolbox`.
    """

    attack: str
    arguments: dict[str, Any] = field(default_factory=dict)
    budget: bool = True
    chunk: int = whole(CHUNK, 1, MOST_IMAGES["chunk"])
    target: str | None = one_of(None, TARGETS)
    most_values: int | None = None

    fit_images = 0  # number of other images that a universal perturbation is fitted on
    library: ClassVar[str]  # its name as an owner, for messages

    @property
    def title(self) -> str:
        """Names of the library and the attack, for messages."""
        return f"{self.library} {self.attack}"

    @abc.abstractmethod
    def _kind(self) -> type[Any]:
        """Return the library's class."""

    def _given(self) -> set[str]:
        """Name the parameters that the run sets."""
        return set()

    @abc.abstractmethod
    def _fault(self, kind: type[Any], settings: RunSettings) -> str | None:
        """Return why the attack can't run with these settings, to follow `title`, or None."""

    @abc.abstractmethod
    def _run(self, call: LibraryCall) -> Tensor:
        """Call the library and return its images, unchecked."""

    def check(
        self, ball: Ball, *, targeted: bool, classes: int, shape: Sequence[int] | None = None
    ) -> None:
        """Raise ValueError if the attack can't be run like this; `shape` is an image's, (3, H, W).

        It needs no network. Without a `shape`, limits on the image size aren't checked.
        """
        kind = self._kind()
        known, given = parameters(kind), self._given()
        for name in self.arguments:
            if name in given:
                raise ValueError(f"{self.title}: {name} is set by the run, leave it out")
            if name not in known:
                raise ValueError(f"{self.title} has no {name}: {nearest(name, known)}")
        values = math.prod(shape or ())
        if self.most_values is not None and values > self.most_values:
            raise ValueError(
                f"{self.title} would take too long: images have {values:,} values, and most_values="
                f"{self.most_values:,} (its cost grows with their square): use smaller images or "
                "set attack.library.most_values"
            )
        aims = targeted or self.target is not None
        fault = self._fault(kind, RunSettings(ball, aims, classes, values))
        if fault:
            raise ValueError(f"{self.title} {fault}")

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        ball: Ball,
        *,
        targeted: bool,
        classes: int,
        seed: int,
        fit: Tensor | None = None,
    ) -> Tensor:
        """Craft adversarial images for `x`; each `chunk` of them starts again from `seed`.

        Args:
            model: maps images (B, 3, H, W) in [0, 1] to logits (B, classes), or an ensemble's
                (B, members, classes); in eval mode, parameters without gradients.
            x: clean images (B, 3, H, W) in [0, 1], float32 or float64, on the model's device.
            y: labels (B,), int64, or target labels if `targeted`; -1 can't be attacked.
            ball: the budget; ignored without `budget`, since a result then has its own size.
            targeted: towards `y` instead of away from it.
            classes: number of logits.
            seed: of torch, numpy and `random` during the call; their states are put back.
            fit: `fit_images` other images like `x`.

        Returns:
            Images like `x`. A row is exactly the clean image where the library found nothing
            (not a number, an all-zero image), where `y` is -1, and, without `budget`, where the
            result doesn't fool the model, or the clean image is misclassified already: the
            smallest perturbation is then none.

        Raises:
            ValueError: the attack can't be run like this (see `check`), the library refused, or
                it left the ball or [0, 1].
        """
        self.check(ball, targeted=targeted, classes=classes, shape=x.shape[1:])
        check_images(model, x, least_bytes=4)
        check_labels(x, y, NO_ANSWER)
        if y.numel() and not (y.min() >= NO_ANSWER and y.max() < classes):
            raise ValueError(f"y spans [{y.min()}, {y.max()}]: give labels below classes={classes}")
        if not len(x) or (self.budget and ball.eps == 0):  # ART refuses an eps of 0
            return x.clone()
        x = x.detach().contiguous()
        made = [
            self._chunk(
                model, LibraryCall(Face(model, xs), xs, ys, ball, targeted, classes, fit), seed
            )
            for xs, ys in zip(x.split(self.chunk), y.split(self.chunk), strict=True)
        ]
        return torch.cat(made)

    def _chunk(self, model: nn.Module, call: LibraryCall, seed: int) -> Tensor:
        x, y = call.x, call.y
        aimed, done = call._replace(y=y.clamp_min(0)), y < 0
        if self.target or not self.budget:
            with torch.no_grad():
                clean = joint(model(x))
            classes = clean.shape[1]
            if classes != call.classes:
                raise ValueError(f"classes={call.classes}, but the model has {classes} logits")
            if self.target and not call.targeted:
                aimed = aimed._replace(y=_target_labels(self.target, clean, aimed.y), targeted=True)
            if not self.budget:
                done = done | is_fooled(predict(clean), y, targeted=call.targeted)
        images = self._run_isolated(aimed, seed)
        flat = images.flatten(1)
        # foolbox returns an all-zero image if it found nothing.
        failed = done | ~flat.isfinite().all(1) | (flat == 0).all(1)
        made = torch.where(per_image(failed, x), x, images)
        out = torch.maximum(made - 1, -made).max()
        if out > NOISE:
            raise ValueError(f"{self.title} left [0, 1] by {out:.3g}: its numbers can't be used")
        made = made.clamp(0, 1)
        if self.budget:
            size, ball = call.ball.length(made - x).max(), call.ball
            if size > ball.eps + NOISE * max(1.0, ball.eps):
                raise ValueError(
                    f"{self.title} left its budget: {type(ball).__name__} {size:.6g} > eps "
                    f"{ball.eps:.6g} (of images in [0, 1]): its numbers can't be used"
                )
            return ball.project(made, x)
        with torch.no_grad():
            fools = is_fooled(predict(joint(model(made))), y, targeted=call.targeted)
        return torch.where(per_image(fools & ~failed, x), made, x)

    def _run_isolated(self, call: LibraryCall, seed: int) -> Tensor:
        """Return the library's images for a chunk, and restore all random states."""
        x = call.x
        with isolated(seed, x.device):
            try:
                images = self._run(call)
            except (ValueError, TypeError, AssertionError, NotImplementedError) as e:
                # The libraries raise these for input that they refuse; others are the caller's.
                raise ValueError(f"{self.title}: {first_line(e)}") from e
            finally:
                call.face.let_go()
        if images.shape != x.shape:
            raise ValueError(f"{self.title} made {tuple(images.shape)} of images {tuple(x.shape)}")
        return images.detach().to(x)


def _target_labels(target: str, logits: Tensor, y: Tensor) -> Tensor:
    """Return each row's likeliest (or least likely) class that isn't `y`, (B,)."""
    own = nn.functional.one_hot(y, logits.shape[1]).bool()
    if target == "runner_up":
        return logits.masked_fill(own, -torch.inf).argmax(1)
    return logits.masked_fill(own, torch.inf).argmin(1)
