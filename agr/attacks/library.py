"""Attacks of foolbox, ART and torchattacks behind one call, checked before and afterwards.

For attacks that are no gradient iteration: Carlini & Wagner, DeepFool, DDN, saliency maps and
universal perturbations stay with the libraries that keep them. A part here says which attack of
which library is meant, and makes its failures honest: an image for which nothing was found comes
back as the clean image, a budget that a library broke is an error, and what is known to be wrong
in a library is refused with the way out.

The libraries are optional: each is imported when an attack of it is first checked.
"""

from __future__ import annotations

import abc
import hashlib
import importlib
import inspect
import logging
import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from agr.attacks.attack import NO_ANSWER, joint, predict
from agr.attacks.ball import LEVELS, Ball, Linf, per_image, row_norm, to_levels, within
from agr.attacks.parts import number, one_of
from agr.errors import first_line, nearest
from agr.schema import CHUNK

INSTALL = {
    "foolbox": "foolbox>=3.3.4",
    "art": "adversarial-robustness-toolbox>=1.20",
    # It pins an old `requests` that clients of the hub refuse.
    "torchattacks": "--no-deps torchattacks>=3.5.1",
}
NOISE = 1e-5  # rounding of float32; more than that outside of the budget is a fault
TARGETS = ("runner_up", "least_likely")
STRETCHES = tuple(2 ** (k / 8) for k in range(25))  # from 1 to 8 in steps of 9 %
PAIRS_BYTES = 2e9  # of memory for a table of all pairs of an image's values
PAIR_BYTES = 32  # torchattacks' JSMA at its peak: an int64, five float32 and four bytes for each


class Library(Protocol):
    """An attack that is run on whole chunks of images, since the library does its own batching."""

    @property
    def chunk(self) -> int:
        """Images per call. What companions an image has may matter to it: chunks are fixed."""
        ...

    @property
    def budget(self) -> bool:
        """Whether the attack stays within a ball; else it looks for the smallest perturbation."""
        ...

    @property
    def fit_images(self) -> int:
        """Images, others than those attacked, that a universal perturbation is fitted on; or 0."""
        ...

    def check(
        self, ball: Ball, *, targeted: bool, classes: int, shape: Sequence[int] | None = None
    ) -> None:
        """Raise ValueError if the attack can't be run like this; `shape` is an image's, (3, H, W).

        It needs no network. Without a `shape` what depends on the size isn't asked.
        """
        ...

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
        """Adversarial images for `x`, of which each `chunk` starts again from `seed`.

        Args:
            model: maps images (B, 3, H, W) in [0, 1] to logits (B, classes), or an ensemble's
                (B, members, classes); in eval mode, parameters without gradients.
            x: clean images (B, 3, H, W) in [0, 1], float32 or float64, where the model is.
            y: labels (B,), int64, or the wanted ones if `targeted`; -1 can't be attacked.
            ball: the budget. Without `budget` nothing is asked of it: a result has its own size.
            targeted: towards `y` instead of away from it.
            classes: number of logits.
            seed: of torch, numpy and `random` during the call; their states are put back.
            fit: `fit_images` other images like `x`.

        Returns:
            Images like `x`. A row is exactly the clean image where the library found nothing
            (not a number, an all-zero image), where `y` is -1, and, without `budget`, where the
            model isn't fooled by what was found, or is wrong about the clean image already: the
            smallest perturbation is then none.

        Raises:
            ValueError: the attack can't be run like this (see `check`), the library refused, or
                it left the ball or [0, 1].
        """
        ...


class _Task(NamedTuple):
    """What a library is asked for: one chunk of images. Units are those of [0, 1] images."""

    face: _Face
    x: Tensor
    y: Tensor  # labels, or wanted labels if `targeted`; none is -1
    ball: Ball
    targeted: bool
    classes: int
    fit: Tensor | None


