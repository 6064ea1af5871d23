"""Logit, Logit-Margin, CFM and FTM, written down from the authors' programs, one image at a time.

Conventions as in `tests.transcriptions.classic`. The papers' text could not be had; "program" is
the authors' code, "port" TransferAttack's. An attack climbs its objective. `transform(view, b, t)`
is the diverse input, `kernel` the TI kernel (k, k), k odd; None: none.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Model = Callable[[Tensor], Tensor]
Transform = Callable[[Tensor, int, int], Tensor]
"""(image (1, 3, H, W), b, t) -> view."""
Diverse = Callable[[int, int], tuple[bool, int, int, int]]
"""(b, t) -> (apply, size, top, left), pixels."""
Mixing = Callable[[int, int, int], tuple[float, int, Tensor]]
"""(b, t, i) -> (coin, donor, ratios): uniform in [0, 1); a row of the pool; (channels,) uniform in
[0, 1). i is the layer's place among all convolutions and linear layers, 0 the first."""


def gaussian(size: int = 5, nsig: float = 3.0) -> Tensor:
    """TI kernel (size, size): normal density at equally spaced points of [-nsig, nsig], sum 1."""
    line = torch.exp(-(torch.linspace(-nsig, nsig, size, dtype=torch.float64) ** 2) / 2)
    return torch.outer(line, line) / line.sum() ** 2


def diverse(draw: Diverse, canvas: int = 330, swapped: bool = False) -> Transform:
    """DI: if `apply`, nearest resize to `size`, black up to canvas x canvas, not resized back.

    Program (299 px): size 299 .. 329, top and left 0 .. canvas - size - 1, apply at 0.7. It hands
    F.pad (left, top, right, bottom), read as (left, right, top, bottom): its views are not square,
    width + height = 2 canvas. `swapped` does that; the default is what is meant.
    """

    def view(image: Tensor, b: int, t: int) -> Tensor:
        apply, size, top, left = draw(b, t)
        if not apply:
            return image
        right, bottom = canvas - size - left, canvas - size - top
        pads = (left, top, right, bottom) if swapped else (left, right, top, bottom)
        return F.pad(F.interpolate(image, size=(size, size), mode="nearest"), pads)

    return view


def _smooth(g: Tensor, kernel: Tensor | None) -> Tensor:
    """Correlation with the kernel, channel by channel, zeros outside the image."""
    if kernel is None:
        return g
    r, h, w = len(kernel) // 2, g.shape[2], g.shape[3]
    padded, total = F.pad(g, (r, r, r, r)), torch.zeros_like(g)
    for i in range(len(kernel)):
        for j in range(len(kernel)):
            total = total + kernel[i, j].to(g) * padded[:, :, i : i + h, j : j + w]
    return total


def _attack(
    gradient: Callable[[Tensor, int, int], Tensor],
    x: Tensor,
    eps: float,
    alpha: float,
    times: range,
    kernel: Tensor | None,
    decay: float,
    normalised: bool = True,
) -> Tensor:
    """m <- decay m + G, or G / mean|G| if normalised, G = TI(gradient(leaf, b, t)); sign steps."""
    rows = []
    for b in range(len(x)):
        clean = x[b : b + 1]
        low, high = torch.clamp(clean - eps, min=0.0), torch.clamp(clean + eps, max=1.0)
        adv, momentum = clean.clone(), torch.zeros_like(clean)
        for t in times:
            leaf = adv.detach().clone().requires_grad_(True)
            g = _smooth(gradient(leaf, b, t), kernel)
            mean = float(g.abs().mean())
            momentum = decay * momentum + (g / mean if normalised and mean > 0 else g)
            adv = torch.minimum(torch.maximum(adv + alpha * torch.sign(momentum), low), high)
        rows.append(adv)
    return torch.cat(rows)


def logit(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    transform: Transform | None = None,
    *,
    kernel: Tensor | None = None,
    decay: float = 1.0,
    targeted: bool = False,
) -> Tensor:
    """The Logit recipe: Zhao, Liu and Larson, NeurIPS 2021 (arXiv 2012.11207).

    Program: ZhengyuZhao/Targeted-Transfer, eval_single.py, part "Logit". In step t
        m <- decay m + TI(gradient of z_y at DI(x_t)),   a step alpha sign m up
    Authors: eps 16/255, alpha 2/255, T 300, decay 1, `gaussian(5)`, `diverse` of 0.7, 299 -> 330.
    Decisions
    * m sums gradients as they are, not divided by the mean (program: only its CE divides).
    * Untargeted: climb -z_y (ours; the program is targeted).
    * The model sees the larger canvas (program; the port shrinks back, bilinear, 1.1 times).
    """

    def gradient(leaf: Tensor, b: int, t: int) -> Tensor:
        value = model(leaf if transform is None else transform(leaf, b, t))[0, y[b]]
        return torch.autograd.grad(value if targeted else -value, leaf)[0]

    return _attack(gradient, x, eps, alpha, range(steps), kernel, decay, normalised=False)


