"""A small ResNet and its forward pass by hand, for the transcriptions in `surrogates`.

`forward(net, x, ...)` recomputes `net(x)` with an attack's own rules for ReLUs, the max-pool, a
residual branch or any feature; the backward rules are `torch.autograd.Function`s. No hooks.
At the end: the loss, its gradient, and the MI-FGSM loop that all attacks share.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function, grad

Model = Callable[[Tensor], Tensor]


class Block(nn.Module):
    """Basic residual block: act2(bn2 conv2 act1 bn1 conv1 z + shortcut z)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1, self.act1 = nn.BatchNorm2d(outside), nn.ReLU()
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2, self.act2 = nn.BatchNorm2d(outside), nn.ReLU()
        shortcut = nn.Conv2d(inside, outside, 1, stride, bias=False)
        self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outside)) if stride > 1 else None

    def forward(self, z: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(z)))))
        return self.act2(branch + (z if self.downsample is None else self.downsample(z)))


class Residual(nn.Module):
    """Small ResNet with timm's names, seeded random weights and statistics, float64, eval mode."""

    def __init__(self, classes: int = 10, width: int = 6, seed: int = 0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1, self.act1 = nn.BatchNorm2d(width), nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Block(width, width, 1), Block(width, width, 1))
        self.layer2 = nn.Sequential(Block(width, 2 * width, 2), Block(2 * width, 2 * width, 1))
        self.global_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(2 * width, classes)
        self.double().eval().requires_grad_(False)
        source = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                scale = math.sqrt(2 / module.weight[0].numel())
                module.weight.normal_(0, scale, generator=source)
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5, generator=source)
                module.bias.uniform_(-0.3, 0.3, generator=source)
                module.running_mean.uniform_(-0.3, 0.3, generator=source)
                module.running_var.uniform_(0.5, 1.5, generator=source)
        for block in blocks(self).values():
            block.bn2.weight.mul_(0.5)  # shortcuts carry much, as in trained networks
        probe = self(torch.rand(64, 3, 16, 16, generator=source, dtype=torch.float64))
        scale = 2 / probe.std(0).mean()
        self.fc.weight.mul_(scale)
        self.fc.bias.sub_(probe.mean(0)).mul_(scale)  # random images fall into many classes

    def forward(self, x: Tensor) -> Tensor:
        z = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        return self.fc(self.global_pool(self.layer2(self.layer1(z))))


def plain_relu(name: str, z: Tensor) -> Tensor:
    return torch.relu(z)


def plain_pool(z: Tensor) -> Tensor:
    return F.max_pool2d(z, 3, 2, 1)


def same(name: str, z: Tensor) -> Tensor:
    return z


def plain_branch(
    name: str, block: Block, z: Tensor, relu: Any = plain_relu, visit: Any = same
) -> Tensor:
    """The residual branch, without shortcut and without the ReLU after the addition."""
    z = visit(f"{name}.bn1", block.bn1(block.conv1(z)))
    z = visit(f"{name}.act1", relu(f"{name}.act1", z))
    return visit(f"{name}.bn2", block.bn2(block.conv2(z)))


def blocks(net: Residual, first: str = "layer1.0") -> dict[str, Block]:
    """The blocks by name in their order, from `first` on."""
    pairs = [(f"layer1.{i}", block) for i, block in enumerate(net.layer1)]
    pairs += [(f"layer2.{i}", block) for i, block in enumerate(net.layer2)]
    return dict(pairs[[name for name, _ in pairs].index(first) :])


def forward(
    net: Residual,
    x: Tensor,
    *,
    relu: Callable[[str, Tensor], Tensor] = plain_relu,
    pool: Callable[[Tensor], Tensor] = plain_pool,
    branch: Callable[..., Tensor] = plain_branch,
    visit: Callable[[str, Tensor], Tensor] = same,
) -> Tensor:
    """`net(x)` by hand. A rule replaces ReLUs (by name), the max-pool or a residual branch; `visit`
    may change the outputs of act1, maxpool, each block, its bn1, act1, bn2, and its shortcut
    (under "...downsample", also where that is the identity)."""
    z = visit("act1", relu("act1", net.bn1(net.conv1(x))))
    z = visit("maxpool", pool(z))
    for name, block in blocks(net).items():
        straight = z if block.downsample is None else block.downsample(z)
        total = branch(name, block, z, relu, visit) + visit(f"{name}.downsample", straight)
        z = visit(name, relu(f"{name}.act2", total))
    return net.fc(net.global_pool(z))


