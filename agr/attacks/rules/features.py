"""Rules that mix a clean image's features into those of the iterate: ILPD and DHF."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from agr.attacks.ball import per_image, within
from agr.attacks.draws import fold, normal, uniform
from agr.attacks.parts import Context, Pass
from agr.attacks.surrogate import check_shape
from agr.models import roles
from agr.models.branches import branch_ends
from agr.utils.checks import Checked, number, place


@dataclass(frozen=True)
class PerturbationDecay(Checked):
    """ILPD: a perturbation that is weaker in the middle layer (Li et al., arXiv:2304.13410, Eq. 5).

    The network goes on from gamma * h(x) + (1 - gamma) * h(x0 + noise) at `layer`, a name or a
    depth (`roles.layer_of`). As in the authors' program the noise is normal with deviation `sigma`
    (0-255 scale), drawn anew for each image and gradient, whose pass is one more forward. Authors:
    the output of the second of four stages of a ResNet-50, gamma 0.1, sigma 0.05 * 255.
    """

    layer: str | float = place(0.5)
    gamma: float = number(0.1, 0, 1)
    sigma: float = number(12.75, 0)

    @property
    def idle(self) -> bool:
        """True if it changes nothing."""
        return self.gamma == 1

    def find(self, network: nn.Module) -> roles.Modules:
        """Return the layer."""
        return dict([roles.layer_of(network, self.layer)])

    def reference(self, c: Context) -> Tensor:
        """Draw the noisy clean images (B, 3, H, W)."""
        return c.x0 + normal(c.key, c.x0.shape[1:], c.x0.dtype) * (self.sigma / 255)

    def forward(self, own: Callable[..., Any], p: Pass) -> Callable[..., Any]:
        """Return the forward pass of the layer."""

        def forward(*inputs: Any, **keys: Any) -> Tensor:
            z: Tensor = own(*inputs, **keys)
            return self.gamma * z + (1 - self.gamma) * _alike(self, p.reference, z, p.name)

        return forward


@dataclass(frozen=True)
class FeatureDiversity(Checked):
    """DHF: features mixed with the clean image's and with their mean (arXiv:2304.10136).

    Wang et al. (BMVC 2023). As in the authors' program, every feature z of residual branches
    from depth `start` on, after inner ReLUs and at the end, becomes most * u * c + (1 - most *
    u) * z with c that of the clean image, and then, with probability 1 - `keep`, their mean
    over the image; u is uniform in [0, 1]. Only from the step on after a gradient's pass has
    seen the image fool the source, for good. Authors: 0.2 and 0.9, in the last 5/6 of the
    blocks.
    """

    start: str | float = place(0.167)
    most: float = number(0.2, 0, 1)
    keep: float = number(0.9, 0, 1)
    clean = True
    watches = True

    @property
    def idle(self) -> bool:
        """True if it changes nothing."""
        return self.most == 0 and self.keep == 1

    def find(self, network: nn.Module) -> roles.Modules:
        """Return the ReLUs inside of residual branches, and their last modules."""
        found: roles.Modules = {}
        for name, block in roles.blocks_with_relus(network, self.start).items():
            own = roles.inner_relus(block) | {e: getattr(block, e) for e in branch_ends(block)}
            found |= {f"{name}.{inner}": module for inner, module in own.items()}
        return found

    def forward(self, own: Callable[..., Any], p: Pass) -> Callable[..., Any]:
        """Return the forward pass of a ReLU or of a branch's end."""

        fooled = p.c.fooled
        assert fooled is not None

        def forward(*inputs: Any, **keys: Any) -> Tensor:
            z: Tensor = own(*inputs, **keys)
            u, v = self.draw(p.c, z)
            made = torch.lerp(z, _alike(self, p.clean, z, p.name), self.most * u)
            mean = per_image(made.mean(within(made)), made)
            made = torch.where(v > self.keep, mean, made)
            return torch.where(per_image(fooled, z), made, z)

        return forward

    def draw(self, c: Context, z: Tensor) -> tuple[Tensor, Tensor]:
        """Draw u and v like the features `z`, uniform in [0, 1)."""
        return tuple(uniform(fold(c.key, use), z.shape[1:], z.dtype) for use in (0, 1))  # type: ignore[return-value]


def _alike(rule: Any, features: Tensor | None, z: Tensor, name: str) -> Tensor:
    """Return a clean image's features. Raises Refused if those of a copy have another shape."""
    assert features is not None  # `Surrogate` makes them
    check_shape(rule, f" of {name}", z.shape, features.shape)
    return features