def logit_margin(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    transform: Transform | None = None,
    *,
    calibration: Literal["temperature", "margin", "angle"] = "margin",
    temperature: float = 0.5,
    features: Callable[[Tensor], Tensor] | None = None,
    weight: Tensor | None = None,
    floor: float = 1e-12,
    kernel: Tensor | None = None,
    decay: float = 1.0,
    targeted: bool = False,
) -> Tensor:
    """Logit margin matters, calibrated logits: arXiv 2303.03680 (TIFS 2023, says the port).

    Program: WJJLL/Target-Attack, eval_single_{ce05,margin,angle}.py. Targeted, climb
        temperature  log softmax(z / temperature)_y
        margin       log softmax(z / (z_(1) - z_(2)))_y, the two largest logits, no gradient there
        angle        cos(f, w_y): f what the last linear layer takes, w_y its row, no bias, no CE
    all three with m <- decay m + G / mean|G|, G = TI(gradient at DI(x_t)); a step alpha sign m.
    `features`: view -> f, (1, d); `weight`: (classes, d); both for "angle" only.
    Authors: eps 16/255, alpha 2/255, T 300, decay 1, DI and TI as in `logit`.
    Decisions
    * temperature 0.5 is the program's only value, and it sharpens. Scaling logits *down*, the
      method's point, needs more than 1 (port: 5). Name the value wherever one is reported.
    * z_(1) is the largest logit, whichever class has it, of this very view.
    * z_(1) = z_(2): the margin is `floor` (ours; program: NaN). f = 0: cosine 0, no gradient.
    * Unlike `logit`, momentum is normalised (program). Untargeted: climb the negative (ours).
    """

    def gradient(leaf: Tensor, b: int, t: int) -> Tensor:
        view = leaf if transform is None else transform(leaf, b, t)
        if calibration == "angle":
            assert weight is not None
            f, w = features(view)[0], weight[y[b]].detach()
            if not (f.any() and w.any()):
                return torch.zeros_like(leaf)
            value = (f * w).sum() / torch.sqrt((f * f).sum() * (w * w).sum())
        else:
            z = model(view)[0]
            ordered = torch.sort(z.detach(), descending=True).values
            margin = max(float(ordered[0] - ordered[1]), floor)
            z = z / (temperature if calibration == "temperature" else margin)
            value = z[y[b]] - torch.logsumexp(z, 0)
        return torch.autograd.grad(value if targeted else -value, leaf)[0]

    return _attack(gradient, x, eps, alpha, range(steps), kernel, decay)


class SmallNet(nn.Module):
    """conv1, ReLU, conv2, ReLU, mean over places, fc. Strides 2, 2: conv2's maps are W/4 wide."""

    def __init__(self, classes: int = 10, strides: tuple[int, int] = (2, 2)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, stride=strides[0], padding=1)
        self.conv2 = nn.Conv2d(4, 6, 3, stride=strides[1], padding=1)
        self.fc = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = F.relu(self.conv2(F.relu(self.conv1(x))))
        return self.fc(h.mean(dim=(2, 3)))


def _by_hand(net: SmallNet, x: Tensor, rule: Callable[[int, Tensor], Tensor]) -> list[Tensor]:
    """Outputs of conv1, conv2, fc from the weights (no hooks run), layer i changed by `rule`."""
    c1, c2 = net.conv1, net.conv2
    one = rule(0, F.conv2d(x, c1.weight, c1.bias, c1.stride, c1.padding))
    two = rule(1, F.conv2d(F.relu(one), c2.weight, c2.bias, c2.stride, c2.padding))
    return [one, two, rule(2, F.relu(two).mean(dim=(2, 3)) @ net.fc.weight.T + net.fc.bias)]


