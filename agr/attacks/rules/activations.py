"""Rules on ReLUs and max-poolings: they act as ever, and send other gradients back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function, grad
from torch.nn import functional as F

from agr.attacks.ball import per_image, row_norm
from agr.attacks.parts import Pass
from agr.attacks.surrogate import replaced
from agr.models import roles
from agr.models.branches import branch_ends, check_known, residual
from agr.utils.checks import Checked, number, place


@dataclass(frozen=True)
class LinearReLU(Checked):
    """LinBP: ReLUs send gradients back unchanged (Guo et al., arXiv:2012.03528, section 4).

    As in the authors' program, in residual blocks from depth `start` on (see `roles.from_depth`):
    with v the gradient at the end of a block's branch, the branch sends back |J v| / |L v| * L v,
    where J is its transposed Jacobian and L that with its ReLUs as identities, in L2 norms over the
    image. The ReLU after the addition stays as it is. A network that adds no branches (VGG,
    DenseNet) has all its ReLUs from there on linear, without norms. Costs one more backward pass
    of these branches, which is not counted. Authors: from layer3.1 of a ResNet-50 on, 0.5.
    """

    start: str | float = place(0.5)
    cuts = True

    def find(self, network: nn.Module) -> roles.Modules:
        """Return the blocks; of a network without them, the ReLUs."""
        check_known(network)
        if not residual(network):
            return roles.relus(network, self.start)
        return roles.blocks_with_relus(network, self.start)

    def forward(self, own: Callable[..., Any], p: Pass) -> Callable[..., Any]:
        """Return the forward pass of a block, or of a ReLU."""
        if isinstance(p.module, roles.RELUS):
            return lambda z: _Relu.apply(z, own, _most(p.module), [True])
        return lambda x: _cut_off(own, p.module, x) if torch.is_grad_enabled() else own(x)


class _Cut(NamedTuple):
    """A pass of a residual block whose branch ends in a leaf, so that both parts stand alone."""

    x: Tensor  # its input, a leaf
    end: Tensor  # the end of the branch
    leaf: Tensor  # the same, where the shortcut is added
    out: Tensor
    linear: list[bool]  # whether the branch's ReLUs are; one for all


def _cut_off(own: Callable[..., Any], block: nn.Module, x: Tensor) -> Tensor:
    """Run a residual block whose branch sends the gradient of `LinearReLU` back."""
    linear = [False]
    ends: list[Tensor] = []
    (end,) = branch_ends(block)

    def make(_: int, name: str, module: nn.Module) -> Callable[..., Any]:
        inner = module.forward

        def cut(*inputs: Any) -> Tensor:
            made: Tensor = inner(*inputs)
            leaf = made.detach().requires_grad_()
            ends.extend([made, leaf])
            return leaf.clone()  # the shortcut may be added in place

        return cut if name == end else lambda z: _Relu.apply(z, inner, _most(module), linear)

    start = x.detach().requires_grad_()
    with replaced(roles.inner_relus(block) | {end: getattr(block, end)}, make):
        out = own(start)
    made, leaf = ends
    return _Branch.apply(x, _Cut(start, made, leaf, out, linear))


class _Branch(Function):
    """A block's output; backwards the shortcut's gradient and the branch's linear one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cut: _Cut) -> Tensor:
        ctx.cut = cut
        return cut.out.detach().clone()

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> Any:
        cut: _Cut = ctx.cut
        shortcut, v = grad(cut.out, (cut.x, cut.leaf), g[0], retain_graph=True)
        found: list[Tensor] = []
        for cut.linear[0] in (False, True):
            found += grad(cut.end, cut.x, v, retain_graph=True)
        true, linear = found
        size = row_norm(linear)
        ratio = torch.where(size > 0, row_norm(true) / size, 0.0)
        return shortcut + per_image(ratio, linear) * linear, None


