"""MEF (NCS), RAP and DEM, written down from the authors' programs, one image at a time.

Conventions as in `tests.transcriptions.classic`. An attack climbs +loss, or -loss towards the label
when `targeted`. No paper's text could be had; "program" is the authors' code, "port" is
Trustworthy-AI-Group/TransferAttack. A gradient of zero stays zero (programs: NaN).
MuMoDIG and ANDA, which move pixels about, are in `around_views`.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Model = Callable[[Tensor], Tensor]
Loss = Callable[[Model, Tensor, Tensor], Tensor]
Draw = Callable[[int, int, int], Tensor]
"""(b, t, i) -> (3, H, W) at unit scale."""
Size = Callable[[int, int, int], tuple[int, int, int]]
"""(b, t, k) -> (size, top, left)."""
How = Literal["nearest", "bilinear"]


def cross_entropy(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Sum over images of log(sum_j exp z_j) - z_y; with one image, its cross-entropy."""
    z = model(x)
    return sum((torch.logsumexp(z[b], 0) - z[b, y[b]] for b in range(len(x))), z.new_zeros(()))


def _rise(
    model: Model,
    point: Tensor,
    label: Tensor,
    targeted: bool,
    loss: Loss = cross_entropy,
) -> tuple[float, Tensor]:
    """The objective at the point, and its gradient."""
    leaf = point.detach().clone().requires_grad_(True)
    value = loss(model, leaf, label) * (-1 if targeted else 1)
    return float(value.detach()), torch.autograd.grad(value, leaf)[0]


def _clip(adv: Tensor, clean: Tensor, eps: float) -> Tensor:
    """Project onto the L-infinity ball of radius eps around the clean image, and onto [0, 1]."""
    lowest, highest = torch.clamp(clean - eps, min=0.0), torch.clamp(clean + eps, max=1.0)
    return torch.minimum(torch.maximum(adv, lowest), highest)


def _unit(g: Tensor) -> Tensor:
    """g / mean|g|, and zero where g is zero everywhere."""
    mean = float(g.abs().mean())
    return g / mean if mean > 0 else torch.zeros_like(g)


