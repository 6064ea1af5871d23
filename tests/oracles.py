"""Oracles of the named attacks of conf/attack: other libraries, and the papers.

An `Oracle` computes a named attack in a way that shares nothing with ours but the random numbers:
torchattacks and foolbox where they follow the paper, torch's own optimisers, and
`tests.transcriptions`. Each has a list of changes, one for every parameter of the attack: a single
one must break the agreement, or the oracle would not have checked that parameter.

`tests.attacks_page` prints this registry, `tests/test_oracles.py` checks it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from agr.attacks import Attack
from agr.attacks.build import build_attack
from agr.attacks.draws import GRADIENT, OWN, START, STEPS, fold
from agr.attacks.parts import Context, Pool
from agr.attacks.stages import Variance
from agr.attacks.views import Admix, Diverse, Spectrum
from agr.config.cell import Config
from agr.config.compose import expand
from agr.config.schema import conf_dir
from tests import transcriptions as papers
from tests.conftest import CLASSES, EPS, images

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # both import other packages' deprecated names
    import foolbox
    import torchattacks

L2_EPS = 255.0  # on the 0-255 scale: 1 on that of images
ALPHA = EPS / 10
GREY, BLACK = 0.5, 0.0


# ---- ours: what the YAML says --------------------------------------------------------------------


def composed() -> list[str]:
    """Return the named attacks of conf/attack that are made of parts."""
    names = sorted(path.stem for path in Path(conf_dir(), "attack").glob("*.yaml"))
    return [name for name in names if not name.startswith("_")]


@cache
def configs() -> tuple[dict[str, Config], dict[str, Any]]:
    """Return the config of each composed attack, nothing rounded; and of each norm."""
    overrides = ["quantize=off", "suite.l2_reference=null"]
    attacks = expand([f"attack={','.join(composed())}", "norm=linf", *overrides])
    norms = expand(["attack=ifgsm", "norm=linf,l2", *overrides])
    return (
        {c.config.attack.name: c.config for c in attacks},
        {c.config.norm.name: c.config.norm for c in norms},
    )


def changed(config: Config, *overrides: str) -> Config:
    """Change a config as a command line does, for which Hydra needs much longer."""
    config = replace(config, attack=deepcopy(config.attack))
    for override in overrides:
        key, _, text = override.partition("=")
        value = OmegaConf.create(f"value: {text}").value
        *path, last = key.split(".")
        node: Any = config
        for name in path:
            node = node[name] if isinstance(node, dict) else getattr(node, name)
        if isinstance(node, dict):
            assert last in node, f"{key} is no key of this attack"
            node[last] = value
        elif node is config:
            config = replace(config, **{last: value})
        else:
            setattr(node, last, value)
    return config


def ours(name: str, norm: str = "linf", *overrides: str) -> Attack:
    """Build conf/attack/`name`.yaml as `agr.load_attack` does; budget 10, or 1 in L2."""
    attacks, norms = configs()
    eps = "eps=10" if norm == "linf" else f"eps={L2_EPS}"
    return build_attack(changed(replace(attacks[name], norm=norms[norm]), eps, *overrides))


# ---- what is attacked ----------------------------------------------------------------------------


class AnySize(nn.Module):
    """A smooth classifier of images of any size, curved enough that momentum turns."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 8, 3, stride=2), nn.Tanh()
        )
        self.head = nn.Linear(8, CLASSES)
        with torch.no_grad():
            for p in self.body.parameters():
                p *= 3
            self.head.weight *= 40
        self.double().eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x).mean((2, 3)))
        return logits


def a_pool(side: int) -> Pool:
    """Make images to mix in, of all classes."""
    return Pool(images(10, seed=9, size=side), torch.arange(10) % CLASSES)


class Given(NamedTuple):
    """Input of an oracle: the images, and the random numbers that our attack draws."""

    model: nn.Module
    x: Tensor
    y: Tensor
    draws: Draws