class _Adapter(abc.ABC):
    """What the parts share: the call, its isolation, and what is made of its outcome."""

    chunk: int
    budget: bool
    fit_images: int
    target: str | None  # where labels to aim at come from when an untargeted attack needs them

    @property
    @abc.abstractmethod
    def title(self) -> str:
        """Library and attack, for messages."""

    @abc.abstractmethod
    def check(
        self, ball: Ball, *, targeted: bool, classes: int, shape: Sequence[int] | None = None
    ) -> None: ...

    @abc.abstractmethod
    def _run(self, task: _Task) -> Tensor:
        """What the library makes of a chunk, whatever that is."""

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
        self.check(ball, targeted=targeted, classes=classes, shape=x.shape[1:])
        _check_inputs(model, x, y, classes)
        if not len(x) or (self.budget and ball.eps == 0):  # ART refuses an eps of 0
            return x.clone()
        made = [
            self._chunk(model, xs, ys, ball, targeted, classes, seed, fit)
            for xs, ys in zip(x.split(self.chunk), y.split(self.chunk), strict=True)
        ]
        return torch.cat(made)

    def _chunk(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        ball: Ball,
        targeted: bool,
        classes: int,
        seed: int,
        fit: Tensor | None,
    ) -> Tensor:
        x = x.detach().contiguous()
        aim, wanted, done = targeted, y.clamp_min(0), y < 0
        if self.target or not self.budget:
            with torch.no_grad():
                clean = joint(model(x))
            if clean.shape[1] != classes:
                raise ValueError(f"classes={classes}, but the model has {clean.shape[1]} logits")
            if self.target and not targeted:
                aim, wanted = True, _aimed_at(self.target, clean, wanted)
            if not self.budget:
                done = done | _fooled(clean, y, targeted)
        face = _Face(model, x)
        with _isolated(seed, x.device):
            try:
                found = self._run(_Task(face, x, wanted, ball, aim, classes, fit))
            except (ValueError, TypeError, AssertionError, NotImplementedError) as e:
                # What the libraries raise for what they don't take; all else is for the caller.
                raise ValueError(f"{self.title}: {first_line(e)}") from e
            finally:
                face.let_go()
        found = found.detach().to(x)
        if found.shape != x.shape:
            raise ValueError(f"{self.title} made {tuple(found.shape)} of images {tuple(x.shape)}")
        flat = found.flatten(1)
        # An all-zero image is foolbox' sign that it found nothing.
        failed = done | ~flat.isfinite().all(1) | (flat == 0).all(1)
        made = _inside(self.title, torch.where(per_image(failed, x), x, found))
        if self.budget:
            return _kept(self.title, made, x, ball)
        with torch.no_grad():
            fooled = _fooled(joint(model(made)), y, targeted)
        return torch.where(per_image(fooled & ~failed, x), made, x)


@dataclass(frozen=True)
class _Named(_Adapter):
    attack: str
    arguments: dict[str, Any] = field(default_factory=dict)
    budget: bool = True
    chunk: int = CHUNK
    target: str | None = None
    most_values: int | None = None

    def __post_init__(self) -> None:
        number("chunk", self.chunk, 1)
        if self.target is not None:
            one_of("target", self.target, TARGETS)

    @property
    def fit_images(self) -> int:  # type: ignore[override]
        """None: what these attacks make is made for each image."""
        return 0

    def check(
        self, ball: Ball, *, targeted: bool, classes: int, shape: Sequence[int] | None = None
    ) -> None:
        kind = self._kind()
        known = _parameters(kind)
        for name in self.arguments:
            if name in self._given(known):
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
        fault = self._fault(kind, ball, targeted or self.target is not None, classes, values)
        if fault:
            raise ValueError(f"{self.title} {fault}")

    @abc.abstractmethod
    def _kind(self) -> type[Any]:
        """The class that `attack` names."""

    @abc.abstractmethod
    def _given(self, known: Sequence[str]) -> set[str]:
        """Those of the attack's parameters that the run sets."""

    @abc.abstractmethod
    def _fault(
        self, kind: type[Any], ball: Ball, targeted: bool, classes: int, values: int
    ) -> str | None:
        """Why the attack can't be run like this, as the end of a sentence; None: it can."""


