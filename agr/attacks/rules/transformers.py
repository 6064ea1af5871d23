"""Rules on gradients inside of vision transformers: PNA, TGR and ATT.

The authors' hooks on `attn_drop` are of torch 1.7, where they get the gradient of the softmax's
argument, the scores ("scores"); hooks of today's torch get that of its result ("map").
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from agr.attacks.parts import Pass
from agr.models.roles import (
    Modules,
    attention_maps,
    attentions,
    channels_at,
    children_of,
    mlps,
    projections,
)
from agr.utils.checks import LIMIT, Checked, number, one_of, whole
from agr.utils.errors import Refused

PLACES = ("scores", "map")
KINDS = {"attn_drop": "attention", "mlp": "mlp"}  # by the last word of a name; others are qkv
Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ConstantAttention:
    """PNA: attention maps count as constants in gradients (Wei et al., arXiv:2109.04176).

    The gradient reaches the tokens through the values, the MLPs and the shortcuts alone.
    """

    unfused = True

    def find(self, network: nn.Module) -> Modules:
        """Return the modules that attention maps go through."""
        return attention_maps(network)

    def forward(self, own: Callable[..., Any], p: Pass) -> Callable[..., Any]:
        """Return the forward pass that stands for that of the module of `p`, `own`."""
        return lambda *inputs, **keys: own(*inputs, **keys).detach()


class _Tokens(Checked, abc.ABC):
    """A rule on three gradients of every block: attention's, the qkv output's, the MLP's."""

    at: str
    unfused = True

    def find(self, network: nn.Module) -> Modules:
        """Return the modules that attention maps go through, the qkv and the MLPs."""
        owners = attentions(network)
        return attention_maps(network) | children_of(owners, "qkv", network) | mlps(network)

    def forward(self, own: Callable[..., Any], p: Pass) -> Callable[..., Any]:
        """Return the forward pass that stands for that of the module of `p`, `own`."""
        kind, images = KINDS.get(p.name.rpartition(".")[2], "qkv"), len(p.c.x)

        def change(g: Tensor) -> Tensor:  # windows are further maps, or tokens, of their image
            if kind == "attention":
                maps = g.reshape(images, -1, *g.shape[-2:])
                return self.changed(kind, maps, p.shared).reshape(g.shape)
            channels = channels_at(p.module, g)
            last = g.movedim(channels, -1)
            made = self.changed(kind, last.reshape(images, -1, last.shape[-1]), p.shared)
            return made.reshape(last.shape).movedim(-1, channels)

        def call(x: Tensor, *inputs: Any, **keys: Any) -> Any:
            out = own(x, *inputs, **keys)
            if out.requires_grad:
                if kind == "attention" and self.at == "scores":
                    _on_scores(x, p.name, change)
                else:
                    out.register_hook(change)
            return out

        return call

    @abc.abstractmethod
    def changed(self, kind: str, g: Tensor, shared: dict[str, Any]) -> Tensor:
        """Return what stands for a gradient.

        Args:
            kind: "attention", "qkv" or "mlp".
            g: (B, maps, n, m) of attention, (B, tokens, channels) of the others.
            shared: `Pass.shared`. Gradients come from the last block on.
        """


@dataclass(frozen=True)
class Regularize(_Tokens):
    """TGR: token gradients without their extremes (Zhang et al., CVPR 2023, arXiv:2303.15754).

    As in the authors' program, gradients are multiplied by `attention`, `qkv` and `mlp`. Of each
    attention map the row and the column of the largest entry, and those of the smallest, become 0;
    of each channel of the qkv and MLP outputs the largest and the smallest token's entry. Of the
    maps of a class token's attention, which are a row, only columns do; its q, k and v count as
    qkv (CaiT). Extremes are signed, and each image's own. Authors: 0.25, 0.75 and 0.5.

    `at` is where attention's gradient is changed: "scores", before the softmax, as the authors'
    hooks did, or "map", behind it.
    """

    attention: float = number(0.25, 0)
    qkv: float = number(0.75, 0)
    mlp: float = number(0.5, 0)
    at: str = one_of("scores", PLACES)

    def find(self, network: nn.Module) -> Modules:
        """Return the modules that maps go through, those of queries, keys and values, the MLPs."""
        return attention_maps(network) | projections(network) | mlps(network)

    def changed(self, kind: str, g: Tensor, shared: dict[str, Any]) -> Tensor:
        return _shrunk(kind, getattr(self, kind) * g, g.new_zeros(len(g), 1, 1))


