"""Oracles of the classic attacks: other libraries, torch's optimisers, papers up to 2022."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from tests.conftest import EPS
from tests.oracles.base import ALPHA, PAPER, STEP, Given, Oracle, Run, drawn, paper
from tests.transcriptions import classic as papers

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # both import other packages' deprecated names
    import foolbox
    import torchattacks

GREY, BLACK = 0.5, 0.0


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

DIFFERENCES: list[list[str]] = []  # of ports: tests.attacks_page has them
ORACLES = [*_FIRST, *_losses(), *_TRANSFER, *_ADAPTIVE]