class Draws:
    """The random numbers of a run of `attack`, by its parts' own methods, with its keys.

    This is the one place outside of `agr.attacks.attack` that knows how keys are folded. Parts are
    asked at the scale of one (beta, sigma, rho and eps of 1), so that the oracle does the scaling.
    """

    def __init__(self, attack: Attack, x: Tensor, y: Tensor):
        self.attack, self.x, self.y = attack, x, y

    def start(self, b: int) -> Tensor:
        """Start of image b in a ball of radius 1."""
        return type(self.attack.ball)(1.0).sample(fold(_key(b), START), self.x[b : b + 1])[0]

    def noise(self, b: int, t: int, i: int) -> Tensor:
        """Neighbour i in a box of -1 to 1."""
        at, stage = _find(self.attack.chain, Variance)
        key = fold(_step(b, t), at + 1, OWN)
        around = replace(stage, beta=1.0).neighbour(i, self._context(b, key))
        return around[0]

    def diverse(self, b: int, t: int, copy: int) -> tuple[bool, int, int, int]:
        """(resized, size, top, left); `copy` is that of the view before, if there is one.

        With the authors' probability, whatever the attack's is.
        """
        at, view = _find(self.attack.views, Diverse)
        before = [copy] if at else []
        c = self._context(b, self._view(b, t, at, *before))
        size, top, left = view.place(self.x.shape[-1], c)
        return bool(replace(view, prob=0.5).coin(c)), int(size), int(top), int(left)

    def partner(self, b: int, t: int, i: int) -> Tensor:
        """The image that copy i mixes in."""
        at, view = _find(self.attack.views, Admix)
        return view.partner(i, self._context(b, self._view(b, t, at)))[0]

    def normal(self, b: int, t: int, i: int) -> Tensor:
        """The noise of spectral copy i, of deviation 1."""
        at, view = _find(self.attack.views, Spectrum)
        c = self._context(b, self._view(b, t, at))
        return replace(view, sigma=255.0).noise(c.x, i, c)[0]

    def mask(self, b: int, t: int, i: int) -> Tensor:
        """The mask of spectral copy i, from -1 to 1."""
        at, view = _find(self.attack.views, Spectrum)
        c = self._context(b, self._view(b, t, at))
        return replace(view, rho=1.0).mask(c.x, i, c)[0] - 1

    def _view(self, b: int, t: int, at: int, *before: int) -> Tensor:
        """The key of a view where the step's own gradient is taken."""
        return fold(_step(b, t), 0, GRADIENT, 0, at, *before)

    def _context(self, b: int, key: Tensor) -> Context:
        nought = torch.zeros_like(self.x[b : b + 1])
        return Context(
            *(nought, nought, nought, nought, self.y[b : b + 1], torch.zeros(1).long()),
            **{"steps": self.attack.steps, "size": 1.0, "ball": type(self.attack.ball)(1.0)},
            **{"root": key, "path": (), "grad": None, "pool": self.attack.pool},  # type: ignore[arg-type]
        )


def _key(b: int) -> Tensor:
    return torch.tensor([b])  # of the plain call: the place in the batch


def _step(b: int, t: int) -> Tensor:
    return fold(_key(b), STEPS, torch.tensor([t]))


def _find(parts: tuple[Any, ...], kind: type) -> tuple[int, Any]:
    return next((i, part) for i, part in enumerate(parts) if isinstance(part, kind))


# ---- oracles -------------------------------------------------------------------------------------

Run = Callable[[Given], Tensor]


@dataclass(frozen=True)
class Oracle:
    """An independent way of computing a named attack."""

    attack: str  # of conf/attack
    by: str  # the other side, for the page
    run: Run
    changes: tuple[str, ...]  # overrides that must each break the agreement
    overrides: tuple[str, ...] = ()  # that the oracle needs; without them, the config as it is
    norm: str = "linf"
    to: float = 1e-12  # agreement, in [0, 1] units
    n: int = 3  # images
    side: int = 12  # px

    def ours(self, *overrides: str) -> Attack:
        """Build our side, with further overrides."""
        attack = ours(self.attack, self.norm, *self.overrides, *overrides)
        return replace(attack, pool=a_pool(self.side)) if attack.pool_size else attack

    def given(self) -> Given:
        """Make the input of both sides. With a stop, the last label is wrong from the start."""
        model, x = AnySize(), images(self.n, seed=4, size=self.side)
        y = model(x).argmax(1)
        if self.ours().stop:
            y[-1] = (y[-1] + 1) % CLASSES
        return Given(model, x, y, Draws(self.ours(), x, y))

    def theirs(self) -> Tensor:
        """Return the other side's images."""
        return self.run(self.given())

    @property
    def name(self) -> str:
        """Name of the test."""
        overrides = " ".join(self.overrides)
        return f"{self.attack} {self.norm} {self.by} {overrides}".strip()