def mef(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    draw: Draw,
    *,
    n: int = 20,
    gamma: float = 2.0,
    xi: float = 0.15,
    inner: float = 0.9,
    decay: float = 0.5,
    lamb: float = 0.0,
    targeted: bool = False,
) -> Tensor:
    """MEF, maximin expected flatness: Qiu et al. (arXiv 2405.16181; v1 was named NCS).

    Program: SignedQiu/MEFAttack, main.py, mef_attack. NCS: the port's former gradient/ncs.py only.

    Every k of n keeps a direction d_k of its own, 0 at first. In step t
        g_k = (1/n - lamb 2 (n-1)/n^2 (J_k - mean J)) dJ(x_t + gamma eps u_k + xi eps d_k)
        d_k <- g_k / mean|g_k| - inner d_k
        m   <- decay m + G / mean|G|,  G = sum of g_k,  and a step alpha sign m.

    `draw(b, t, k)`: (3, H, W), uniform in [-1, 1].
    Authors, MEF: eps 16/255, T 20, alpha 1.6/255 (not eps / T), n 20, gamma 2, xi 0.15, inner 0.9,
    decay 0.5, lamb 0. NCS (port): T 10, alpha eps / T, inner 1, decay 1, lamb alpha / T = 0.16/255.

    Decisions
    * d_k holds the previous steps' gradients, each looked up at its own point, with alternating
      signs (inner enters with a minus); the plus sign of xi is the program's.
    * lamb > 0 (NCS) penalises the variance of J; J_k is the objective, -loss when targeted; the
      weights carry no gradient, and a negative one turns d_k's new part around.
    * n points are looked up, not n + 1, and none is clipped. dJ is at the point, d_k is a constant.
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv, momentum = clean.clone(), torch.zeros_like(clean)
        own = [torch.zeros_like(clean) for _ in range(n)]
        for t in range(steps):
            found = []
            for k in range(n):
                point = adv + gamma * eps * draw(b, t, k)[None] + xi * eps * own[k]
                found.append(_rise(model, point, label, targeted))
            middle, total = sum(value for value, _ in found) / n, torch.zeros_like(clean)
            for k, (value, slope) in enumerate(found):
                part = (1 / n - lamb * 2 * (n - 1) / n**2 * (value - middle)) * slope
                own[k] = _unit(part) - inner * own[k]
                total = total + part
            momentum = decay * momentum + _unit(total)
            adv = _clip(adv + alpha * torch.sign(momentum), clean, eps)
        rows.append(adv)
    return torch.cat(rows)


def rap(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    draw: Draw,
    *,
    late: int = 100,
    inner_eps: float = 16 / 255,
    inner_steps: int = 8,
    decay: float = 0.0,
    loss: Loss = cross_entropy,
    inner_loss: Loss = cross_entropy,
    targeted: bool = False,
) -> Tensor:
    """RAP, reverse adversarial perturbation: Qin et al., NeurIPS 2022 (arXiv 2210.05968).

    Program: SCLBD/Transfer_attack_RAP, rap_attack.py ("full version").

    From step `late` on (RAP-LS; late = 0 is RAP, late = steps plain), go down the objective first:
        p = x_t + inner_eps u, into [0, 1];  inner_steps times
        p <- p - (inner_eps / inner_steps) sign dJ(p), into the inner_eps ball of x_t and [0, 1]
    then the gradient g at p (before: at x_t), m <- decay m + g / mean|g|, a step alpha sign m.

    `draw(b, t, 0)`, called for t >= late: (3, H, W), uniform in [-1, 1].
    Authors: eps 16/255, alpha 2/255, T 400, late 100, inner_eps 16/255, 8 inner steps of 2/255;
    no momentum unless --MI (decay 1); cross-entropy, targeted with logit loss and DI; 300 for T in
    the README. `loss` and `inner_loss` are descended when targeted, climbed when not.

    Decisions
    * Inner loss: cross-entropy even where the outer one is the logit loss (program's default).
    * The inner attack is towards y untargeted, away from the target targeted: the objective, down.
    * The older rap_attack_new.py climbs the cross-entropy of the *predicted* class instead: with
      the objective, not against it, until an untargeted attack has won. rap_attack.py decides.
    * u: uniform, anew in every step (program). For the start at zero draw zeros (we can't tell
      which the paper prints). p is a constant: no gradient passes through the inner steps.
    * One p a step (m1 = m2 = 1). The inner gradients see the bare network, never DI or SI.
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv, momentum = clean.clone(), torch.zeros_like(clean)
        for t in range(steps):
            point = adv
            if t >= late:
                point = torch.clamp(adv + inner_eps * draw(b, t, 0)[None], 0.0, 1.0)
                for _ in range(inner_steps):
                    back = torch.sign(_rise(model, point, label, targeted, inner_loss)[1])
                    point = _clip(point - inner_eps / inner_steps * back, adv, inner_eps)
            momentum = decay * momentum + _unit(_rise(model, point, label, targeted, loss)[1])
            adv = _clip(adv + alpha * torch.sign(momentum), clean, eps)
        rows.append(adv)
    return torch.cat(rows)


def _resize(image: Tensor, size: int, how: How) -> Tensor:
    """To size x size. Nearest: pixel i comes from floor(i * old / new), as in TensorFlow 1."""
    if how == "bilinear":
        return F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)
    rows, columns = ([i * old // size for i in range(size)] for old in image.shape[-2:])
    return image[:, :, rows][:, :, :, columns]


def _shrunk(
    image: Tensor, large: int, drawn: tuple[int, int, int], how: How, zero: float
) -> Tensor:
    """Resize to the drawn size, pad with `zero` to the large one, resize back. Square images."""
    size, top, left = drawn
    pads = (left, large - size - left, top, large - size - top)
    return _resize(F.pad(_resize(image, size, how), pads, value=zero), image.shape[-1], how)


def _smoothed(g: Tensor, kernel: int) -> Tensor:
    """TI: convolved with a Gaussian over [-3, 3] of `kernel` taps, black around, same size."""
    taps = [math.exp(-((6 * i / (kernel - 1) - 3) ** 2) / 2) for i in range(kernel)]
    line = torch.tensor(taps, dtype=g.dtype) / sum(taps)
    plane = (line[:, None] * line[None]).expand(g.shape[1], 1, kernel, kernel)
    return F.conv2d(g, plane, padding=kernel // 2, groups=g.shape[1])


def dem(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    draw: Size,
    *,
    ratios: tuple[float, ...] = (500 / 299, 460 / 299, 420 / 299, 380 / 299, 340 / 299),
    how: How = "nearest",
    zero: float = 0.5,
    kernel: int = 15,
    decay: float = 1.0,
    targeted: bool = False,
) -> Tensor:
    """DEM, diversity-ensemble: Zou et al., ECCV 2020 (arXiv 2112.06011).

    Program: 278287847/DEM, DE-TIM_SingleModel.py (RF-DE-TIM_MultiModel.py for region fitting).

    Copy k of x_t: resized to a drawn size, padded to large_k = round(ratio_k * side), resized back.
        g = d/dx of the cross-entropy of the *mean of the copies' logits*, smoothed (TI)
        m <- decay m + g / mean|g|,   x_{t+1} = clip(x_t + alpha sign m)

    `draw(b, t, k)`: size in [side, large_k), top and left in [0, large_k - size).
    Authors: eps 16/255, T 10, alpha eps / T, side 299, large 500, 460, 420, 380, 340, nearest, TI
    with 15 taps over [-3, 3], decay 1. Region fitting: pass alpha = eps (their ensemble scripts).

    Decisions
    * Every copy is changed (chance 1), no clean copy among them; one backward pass for all.
    * Nearest both ways, pixel i from floor(i * old / new) (TensorFlow 1), the gradient its adjoint.
    * Padding is nought in [-1, 1], grey 0.5 here; the port's is black and its resizing bilinear.
    * Single-model scripts step eps / T, ensembles step eps; the port always steps eps.
    * Every script smooths the gradient before it is normalised; kernel = 1 leaves that out.
    * The Inceptions' auxiliary heads (weight 0.4) belong to those networks and are left out.
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv, momentum = clean.clone(), torch.zeros_like(clean)
        large = [round(ratio * clean.shape[-1]) for ratio in ratios]
        for t in range(steps):
            leaf = adv.detach().clone().requires_grad_(True)
            logits = torch.zeros((), dtype=x.dtype)
            for k in range(len(large)):
                copy = _shrunk(leaf, large[k], draw(b, t, k), how, zero)
                logits = logits + model(copy) / len(large)
            value = torch.logsumexp(logits[0], 0) - logits[0, label[0]]
            slope = torch.autograd.grad(-value if targeted else value, leaf)[0]
            momentum = decay * momentum + _unit(_smoothed(slope, kernel) if kernel > 1 else slope)
            adv = _clip(adv + alpha * torch.sign(momentum), clean, eps)
        rows.append(adv)
    return torch.cat(rows)
