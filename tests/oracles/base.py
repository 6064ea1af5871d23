"""Oracles of the named attacks of conf/attack: other libraries, and the papers.

An `Oracle` computes a named attack in a way that shares nothing with ours but the random numbers:
torchattacks and foolbox where they follow the paper, torch's own optimisers, and
`tests.transcriptions`. Each has a list of changes, one for every parameter of the attack: a single
one must break the agreement, or the oracle would not have checked that parameter.

`tests.attacks_page` prints the registry, `tests/test_oracles.py` checks it.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from agr.attacks import Attack
from agr.attacks.build import build_attack
from agr.attacks.draws import GRADIENT, OWN, START, STEPS, fold
from agr.attacks.parts import Context, Pool
from agr.attacks.stages import Penalize, Relate, Variance
from agr.attacks.stages.points import around
from agr.attacks.views import Admix, Diverse, Operators, Shuffle, Spectrum, Structure, Warp
from agr.attacks.views.blocks import OPERATIONS
from agr.config.cell import Config
from agr.config.compose import expand
from agr.config.schema import conf_dir
from tests.conftest import CLASSES, EPS, images

L2_EPS = 255.0  # on the 0-255 scale: 1 on that of images
ALPHA = EPS / 10
PAPER = "transcription"
FOLDERS = ("", "targeted")  # of conf/attack, whose attacks all have oracles
STEP = ("eps=11", "steps=7", "attack.size=eps/3")


# ---- ours: what the YAML says --------------------------------------------------------------------


def composed() -> list[str]:
    """Return the named attacks of conf/attack that are made of parts, those of FOLDERS too."""
    top = Path(conf_dir(), "attack")
    paths = [path for folder in FOLDERS for path in sorted((top / folder).glob("*.yaml"))]
    names = [path.relative_to(top).with_suffix("").as_posix() for path in paths]
    return [name for name in names if not name.startswith("_")]


@cache
def config_of(name: str, norm: str = "linf") -> Config:
    """Return the config of an attack, nothing rounded."""
    words = [f"attack={name}", f"norm={norm}", "quantize=off", "suite.l2_reference=null"]
    return expand(words)[0].config


def changed(config: Config, *overrides: str) -> Config:
    """Change a config as a command line does, for which Hydra needs much longer."""
    config = replace(config, attack=deepcopy(config.attack))
    for override in overrides:
        key, _, text = override.partition("=")
        held: Any = OmegaConf.to_container(OmegaConf.create(f"value: {text}"))
        value = held["value"]
        *path, last = key.split(".")
        node: Any = config
        for name in path:
            node = node[name] if isinstance(node, dict) else getattr(node, name)
        if isinstance(node, dict):
            assert last in node, f"{key} is not a key of this attack"
            node[last] = value
        elif node is config:
            config = replace(config, **{last: value})
        else:
            setattr(node, last, value)
    return config


def ours(name: str, norm: str = "linf", *overrides: str) -> Attack:
    """Build conf/attack/`name`.yaml as `agr.load_attack` does; budget 10, or 1 in L2."""
    config = replace(config_of(name), norm=config_of("ifgsm", norm).norm)
    eps = "eps=10" if norm == "linf" else f"eps={L2_EPS}"
    return build_attack(changed(config, eps, *overrides))


# ---- what is attacked ----------------------------------------------------------------------------


class AnySize(nn.Module):
    """A smooth classifier of images of any size, curved enough that momentum turns."""

    def __init__(self, seed: int = 0, gain: float = 3):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 8, 3, stride=2), nn.Tanh()
        )
        self.head = nn.Linear(8, CLASSES)
        with torch.no_grad():
            for p in self.body.parameters():
                p *= gain
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
        at, _ = find(self.attack.chain, (Variance, Penalize, Relate))
        return around(self._context(b, fold(_step(b, t), at + 1, OWN)), 1.0, i)[0]

    def diverse(self, b: int, t: int, copy: int) -> tuple[bool, int, int, int]:
        """(resized, size, top, left); `copy` is that of the view before, if there is one.

        With the authors' probability, whatever the attack's is.
        """
        at, view = find(self.attack.views, Diverse)
        before = [copy] if at else []
        c = self._context(b, self._view(b, t, at, *before))
        size, top, left = view.place(self.x.shape[-1], c)
        return bool(replace(view, prob=0.5).coin(c)), int(size), int(top), int(left)

    def partner(self, b: int, t: int, i: int) -> Tensor:
        """The image that copy i mixes in."""
        at, view = find(self.attack.views, Admix)
        return view.partner(i, self._context(b, self._view(b, t, at)))[0]

    def normal(self, b: int, t: int, i: int) -> Tensor:
        """The noise of spectral copy i, of deviation 1."""
        at, view = find(self.attack.views, Spectrum)
        c = self._context(b, self._view(b, t, at))
        return replace(view, sigma=255.0).noise(c.x, i, c)[0]

    def mask(self, b: int, t: int, i: int) -> Tensor:
        """The mask of spectral copy i, from -1 to 1."""
        at, view = find(self.attack.views, Spectrum)
        c = self._context(b, self._view(b, t, at))
        return replace(view, rho=1.0).mask(c.x, i, c)[0] - 1

    def mix(self, b: int, t: int, i: int) -> tuple[Any, ...]:
        """The cuts, orders and angles of copy i of blocks."""
        at, view = find(self.attack.views, Shuffle)
        mix = view.mix(i, self._context(b, self._view(b, t, at)))
        rows, columns = (tuple(order[0].tolist()) for order in (mix.rows, mix.columns))
        return mix.heights[0], mix.widths[0], rows, columns, mix.turns[0]

    def plan(self, b: int, t: int, i: int) -> tuple[Any, ...]:
        """The cuts of copy i, and the operation of each block with its number."""
        at, view = find(self.attack.views, Structure)
        height, width = self.x.shape[2:]
        p = view.plan(height, width, i, self._context(b, self._view(b, t, at)))
        down, right = [0, *p.rows[0].tolist()], [0, *p.columns[0].tolist()]

        def block(r: int, c: int) -> tuple[str, Any]:
            name, drop = OPERATIONS[int(p.operation[0, r, c])], p.kept[0, :, r, c]
            sides = {"roll down": down[r + 1] - down[r], "roll right": right[c + 1] - right[c]}
            own = p.noise[0, :, down[r] : down[r + 1], right[c] : right[c + 1]]
            numbers = {"scale": p.scale[0, r, c], "noise": own, "drop": drop.double()}
            return name, numbers.get(name, int(p.roll[0, r, c] * sides.get(name, 0)))

        k = range(view.blocks)
        return tuple(down[1:-1]), tuple(right[1:-1]), [[block(r, c) for c in k] for r in k]

    def moves(self, b: int, t: int, i: int) -> Tensor:
        """How far warp i moves the inner points, at most 1."""
        at, view = find(self.attack.views, Warp)
        context = self._context(b, self._view(b, t, at))
        return replace(view, reach=1.0).moves(i, context)[0]

    def operators(self, b: int, t: int) -> tuple[Operators, Context]:
        """The view of OPS, and what it draws from."""
        at, view = find(self.attack.views, Operators)
        path = (STEPS, torch.tensor([t]), 0, GRADIENT, 0, at)
        return view, self._context(b, _key(b))._replace(path=path)

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


def find(parts: tuple[Any, ...], kind: type | tuple[type, ...]) -> tuple[int, Any]:
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
    network: Callable[[], nn.Module] = field(default=AnySize)  # that both sides attack, float64

    def ours(self, *overrides: str) -> Attack:
        """Build our side, with further overrides."""
        attack = ours(self.attack, self.norm, *self.overrides, *overrides)
        return replace(attack, pool=a_pool(self.side)) if attack.pool_size else attack

    def given(self) -> Given:
        """Make the input of both sides. With a stop, the last label is wrong from the start."""
        model, x = self.network(), images(self.n, seed=4, size=self.side)
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
