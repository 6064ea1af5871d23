"""Adapters of other libraries' attacks: the settings, the call, and checks of the outcome."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from agr.attacks.ball import Ball, per_image
from agr.attacks.checks import check_images, check_labels
from agr.attacks.library.isolation import Face, isolated
from agr.attacks.library.sources import parameters
from agr.config.schema import CHUNK
from agr.models.logits import NO_ANSWER, is_fooled, joint, predict
from agr.utils.checks import one_of, whole
from agr.utils.errors import first_line, nearest

NOISE = 1e-5  # rounding of float32; more than that outside of the budget is a fault
TARGETS = ("runner_up", "least_likely")
NEEDS_TARGET = (
    "only goes to a wanted class: make the run targeted, or say where it aims with "
    f"attack.library.target={'|'.join(TARGETS)}"
)


class RunSettings(NamedTuple):
    """The settings of a run that decide whether an attack can take it, known without a network."""

    ball: Ball
    targeted: bool  # towards wanted labels, the run's or those of the part's `target`
    classes: int
    values: int  # of an image; 1 where its size isn't known


class LibraryCall(NamedTuple):
    """The arguments of one call of a library, for one chunk of images in units of [0, 1]."""

    face: Face
    x: Tensor
    y: Tensor  # labels, or wanted labels if `targeted`; none is -1
    ball: Ball
    targeted: bool
    classes: int
    fit: Tensor | None


class Library(abc.ABC):
    """An attack of a library on whole chunks of images, since the library does its own batching.

    It checks the settings, calls the library and checks what comes back.
    """

    chunk: int  # images per call; an image's companions may matter to it, so chunks are fixed
    budget: bool  # it stays within a ball; else it looks for the smallest perturbation
    fit_images: int  # other images, that a universal perturbation is fitted on; or 0
    arguments: dict[str, Any]
    target: str | None = None  # where an untargeted run aims, of an attack that needs to be told
    most_values: int | None = None  # images of more values are refused

    def __post_init__(self) -> None:
        whole("chunk", self.chunk, 1)
        if self.target is not None:
            one_of("target", self.target, TARGETS)

    @property
    @abc.abstractmethod
    def title(self) -> str:
        """The names of the library and the attack, for messages."""

    @abc.abstractmethod
    def _kind(self) -> type[Any]:
        """Return the library's class."""

    @abc.abstractmethod
    def _given(self) -> set[str]:
        """Name the parameters that the run sets."""

    @abc.abstractmethod
    def _fault(self, kind: type[Any], settings: RunSettings) -> str | None:
        """Return why the attack can't take these settings, the end of a sentence; None: it can."""

    @abc.abstractmethod
    def _run(self, call: LibraryCall) -> Tensor:
        """Call the library and return what it makes of the chunk, unchecked."""

    def check(
        self, ball: Ball, *, targeted: bool, classes: int, shape: Sequence[int] | None = None
    ) -> None:
        """Raise ValueError if the attack can't be run like this; `shape` is an image's, (3, H, W).

        It needs no network. Without a `shape`, limits of the image size aren't checked.
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
            model isn't fooled by what was found, or misclassifies the clean image already: the
            smallest perturbation is then none.

        Raises:
            ValueError: the attack can't be run like this (see `check`), the library refused, or
                it left the ball or [0, 1].
        """
        self.check(ball, targeted=targeted, classes=classes, shape=x.shape[1:])
        check_images(model, x, least_bytes=4)
        check_labels(x, y)
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
            if clean.shape[1] != call.classes:
                given = f"classes={call.classes}"
                raise ValueError(f"{given}, but the model has {clean.shape[1]} logits")
            if self.target and not call.targeted:
                wanted = _aimed_at(self.target, clean, aimed.y)
                aimed = aimed._replace(y=wanted, targeted=True)
            if not self.budget:
                done = done | fooled(clean, y, targeted=call.targeted)
        found = self._found(aimed, seed)
        flat = found.flatten(1)
        # An all-zero image is foolbox' sign that it found nothing.
        failed = done | ~flat.isfinite().all(1) | (flat == 0).all(1)
        made = _inside(self.title, torch.where(per_image(failed, x), x, found))
        if self.budget:
            return _kept(self.title, made, x, call.ball)
        with torch.no_grad():
            fools = fooled(joint(model(made)), y, targeted=call.targeted)
        return torch.where(per_image(fools & ~failed, x), made, x)

    def _found(self, call: LibraryCall, seed: int) -> Tensor:
        """Return what the library makes of a chunk, and restore all random states."""
        x = call.x
        with isolated(seed, x.device):
            try:
                found = self._run(call)
            except (ValueError, TypeError, AssertionError, NotImplementedError) as e:
                # What the libraries raise for what they don't take; all else is for the caller.
                raise ValueError(f"{self.title}: {first_line(e)}") from e
            finally:
                call.face.let_go()
        if found.shape != x.shape:
            raise ValueError(f"{self.title} made {tuple(found.shape)} of images {tuple(x.shape)}")
        return found.detach().to(x)


@dataclass(frozen=True)
class Named(Library):
    """An attack of a library by its name; see `Foolbox` for the arguments."""

    attack: str
    arguments: dict[str, Any] = field(default_factory=dict)
    budget: bool = True
    chunk: int = CHUNK
    target: str | None = None
    most_values: int | None = None

    fit_images = 0  # what these attacks make is made for each image


def fooled(logits: Tensor, y: Tensor, *, targeted: bool) -> Tensor:
    """Return which rows of `logits` (B, classes) are fooled: not `y` (B,), or `y` when targeted."""
    return is_fooled(predict(logits), y, targeted=targeted)


def _aimed_at(target: str, logits: Tensor, y: Tensor) -> Tensor:
    """Return, for each row, the likeliest (or unlikeliest) class that isn't `y`."""
    own = nn.functional.one_hot(y, logits.shape[1]).bool()
    if target == "runner_up":
        return logits.masked_fill(own, -torch.inf).argmax(1)
    return logits.masked_fill(own, torch.inf).argmin(1)


def _inside(title: str, made: Tensor) -> Tensor:
    """Clip images to [0, 1]. Raises ValueError if they leave it by more than rounding."""
    out = torch.maximum(made - 1, -made).max()
    if out > NOISE:
        raise ValueError(f"{title} left [0, 1] by {out:.3g}: its numbers can't be used")
    return made.clamp(0, 1)


def _kept(title: str, made: Tensor, x: Tensor, ball: Ball) -> Tensor:
    """Project images into the budget. Raises ValueError if they leave it by more than rounding."""
    size = ball.length(made - x)
    if size.max() > ball.eps + NOISE * max(1.0, ball.eps):
        raise ValueError(
            f"{title} left its budget: {type(ball).__name__} {size.max():.6g} > eps "
            f"{ball.eps:.6g} (of images in [0, 1]): its numbers can't be used"
        )
    return ball.project(made, x)
