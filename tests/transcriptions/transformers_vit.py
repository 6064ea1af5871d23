"""A small vision transformer for tests, and its forward by hand with backward rules put in.

`Vit` is an ordinary module with timm's names. `by_hand` computes the same logits for one image from
the same weights, with plain formulas, and lets `Rules` rewrite three gradients of every block on
their way back, by an autograd function and without hooks.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

Rule = Callable[[int, Tensor], Tensor]
"""(block, gradient of one image) -> gradient passed on."""
At = Literal["scores", "map"]
"""Attention's gradient: of the scores before the softmax, or of the map behind it."""


# ------------------------------------------------------------------------------------ network


class _PatchEmbed(nn.Module):
    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.proj(x)
        return tokens.flatten(2).transpose(1, 2)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.attn_drop = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        b, n, width = x.shape
        parts = self.qkv(x).reshape(b, n, 3, self.num_heads, width // self.num_heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-2, -1) * (width // self.num_heads) ** -0.5
        mixed: Tensor = self.attn_drop(scores.softmax(-1)) @ v
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(nn.functional.gelu(self.fc1(x)))
        return out


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = _Attention(width, heads), _Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x


class Vit(nn.Module):
    """A small vision transformer in float64, images in [0, 1]; names as in timm. Seed it first."""

    def __init__(
        self,
        size: int = 32,
        patch: int = 8,
        width: int = 24,
        depth: int = 3,
        heads: int = 3,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.patch_embed = _PatchEmbed(patch, width)
        self.cls_token = nn.Parameter(0.5 * torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(0.5 * torch.randn(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, classes)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        logits: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return logits


# --------------------------------------------------------------------------- forward by hand


@dataclass(frozen=True)
class Rules:
    """What is done to a gradient on its way back: (heads, n, n), (n, 3 width) and (n, width)."""

    attention: Rule
    qkv: Rule
    mlp: Rule
    at: At = "scores"


class _Ruled(torch.autograd.Function):
    """Does nothing forward; backward, passes the gradient through the rule."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, rule: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.rule = rule
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.rule(grads[0].clone()), None


def _linear(z: Tensor, layer: nn.Linear) -> Tensor:
    return z @ layer.weight.T + layer.bias


def _norm(z: Tensor, layer: nn.LayerNorm) -> Tensor:
    centred = z - z.mean(-1, keepdim=True)
    scale = torch.sqrt((centred * centred).mean(-1, keepdim=True) + layer.eps)
    return centred / scale * layer.weight + layer.bias


def by_hand(net: Vit, image: Tensor, rules: Rules) -> tuple[Tensor, list[Tensor]]:
    """Logits of one image (3, H, W) and each block's output (n, width); class token first."""
    conv = net.patch_embed.proj
    p, height, wide = conv.kernel_size[0], image.shape[1], image.shape[2]
    cut = image.reshape(3, height // p, p, wide // p, p).permute(1, 3, 0, 2, 4)
    z = cut.reshape(-1, 3 * p * p) @ conv.weight.flatten(1).T + cast("Tensor", conv.bias)
    z = torch.cat([net.cls_token[0], z]) + net.pos_embed[0]
    n, width = z.shape
    outputs = []
    for i, block in enumerate(cast("Sequence[_Block]", net.blocks)):
        heads, d = block.attn.num_heads, width // block.attn.num_heads
        u = _Ruled.apply(_linear(_norm(z, block.norm1), block.attn.qkv), partial(rules.qkv, i))
        q, k, v = u.reshape(n, 3, heads, d).permute(1, 2, 0, 3)
        maps = q @ k.transpose(1, 2) / math.sqrt(d)
        if rules.at == "scores":
            maps = _Ruled.apply(maps, partial(rules.attention, i))
        maps = torch.exp(maps - torch.logsumexp(maps, -1, keepdim=True))
        if rules.at == "map":
            maps = _Ruled.apply(maps, partial(rules.attention, i))
        z = z + _linear((maps @ v).transpose(0, 1).reshape(n, width), block.attn.proj)
        u = _linear(_norm(z, block.norm2), block.mlp.fc1)
        u = u * (1 + torch.erf(u / math.sqrt(2))) / 2
        z = z + _Ruled.apply(_linear(u, block.mlp.fc2), partial(rules.mlp, i))
        outputs.append(z)
    return _linear(_norm(z[0], net.norm), net.head), outputs