def cfm(
    net: SmallNet,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    draw: Mixing,
    transform: Transform | None = None,
    *,
    pool: Tensor | None = None,
    mix: tuple[float, float, float, int] = (0.1, 0.0, 0.75, 4),
    recording: int = 1,
    kernel: Tensor | None = None,
    decay: float = 1.0,
    targeted: bool = False,
) -> Tensor:
    """CFM, clean feature mixup: Byun et al., CVPR 2023 (arXiv 2305.14846).

    Program: dreamflake/CFM, attacks.py, config 578. Layers taken: all linear ones, the last too,
    and convolutions whose maps are at most (clean image's width) // divisor wide. In every forward
    of the attack each of them, with probability p, gives (1 - a) f + a clean_j for its output f,
    clean_j what it gives for clean image j, a per channel, uniform in [low, high]. Then
        m <- decay m + G / mean|G|, G = TI(gradient at RDI(x_t)),   a step alpha sign m
    `mix`: p, low, high, divisor. RDI: DI without a coin, canvas int(W 340 / 299), resized back.
    Authors: eps 16/255, alpha 2/255, T 300, decay 1, `gaussian(5)`; targeted: climb z_y.
    Decisions
    * `draw`: mixed where coin <= p; asked at taken layers only, afresh in every step, for t =
      `recording` .. steps - 1: recording counts as a step, 299 updates of 300 (program).
    * Coin and donor per image (program: a coin per batch, a permutation). An image may get itself.
      `pool` (None: x) holds the clean images; recorded once, untransformed.
    * Mixed *before* batch-norm and ReLU; the gradient is scaled by 1 - a, none through clean_j.
    * "Channel" is axis 1 of any output (program): of (B, tokens, d), the token.
    * The view must keep the image's size (RDI does; plain DI breaks the program too).
    * Untargeted: climb cross-entropy, not -z_y (program).
    """
    plain = partial(ftm, beta=None, pool=pool, mix=mix, recording=recording, kernel=kernel)
    return plain(net, x, y, eps, alpha, steps, draw, transform, decay=decay, targeted=targeted)


def ftm(
    net: SmallNet,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    draw: Mixing,
    transform: Transform | None = None,
    *,
    beta: float | None = 0.01,
    copies: int = 1,
    pool: Tensor | None = None,
    mix: tuple[float, float, float, int] = (0.1, 0.0, 0.75, 4),
    recording: int = 1,
    kernel: Tensor | None = None,
    decay: float = 1.0,
    targeted: bool = False,
) -> Tensor:
    """FTM, feature tuning mixup: Liang et al., CVPR 2025 (arXiv 2411.15553); copies 2 is FTM-E.

    Program: uhiu/feature-tuning-mixup, attacks.py. As `cfm`, but *every* taken layer, mixed or not,
    first gives f' = f + beta ||f|| D / (||D|| + 1e-7), D a perturbation per image, copy and layer,
    0 at the start; then (1 - a) f' + a clean_j if mixed. After the gradient: D <- D - dL/dD where
    mixed, L what the attack climbs (so D fights it); other layers keep their D.
    Layer i of copy k draws at 3 k + i. Copies see one view; their L are summed.
    Decisions (all else: see `cfm`)
    * Norms: L2 of the image's whole output, no gradient through the factor. So at D = 0 it is 1e7
      beta ||f||, dL/dD is huge, and later updates are some 1e-12 of D: a layer's D keeps the
      direction of its first gradient (program; float32 loses later ones altogether).
    * Untargeted: cross-entropy, as `cfm` (ours; the program refuses). beta None is CFM.
    """
    p, low, high, divisor = mix
    pool = x if pool is None else pool
    clean = [_by_hand(net, pool[j : j + 1].detach(), lambda _, f: f) for j in range(len(pool))]
    tuned = [[[torch.zeros_like(f) for f in clean[0]] for _ in range(copies)] for _ in x]

    def gradient(leaf: Tensor, b: int, t: int) -> Tensor:
        view = leaf if transform is None else transform(leaf, b, t)
        value, active = torch.zeros_like(leaf).sum(), []
        for k in range(copies):

            def rule(i: int, f: Tensor, k: int = k) -> Tensor:
                if i < 2 and f.shape[-1] > x.shape[-1] // divisor:
                    return f
                coin, j, ratios = draw(b, t, 3 * k + i)
                if beta is not None:
                    d = tuned[b][k][i].detach().clone().requires_grad_(coin <= p)
                    f = f + d * (beta * f.detach().norm() / (d.detach().norm() + 1e-7))
                    if coin <= p:
                        active.append((k, i, d))
                if coin > p:
                    return f
                a = (low + (high - low) * ratios.to(f)).reshape(1, -1, *[1] * (f.dim() - 2))
                return (1 - a) * f + a * clean[j][i].detach()

            z = _by_hand(net, view, rule)[2][0]
            value = value + (z[y[b]] if targeted else torch.logsumexp(z, 0) - z[y[b]])
        grads = torch.autograd.grad(value, [leaf, *(d for _, _, d in active)])
        for (k, i, d), g in zip(active, grads[1:], strict=True):
            tuned[b][k][i] = d.detach() - g
        return grads[0]

    return _attack(gradient, x, eps, alpha, range(recording, steps), kernel, decay)