@dataclass(frozen=True)
class Tune(_Tokens):
    """ATT: token gradients with softened extremes (Ming et al., NeurIPS 2024).

    As in the authors' program: `Regularize`, but extremes are multiplied by a factor instead of
    zeroed, which for each kind of gradient depends on the block above,
    gamma + lam * (1 - sqrt(var / var above)) within 0 and 1, or gamma where that variance is 0.
    The variance is of all entries of an image's gradient, above after shrinking and here before.
    Attention of the last `truncated` blocks has no gradient. Authors, on ViT-B: 0.45, 0.7, 0.65,
    gamma 0.5, lam 0.01, 2 of 12 blocks. `at` is as in `Regularize`.
    """

    attention: float = number(0.45, 0)
    qkv: float = number(0.7, 0)
    mlp: float = number(0.65, 0)
    gamma: float = number(0.5, 0, 1)
    lam: float = number(0.01, 0)
    truncated: int = whole(2, 0, LIMIT)
    at: str = one_of("scores", PLACES)

    @property
    def idle(self) -> bool:
        """True if it changes nothing."""
        factors = {self.attention, self.qkv, self.mlp, self.gamma}
        return factors == {1} and self.lam == self.truncated == 0

    def changed(self, kind: str, g: Tensor, shared: dict[str, Any]) -> Tensor:
        g = getattr(self, kind) * g
        if kind == "attention":
            shared["met"] = met = shared.get("met", 0) + 1
            g = torch.zeros_like(g) if met <= self.truncated else g
        factor = g.new_full((len(g), 1, 1), self.gamma)
        if (above := shared.get(kind)) is not None:
            adaptive = self.gamma + self.lam * (1 - (_variance(g) / above).sqrt())
            factor = torch.where(above > 0, adaptive.clamp(0, 1), factor)
        g = _shrunk(kind, g, factor)
        shared[kind] = _variance(g)
        return g


def _on_scores(attention: Tensor, name: str, change: Change) -> None:
    """Let `change` rewrite the gradient of what an attention map is the softmax of."""
    node = attention.grad_fn
    if node is None or node.name() != "SoftmaxBackward0":
        raise Refused(
            f"{name} of the network doesn't get a softmax as it is, so that the gradient before it "
            "can't be reached: with at=map the rule takes the one behind it"
        )
    node.register_hook(lambda inputs, _: (change(inputs[0]), *inputs[1:]))


def _variance(g: Tensor) -> Tensor:
    return g.flatten(1).var(1)[:, None, None]


def _shrunk(kind: str, g: Tensor, factor: Tensor) -> Tensor:
    """Multiply the extremes of `g`, in place, by `factor` (B, 1, 1); those hit twice, twice."""
    if kind == "attention":
        _shrink_pairs(g, factor[..., None])
    else:
        for place in _extremes(g, 1):
            _scale(g, 1, place, factor)
    return g


def _shrink_pairs(g: Tensor, factor: Tensor) -> None:
    """Shrink rows and columns of maps (B, maps, n, m): those of the largest and smallest entry."""
    n, m = g.shape[2:]
    for place in _extremes(g.flatten(2), 2):
        row, column = (place // m)[..., None], (place % m)[..., None]
        if n > 1:
            _scale(g, 2, row.expand(-1, -1, 1, m), factor)
        _scale(g, 3, column.expand(-1, -1, n, 1), factor)


def _extremes(g: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return the indices of the largest and the smallest entries; of equals the first.

    `max` finds them in half of the time that `argmax` takes on a CPU.
    """
    return g.max(dim, keepdim=True).indices, g.min(dim, keepdim=True).indices


def _scale(g: Tensor, dim: int, place: Tensor, factor: Tensor) -> None:
    """Multiply entries of `g` in place; a thousandth of all, which `torch.where` would pass."""
    g.scatter_(dim, place, g.gather(dim, place) * factor)
