"""Objectives: losses over features of the source (`agr.attacks.contracts.Objective`).

Features are taken at a layer: the name of one of the source's modules, or a depth from 0 to 1 among
those that timm lists for it (`agr.models.roles.layer_of`). What authors sum over copies is made
once, from the clean image, and kept for all steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from agr.attacks.ball import L2
from agr.attacks.contracts import Ask
from agr.attacks.draws import fold, normal, uniform
from agr.attacks.loss import logit_of
from agr.attacks.parts import Context, State
from agr.attacks.surrogate import check_shape
from agr.config.schema import LARGEST_SIDE
from agr.utils import checks
from agr.utils.checks import LIMIT, Checked, number, whole

UNIT = L2(1.0)  # its direction of g is g / ||g||_2, and 0 where g is 0
Score = Callable[[Tensor, list[Tensor]], Tensor]


@dataclass(frozen=True)
class _Weighted(Checked):
    """-(sum of weights times features), at one layer."""

    layer: str | float = checks.layer(0.5)
    targeted = True

    @property
    def layers(self) -> Sequence[str | float]:
        """Layer of the features."""
        return (self.layer,)

    def __call__(self, logits: Tensor, y: Tensor, features: list[Tensor], s: State) -> Tensor:
        return -_total(s["weights"] * _like(self, features[0], s["weights"]))


@dataclass(frozen=True)
class Importance(_Weighted):
    """FIA: features times the label's gradient, of masked copies (Wang et al., arXiv:2107.14185).

    Climbs -(sum of w * features). w adds up the gradients of the label's logit to the features of
    `copies` copies of the clean image, whose values are each kept with probability `keep` and else
    black; it is scaled to length 1. Targeted, w is of the target and the sum is climbed. Authors:
    30 and 0.7, at VGG16's conv3_3.
    """

    layer: str | float = checks.layer(0.4)
    copies: int = whole(30, 1, LIMIT)
    keep: float = number(0.7, 0, 1)
    no_loss = True

    @property
    def once(self) -> int:
        """Number of gradients before the first step."""
        return self.copies

    def make(self, ask: Ask, y: Tensor, c: Context) -> State:
        copies = (self.masked(c.image, fold(c.key, i), i) for i in range(self.copies))
        return {"weights": _weights(ask, copies, _logit(y))}

    def masked(self, x: Tensor, key: Tensor, i: int) -> Tensor:
        """Return copy `i` of images `x` (B, 3, H, W), drawn with `key` (B,)."""
        return x * (uniform(key, x.shape[1:], x.dtype) < self.keep)


@dataclass(frozen=True)
class Patches(Importance):
    """RPA: `Importance` of copies with random patches of several sizes (Zhang et al., IJCAI 2022).

    Patches have sides of 1, 3, 5 … px in turn, up to `largest`, and one channel each. Instead of
    going black, the share 1 - `keep` of them is multiplied by uniform noise from [0, 1]; single
    values are chosen each by itself, as in FIA. Authors: 60 copies, 0.7 and 7, at VGG16's conv3_3.
    """

    copies: int = whole(60, 1, LIMIT)
    largest: int = whole(7, 1, LARGEST_SIDE)

    def masked(self, x: Tensor, key: Tensor, i: int) -> Tensor:
        """Return copy `i` of images `x` (B, 3, H, W), drawn with `key` (B,)."""
        sizes = range(1, self.largest + 1, 2)
        hit = self._hit(x, fold(key, 0), sizes[i % len(sizes)])
        return torch.where(hit, x * uniform(fold(key, 1), x.shape[1:], x.dtype), x)

    def _hit(self, x: Tensor, key: Tensor, size: int) -> Tensor:
        """Draw which values are in a patch that is multiplied, like `x`."""
        if size == 1:
            return uniform(key, x.shape[1:], x.dtype) >= self.keep
        n, channels, height, width = x.shape
        down, right = height // size, width // size  # the strip beyond the last patch is kept
        count = down * right * channels
        order = uniform(key, (count,), torch.float64).argsort(dim=1, stable=True)
        hit = torch.zeros(n, count, dtype=torch.bool, device=x.device)
        hit = hit.scatter(1, order[:, : int(count * (1 - self.keep))], True)
        hit = hit.view(n, down, right, channels).permute(0, 3, 1, 2)
        hit = hit.repeat_interleave(size, 2).repeat_interleave(size, 3)
        return F.pad(hit, (0, width - right * size, 0, height - down * size))


@dataclass(frozen=True)
class Attribution(_Weighted):
    """NAA: attributions of features, along a path to black (Zhang et al., arXiv:2204.00008).

    Climbs -(sum of the positive A + `gamma` times that of the negative A), with
    A = w * (features - features of black). w adds up the gradients of the label's probability to
    the features at (1 - i/n) (x + noise), i = 0 … n - 1, and is scaled to length 1; n is `copies`,
    the noise normal with deviation `sigma` (0-255 scale), as in the authors' program. Authors: 30,
    25.5 and 1, at Inc-v3's Mixed_5b.
    """

    copies: int = whole(30, 1, LIMIT)
    sigma: float = number(25.5, 0)
    gamma: float = number(1.0, 0)
    no_loss = True

    @property
    def once(self) -> int:
        """Number of gradients before the first step."""
        return self.copies

    def make(self, ask: Ask, y: Tensor, c: Context) -> State:
        def point(i: int) -> Tensor:
            noise = normal(fold(c.key, i), c.image.shape[1:], c.image.dtype)
            return (1 - i / self.copies) * (c.image + noise * (self.sigma / 255))

        def probability(logits: Tensor, _: list[Tensor]) -> Tensor:
            return logit_of(logits.softmax(1), y)

        weights = _weights(ask, map(point, range(self.copies)), probability)
        return {"weights": weights, "black": ask.features(torch.zeros_like(c.image))[0]}

    def __call__(self, logits: Tensor, y: Tensor, features: list[Tensor], s: State) -> Tensor:
        a = s["weights"] * (_like(self, features[0], s["black"]) - s["black"])
        return -_total(torch.where(a >= 0, a, self.gamma * a))


@dataclass(frozen=True)
class Fitting(_Weighted):
    """BFA: features times the label's gradient, of images fitted to fool (Wang et al., 2024).

    Climbs -(sum of w * features). w adds up the gradients of the label's logit to the features at
    `rounds` fitted images, and is scaled to length 1. A fitted image is the clean one moved by
    `distance` (L2, in [0, 1] units, not clipped) along the gradient of the attack's loss at the one
    before. That takes two gradients a round. Targeted, all is mirrored. Authors: 30 and 28, at
    Res-152's layer2.
    """

    rounds: int = whole(30, 1, LIMIT)
    distance: float = number(28.0, 0)

    @property
    def once(self) -> int:
        """Number of gradients before the first step."""
        return 2 * self.rounds

    def make(self, ask: Ask, y: Tensor, c: Context) -> State:
        def fitted() -> Iterator[Tensor]:
            x = c.image
            for _ in range(self.rounds):
                g, _ = ask.gradients(x, lambda logits, _: ask.loss(logits))
                x = torch.add(c.image, UNIT.direction(g), alpha=self.distance)
                yield x

        return {"weights": _weights(ask, fitted(), _logit(y))}


@dataclass(frozen=True)
class Projection(Checked):
    """ILA: features moved the way that another attack's result moves them (arXiv:1907.10823).

    Huang et al. (ICCV 2019), with the projection loss: climbs the sum of d * features, where d is
    the features at a guide minus those of the clean image. The guide is I-FGSM's result after
    `guide_steps` steps of `guide_ratio` times the attack's own. Targeted, only the guide is aimed.
    The authors' ImageNet values: 10 and 0.8, at ResNet18's layer3.
    """

    layer: str | float = checks.layer(0.75)
    guide_steps: int = whole(10, 1, LIMIT)
    guide_ratio: float = number(0.8, 1e-3)
    targeted = climbs = True

    @property
    def layers(self) -> Sequence[str | float]:
        """Layer of the features."""
        return (self.layer,)

    @property
    def once(self) -> int:
        """Number of gradients before the first step."""
        return self.guide_steps

    def make(self, ask: Ask, y: Tensor, c: Context) -> State:
        x, size = c.image, self.guide_ratio * c.size
        for _ in range(self.guide_steps):
            g, _ = ask.gradients(x, lambda logits, _: ask.loss(logits))
            x = c.ball.project(torch.add(x, c.ball.direction(g), alpha=size), c.x0)
        return {"along": ask.features(x)[0] - ask.features(c.image)[0]}

    def __call__(self, logits: Tensor, y: Tensor, features: list[Tensor], s: State) -> Tensor:
        return _total(s["along"] * _like(self, features[0], s["along"]))


@dataclass(frozen=True)
class FeatureDistance(Checked):
    """TAP: the loss, features' distance from the clean image's, and smoothness (ECCV 2018).

    Zhou et al.; climbs the attack's loss + `distance` * sum over layers of
    ||T(features) - T(clean features)||^2 + `smooth` * sum of |means of the perturbation|, the
    means of `size` x `size` px blocks side by side, T(f) = sign(f) |f|^`power`. Targeted, only the
    loss is aimed. Values are those of ILA's authors, who take all of a network's top modules and
    its logits; here the layers are those of `layers`.
    """

    layers: Sequence[str | float] = checks.layers((0, 0.25, 0.5, 0.75, 1))
    distance: float = number(0.005, 0)
    power: float = number(0.5, 0.01, 1)
    smooth: float = number(0.01, 0)
    size: int = whole(3, 1, LARGEST_SIDE)
    targeted = climbs = adds = image = True
    once = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", tuple(self.layers))

    def fits(self, side: int) -> None:
        """Raise ValueError unless images of `side` px have a whole block."""
        if self.size > side:
            raise ValueError(
                f"size={self.size}: blocks of {self.size} px don't fit into images of {side} px: "
                f"give 1 to {side}"
            )

    def make(self, ask: Ask, y: Tensor, c: Context) -> State:
        self.fits(min(c.image.shape[2:]))
        clean = {str(i): self._powered(f) for i, f in enumerate(ask.features(c.image))}
        return {"clean": clean, "image": c.image}

    def __call__(self, logits: Tensor, y: Tensor, features: list[Tensor], s: State) -> Tensor:
        *features, image = features
        means = F.avg_pool2d(image - s["image"], self.size)
        total = self.smooth * _total(means.abs())
        for i, f in enumerate(features):
            clean = s["clean"][str(i)]
            moved = self._powered(_like(self, f, clean)) - clean
            total = total + self.distance * _total(moved.square())
        return total

    def _powered(self, f: Tensor) -> Tensor:
        """Return sign(f) |f|^power, whose slope at 0 is made 0: it would be infinite."""
        size, there = f.abs(), f != 0
        return torch.where(there, f.sign() * torch.where(there, size, 1.0) ** self.power, 0.0)


def _weights(ask: Ask, points: Iterable[Tensor], score: Score) -> Tensor:
    """Return the sum of the gradients of `score` to the features, scaled to length 1."""
    total = sum(ask.gradients(point, score)[1][0] for point in points)
    assert isinstance(total, Tensor)
    return UNIT.direction(total)


def _logit(y: Tensor) -> Score:
    return lambda logits, _: logit_of(logits, y)


def _total(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1)


def _like(objective: Any, features: Tensor, known: Tensor) -> Tensor:
    """Return features (B, ...). Raises Refused unless they have the shape of `known` ones."""
    check_shape(objective, "", features.shape, known.shape)
    return features