def paper(f: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Run:
    """A transcription of `tests.transcriptions`, on budget 10."""
    return lambda g: f(g.model, g.x, g.y, EPS, *args, **kwargs)


def drawn(f: Callable[..., Tensor], *args: Any, draws: Callable[..., Any], **kwargs: Any) -> Run:
    """A transcription whose last arguments are random numbers, made by `draws(given)`."""
    return lambda g: f(g.model, g.x, g.y, EPS, *args, *draws(g), **kwargs)


def torchattack(name: str, **arguments: Any) -> Run:
    """An attack of torchattacks, by default on budget 10 with ten even steps."""

    def run(g: Given) -> Tensor:
        attack = _torchattack(name, g.model, **arguments)
        made: Tensor = attack(g.x, g.y)
        return made

    return run


def _torchattack(name: str, model: nn.Module, **arguments: Any) -> Any:
    kind = getattr(torchattacks, name)
    given = {"eps": EPS, "alpha": ALPHA, "steps": 10} if name != "FGSM" else {"eps": EPS}
    return kind(model, **given | arguments)


def through_foolbox(attack: Any, eps: float = EPS, start: bool = False) -> Run:
    """An attack of foolbox; with `start`, from our starts in place of its own."""

    def run(g: Given) -> Tensor:
        if start:
            unit = torch.stack([g.draws.start(b) for b in range(len(g.x))])
            attack.get_random_start = lambda x0, epsilon: type(x0)(x0.raw + epsilon * unit)
        wrapped = foolbox.PyTorchModel(g.model, bounds=(0, 1), device="cpu")
        made: Tensor = attack(wrapped, g.x, g.y, epsilons=eps)[1]
        return made

    return run


def stopped(run: Callable[[Given, int], Tensor], steps: int = 10) -> Run:
    """The first iterate of each image that fools the model, in a `run` of up to `steps` steps."""

    def first(g: Given) -> Tensor:
        iterates = [g.x] + [run(g, t) for t in range(1, steps + 1)]
        rows = []
        for b in range(len(g.x)):
            fools = (int(g.model(each[b : b + 1]).argmax(1)) != int(g.y[b]) for each in iterates)
            rows.append(iterates[next((t for t, yes in enumerate(fools) if yes), steps)][b])
        return torch.stack(rows)

    return first


class _Drawn:
    """Result of torch.randn_like and torch.empty_like while draws are replayed."""

    def __init__(self, unit: Tensor):
        self.unit = unit

    def uniform_(self, low: float, high: float) -> Tensor:
        assert low == -high
        return self.unit * high


@contextmanager
def replayed(function: str, numbers: Iterator[Any]) -> Iterator[None]:
    """Make `torch.function` return the next of `numbers`, whatever its arguments."""
    with patch.object(torch, function, lambda *_, **__: next(numbers)):
        yield


def variance_by_torchattacks(name: str) -> Run:
    """VMI or VNI of torchattacks with its own N = 5, at our neighbours."""

    def run(g: Given) -> Tensor:
        draws = (
            _Drawn(torch.stack([g.draws.noise(b, t, i) for b in range(len(g.x))]))
            for t in range(10)
            for i in range(5)
        )
        with replayed("randn_like", draws):
            return torchattack(name, decay=1.0, N=5, beta=1.5)(g)

    return run


def pgd_by_torchattacks(g: Given) -> Tensor:
    """PGD of torchattacks, at our start."""
    unit = torch.stack([g.draws.start(b) for b in range(len(g.x))])
    with replayed("empty_like", iter([_Drawn(unit)])):
        return torchattack("PGD", alpha=EPS / 4, random_start=True)(g)


def diverse_by_torchattacks(g: Given) -> Tensor:
    """DI of torchattacks, image by image since it draws once for a batch, with our draws."""
    rows = []
    for b in range(len(g.x)):
        drawn = [g.draws.diverse(b, t, 0) for t in range(10)]
        numbers = (torch.tensor([value]) for d in drawn for value in d[1:])
        coins = (torch.tensor([0.0 if d[0] else 1.0]) for d in drawn)
        attack = _torchattack("DIFGSM", g.model, decay=1.0, resize_rate=0.9, diversity_prob=0.5)
        with replayed("randint", numbers), replayed("rand", coins):
            rows.append(attack(g.x[b : b + 1], g.y[b : b + 1]))
    return torch.cat(rows)


def smooth_by_torchattacks(shape: str, size: int, reach: float = 3) -> Run:
    """TI of torchattacks without its DI, and with its float32 kernel recomputed in float64."""

    def run(g: Given) -> Tensor:
        how = {"kernel_name": shape, "len_kernel": size, "nsig": reach}
        attack = _torchattack("TIFGSM", g.model, decay=1.0, diversity_prob=0.0, **how)
        if shape == "gaussian":
            kernel = attack.gkern(size, reach)
        else:
            kernel = {"linear": attack.lkern, "uniform": attack.ukern}[shape](size)
        attack.stacked_kernel = torch.from_numpy(kernel).double().expand(3, 1, -1, -1)
        made: Tensor = attack(g.x, g.y)
        return made

    return run


def targeted_by_torchattacks(g: Given) -> Tensor:
    """I-FGSM of torchattacks towards the labels."""
    attack = _torchattack("BIM", g.model)
    attack.set_mode_targeted_by_label(quiet=True)
    made: Tensor = attack(g.x, g.y)
    return made


def by_optimizer(kind: type[torch.optim.Optimizer], of: str, base: float, **how: Any) -> Run:
    """torch's own optimiser on g / mean|g| or on its sign, projected after each of ten steps."""

    def run(g: Given) -> Tensor:
        moving = g.x.clone().requires_grad_()
        optimizer = kind([moving], lr=base, maximize=True, **how)  # type: ignore[call-arg]
        for _ in range(10):
            loss = nn.functional.cross_entropy(g.model(moving), g.y, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, moving)
            mean = gradient.abs().mean((1, 2, 3), keepdim=True)
            moving.grad = gradient.sign() if of == "sign" else gradient / mean
            optimizer.step()
            with torch.no_grad():
                near = torch.minimum(torch.maximum(moving, g.x - EPS), g.x + EPS)
                moving.copy_(near.clamp(0, 1))
        return moving.detach()

    return run


DECAYING = EPS / sum(i**-0.5 for i in range(1, 11))  # shrinking as 1/sqrt(i), they add up to EPS


def agr_on(way: Callable[..., Tensor]) -> Run:
    """AGR's accumulated steps and its stop, on the gradients of something else.

    `way(given, b, t, adv, memory)` is the direction for image b; `memory` is its own to change.
    """

    def run(g: Given) -> Tensor:
        rows = []
        for b in range(len(g.x)):
            clean, label = g.x[b : b + 1], g.y[b : b + 1]
            adv, total, memory = clean, torch.zeros_like(clean), dict[str, Tensor]()
            for t in range(10):
                if papers._fooled(g.model, adv, label):
                    break
                sign = way(g, b, t, adv, memory).sign()
                total = total + sign**2
                adv = papers._clip(adv + DECAYING * sign / (total + 1e-7).sqrt(), clean, EPS)
            rows.append(adv)
        return torch.cat(rows)

    return run


def momentum_way(g: Given, b: int, t: int, adv: Tensor, memory: dict[str, Tensor]) -> Tensor:
    """MI-FGSM's gradient."""
    gradient = papers._gradient(g.model, adv, g.y[b : b + 1])
    memory["m"] = memory.get("m", 0) + papers._mean_normalised(gradient)
    return memory["m"]


def variance_way(
    g: Given, b: int, t: int, adv: Tensor, memory: dict[str, Tensor], samples: int = 20
) -> Tensor:
    """VMI-FGSM's gradient."""
    label = g.y[b : b + 1]
    gradient = papers._gradient(g.model, adv, label)
    tuned = papers._mean_normalised(gradient + memory.get("v", torch.zeros_like(gradient)))
    memory["m"] = memory.get("m", 0) + tuned
    near = [adv + 1.5 * EPS * g.draws.noise(b, t, i) for i in range(samples)]
    memory["v"] = sum(papers._gradient(g.model, each, label) for each in near) / samples - gradient
    return memory["m"]


def diverse_smooth_way(g: Given, b: int, t: int, adv: Tensor, memory: dict[str, Tensor]) -> Tensor:
    """The smoothed gradient of a diverse copy."""
    leaf = adv.detach().requires_grad_()
    seen = papers._diverse(leaf, g.draws.diverse(b, t, 0), GREY, False)
    loss = papers.cross_entropy(g.model, seen, g.y[b : b + 1])
    return papers._smoothed(torch.autograd.grad(loss, leaf)[0], papers.kernel("gaussian", 15))


def in_l2(
    way: str, size: float, history: bool = False, momentum: bool = False, stop: bool = True
) -> Run:
    """AGR's readings, and MI-FGSM, in L2 of budget 1: image by image, from the formulas.

    The direction is g / |g| ("ball"), or sign(g) / |sign(g)| ("sign"). With `history` v is added to
    and divided by sqrt(sum of squared signs), without it v is overwritten; `momentum` does neither.
    """

    def run(g: Given) -> Tensor:
        rows = []
        for b in range(len(g.x)):
            clean, label = g.x[b : b + 1], g.y[b : b + 1]
            adv, total, m = clean, torch.zeros_like(clean), torch.zeros_like(clean)
            for _ in range(10):
                if stop and papers._fooled(g.model, adv, label):
                    break
                gradient = papers._gradient(g.model, adv, label)
                if momentum:
                    m = m + papers._mean_normalised(gradient)
                    adv = papers._ball_l2(adv + size * m / m.norm(), clean, 1.0)
                    continue
                total = total + gradient.sign() ** 2 if history else gradient.sign() ** 2
                along = gradient if way == "ball" else gradient.sign()
                v = size * along / along.norm() / (total + 1e-7).sqrt()
                adv = papers._ball_l2((adv if history else clean) + v, clean, 1.0)
            rows.append(adv)
        return torch.cat(rows)

    return run


# ---- the registry --------------------------------------------------------------------------------

STEP = ("eps=11", "steps=7", "attack.size=eps/3")
MOMENTUM = (
    "attack.chain.momentum.decay=0.9", "attack.chain.momentum=null", "attack.chain.normalize=null",
)  # fmt: skip
AHEAD, NOT_AHEAD = (f"attack.chain.momentum.look_ahead={value}" for value in ("true", "false"))
SCALE = ("attack.views.scale.copies=4", "attack.views.scale=null")
GREYS, BLACKS = "attack.views.scale.zero=grey", "attack.views.scale.zero=black"
DIVERSE = ("attack.views.diverse=null", "attack.views.diverse.prob=0.9")
SMOOTH = (
    "attack.chain.smooth.size=13", "attack.chain.smooth.shape=linear",
    "attack.chain.smooth.reach=2", "attack.chain.smooth=null",
)  # fmt: skip
BETA = "attack.chain.variance.beta=0.5"
VARIANCE = ("attack.chain.variance=null", BETA)
AGR = (
    "attack.step.phi=2", "attack.step.delta=1", "attack.step.of=gradient", "attack.stop=null",
)  # fmt: skip
OURS_DI = (*DIVERSE, "attack.views.diverse.ratio=1.2", "attack.views.diverse.mode=bilinear",
           "attack.views.diverse.zero=black", "attack.views.diverse.back=true")  # fmt: skip
LIBRARY_DI = ("attack.views.diverse.ratio=0.9", "attack.views.diverse.mode=bilinear",
              "attack.views.diverse.zero=black")  # fmt: skip
PAPER = "transcription"
FINE = ("attack.step.delta=1e-24",)  # torch's optimisers have theirs outside of the root

TARGETED = ("attack.targeted=true",)
LOSSES: dict[str, Any] = {
    "CrossEntropy": papers.cross_entropy, "Logit": papers.logit_loss, "Margin": papers.cw_margin
}  # fmt: skip


def _of(loss: str) -> str:
    return f"attack.loss._target_=agr.attacks.loss.{loss}"


def _losses() -> Iterator[Oracle]:
    """I-FGSM with every loss, away from the labels and towards them."""
    for loss, theirs in LOSSES.items():
        others = tuple(_of(other) for other in LOSSES if other != loss)
        for targeted in (False, True):
            yield Oracle(
                "ifgsm",
                PAPER,
                paper(papers.ifgsm, ALPHA, 10, loss=theirs, targeted=targeted),
                (*STEP, *others, f"attack.targeted={'false' if targeted else 'true'}"),
                overrides=(
                    *([] if loss == "CrossEntropy" else [_of(loss)]),
                    *(TARGETED * targeted),
                ),
            )


def _mask(g: Given, b: int, t: int, i: int) -> Tensor:
    return 1 + 0.5 * g.draws.mask(b, t, i)


def _gauss(g: Given, b: int, t: int, i: int) -> Tensor:
    return 16 / 255 * g.draws.normal(b, t, i)


def _spectrum(through: bool = False, n: int = 20) -> Run:
    return lambda g: papers.ssa(
        *(g.model, g.x, g.y, EPS, ALPHA, 10, n, 0.5, partial(_gauss, g), partial(_mask, g)),
        through=through,
    )


_FIRST: list[Oracle] = [
    Oracle("fgsm", "torchattacks.FGSM", torchattack("FGSM"), STEP),
    Oracle("fgsm", "foolbox.LinfFastGradientAttack",
           through_foolbox(foolbox.attacks.LinfFastGradientAttack()), STEP),
    Oracle("fgsm", PAPER, paper(papers.fgsm), STEP),
    Oracle("fgsm", "foolbox.L2FastGradientAttack",
           through_foolbox(foolbox.attacks.L2FastGradientAttack(), 1.0),
           ("eps=280", "steps=3", "attack.size=eps/3", "attack.step.direction=sign"), norm="l2"),
    Oracle("fgsm_stop", "torchattacks.FGSM, first success",
           stopped(lambda g, t: torchattack("FGSM")(g), 1), (*STEP, "attack.stop=null")),
    Oracle("ifgsm", "torchattacks.BIM", torchattack("BIM"), STEP),
    Oracle("ifgsm", "torchattacks.BIM (targeted)", targeted_by_torchattacks,
           (*STEP, "attack.targeted=false"), overrides=TARGETED),
    Oracle("ifgsm", "foolbox.LinfBasicIterativeAttack",
           through_foolbox(foolbox.attacks.LinfBasicIterativeAttack(
               abs_stepsize=ALPHA, steps=10, random_start=False)), STEP),
    Oracle("ifgsm", "torchattacks.PGDL2",
           torchattack("PGDL2", eps=1.0, alpha=0.1, random_start=False),
           ("eps=280", "steps=3", "attack.size=eps/3", "attack.step.direction=sign"),
           norm="l2", to=1e-10),  # it adds 1e-10 to |g|
    Oracle("ifgsm", "foolbox.L2ProjectedGradientDescentAttack",
           through_foolbox(foolbox.attacks.L2ProjectedGradientDescentAttack(
               abs_stepsize=0.2, steps=10, random_start=False), 1.0),
           ("eps=280", "steps=3", "attack.size=eps/3", "attack.step.direction=sign"),
           overrides=("attack.size=eps/5",), norm="l2"),
    Oracle("ifgsm", PAPER,
           lambda g: papers.pgd_l2(g.model, g.x, g.y, 1.0, 0.1, 10),
           ("eps=280", "steps=3", "attack.size=eps/3", "attack.step.direction=sign"), norm="l2"),
    Oracle("ifgsm_stop", "torchattacks.BIM, first success",
           stopped(lambda g, t: torchattack("BIM", steps=t)(g)), (*STEP, "attack.stop=null")),
    Oracle("mifgsm", "torchattacks.MIFGSM", torchattack("MIFGSM", decay=1.0),
           (*STEP, *MOMENTUM, AHEAD)),
    Oracle("mifgsm", PAPER, paper(papers.mifgsm, ALPHA, 10, 1.0), (*STEP, *MOMENTUM, AHEAD)),
    Oracle("mifgsm", "formulas in L2", in_l2("ball", 0.1, momentum=True, stop=False),
           ("eps=280", "steps=3", "attack.size=eps/3", "attack.step.direction=sign", *MOMENTUM),
           norm="l2"),
    Oracle("mifgsm_stop", "torchattacks.MIFGSM, first success",
           stopped(lambda g, t: torchattack("MIFGSM", decay=1.0, steps=t)(g)),
           (*STEP, *MOMENTUM, AHEAD, "attack.stop=null")),
    Oracle("ifgsm_eps_over_4", "torchattacks.BIM", torchattack("BIM", alpha=EPS / 4), STEP),
    Oracle("ifgsm_eps_over_4", PAPER,
           lambda g: papers.pgd_l2(g.model, g.x, g.y, 1.0, 0.25, 10),
           ("eps=280", "steps=3", "attack.size=eps/3", "attack.step.direction=sign"), norm="l2"),
    Oracle("mifgsm_eps_over_4", "torchattacks.MIFGSM",
           torchattack("MIFGSM", decay=1.0, alpha=EPS / 4), (*STEP, *MOMENTUM, AHEAD)),
    Oracle("mifgsm_eps_over_4", "formulas in L2",
           in_l2("ball", 0.25, momentum=True, stop=False),
           ("eps=280", "steps=3", "attack.size=eps/3", "attack.step.direction=sign", *MOMENTUM),
           norm="l2"),
    Oracle("nifgsm", "torchattacks.NIFGSM", torchattack("NIFGSM", decay=1.0),
           (*STEP, *MOMENTUM, NOT_AHEAD)),
    Oracle("nifgsm", PAPER, paper(papers.nifgsm, ALPHA, 10, 1.0), (*STEP, *MOMENTUM, NOT_AHEAD)),
    Oracle("pgd", "torchattacks.PGD, our start", pgd_by_torchattacks,
           (*STEP, "attack.start=null", "attack.start.radius=0.9")),
    Oracle("pgd", PAPER, lambda g: papers.pgd(g.model, g.x, g.y, EPS, EPS / 4, 10, g.draws.start),
           (*STEP, "attack.start=null", "attack.start.radius=0.9")),
    Oracle("pgd", "foolbox.LinfProjectedGradientDescentAttack, our start",
           through_foolbox(foolbox.attacks.LinfProjectedGradientDescentAttack(
               abs_stepsize=EPS / 4, steps=10), start=True),
           (*STEP, "attack.start=null", "attack.start.radius=0.9")),
    Oracle("pgd", "foolbox.L2ProjectedGradientDescentAttack, our start",
           through_foolbox(foolbox.attacks.L2ProjectedGradientDescentAttack(
               abs_stepsize=0.1, steps=10), 1.0, start=True),
           ("eps=280", "steps=7", "attack.size=eps/3", "attack.start=null",
            "attack.start.radius=0.9", "attack.step.direction=sign"),
           overrides=("attack.size=eps/10",), norm="l2"),
    Oracle("pgd", PAPER,
           lambda g: papers.pgd_l2(g.model, g.x, g.y, 1.0, 0.25, 10, g.draws.start),
           ("eps=280", "steps=2", "attack.size=eps/3", "attack.start=null",
            "attack.start.radius=0.9", "attack.step.direction=sign"), norm="l2"),
]  # fmt: skip

_TRANSFER: list[Oracle] = [
    Oracle("sinifgsm", "torchattacks.SINIFGSM", torchattack("SINIFGSM", decay=1.0, m=5),
           (*STEP, *MOMENTUM, NOT_AHEAD, *SCALE, GREYS), overrides=(BLACKS,)),
    Oracle("sinifgsm", PAPER, paper(papers.sinifgsm, ALPHA, 10),
           (*STEP, *MOMENTUM, NOT_AHEAD, *SCALE, BLACKS)),
    Oracle("sifgsm", PAPER, paper(papers.sifgsm, ALPHA, 10),
           (*STEP, *MOMENTUM, AHEAD, *SCALE, BLACKS)),
    Oracle("tifgsm", "torchattacks.TIFGSM", smooth_by_torchattacks("gaussian", 15),
           (*STEP, *MOMENTUM, AHEAD, *SMOOTH)),
    Oracle("tifgsm", "torchattacks.TIFGSM", smooth_by_torchattacks("linear", 5),
           (*STEP, *MOMENTUM, AHEAD, "attack.chain.smooth.shape=uniform"),
           overrides=("attack.chain.smooth.size=5", "attack.chain.smooth.shape=linear")),
    Oracle("tifgsm", "torchattacks.TIFGSM", smooth_by_torchattacks("uniform", 5),
           (*STEP, *MOMENTUM, AHEAD, "attack.chain.smooth.shape=linear"),
           overrides=("attack.chain.smooth.size=5", "attack.chain.smooth.shape=uniform")),
    Oracle("tifgsm", PAPER, paper(papers.tifgsm, ALPHA, 10),
           (*STEP, *MOMENTUM, AHEAD, *SMOOTH), n=2),
    Oracle("difgsm", "torchattacks.DIFGSM, our draws, image by image", diverse_by_torchattacks,
           (*STEP, *MOMENTUM, AHEAD, *DIVERSE, "attack.views.diverse.ratio=0.8",
            "attack.views.diverse.mode=nearest", "attack.views.diverse.zero=grey"),
           overrides=LIBRARY_DI, n=2, side=40),
    Oracle("difgsm", PAPER,
           drawn(papers.difgsm, ALPHA, 10, 1.0, draws=lambda g: [g.draws.diverse]),
           (*STEP, *MOMENTUM, AHEAD, *OURS_DI), n=2, side=40),
    Oracle("si_ni_di_ti", PAPER,
           drawn(papers.si_ni_di_ti, ALPHA, 10, draws=lambda g: [g.draws.diverse], kernel_size=7),
           (*STEP, *MOMENTUM, NOT_AHEAD, *SCALE, BLACKS, *OURS_DI, *SMOOTH,
            "attack.chain.smooth.size=15"), n=1, side=24),
    Oracle("vmifgsm", "torchattacks.VMIFGSM, our draws", variance_by_torchattacks("VMIFGSM"),
           (*STEP, *MOMENTUM, AHEAD, *VARIANCE, "attack.chain.variance.samples=6"),
           overrides=("attack.chain.variance.samples=5",)),
    Oracle("vmifgsm", PAPER,
           drawn(papers.vmifgsm, ALPHA, 10, 1.0, 20, 1.5, draws=lambda g: [g.draws.noise]),
           (BETA, "attack.chain.variance.samples=10"), n=2),
    Oracle("vnifgsm", "torchattacks.VNIFGSM, our draws", variance_by_torchattacks("VNIFGSM"),
           (*STEP, *MOMENTUM, NOT_AHEAD, *VARIANCE, "attack.chain.variance.samples=6"),
           overrides=("attack.chain.variance.samples=5",)),
    Oracle("vnifgsm", PAPER,
           drawn(papers.vnifgsm, ALPHA, 10, 1.0, 20, 1.5, draws=lambda g: [g.draws.noise]),
           (BETA, "attack.chain.variance.samples=10"), n=2),
    Oracle("emifgsm", PAPER, paper(papers.emifgsm, ALPHA, 10),
           (*STEP, *MOMENTUM, AHEAD, "attack.chain.enhance.samples=9",
            "attack.chain.enhance.reach=6", "attack.chain.enhance=null"), n=2),
    Oracle("admix", PAPER,
           drawn(papers.admix, ALPHA, 10, 1.0, 5, 3, 0.2, draws=lambda g: [g.draws.partner]),
           (*STEP, *MOMENTUM, AHEAD, *SCALE, BLACKS, "attack.views.admix.copies=2",
            "attack.views.admix.eta=0.3", "attack.views.admix.zero=black",
            "attack.views.admix=null"), n=2),
    Oracle("ssa", PAPER, _spectrum(),
           (*STEP, "attack.views.spectrum.copies=19", "attack.views.spectrum.rho=0.6",
            "attack.views.spectrum.sigma=20", "attack.views.spectrum.through=true",
            "attack.views.spectrum.zero=grey", "attack.views.spectrum=null"), n=1),
    Oracle("ssa", PAPER, _spectrum(True, 5), ("attack.views.spectrum.through=false",),
           overrides=("attack.views.spectrum.through=true", "attack.views.spectrum.copies=5"), n=2),
]  # fmt: skip

_ADAM = ("attack.step.beta1=0.8", "attack.step.beta2=0.9", "attack.step.delta=0.1")
_ADAPTIVE: list[Oracle] = [
    Oracle("adam", "torch.optim.Adam",
           by_optimizer(torch.optim.Adam, "gradient", ALPHA, betas=(0.9, 0.999), eps=1e-8),
           (*STEP, *_ADAM, "attack.step.of=sign")),
    Oracle("adam", "foolbox.LinfAdamBasicIterativeAttack",
           through_foolbox(foolbox.attacks.LinfAdamBasicIterativeAttack(
               abs_stepsize=ALPHA, steps=10)),
           (*STEP, *_ADAM[::2], "attack.step.of=gradient"),
           overrides=("attack.step.of=sign",)),  # squares of signs are 1, whatever beta2 is
    Oracle("adam", PAPER, paper(papers.adam, ALPHA, 10), (*STEP, *_ADAM, "attack.step.of=sign")),
    Oracle("rmsprop", "torch.optim.RMSprop",
           by_optimizer(torch.optim.RMSprop, "gradient", ALPHA, alpha=0.9, eps=1e-12),
           (*STEP, "attack.step.rho=0.8", "attack.step.of=sign"), overrides=FINE, to=1e-10),
    Oracle("rmsprop", PAPER, paper(papers.rmsprop, ALPHA, 10),
           (*STEP, "attack.step.rho=0.8", "attack.step.delta=0.1", "attack.step.of=sign")),
    Oracle("adagrad", "torch.optim.Adagrad",
           by_optimizer(torch.optim.Adagrad, "gradient", DECAYING, eps=1e-12),
           (*STEP, "attack.step.phi=2", "attack.step.of=sign"), overrides=FINE, to=1e-10),
    Oracle("adagrad", PAPER, paper(papers.adagrad, DECAYING, 10),
           (*STEP, "attack.step.phi=2", "attack.step.delta=0.1", "attack.step.of=sign")),
    Oracle("ai_fgtm", PAPER, paper(papers.ai_fgtm, ALPHA, 10),
           (*STEP, *SMOOTH, "attack.step.mu1=1.2", "attack.step.mu2=1.5", "attack.step.beta1=0.8",
            "attack.step.beta2=0.9", "attack.step.scale=1", "attack.step.delta=0.1")),
    Oracle("agr_nostop", "torch.optim.Adagrad",
           by_optimizer(torch.optim.Adagrad, "sign", DECAYING, eps=1e-12),
           (*STEP, "attack.step.phi=2", "attack.step.of=gradient"), overrides=FINE),
    Oracle("agr_nostop", PAPER, paper(papers.agr, DECAYING, 10, stop=False),
           (*STEP, "attack.step.phi=2", "attack.step.delta=1", "attack.step.of=gradient")),
    Oracle("agr", PAPER, paper(papers.agr, DECAYING, 10), (*STEP, *AGR)),
    Oracle("agr", "formulas in L2",
           in_l2("ball", 1 / sum(i**-0.5 for i in range(1, 11)), history=True),
           ("eps=280", "steps=7", "attack.size=eps/3", *AGR, "attack.step.direction=sign"),
           norm="l2"),
    Oracle("agr_float", PAPER, paper(papers.agr, DECAYING, 10), (*STEP, *AGR)),
    Oracle("agr_eps_over_t", PAPER, paper(papers.agr, ALPHA, 10), (*STEP, *AGR)),
    Oracle("agr_literal", PAPER, paper(papers.agr_literal, 10),
           ("eps=11", "attack.size=eps/3", "attack.step.phi=2", "attack.step.delta=1",
            "attack.stop=null")),
    Oracle("agr_literal", PAPER,
           lambda g: papers.agr_literal(g.model, g.x, g.y, 1 / 255, 10),
           ("eps=2", "steps=1", "attack.stop=null"), overrides=("eps=1",), n=6),
    Oracle("agr_literal", "formulas in L2", in_l2("sign", 1.0),
           ("eps=280", "attack.size=eps/3", "attack.step.phi=2", "attack.step.delta=1",
            "attack.stop=null", "attack.step.direction=ball"), norm="l2"),
    Oracle("agr_adagrad", f"{PAPER}, first success",
           stopped(lambda g, t: papers.adagrad(g.model, g.x, g.y, EPS, DECAYING, t)),
           (*STEP, "attack.step.phi=2", "attack.step.delta=0.1", "attack.step.of=sign",
            "attack.stop=null")),
    Oracle("agr+mi", "formulas", agr_on(momentum_way), (*STEP, *AGR, *MOMENTUM, AHEAD)),
    Oracle("agr+vmi", "formulas", agr_on(variance_way),
           (*STEP, *AGR, *MOMENTUM, AHEAD, *VARIANCE, "attack.chain.variance.samples=10"), n=4),
    Oracle("agr+di+ti", "formulas", agr_on(diverse_smooth_way),
           (*STEP, *AGR, *OURS_DI, *SMOOTH), n=2, side=30),
]  # fmt: skip

ORACLES: dict[str, Oracle] = {
    oracle.name: oracle for oracle in (*_FIRST, *_losses(), *_TRANSFER, *_ADAPTIVE)
}

# What no oracle can see, and why.
UNSEEN = {
    "attack.step.direction": "only L2 tells; fgsm, ifgsm, mifgsm, pgd, agr and agr_literal do",
    "attack.views.admix.pool": "how many images the engine brings along",
}
