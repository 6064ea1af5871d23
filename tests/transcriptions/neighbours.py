"""PGN and GRA, written down from the authors' programs, one image at a time.

Conventions as in `tests.transcriptions.classic`. An attack climbs +loss, or -loss towards the label
when `targeted`. The papers' text could not be had; "program" is the authors' code.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Model = Callable[[Tensor], Tensor]
Loss = Callable[[Model, Tensor, Tensor], Tensor]
Noise = Callable[[int, int, int], Tensor]
"""(b, t, i) -> (3, H, W)."""


def cross_entropy(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Sum over images of log(sum_j exp z_j) - z_y; with one image, its cross-entropy."""
    total = torch.zeros((), dtype=x.dtype)
    z = model(x)
    for b in range(len(x)):
        total = total + torch.logsumexp(z[b], 0) - z[b, y[b]]
    return total


def _slope(
    model: Model, point: Tensor, label: Tensor, targeted: bool, loss: Loss = cross_entropy
) -> Tensor:
    """Gradient of the objective at the point: of +loss, or of -loss when targeted."""
    leaf = point.detach().clone().requires_grad_(True)
    value = loss(model, leaf, label)
    return torch.autograd.grad(-value if targeted else value, leaf)[0]


def _clip(adv: Tensor, clean: Tensor, eps: float) -> Tensor:
    """Project onto the L-infinity ball of radius eps around the clean image, and onto [0, 1]."""
    lowest = torch.clamp(clean - eps, min=0.0)
    highest = torch.clamp(clean + eps, max=1.0)
    return torch.minimum(torch.maximum(adv, lowest), highest)


def _mean_normalised(g: Tensor) -> Tensor:
    """g / mean|g|, and zero where g is zero everywhere."""
    mean = float(g.abs().mean())
    return g / mean if mean > 0 else torch.zeros_like(g)


def _cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of two images seen as vectors, and zero where one of them is zero everywhere."""
    size = math.sqrt(float((a * a).sum())) * math.sqrt(float((b * b).sum()))
    return float((a * b).sum()) / size if size > 0 else 0.0


def pgn(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    draw: Noise,
    *,
    n: int = 20,
    zeta: float = 3.0,
    delta: float = 0.5,
    decay: float = 1.0,
    targeted: bool = False,
) -> Tensor:
    """PGN, penalising the gradient norm: Ge et al., NeurIPS 2023 (arXiv 2306.05225).

    Program: Trustworthy-AI-Group/PGN, Incv3_PGN_Attack.py, PGN.

    In step t, mean over n neighbours of (1 - delta) g_1 + delta g_2 with
        p   = x_t + zeta eps u,                     u uniform in [-1, 1]
        g_1 = gradient at p,   g_2 = gradient at p - alpha g_1 / mean|g_1|
    then m <- decay m + G / mean|G| and a step alpha sign m. It is the gradient of L - lambda ||dL||
    with the Hessian-vector product as a difference over alpha, delta = lambda / alpha (derived
    here; the abstract: "interpolating two neighboring gradients").

    `draw(b, t, k)`: (3, H, W), uniform in [-1, 1]; scaled by zeta * eps here.
    Authors: eps 16/255, T 10, alpha eps / T, n 20, zeta 3, delta 0.5, decay 1.

    Decisions
    * The way back is alpha times a direction of *mean* size 1 (program; with the L1 norm that
      papers of this line print, it would be too short to matter), and alpha is the step itself,
      one number for both.
    * g_1 and g_2 keep their own sizes; so do the neighbours. Neither point is clipped.
    * The program sums, the port averages: the same after normalising.
    * g_1 = 0 everywhere: g_2 is taken at p (program: NaN).
    * targeted: objective -L(y); g_2 lies down the objective again, i.e. where L(y) is higher.
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv, momentum = clean.clone(), torch.zeros_like(clean)
        for t in range(steps):
            total = torch.zeros_like(clean)
            for k in range(n):
                near = adv + zeta * eps * draw(b, t, k)[None]
                first = _slope(model, near, label, targeted)
                back = near - alpha * _mean_normalised(first)
                second = _slope(model, back, label, targeted)
                total = total + ((1 - delta) * first + delta * second) / n
            momentum = decay * momentum + _mean_normalised(total)
            adv = _clip(adv + alpha * torch.sign(momentum), clean, eps)
        rows.append(adv)
    return torch.cat(rows)


def gra(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    draw: Noise,
    *,
    n: int = 20,
    beta: float = 3.5,
    eta: float = 0.94,
    decay: float = 1.0,
    targeted: bool = False,
) -> Tensor:
    """GRA, gradient relevance: Zhu et al., ICCV 2023, pages 4741-4750 (no arXiv number found).

    Program: RYC-98/GRA, GRA_v3.py, graph and batch_grad.

    In step t
        g   = gradient at x_t,   h = mean of n gradients at x_t + beta eps u, u uniform [-1, 1]
        s   = cosine(g, h) over the whole image,   G = s g + (1 - s) h
        m' <- decay m + G / mean|G|
        M  <- M per pixel, times eta where sign(m') differs from sign(m);   M starts at 1 / eta
        x_{t+1} = clip(x_t + alpha M sign(m'))

    `draw(b, t, k)`: (3, H, W), uniform in [-1, 1]; scaled by beta * eps here.
    Authors: eps 16/255, T 10, alpha eps / T, n 20, beta 3.5, eta 0.94, decay 1.

    Decisions
    * The signs compared are those of the accumulated momentum before and after this step (program),
      not of the gradients nor of the perturbation. m starts at 0, whose sign is 0, so the first
      comparison differs at every pixel and brings M to 1: that is what 1 / eta is for. A pixel
      whose momentum is exactly 0 keeps 1 / eta until it moves. sign(0) = 0 differs from +-1.
    * M never grows: pixels end up with alpha eta^(number of turns). M is per pixel and channel.
    * g and h are mixed as they are, not normalised; s may be negative (program: no floor).
    * s = 0 where g or h is zero everywhere (program: NaN).
    * The program works in [-1, 1]: twice eps and alpha, the same here.
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv, momentum = clean.clone(), torch.zeros_like(clean)
        scale = torch.full_like(clean, 1 / eta)
        for t in range(steps):
            here = _slope(model, adv, label, targeted)
            around = torch.zeros_like(clean)
            for k in range(n):
                near = adv + beta * eps * draw(b, t, k)[None]
                around = around + _slope(model, near, label, targeted) / n
            s = _cosine(here, around)
            before = torch.sign(momentum)
            momentum = decay * momentum + _mean_normalised(s * here + (1 - s) * around)
            scale = torch.where(torch.sign(momentum) == before, scale, scale * eta)
            adv = _clip(adv + alpha * scale * torch.sign(momentum), clean, eps)
        rows.append(adv)
    return torch.cat(rows)
