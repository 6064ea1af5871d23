"""Rules on activations and poolings: another backward pass than that of the function itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agr.attacks.parts import Pass
from agr.models import roles
from agr.utils.checks import Checked, number

Forward = Callable[..., Any]


class _Backward(torch.autograd.Function):
    """A function of one tensor whose gradient is multiplied by a factor that is given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, made: Tensor, factor: Tensor | None) -> Tensor:
        ctx.factor = factor
        return made.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        return (g if ctx.factor is None else g * ctx.factor), None, None


def with_backward(own: Forward, x: Tensor, factor: Tensor | None) -> Tensor:
    """Return `own(x)`, with a gradient that is multiplied by `factor`; None: passed on as it is."""
    with torch.no_grad():
        made = own(x.detach().clone())  # it may change its input in place
    return _Backward.apply(x, made, factor)


@dataclass(frozen=True)
class LinearBackward(Checked):
    """LinBP: ReLUs from depth `start` on pass gradients as if they were the identity.

    Guo, Li and Chen, NeurIPS 2020, arXiv:2012.03528, section 4.
    """

    start: float = number(0.5, 0, 1)

    def find(self, network: nn.Module) -> roles.Modules:
        return roles.relus(network, self.start)

    def forward(self, own: Forward, p: Pass) -> Forward:
        return lambda x: with_backward(own, x, None)


@dataclass(frozen=True)
class SmoothActivations(Checked):
    """BPA: ReLUs pass gradients as SiLU does, s(x) * (1 + x * (1 - s(x))), from depth `start` on.

    Wang et al., NeurIPS 2023, arXiv:2306.12685, Eq. 6.
    """

    start: float = number(0.5, 0, 1)

    def find(self, network: nn.Module) -> roles.Modules:
        return roles.relus(network, self.start)

    def forward(self, own: Forward, p: Pass) -> Forward:
        def forward(x: Tensor) -> Tensor:
            s = x.detach().sigmoid()
            return with_backward(own, x, s * (1 + x.detach() * (1 - s)))

        return forward


class _SoftPool(torch.autograd.Function):
    """Max-pool whose gradient goes to all values of a window, by a softmax over them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, made: Tensor, temperature: float, geometry: Any) -> Tensor:
        ctx.save_for_backward(x)
        ctx.temperature, ctx.geometry = temperature, geometry
        return made.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        kernel, stride, padding, (right, below) = ctx.geometry
        # Windows see nothing of the padding: its weight is 0.
        pads = (padding[1], padding[1] + right, padding[0], padding[0] + below)
        wide = F.pad(x, pads, value=-torch.inf)
        size, (b, channels) = wide.shape[-2:], x.shape[:2]
        windows = F.unfold(wide.nan_to_num(neginf=-1e30), kernel, stride=stride)
        windows = windows.view(b, channels, kernel[0] * kernel[1], -1)
        weights = (windows * ctx.temperature).softmax(2)
        spread = (weights * g.reshape(b, channels, 1, -1)).view(b, -1, weights.shape[-1])
        back = F.fold(spread, size, kernel, stride=stride)
        top, left = padding
        return back[..., top : top + x.shape[-2], left : left + x.shape[-1]], None, None, None


@dataclass(frozen=True)
class SoftMaxPool(Checked):
    """BPA: max-poolings pass gradients to their windows by softmax(temperature * x).

    Wang et al., NeurIPS 2023, arXiv:2306.12685, Eq. 7.
    """

    temperature: float = number(10.0, 0)

    def find(self, network: nn.Module) -> roles.Modules:
        return roles.max_pools(network)

    def forward(self, own: Forward, p: Pass) -> Forward:
        def forward(x: Tensor) -> Tensor:
            with torch.no_grad():
                made = own(x.detach())
            geometry = _geometry(p.module, x, made)
            return _SoftPool.apply(x, made, self.temperature, geometry)

        return forward


def _geometry(pool: Any, x: Tensor, made: Tensor) -> Any:
    """Return kernel, stride, padding, and what `ceil_mode` adds on the right and below."""

    def pair(value: Any) -> tuple[int, int]:
        return (value, value) if isinstance(value, int) else tuple(value)

    kernel, padding = pair(pool.kernel_size), pair(pool.padding)
    stride = pair(pool.stride or pool.kernel_size)
    # Columns that the last window reaches beyond the padded image.
    reach = [(made.shape[2 + i] - 1) * stride[i] + kernel[i] for i in (0, 1)]
    below, right = (max(0, reach[i] - x.shape[2 + i] - 2 * padding[i]) for i in (0, 1))
    return kernel, stride, padding, (right, below)