@dataclass(frozen=True)
class Foolbox(_Named):
    """An attack of foolbox (Rauber et al., JOSS 2020), in the dtype of the images.

    Args:
        attack: a class of `foolbox.attacks`.
        arguments: of its constructor.
        budget: it is called with the ball's eps, else without one.
        chunk: images per call.
        target: where an untargeted run aims, for attacks that need to be told (`TARGETS`).
        most_values: images of more values (3 * H * W) are refused; None: none are.
    """

    # Besides what is refused below:
    # - L2CarliniWagnerAttack and EADAttack return an all-zero image where they find nothing, and
    #   abort_early looks at the loss of the whole batch: with it, companions matter.
    # - The L1 and L2 MomentumIterativeFastGradientMethod accumulate gradients of unit length in
    #   their own norm, where Dong et al. always divide by the L1 norm.
    # - DeepFool's steps go on accumulating for images that are done, which nobody sees.

    @property
    def title(self) -> str:
        return f"foolbox' {self.attack}"

    def _kind(self) -> type[Any]:
        attacks = _imported("foolbox").attacks
        return _of_name(self.attack, attacks, attacks.Attack, "foolbox.attacks")

    def _given(self, known: Sequence[str]) -> set[str]:
        return set()

    def _fault(
        self, kind: type[Any], ball: Ball, targeted: bool, classes: int, values: int
    ) -> str | None:
        name = kind.__name__  # MIFGSM and others are second names
        if name == "LinfMomentumIterativeFastGradientMethod":
            return "accumulates signs of gradients, which is not MI-FGSM: use attack=mifgsm"
        if name == "L2FMNAttack":
            # its project() scales by minimum(1, norms / norms)
            return "never projects onto its ball, since it divides a norm by itself: use DDNAttack"
        if targeted and name in ("L2DeepFoolAttack", "LinfDeepFoolAttack"):
            return "goes to the nearest other class, never to a wanted one: use it untargeted"
        if not self.budget:
            if issubclass(kind, _imported("foolbox").attacks.base.FixedEpsilonAttack):
                return "only works within a budget: set attack.library.budget=true"
            return None
        try:
            own = _built(self.title, kind, self.arguments).distance.p
        except (AttributeError, ValueError):
            return "has no norm of its own, so it can't keep a budget"
        if own != (math.inf if isinstance(ball, Linf) else 2):
            asked = type(ball).__name__.lower()
            return f"is an attack in L{own:g}: it can't keep a budget in {asked}"
        return None

    def _run(self, task: _Task) -> Tensor:
        library = _imported("foolbox")
        model = library.PyTorchModel(task.face, bounds=(0, 1), device=task.x.device)
        wants = library.criteria
        aim = wants.TargetedMisclassification if task.targeted else wants.Misclassification
        attack = _built(self.title, self._kind(), self.arguments)
        eps = task.ball.eps if self.budget else None
        clipped: Tensor = attack(model, task.x, aim(task.y), epsilons=[eps])[1][0]
        return clipped