class Scaled(Function):
    """Identity forwards; the gradient times gamma backwards."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, gamma: float) -> Tensor:
        ctx.gamma = gamma
        return z.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return ctx.gamma * g, None


class LinearRelu(Function):
    """ReLU forwards, identity backwards."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return torch.relu(z)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


class LinearBranch(Function):
    """A branch whose inner ReLUs are linear backwards, at the L2 norm of the true gradient."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, name: str, block: Block) -> Tensor:
        ctx.save_for_backward(z)
        ctx.name, ctx.block = name, block
        return plain_branch(name, block, z)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        with torch.enable_grad():
            z = ctx.saved_tensors[0].detach().requires_grad_(True)
            true = grad(plain_branch(ctx.name, ctx.block, z), z, g)[0]
            straight = plain_branch(ctx.name, ctx.block, z, lambda _, u: LinearRelu.apply(u))
            linear = grad(straight, z, g)[0]
        size = linear.flatten(1).norm(dim=1)
        ratio = torch.where(size > 0, true.flatten(1).norm(dim=1) / size, torch.zeros_like(size))
        return ratio[:, None, None, None] * linear, None, None


class SiluRelu(Function):
    """ReLU forwards, SiLU's derivative s + z s (1 - s), s = sigmoid(z), backwards."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return torch.relu(z)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        z = ctx.saved_tensors[0]
        s = torch.sigmoid(z)
        return g * (s + z * s * (1 - s))


class SoftPool(Function):
    """Max-pool 3x3, stride 2, padding 1 forwards; softmax(heat z) of each window backwards."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, heat: float) -> Tensor:
        ctx.save_for_backward(z)
        ctx.heat = heat
        return plain_pool(z)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        padded = F.pad(ctx.saved_tensors[0], (1, 1, 1, 1))
        down, along = 2 * g.shape[2] - 1, 2 * g.shape[3] - 1
        cells = [(i, j) for i in range(3) for j in range(3)]
        views = [padded[:, :, i : i + down : 2, j : j + along : 2] for i, j in cells]
        shares = torch.softmax(ctx.heat * torch.stack(views), 0)
        result = torch.zeros_like(padded)
        for share, (i, j) in zip(shares, cells, strict=True):
            result[:, :, i : i + down : 2, j : j + along : 2] += share * g
        return result[:, :, 1:-1, 1:-1], None


def cross_entropy(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Sum over images of log(sum_j exp z_j) - z_y; with one image, its cross-entropy."""
    total = torch.zeros((), dtype=x.dtype)
    z = model(x)
    for b in range(len(x)):
        total = total + torch.logsumexp(z[b], 0) - z[b, y[b]]
    return total


def slope(model: Model, point: Tensor, label: Tensor, targeted: bool) -> Tensor:
    """Gradient of the objective at the point: of +loss, or of -loss when targeted."""
    leaf = point.detach().clone().requires_grad_(True)
    value = cross_entropy(model, leaf, label)
    return torch.autograd.grad(-value if targeted else value, leaf)[0]


def climb(
    gradient: Callable[[int, int, Tensor], Tensor],
    x: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    decay: float,
) -> Tensor:
    """MI-FGSM, m <- decay m + g / mean|g|, from the clean images; g = gradient(b, t, x_t)."""
    rows = []
    for b in range(len(x)):
        clean = x[b : b + 1]
        lowest, highest = torch.clamp(clean - eps, min=0.0), torch.clamp(clean + eps, max=1.0)
        adv, momentum = clean.clone(), torch.zeros_like(clean)
        for t in range(steps):
            g = gradient(b, t, adv)
            mean = float(g.abs().mean())
            momentum = decay * momentum + (g / mean if mean > 0 else torch.zeros_like(g))
            adv = adv + alpha * torch.sign(momentum)
            adv = torch.minimum(torch.maximum(adv, lowest), highest)
        rows.append(adv)
    return torch.cat(rows)