class _Relu(Function):
    """A ReLU; backwards its derivative, or the identity while `linear` holds True."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, own: Callable[..., Any], most: float, linear: list[bool]
    ) -> Tensor:
        out: Tensor = own(z.clone())  # it may work in place
        ctx.linear = linear
        ctx.save_for_backward((out > 0) & (out < most))
        return out

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> Any:
        (passes,) = ctx.saved_tensors
        return g[0] if ctx.linear[0] else g[0] * passes, None, None, None


def _most(relu: nn.Module) -> float:
    return 6.0 if isinstance(relu, nn.ReLU6) else math.inf


@dataclass(frozen=True)
class SmoothReLU(Checked):
    """BPA: ReLUs with the derivative of SiLU (Wang et al., arXiv:2306.12685, section 3.3).

    s + z s (1 - s) with s = sigmoid(z), from depth `start` on (see `roles.from_depth`): in
    branches, after additions and elsewhere. Authors: from layer3.1 of a ResNet-50 on, 0.5.
    """

    start: str | float = place(0.5)

    def find(self, network: nn.Module) -> roles.Modules:
        """Return the ReLUs."""
        return roles.relus(network, self.start)

    def forward(self, own: Callable[..., Any], p: Pass) -> Callable[..., Any]:
        """Return the forward pass of a ReLU."""
        return lambda z: _Silu.apply(z, own)


class _Silu(Function):
    """A ReLU; backwards the derivative of SiLU."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, own: Callable[..., Any]) -> Tensor:
        ctx.save_for_backward(z)
        out: Tensor = own(z.clone())  # it may work in place
        return out

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> Any:
        (z,) = ctx.saved_tensors
        s = torch.sigmoid(z)
        return g[0] * (s + z * s * (1 - s)), None


@dataclass(frozen=True)
class SoftMaxPool(Checked):
    """BPA: max-poolings that share a gradient over their window (Wang et al., arXiv:2306.12685).

    As softmax(heat * z), where padding counts as zeros, as in the authors' program (section 3.3).
    Only those that a network keeps as modules: Inception-v3 calls two more as functions. Authors:
    heat 10; 1 for the poolings of 2 x 2 pixels in VGGs.
    """

    heat: float = number(10.0, 0)

    def find(self, network: nn.Module) -> roles.Modules:
        """Return the max-poolings."""
        try:
            return roles.max_pools(network)
        except ValueError as e:
            raise ValueError(f"{e}, or leave the rule out: attack.surrogate.pools=null") from e

    def forward(self, own: Callable[..., Any], p: Pass) -> Callable[..., Any]:
        """Return the forward pass of a max-pooling."""
        return lambda z: _Pool.apply(z, own, p.module, self.heat)


class _Pool(Function):
    """A max-pooling; backwards the softmax of each window."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, own: Callable[..., Any], pool: nn.MaxPool2d, heat: float
    ) -> Tensor:
        ctx.save_for_backward(z)
        ctx.pool, ctx.heat = pool, heat
        out: Tensor = own(z)
        return out

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> Any:
        ((z,), (out,)), pool = (ctx.saved_tensors, g), ctx.pool
        kernel, stride, far = (
            (n, n) if isinstance(n, int) else n
            for n in (pool.kernel_size, pool.stride, pool.dilation)
        )
        pad = roles.padding_of(pool, z.shape)
        # How far windows reach, which in ceil mode may be beyond the padding.
        reach = [(out.shape[2 + a] - 1) * stride[a] + (kernel[a] - 1) * far[a] + 1 for a in (0, 1)]
        after = [max(pad[a], reach[a] - z.shape[2 + a] - pad[a]) for a in (0, 1)]
        padded = F.pad(z, (pad[1], after[1], pad[0], after[0]))
        windows = [
            tuple(
                slice(
                    at[a] * far[a],
                    at[a] * far[a] + (out.shape[2 + a] - 1) * stride[a] + 1,
                    stride[a],
                )
                for a in (0, 1)
            )
            for at in product(range(kernel[0]), range(kernel[1]))
        ]
        shares = torch.stack([padded[:, :, i, j] for i, j in windows]).mul_(ctx.heat).softmax(0)
        back = torch.zeros_like(padded)
        for share, (i, j) in zip(shares, windows, strict=True):
            back[:, :, i, j] += share * out
        inside = [slice(pad[a], pad[a] + z.shape[2 + a]) for a in (0, 1)]
        return back[:, :, inside[0], inside[1]], None, None, None