@dataclass(frozen=True)
class Art(_Named):
    """An attack of ART, the adversarial robustness toolbox (Nicolae et al., arXiv:1807.01069).

    Arguments are those of `Foolbox`; `attack` is a class of `art.attacks.evasion`. ART computes
    on arrays of float32: images of float64 go there rounded, though the network sees float64.
    """

    # Besides what is refused below:
    # - SaliencyMapMethod takes the two values with the largest derivative of the target's logit.
    #   Papernot et al. take the pair with the largest product of that and of the others' decline
    #   (their Eq. 10): this is JSMA without the second factor.
    # - DeepFool's overshoot `epsilon` is 1e-6 where the authors have 0.02.

    @property
    def title(self) -> str:
        return f"ART's {self.attack}"

    def _kind(self) -> type[Any]:
        attacks = _imported("art", "art.attacks.evasion")
        base = _imported("art", "art.attacks.attack").EvasionAttack
        return _of_name(self.attack, attacks, base, "art.attacks.evasion")

    def _given(self, known: Sequence[str]) -> set[str]:
        own = {"targeted", "verbose", "batch_size", "classifier", "estimator", "summary_writer"}
        return own | ({"eps", "norm"} if self.budget else set())

    def _fault(
        self, kind: type[Any], ball: Ball, targeted: bool, classes: int, values: int
    ) -> str | None:
        known, name = _parameters(kind), kind.__name__
        if name == "UniversalPerturbation":
            return "would be fitted on the images that it attacks: use library.Universal"
        if name == "SaliencyMapMethod" and not targeted:
            return NEEDS_TARGET
        if targeted and "targeted" not in known and name != "SaliencyMapMethod":
            return "has no targeted form"
        if self.budget and "eps" not in known:
            return "takes no eps: set attack.library.budget=false"
        return _too_few_classes(self.arguments, classes) if name == "DeepFool" else None

    def _run(self, task: _Task) -> Tensor:
        kind = self._kind()
        given: dict[str, Any] = {
            "targeted": task.targeted,
            "verbose": False,
            "batch_size": self.chunk,
        }
        if self.budget:
            given |= {"eps": task.ball.eps, "norm": _norm(task.ball)}
        known = _parameters(kind)
        arguments = self.arguments | {k: v for k, v in given.items() if k in known}
        attack = _built(self.title, kind, arguments, _classifier(task))
        x = task.x.float()
        found = torch.from_numpy(attack.generate(x=_array(x), y=_array(task.y))).to(x.device)
        # What it left alone is the image itself, not the image rounded to float32.
        return torch.where(found == x, task.x, found.to(task.x.dtype))


@dataclass(frozen=True)
class Torchattacks(_Named):
    """An attack of torchattacks (Kim, arXiv:2010.01950), in the dtype of the images.

    Arguments are those of `Foolbox`; `attack` is a class of `torchattacks`.
    """

    # Besides what is refused below:
    # - TIFGSM contains DI (diversity_prob=0.5) and has decay 0; VMIFGSM and VNIFGSM take N=5
    #   where the authors have 20; DIFGSM shrinks images where the authors enlarge them.
    # - DIFGSM, TIFGSM: one random size for the whole batch, so companions matter.
    # - An attack keeps a reference to its model for good (a mutable default): see `_Face.let_go`.

    @property
    def title(self) -> str:
        return f"torchattacks' {self.attack}"

    def _kind(self) -> type[Any]:
        library = _imported("torchattacks")
        base = _imported("torchattacks", "torchattacks.attack").Attack
        return _of_name(self.attack, library, base, "torchattacks")

    def _given(self, known: Sequence[str]) -> set[str]:
        return {"model", "eps"} if self.budget else {"model"}

    def _fault(
        self, kind: type[Any], ball: Ball, targeted: bool, classes: int, values: int
    ) -> str | None:
        if kind.__name__ == "CW":
            # Its change of variables is infinite there; the loss also takes the largest other
            # logit to be at least 0.
            return "never moves pixels that are 0 or 1: use foolbox' L2CarliniWagnerAttack"
        if kind.__name__ == "JSMA":
            if not targeted:  # its default is (label + 1) % 10, whatever the classes
                return NEEDS_TARGET
            if PAIR_BYTES * values**2 > PAIRS_BYTES:
                return (
                    f"needs {PAIR_BYTES} bytes for each pair of values of an image, here "
                    f"{PAIR_BYTES * values**2 / 1e9:,.0f} GB of memory (more than "
                    f"{PAIRS_BYTES / 1e9:g}): use ART's SaliencyMapMethod"
                )
        if self.budget and "eps" not in _parameters(kind):
            return "takes no eps: set attack.library.budget=false"
        return None

    def _run(self, task: _Task) -> Tensor:
        kind = self._kind()
        arguments = self.arguments | ({"eps": task.ball.eps} if self.budget else {})
        attack = _built(self.title, kind, arguments, task.face)
        if task.targeted:
            attack.set_mode_targeted_by_label(quiet=True)
        found: Tensor = attack(task.x, task.y)
        return found


