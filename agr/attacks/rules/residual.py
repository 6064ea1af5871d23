"""Rules on the branches and shortcuts of residual networks: SGM and Ghost networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from agr.attacks.draws import symmetric, uniform
from agr.attacks.parts import Context, Pass
from agr.attacks.surrogate import replaced
from agr.models import roles
from agr.models.branches import branch_ends, opens_stage
from agr.utils.checks import Checked, flag, number

PROJECTIONS = ("downsample", "shortcut")  # of a block: what its shortcut goes through, if anything
DROPPED = " (dropout)"


@dataclass(frozen=True)
class SkipGradient(Checked):
    """SGM: the gradient through residual branches times `gamma` (Wu et al., arXiv:2002.05990).

    Eq. 5; shortcuts keep theirs, so that it counts for more. As in the authors' program, the first
    block of a ResNet's stage is left alone, unless `first`. Authors: 0.2 for ResNets, 0.5 for
    DenseNets.
    """

    gamma: float = number(0.2, 0, 1)
    first: bool = flag(False)

    @property
    def idle(self) -> bool:
        """True if it changes nothing."""
        return self.gamma == 1

    def find(self, network: nn.Module) -> roles.Modules:
        """Return the last module of each branch."""
        found = roles.residual_branches(network)
        own = dict(network.named_modules())
        blocks = {name: name.rpartition(".")[0] for name in found}
        kept = {
            name: module
            for name, module in found.items()
            if self.first or not opens_stage(blocks[name], own[blocks[name]])
        }
        if not kept:
            raise ValueError(
                f"the network ({type(network).__name__}) has one block a stage, which SGM leaves "
                "alone: attack.surrogate.branches.first=true"
            )
        return kept

    def forward(self, own: Callable[..., Any], p: Pass) -> Callable[..., Any]:
        """Return the forward pass of a branch's last module."""

        def forward(*inputs: Any, **keys: Any) -> Tensor:
            z: Tensor = own(*inputs, **keys)
            if z.requires_grad:
                z.register_hook(lambda g: g * self.gamma)
            return z

        return forward


@dataclass(frozen=True)
class Ghost(Checked):
    """Ghost networks: eroded shortcuts, or dropout (Li et al., arXiv:1812.03413, section 3).

    Each shortcut, after its projection, is multiplied for every channel by a number uniform in
    [1 - spread, 1 + spread]; and after each block, pooling and the like but the last
    (`roles.units`) a share `keep` of the features is kept, and divided by it. Drawn anew for each
    image and gradient (the longitudinal ensemble). Authors: spread 0.22, 0.16 and 0.12 for
    ResNet-v2-50, -101 and -152, 0.08 for Inception-ResNet-v2, with keep 1; and spread 0 with keep
    0.994 for Inception-v3, 0.988 for Inception-v4.
    """

    spread: float = number(0.22, 0)
    keep: float = number(1.0, 1e-6, 1)

    def find(self, network: nn.Module) -> roles.Modules:
        """Return projections of shortcuts, blocks whose shortcut has none, and units to drop in."""
        if self.spread == 0 and self.keep == 1:
            raise ValueError("spread=0 and keep=1 leave the network as it is: change one of them")
        found = self._shortcuts(network) if self.spread else {}
        if self.keep < 1:  # which may be blocks as well
            units = [*roles.units(network).items()][:-1]
            found |= {name + DROPPED: unit for name, unit in units}
        return found

    def _shortcuts(self, network: nn.Module) -> roles.Modules:
        try:
            blocks = roles.residual_blocks(network)
        except ValueError as e:
            raise ValueError(
                f"{e}, or let this one drop features as the authors do, with "
                "attack.surrogate.noise.spread=0 attack.surrogate.noise.keep=0.994"
            ) from e
        found: roles.Modules = {}
        for name, block in blocks.items():
            on = next((a for a in PROJECTIONS if getattr(block, a, None) is not None), None)
            found |= {f"{name}.{on}": getattr(block, on)} if on else {name: block}
        return found

    def forward(self, own: Callable[..., Any], p: Pass) -> Callable[..., Any]:
        """Return the forward pass of a projection, of a block or of a unit."""
        if p.name.endswith(DROPPED):
            return lambda *inputs: self._dropped(own(*inputs), p.c)
        ends = branch_ends(p.module)
        if not ends:
            return lambda x: (z := own(x)) + self._change(z, p.c)
        scale = getattr(p.module, "scale", 1.0)  # of the branch, in Inception-ResNets

        def forward(x: Tensor) -> Tensor:
            """Add to the branch what the shortcut should have more, for it can't be reached."""

            def make(_: int, name: str, module: nn.Module) -> Callable[..., Any]:
                inner, change = module.forward, self._change(x, p.c) / scale
                return lambda *inputs: inner(*inputs) + change

            with replaced({ends[0]: getattr(p.module, ends[0])}, make):
                made: Tensor = own(x)
            return made

        return forward

    def _change(self, x: Tensor, c: Context) -> Tensor:
        drawn = symmetric(c.key, x.shape[1:2], c.x.dtype).mul_(self.spread)
        return x * drawn.to(x.dtype)[:, :, None, None]

    def _dropped(self, z: Tensor, c: Context) -> Tensor:
        return z * (uniform(c.key, z.shape[1:], c.x.dtype) < self.keep) / self.keep
