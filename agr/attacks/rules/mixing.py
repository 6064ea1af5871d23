"""Rules that mix what clean images give into what layers give: CFM and FTM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from agr.attacks.ball import per_image, row_norm
from agr.attacks.draws import fold, integers, uniform
from agr.attacks.parts import Context, Pass
from agr.attacks.surrogate import check_shape
from agr.config.schema import LARGEST_SIDE
from agr.models.roles import weighted_layers
from agr.utils.checks import LIMIT, Checked, number, whole

TINY = 1e-7  # FTM's authors', beside a norm


class Mix(NamedTuple):
    """A draw of `Mixup`, for each image and one layer."""

    coin: Tensor  # (B,) in [0, 1): mixed where it is below `prob`
    donor: Tensor  # (B,) int64: an image of the pool
    ratios: Tensor  # (B, r, channels) in [0, 1); r as in `Mixup.donated`


@dataclass(frozen=True)
class Mixup(Checked):
    """CFM: (1 - a) f + a f', with f' what the layer gives for a clean image (arXiv:2305.14846).

    Byun et al. (CVPR 2023), as in their program: for each image, step and layer with probability
    `prob`, a is uniform in [0, `most`) for each channel, the second axis of what the layer gives.
    Layers are all linear ones, and convolutions whose maps are at most 1 / `divisor` of the image
    wide. Clean images are drawn from the attack's fixed pool of `pool` images. Authors: 0.1, 0.75,
    4, and the other images of the batch.
    """

    prob: float = number(0.1, 0, 1)
    most: float = number(0.75, 0, 1)
    divisor: int = whole(4, 1, LARGEST_SIDE)
    pool: int = whole(16, 2, LIMIT)
    optional = True

    @property
    def idle(self) -> bool:
        """True if it changes nothing."""
        return self.prob == 0 or self.most == 0

    def find(self, network: nn.Module) -> dict[str, nn.Module]:
        return weighted_layers(network)

    def forward(self, own: Callable[..., Any], p: Pass) -> Callable[..., Any]:
        clean = self.donated(p)
        if clean is None:
            return own

        def forward(*inputs: Any, **keys: Any) -> Tensor:
            f: Tensor = own(*inputs, **keys).unflatten(0, (len(p.c.x), -1))
            check_shape(self, f" of {p.name}", f.shape[1:], clean.shape[1:])
            return self.mixed(f, clean, p).flatten(0, 1)

        return forward

    def donated(self, p: Pass) -> Tensor | None:
        """Return what the layer gives for the pool's images, (K, r, channels, ...).

        An image has r rows there, where attention has windows. None of a layer that is left alone:
        its maps are too large, or its rows aren't images'.
        """
        assert p.c.pool is not None  # `Attack` checks it
        made, count = p.benign, min(self.pool, len(p.c.pool.images))
        if made is None or made.dim() < 2:
            return None
        large = made.shape[-1] > p.c.x0.shape[-1] // self.divisor
        if large and not isinstance(p.module, nn.Linear):
            return None
        return made.unflatten(0, (count, -1))

    def mixed(self, f: Tensor, clean: Tensor, p: Pass) -> Tensor:
        """Return the features `f` (B, r, channels, ...) with clean ones mixed in."""
        share, _, donor = self.share(f, clean, p.c)
        return (1 - share) * f + share * clean[donor]

    def share(self, f: Tensor, clean: Tensor, c: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Return the share a of clean features, (B, r, channels, 1, ...), where, and whose."""
        mix = self.mix(c, len(clean), f.shape[1:3])
        where = mix.coin < self.prob
        share = self.most * mix.ratios * per_image(where, mix.ratios)
        return share.to(f.dtype).view(*share.shape, *[1] * (f.dim() - 3)), where, mix.donor

    def mix(self, c: Context, count: int, shape: tuple[int, ...]) -> Mix:
        """Draw for a layer of `shape`, rows and channels, from a pool of `count` images."""
        key = c.key
        return Mix(
            uniform(fold(key, 0), (), c.x.dtype),
            integers(fold(key, 1), 0, count),
            uniform(fold(key, 2), shape, c.x.dtype),
        )


@dataclass(frozen=True)
class TunedMixup(Mixup):
    """FTM: `Mixup`, with a perturbation of features that fights the attack (arXiv:2411.15553).

    Liang et al. (CVPR 2025), as in their program: before anything is mixed in, f + `beta` ||f|| D /
    (||D|| + 1e-7), the norms over what a layer gives for an image. D starts at 0; where the layer
    is mixed, D <- D - the gradient at D of what the attack climbs. Authors: 0.01.

    Because of the 1e-7 a first update is some 1e12 times as large as the later ones: D keeps its
    direction. It needs batch norms that aren't folded into convolutions.
    """

    beta: float = number(0.01, 0)
    unfolded = True

    @property
    def idle(self) -> bool:
        """True if it changes nothing."""
        return self.prob == 0 or (self.most == 0 and self.beta == 0)

    def init(self, p: Pass) -> Tensor | None:
        """Return the first D of a layer, (B, r, channels, ...)."""
        clean = self.donated(p)
        return None if clean is None else p.c.x.new_zeros(len(p.c.x), *clean.shape[1:])

    def mixed(self, f: Tensor, clean: Tensor, p: Pass) -> Tensor:
        tuned = p.state
        assert tuned is not None  # `init` has made it
        share, where, donor = self.share(f, clean, p.c)
        size = self.beta * row_norm(f.detach().to(tuned.dtype)) / (row_norm(tuned) + TINY)
        scale = per_image(size, tuned)
        made = (1 - share) * (f + (scale * tuned).to(f.dtype)) + share * clean[donor]
        if p.keep and made.requires_grad:
            keep, weight = p.keep, scale * per_image(where, scale) * (1 - share)

            def update(g: Tensor) -> None:
                keep(tuned - weight * g)

            made.register_hook(update)
        return made