@dataclass(frozen=True)
class Universal(_Adapter):
    """One perturbation for all images: ART's UniversalPerturbation, fitted on other images.

    It is fitted on the model's own answers to `fit` (Moosavi-Dezfooli et al., arXiv:1610.08401,
    ask that the answer changes), once for each model, budget, seed and set of images, and added
    to whatever is attacked.

    Args:
        arguments: of ART's constructor: `attacker`, `attacker_params`, `delta`, `max_iter`.
            `nb_grads` of DeepFool is the number of classes, since ART is wrong with fewer.
        fit_images: how many images it is fitted on.
        chunk: images per call that it is added to.
    """

    # ART takes a new perturbation from an image that was clipped to [0, 1], so where that image
    # is black or white, half of the perturbation's directions are lost; the authors clip nothing.

    arguments: dict[str, Any] = field(default_factory=dict)
    fit_images: int = 100
    chunk: int = CHUNK

    def __post_init__(self) -> None:
        number("chunk", self.chunk, 1)
        number("fit_images", self.fit_images, 1)

    @property
    def budget(self) -> bool:  # type: ignore[override]
        """Always: a universal perturbation is as large as it may be."""
        return True

    @property
    def target(self) -> None:  # type: ignore[override]
        """None is needed."""

    @property
    def title(self) -> str:
        return "ART's UniversalPerturbation"

    def check(
        self, ball: Ball, *, targeted: bool, classes: int, shape: Sequence[int] | None = None
    ) -> None:
        kind = self._kind()
        known = _parameters(kind)
        for name in self.arguments:
            if name in ("classifier", "eps", "norm", "batch_size", "verbose"):
                raise ValueError(f"{self.title}: {name} is set by the run, leave it out")
            if name not in known:
                raise ValueError(f"{self.title} has no {name}: {nearest(name, known)}")
        if targeted:
            raise ValueError(f"{self.title} has no targeted form")
        attacker = self._attacker()
        if attacker not in kind.attacks_dict:
            near = nearest(attacker, kind.attacks_dict)
            raise ValueError(f"{self.title}: attacker={attacker} is unknown: {near}")
        given = self.arguments.get("attacker_params") or {}
        if attacker == "deepfool" and "nb_grads" in given:
            fault = _too_few_classes(given, classes)
            if fault:
                raise ValueError(f"{self.title}: deepfool {fault}")

    def _attacker(self) -> str:
        return str(self.arguments.get("attacker", "deepfool"))

    def _kind(self) -> type[Any]:
        kind: type[Any] = _imported("art", "art.attacks.evasion").UniversalPerturbation
        return kind

    def _run(self, task: _Task) -> Tensor:
        x, fit = task.x, task.fit
        if fit is None or not len(fit) or fit.shape[1:] != x.shape[1:]:
            raise ValueError(f"it is fitted on other images: give fit, {self.fit_images} like x")
        # A model's fit is the same for all of its chunks: `_isolated` starts each from the seed.
        hashed = hashlib.sha256(_array(fit).tobytes()).hexdigest()
        key = repr((self, task.ball, task.classes, torch.initial_seed(), fit.dtype, hashed))
        model = task.face.behind[0]
        known = _fits.get(model)
        if known is None or known[0] != key:
            _fits[model] = known = key, self._fit(task, fit.float())
        return (x + known[1].to(x)).clamp(0, 1)

    def _fit(self, task: _Task, fit: Tensor) -> Tensor:
        """The perturbation (1, 3, H, W), float32."""
        kind = self._kind()
        attacker = self._attacker()
        inner: dict[str, Any] = {"nb_grads": task.classes} if attacker == "deepfool" else {}
        if "verbose" in kind._get_class(kind.attacks_dict[attacker]).attack_params:
            inner["verbose"] = False
        own: dict[str, Any] = {
            "attacker": attacker,
            "attacker_params": inner | (self.arguments.get("attacker_params") or {}),
            "eps": task.ball.eps,
            "norm": _norm(task.ball),
            "batch_size": self.chunk,
            "verbose": False,
        }
        attack = _built(self.title, kind, self.arguments | own, _classifier(task))
        attack.generate(x=_array(fit))
        return torch.from_numpy(attack.noise)


@torch.no_grad()
def on_grid(model: nn.Module, x: Tensor, found: Tensor, y: Tensor, *, targeted: bool) -> Tensor:
    """The smallest perturbations that were found, as 8-bit images that still fool the model.

    Rounding undoes what changes a pixel by less than half a level, which is most of a smallest
    perturbation. So it is stretched by the first of `STRETCHES` with which the rounded image
    fools; Carlini and Wagner (arXiv:1608.04644, section V-A) search the grid for the same reason.

    Args:
        model: as in `Library`.
        x: clean images (B, 3, H, W), on the 8-bit grid k/255.
        found: what an attack without a budget made of them, like `x`.
        y: labels (B,), or the wanted ones if `targeted`.
        targeted: as in `Library`.

    Returns:
        Images like `x`, on the grid; exactly `x` where no stretch will do or `found` is `x`.
    """
    made, v = x, found - x
    open_ = v.flatten(1).any(1)
    for stretch in STRETCHES:
        if not bool(open_.any()):
            break
        tried = to_levels((x + stretch * v).clamp(0, 1)).div_(LEVELS)
        # all rows at once: the shape of a batch decides last bits
        hit = open_ & _fooled(joint(model(tried)), y, targeted)
        made = torch.where(per_image(hit, x), tried, made)
        open_ = open_ & ~hit
    return made


NEEDS_TARGET = (
    "only goes to a wanted class: make the run targeted, or say where it aims with "
    f"attack.library.target={'|'.join(TARGETS)}"
)

# The last universal perturbation of each model, with what it was fitted on.
_fits: WeakKeyDictionary[nn.Module, tuple[str, Tensor]] = WeakKeyDictionary()


class _Face(nn.Module):
    """What a library sees of a model: it can neither move it nor change its mode or hooks."""

    def __init__(self, model: nn.Module, like: Tensor):
        super().__init__()
        self.behind: tuple[nn.Module, ...] = (model,)  # in a tuple it is no submodule
        self.dtype = like.dtype
        # where torchattacks looks for the device
        self.where = nn.Parameter(torch.empty(0, device=like.device), requires_grad=False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, 3, H, W) in [0, 1], of any floating-point dtype."""
        return joint(self.behind[0](x.to(self.dtype)))

    def let_go(self) -> None:
        """Forget the model, since libraries may keep this."""
        self.behind = ()


@contextmanager
def _isolated(seed: int, device: torch.device) -> Iterator[None]:
    """Seeded, with gradients, without warnings, and as if it had never been."""
    seed %= 2**32
    of_random, of_numpy = random.getstate(), np.random.get_state()
    handlers = list(logging.root.handlers)  # logging.info, as foolbox calls it, adds one
    gpus = [device.index] if device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(gpus))
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(torch.enable_grad())
        if gpus:
            stack.enter_context(torch.cuda.device(device))  # ART takes the current one
            torch.cuda.manual_seed(seed)
        warnings.simplefilter("ignore")
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(of_random)
            np.random.set_state(of_numpy)
            logging.root.handlers[:] = handlers


def _imported(library: str, module: str = "") -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they import deprecated names of others
        try:
            return importlib.import_module(module or library)
        except ImportError as e:
            way_out = f"pip install {INSTALL[library]}".replace(">", "\\>")
            raise ValueError(f"{library} can't be imported ({first_line(e)}): {way_out}") from e


def _of_name(name: str, module: ModuleType, base: type[Any], where: str) -> type[Any]:
    known = {
        k: v
        for k, v in vars(module).items()
        if isinstance(v, type) and issubclass(v, base) and v is not base
    }
    if name not in known:
        near = nearest(name, known, f"see {where}")
        raise ValueError(f"attack.library.attack={name} is not in {where}: {near}")
    return known[name]


def _parameters(kind: type[Any]) -> list[str]:
    return [name for name in inspect.signature(kind.__init__).parameters if name != "self"]


def _built(title: str, kind: type[Any], arguments: dict[str, Any], *first: Any) -> Any:
    try:
        return kind(*first, **arguments)
    except (TypeError, ValueError, AssertionError) as e:
        raise ValueError(f"{title}: {first_line(e)}") from e


def _too_few_classes(arguments: dict[str, Any], classes: int) -> str | None:
    # With fewer, ART subtracts logits of some classes from those of others.
    nb_grads = arguments.get("nb_grads", 10)
    if nb_grads >= classes:
        return None
    return f"is wrong with nb_grads={nb_grads} of {classes} classes: set nb_grads={classes}"


def _norm(ball: Ball) -> float:
    return np.inf if isinstance(ball, Linf) else 2


def _array(x: Tensor) -> Any:
    return x.detach().cpu().contiguous().numpy()


def _classifier(task: _Task) -> Any:
    kind = _imported("art", "art.estimators.classification").PyTorchClassifier
    return kind(
        task.face,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(task.x.shape[1:]),
        nb_classes=task.classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if task.x.is_cuda else "cpu",
    )


def _aimed_at(target: str, logits: Tensor, y: Tensor) -> Tensor:
    """For each row the likeliest (or unlikeliest) class that isn't `y`."""
    own = nn.functional.one_hot(y, logits.shape[1]).bool()
    if target == "runner_up":
        return logits.masked_fill(own, -torch.inf).argmax(1)
    return logits.masked_fill(own, torch.inf).argmin(1)


def _fooled(logits: Tensor, y: Tensor, targeted: bool) -> Tensor:
    pred = predict(logits)
    return pred == y if targeted else (pred != y) & (pred != NO_ANSWER)


def _inside(title: str, made: Tensor) -> Tensor:
    """The images, in [0, 1]; they must be there but for rounding."""
    out = torch.maximum(made - 1, -made).max()
    if out > NOISE:
        raise ValueError(f"{title} left [0, 1] by {out:.3g}: its numbers can't be used")
    return made.clamp(0, 1)


def _kept(title: str, made: Tensor, x: Tensor, ball: Ball) -> Tensor:
    """The images, within the budget; they must be but for rounding."""
    v = made - x
    size = v.abs().amax(within(v)) if isinstance(ball, Linf) else row_norm(v)
    if size.max() > ball.eps + NOISE * max(1.0, ball.eps):
        raise ValueError(
            f"{title} left its budget: {type(ball).__name__} {size.max():.6g} > eps "
            f"{ball.eps:.6g} (of images in [0, 1]): its numbers can't be used"
        )
    return ball.project(made, x)


def _check_inputs(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, classes: int) -> None:
    if getattr(model, "training", False):
        raise ValueError("the model is in training mode: call model.eval() first")
    if x.dim() != 4 or x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"x is {x.dtype} {tuple(x.shape)}: give float images (B, 3, H, W)")
    if x.numel() and not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(f"x spans [{x.min():.3g}, {x.max():.3g}]: give images in [0, 1]")
    if y.shape != x.shape[:1] or y.dtype != torch.int64:
        raise ValueError(f"y is {y.dtype} {tuple(y.shape)}: give int64 labels ({len(x)},)")
    if y.numel() and not (y.min() >= NO_ANSWER and y.max() < classes):
        raise ValueError(f"y spans [{y.min()}, {y.max()}]: give labels below classes={classes}")
