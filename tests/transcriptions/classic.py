"""Attacks written down from their papers, one image at a time: the tests' independent oracles.

Nothing here is shared with the package under test. Everything is slow and plain on purpose.

Conventions
-----------
* `model` maps images (B, 3, H, W) in [0, 1] to logits (B, classes). All norms, steps and noises
  are in [0, 1] units; authors who work in [-1, 1] have twice the step and twice the budget, which
  is the same thing, except where a *level* is meant (scaling, padding, mixing): there `zero` says
  which level of [0, 1] counts as nought, 0.5 (grey, the authors') or 0.0 (black, most ports).
* `alpha` is the step, `steps` the number of steps T; t counts from 0 and b is the row of the batch.
* Start at the clean image unless a start is given; after each step clip to the ball and to [0, 1].
* Momentum is normalised by the *mean* of |g| over the image. The papers print the L1 norm, the
  authors' programs take the mean; only look-aheads (NI, EMI) can tell the two apart.
* A gradient that is zero everywhere stays zero: nothing here divides by zero.
* Points at which a gradient is merely looked up (look-ahead, neighbours, copies) are not clipped.
* The label is the one that is passed. Authors take the model's first prediction: pass that for it.
* Randomness comes from the caller: every draw is a call that names its image and its step.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Model = Callable[[Tensor], Tensor]
Loss = Callable[[Model, Tensor, Tensor], Tensor]
Draw = Callable[[int, int, int], tuple[bool, int, int, int]]
"""(b, t, copy) -> (apply, size, top, left) of the diverse input."""
Noise = Callable[[int, int, int], Tensor]
"""(b, t, i) -> (3, H, W)."""
Start = Callable[[int], Tensor]
"""b -> (3, H, W)."""
Shape = Literal["gaussian", "uniform", "linear"]
Of = Literal["gradient", "sign"]


# --------------------------------------------------------------------------------------- losses


def cross_entropy(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Sum over images of log(sum_j exp z_j) - z_y; with one image, its cross-entropy."""
    total = torch.zeros((), dtype=x.dtype)
    z = model(x)
    for b in range(len(x)):
        total = total + torch.logsumexp(z[b], 0) - z[b, y[b]]
    return total


def logit_loss(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Logit loss -z_y: Zhao, Liu and Larson, NeurIPS 2021 (arXiv 2012.11207), the logit equation.

    The paper and the authors' eval_single.py are targeted: descend -z_target. Untargeted use,
    ascend -z_y, is the mirror image and is ours (decided here).
    Authors: L-infinity 16/255, step 2/255, 300 steps, with MI, TI and DI (kernel 5, probability
    0.7, 299 -> [299, 330), padded with black before the network's normalisation); with this loss
    (and Po+Trip, not cross-entropy) their momentum sums *un-normalised* gradients. For I-FGSM that
    makes no difference.
    """
    total = torch.zeros((), dtype=x.dtype)
    z = model(x)
    for b in range(len(x)):
        total = total - z[b, y[b]]
    return total


def cw_margin(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Margin max_{j != y} z_j - z_y of Carlini and Wagner, S&P 2017 (f_6, on logits).

    Ascend it to leave y; descend it (`targeted=True`) to reach y. Not clamped (kappa infinite):
    C&W stop at max(., -kappa), Madry's PGD on this loss at a margin of 50; decided here because
    a clamp only zeroes the gradient once the margin is won.
    """
    total = torch.zeros((), dtype=x.dtype)
    z = model(x)
    for b in range(len(x)):
        others = [z[b, j] for j in range(z.shape[1]) if j != int(y[b])]
        total = total + torch.stack(others).max() - z[b, y[b]]
    return total


# -------------------------------------------------------------------------------------- helpers


def _gradient(model: Model, x: Tensor, y: Tensor, loss: Loss = cross_entropy) -> Tensor:
    """Gradient of the loss with respect to the image, at the image."""
    point = x.detach().clone().requires_grad_(True)
    return torch.autograd.grad(loss(model, point, y), point)[0]


def _clip(adv: Tensor, clean: Tensor, eps: float) -> Tensor:
    """Project onto the L-infinity ball of radius eps around the clean image, and onto [0, 1]."""
    lowest = torch.clamp(clean - eps, min=0.0)
    highest = torch.clamp(clean + eps, max=1.0)
    return torch.minimum(torch.maximum(adv, lowest), highest)


def _mean_normalised(g: Tensor) -> Tensor:
    """g / mean|g|, and zero where g is zero everywhere."""
    mean = float(g.abs().mean())
    return g / mean if mean > 0 else torch.zeros_like(g)


def _divide(a: Tensor, b: Tensor) -> Tensor:
    """a / b per pixel, and zero where b is zero."""
    safe = torch.where(b == 0, torch.ones_like(b), b)
    return torch.where(b == 0, torch.zeros_like(a), a / safe)


def _scaled(image: Tensor, i: int, zero: float) -> Tensor:
    """S_i(x) = x / 2^i, towards the level that counts as zero."""
    return zero + (image - zero) / 2**i


def _nearest(image: Tensor, size: int) -> Tensor:
    """Nearest-neighbour resize of a square image as TensorFlow 1 has it: floor(i * side / size)."""
    side = image.shape[-1]
    index = [i * side // size for i in range(size)]
    return image[:, :, index][:, :, :, index]


def _diverse(
    image: Tensor, drawn: tuple[bool, int, int, int], zero: float, resize_back: bool
) -> Tensor:
    """Diverse input: see `difgsm`."""
    apply, size, top, left = drawn
    if not apply:
        return image
    side = image.shape[-1]
    canvas = side * 330 // 299
    if image.shape[-2] != side:
        raise ValueError("diverse inputs are for square images")
    if not (side <= size <= canvas and 0 <= top <= canvas - size and 0 <= left <= canvas - size):
        raise ValueError(f"{drawn} does not fit into a canvas of {canvas} for a side of {side}")
    resized = _nearest(image, size)
    rows = []
    for row in range(canvas):
        blank = torch.full((*image.shape[:2], 1, canvas), zero, dtype=image.dtype)
        if top <= row < top + size:
            before = blank[:, :, :, :left]
            after = blank[:, :, :, left + size :]
            blank = torch.cat([before, resized[:, :, row - top : row - top + 1], after], dim=3)
        rows.append(blank)
    padded = torch.cat(rows, dim=2)
    return _nearest(padded, side) if resize_back else padded


def kernel(shape: Shape, size: int) -> Tensor:
    """The (size, size) kernel of a translation-invariant attack, summing to 1: see `tifgsm`."""
    if size % 2 == 0:
        raise ValueError("a kernel has a middle pixel: its size is odd")
    k = (size - 1) // 2
    line = []
    for i in range(-k, k + 1):
        if shape == "uniform":
            line.append(1.0)
        elif shape == "linear":
            line.append(1 - abs(i) / (k + 1))
        elif shape == "gaussian":
            place = 3 * i / k if k > 0 else 0.0
            line.append(math.exp(-(place**2) / 2) / math.sqrt(2 * math.pi))
        else:
            raise ValueError(f"no kernel has the shape {shape!r}")
    table = torch.tensor([[a * b for b in line] for a in line], dtype=torch.float64)
    return table / table.sum()


def _smoothed(g: Tensor, weights: Tensor) -> Tensor:
    """Each channel convolved with the weights, zeros beyond the border, same size out."""
    height, width = g.shape[-2:]
    k = (len(weights) - 1) // 2
    padded = torch.zeros((*g.shape[:2], height + 2 * k, width + 2 * k), dtype=g.dtype)
    padded[:, :, k : k + height, k : k + width] = g
    out = torch.zeros_like(g)
    for a in range(len(weights)):
        for c in range(len(weights)):
            out = out + weights[a, c].to(g.dtype) * padded[:, :, a : a + height, c : c + width]
    return out


# ------------------------------------------------------------------------- one gradient per step


def fgsm(model: Model, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """FGSM: Goodfellow, Shlens and Szegedy, ICLR 2015, Sec. 4: x + eps * sign(gradient)."""
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        g = _gradient(model, clean, label)
        rows.append(_clip(clean + eps * torch.sign(g), clean, eps))
    return torch.cat(rows)


def ifgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    *,
    loss: Loss = cross_entropy,
    targeted: bool = False,
) -> Tensor:
    """I-FGSM (BIM): Kurakin, Goodfellow and Bengio, ICLR workshop 2017, Sec. 2.2 and 2.3.

    Authors: alpha 1/255, min(eps + 4, 1.25 eps) steps (eps in levels). The transfer literature
    takes alpha = eps / T with T = 10. `targeted` descends the loss of the target label y.
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv = clean.clone()
        for _t in range(steps):
            g = _gradient(model, adv, label, loss)
            if targeted:
                g = -g
            adv = _clip(adv + alpha * torch.sign(g), clean, eps)
        rows.append(adv)
    return torch.cat(rows)


def mifgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    decay: float = 1.0,
    *,
    loss: Loss = cross_entropy,
    targeted: bool = False,
) -> Tensor:
    """MI-FGSM: Dong et al., CVPR 2018, Algorithm 1: g <- decay * g + grad / |grad|_1.

    Authors: decay 1, T = 10, alpha = eps / T, eps 16/255. Mean of |g| instead of the L1 norm as in
    their program: same signs, since every term is scaled by the same number of pixels.
    `targeted` descends (the sign of the gradient is turned before it is accumulated).
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv, momentum = clean.clone(), torch.zeros_like(clean)
        for _t in range(steps):
            g = _gradient(model, adv, label, loss)
            if targeted:
                g = -g
            momentum = decay * momentum + _mean_normalised(g)
            adv = _clip(adv + alpha * torch.sign(momentum), clean, eps)
        rows.append(adv)
    return torch.cat(rows)


def nifgsm(
    model: Model, x: Tensor, y: Tensor, eps: float, alpha: float, steps: int, decay: float = 1.0
) -> Tensor:
    """NI-FGSM: Lin et al., ICLR 2020, Eqs. 6-8: the gradient at x + alpha * decay * g.

    Authors (JHL-HUST/SI-NI-FGSM): decay 1, T = 10, alpha = eps / T, mean of |g|, look-ahead point
    not clipped. A port that normalises by the L1 norm has no look-ahead to speak of.
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv, momentum = clean.clone(), torch.zeros_like(clean)
        for _t in range(steps):
            g = _gradient(model, adv + alpha * decay * momentum, label)
            momentum = decay * momentum + _mean_normalised(g)
            adv = _clip(adv + alpha * torch.sign(momentum), clean, eps)
        rows.append(adv)
    return torch.cat(rows)


def pgd(
    model: Model, x: Tensor, y: Tensor, eps: float, alpha: float, steps: int, start: Start
) -> Tensor:
    """PGD: Madry et al., ICLR 2018, Sec. 2.1, L-infinity, from a uniform point of the ball.

    `start(b)` is uniform in [-1, 1] per pixel and is scaled by eps here; the start is clipped to
    [0, 1] (so do the authors). Authors on CIFAR-10: eps 8/255, alpha 2/255, 7 or 20 steps.
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv = _clip(clean + eps * start(b)[None], clean, eps)
        for _t in range(steps):
            g = _gradient(model, adv, label)
            adv = _clip(adv + alpha * torch.sign(g), clean, eps)
        rows.append(adv)
    return torch.cat(rows)


def _ball_l2(adv: Tensor, clean: Tensor, eps: float) -> Tensor:
    """Project onto the L2 ball around the clean image, then clip to [0, 1]."""
    offset = adv - clean
    length = math.sqrt(float((offset**2).sum()))
    if length > eps:
        offset = offset * (eps / length)
    return torch.clamp(clean + offset, 0.0, 1.0)


def pgd_l2(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    start: Start | None = None,
) -> Tensor:
    """PGD in L2: Madry et al., ICLR 2018, Sec. 2.1, with the steepest ascent step g / |g|_2.

    `start(b)` is an offset of L2 length <= 1, scaled by eps here. Project, then clip: clipping
    brings every pixel nearer to the clean one, so the result is in the ball and in [0, 1]; ART
    clips first. torchattacks adds 1e-10 to |g|_2, we leave a zero gradient at zero.
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv = clean.clone()
        if start is not None:
            adv = _ball_l2(clean + eps * start(b)[None], clean, eps)
        for _t in range(steps):
            g = _gradient(model, adv, label)
            length = math.sqrt(float((g**2).sum()))
            if length > 0:
                g = g / length
            adv = _ball_l2(adv + alpha * g, clean, eps)
        rows.append(adv)
    return torch.cat(rows)


# ------------------------------------------------------------------------- transformed inputs


def difgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    decay: float,
    draw: Draw,
    *,
    zero: float = 0.5,
    resize_back: bool = False,
) -> Tensor:
    """DI-FGSM: Xie et al., CVPR 2019, Eqs. 4-7 and the authors' program cihangxie/DI-2-FGSM.

    The authors: at 299 px draw a size in [299, 330), resize *up* with nearest neighbours (same
    size for both sides), pad with zeros of [-1, 1], i.e. grey, at an offset in [0, 330 - size)
    (upper ends excluded) to 330 px; with probability 0.5 the network sees this, else the image
    itself at 299 px. Here the canvas is int(side * 330 / 299). The gradient goes through it all.

    Authors' program: no momentum (`decay` 0: DI^2-FGSM), eps 16/255, alpha 1/255, 20 steps
    (min(eps + 4, 1.25 eps)); the paper's M-DI^2-FGSM has decay 1. With decay 0 the normalisation
    cannot be seen. `draw(b, t, 0)` gives (apply, size, top, left).

    Ports differ: Lin's, Wang's, Zou's programs have a canvas of 331 or 330 and resize the result
    (nearest) back to 299 (`resize_back`); Zou et al. always apply it; Dong's TI program has
    probability 0.4; Zhao's Logit program 0.7, black. torchattacks: bilinear, downwards to 0.9.
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv, momentum = clean.clone(), torch.zeros_like(clean)
        for t in range(steps):
            point = adv.detach().clone().requires_grad_(True)
            seen = _diverse(point, draw(b, t, 0), zero, resize_back)
            g = torch.autograd.grad(cross_entropy(model, seen, label), point)[0]
            momentum = decay * momentum + _mean_normalised(g)
            adv = _clip(adv + alpha * torch.sign(momentum), clean, eps)
        rows.append(adv)
    return torch.cat(rows)


def tifgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    *,
    kernel_size: int = 15,
    shape: Shape = "gaussian",
    decay: float = 1.0,
) -> Tensor:
    """TI-FGSM: Dong et al., CVPR 2019, Eq. 8 and Sec. 3.3; program dongyp13/Translation-Invariant.

    The gradient is convolved per channel (zeros beyond the border, 'SAME'), *then* normalised by
    mean |g| and accumulated (the program's order). Kernels with k = (size - 1) / 2:
      uniform  W_ij = 1 / size^2;
      linear   W_ij ~ (1 - |i| / (k + 1)) (1 - |j| / (k + 1));
      gaussian as the program makes it, the normal density at linspace(-3, 3, size), outer product.
    All sum to 1. The program's gaussian therefore has a deviation of k / 3 pixels, whereas the
    paper's text says k / sqrt(3) (quoted from memory); the program's is taken.

    Authors: size 15, gaussian, decay 1 for TI-MI-FGSM and TI-DIM (0 gives TI-FGSM in T steps),
    eps 16/255, T = 10 (program: flag 32, an ensemble, DI with probability 0.4).
    Ports: Lin, Wang and Long use 7, Zhao 5, Zou 9; TransferAttack's linear kernel divides by
    size^2 and is nearly flat; torchattacks' linear kernel is the paper's and its TIFGSM holds DI.
    """
    weights = kernel(shape, kernel_size)
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv, momentum = clean.clone(), torch.zeros_like(clean)
        for _t in range(steps):
            g = _smoothed(_gradient(model, adv, label), weights)
            momentum = decay * momentum + _mean_normalised(g)
            adv = _clip(adv + alpha * torch.sign(momentum), clean, eps)
        rows.append(adv)
    return torch.cat(rows)


def _scale_gradient(model: Model, point: Tensor, label: Tensor, m: int, zero: float) -> Tensor:
    """Mean over i < m of the gradient, with respect to the point, of J(S_i(point))."""
    total = torch.zeros_like(point)
    for i in range(m):
        leaf = point.detach().clone().requires_grad_(True)
        value = cross_entropy(model, _scaled(leaf, i, zero), label)
        total = total + torch.autograd.grad(value, leaf)[0]
    return total / m


def sinifgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    decay: float = 1.0,
    m: int = 5,
    *,
    zero: float = 0.5,
) -> Tensor:
    """SI-NI-FGSM: Lin et al., ICLR 2020, Algorithm 1; program JHL-HUST/SI-NI-FGSM.

    g = mean over i = 0..m-1 of grad J((x + alpha * decay * g) / 2^i). The gradient goes *through*
    the scaling, so copy i counts with a factor 1 / 2^i (program: tf.gradients(., x)). The program
    sums instead of averaging, which the normalisation hides.
    Authors: m 5, decay 1, T 10, alpha eps / T; their x is in [-1, 1]: `zero` is grey. torchattacks
    and TransferAttack scale to black.
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv, momentum = clean.clone(), torch.zeros_like(clean)
        for _t in range(steps):
            g = _scale_gradient(model, adv + alpha * decay * momentum, label, m, zero)
            momentum = decay * momentum + _mean_normalised(g)
            adv = _clip(adv + alpha * torch.sign(momentum), clean, eps)
        rows.append(adv)
    return torch.cat(rows)


def sifgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    decay: float = 1.0,
    m: int = 5,
    *,
    zero: float = 0.5,
) -> Tensor:
    """SI-(MI-)FGSM: `sinifgsm` without the look-ahead (the authors' si_mi_fgsm.py has decay 1)."""
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv, momentum = clean.clone(), torch.zeros_like(clean)
        for _t in range(steps):
            g = _scale_gradient(model, adv, label, m, zero)
            momentum = decay * momentum + _mean_normalised(g)
            adv = _clip(adv + alpha * torch.sign(momentum), clean, eps)
        rows.append(adv)
    return torch.cat(rows)


def si_ni_di_ti(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    draw: Draw,
    *,
    decay: float = 1.0,
    m: int = 5,
    kernel_size: int = 15,
    shape: Shape = "gaussian",
    zero: float = 0.5,
    resize_back: bool = False,
    look_ahead: bool = True,
) -> Tensor:
    """SI-NI-TI-DIM: Lin et al., ICLR 2020, Sec. 4; stages as in JHL-HUST/VT ni_di_ti_si_fgsm.py.

    Look ahead, scale copy i towards `zero`, make it diverse with a draw of its own (`draw(b, t,
    i)`), average the gradients with respect to the look-ahead point (through scaling, resizing
    and padding), smooth, normalise, accumulate, step.
    That program has a 7 px kernel, a canvas of 331 and resizes back to 299; here 15 px (Dong's),
    Xie's canvas (330 / 299 always) and no resizing back unless `resize_back`.
    `look_ahead=False` is the MI variant.
    """
    weights = kernel(shape, kernel_size)
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv, momentum = clean.clone(), torch.zeros_like(clean)
        for t in range(steps):
            ahead = adv + alpha * decay * momentum if look_ahead else adv
            g = torch.zeros_like(clean)
            for i in range(m):
                leaf = ahead.detach().clone().requires_grad_(True)
                seen = _diverse(_scaled(leaf, i, zero), draw(b, t, i), zero, resize_back)
                g = g + torch.autograd.grad(cross_entropy(model, seen, label), leaf)[0] / m
            momentum = decay * momentum + _mean_normalised(_smoothed(g, weights))
            adv = _clip(adv + alpha * torch.sign(momentum), clean, eps)
        rows.append(adv)
    return torch.cat(rows)


# ---------------------------------------------------------------------- neighbours and variance


def vmifgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    decay: float,
    n: int,
    beta: float,
    noise: Noise,
) -> Tensor:
    """VMI-FGSM: Wang and He, CVPR 2021, Algorithm 1 and Eq. 6; program JHL-HUST/VT.

    With g' = grad J(x_t): momentum <- decay * momentum + (g' + v) / mean|g' + v|, and then
    v <- mean_i grad J(x_t + r_i) - g', r_i uniform in [-beta eps, beta eps] per pixel, around the
    x_t before the step; v starts at 0. `noise(b, t, i)` is uniform in [-1, 1]; scaled here.
    Authors: n 20, beta 1.5, decay 1, T 10, alpha eps / T. torchattacks has n 5.
    The last step's v is never used; the neighbours are drawn all the same (as in the program).
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv, momentum = clean.clone(), torch.zeros_like(clean)
        variance = torch.zeros_like(clean)
        for t in range(steps):
            g = _gradient(model, adv, label)
            momentum = decay * momentum + _mean_normalised(g + variance)
            around = torch.zeros_like(clean)
            for i in range(n):
                around = around + _gradient(model, adv + beta * eps * noise(b, t, i)[None], label)
            variance = around / n - g
            adv = _clip(adv + alpha * torch.sign(momentum), clean, eps)
        rows.append(adv)
    return torch.cat(rows)


def vnifgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    decay: float,
    n: int,
    beta: float,
    noise: Noise,
) -> Tensor:
    """VNI-FGSM: Wang and He, CVPR 2021; program JHL-HUST/VT vni_fgsm.py.

    As `vmifgsm` with g' taken at the look-ahead x_t + alpha * decay * momentum. The neighbours lie
    around x_t, *not* around the look-ahead point, and what is subtracted is the g' of the
    look-ahead point (program: both so; torchattacks too).
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv, momentum = clean.clone(), torch.zeros_like(clean)
        variance = torch.zeros_like(clean)
        for t in range(steps):
            g = _gradient(model, adv + alpha * decay * momentum, label)
            momentum = decay * momentum + _mean_normalised(g + variance)
            around = torch.zeros_like(clean)
            for i in range(n):
                around = around + _gradient(model, adv + beta * eps * noise(b, t, i)[None], label)
            variance = around / n - g
            adv = _clip(adv + alpha * torch.sign(momentum), clean, eps)
        rows.append(adv)
    return torch.cat(rows)


def emifgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    decay: float = 1.0,
    n: int = 11,
    eta: float = 7.0,
) -> Tensor:
    """EMI-FGSM: Wang et al., BMVC 2021 (arXiv 2103.10609); program JHL-HUST/EMI emi_fgsm.py.

    In step t the gradients at x_t + c_i * alpha * u are averaged, c_i = linspace(-eta, eta, n),
    u = the *previous step's averaged gradient over its mean |.|* (not the momentum; 0 at t = 0,
    where all n points are x_0). Then u <- average / mean|average|, momentum <- decay * momentum
    + u, step. So eta = 7 multiplies alpha times a direction of mean size 1, and 7 alpha is the
    mean reach per pixel (both the program and TransferAttack).
    Authors: n 11, eta 7, decay 1, T 10, alpha eps / T. The program sums where the paper averages:
    the same after normalising. n = 1 means c = -eta, as linspace has it.
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv, momentum = clean.clone(), torch.zeros_like(clean)
        direction = torch.zeros_like(clean)
        for _t in range(steps):
            average = torch.zeros_like(clean)
            for i in range(n):
                c = -eta + 2 * eta * i / (n - 1) if n > 1 else -eta
                average = average + _gradient(model, adv + c * alpha * direction, label) / n
            direction = _mean_normalised(average)
            momentum = decay * momentum + direction
            adv = _clip(adv + alpha * torch.sign(momentum), clean, eps)
        rows.append(adv)
    return torch.cat(rows)


# -------------------------------------------------------------------------- mixing and frequency


def admix(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    decay: float,
    m1: int,
    m2: int,
    eta: float,
    partner: Noise,
    *,
    zero: float = 0.5,
) -> Tensor:
    """Admix: Wang et al., ICCV 2021 (arXiv 2102.00436), Algorithm 1; program JHL-HUST/Admix.

    Mean over j < m2 and i < m1 of grad_x J((x_t + eta * x'_j) / 2^i): mixed first, scaled after
    ("admix before scale"), the m2 partners of a step shared by all scales, everything relative to
    `zero`: zero + ((x - zero) + eta (x' - zero)) / 2^i. In the program images are in [-1, 1], so
    mixing and scaling are relative to grey and the mix is not clipped. The gradient is with
    respect to x, *through* the scaling (the program takes it at the copy and multiplies by 1 / 2^i
    by hand); the partner is a constant. The sum over j instead of the mean cannot be seen.

    `partner(b, t, j)` is the image itself, (3, H, W) in [0, 1]. Paper: images of other
    categories. Program: the *current adversarial* images of the batch, shuffled anew for every j
    and t, so an image may meet itself; that is the caller's business here.
    Authors: m1 5, m2 3, eta 0.2, decay 1, T 10. TransferAttack mixes in [0, 1] (black).
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv, momentum = clean.clone(), torch.zeros_like(clean)
        for t in range(steps):
            g = torch.zeros_like(clean)
            for j in range(m2):
                other = partner(b, t, j)[None].detach()
                for i in range(m1):
                    leaf = adv.detach().clone().requires_grad_(True)
                    mixed = zero + (leaf - zero) + eta * (other - zero)
                    value = cross_entropy(model, _scaled(mixed, i, zero), label)
                    g = g + torch.autograd.grad(value, leaf)[0] / (m1 * m2)
            momentum = decay * momentum + _mean_normalised(g)
            adv = _clip(adv + alpha * torch.sign(momentum), clean, eps)
        rows.append(adv)
    return torch.cat(rows)


def cosine_matrix(size: int) -> Tensor:
    """Orthonormal DCT-II: C[k, n] = sqrt((1 if k == 0 else 2) / N) cos(pi (2 n + 1) k / (2 N))."""
    table = []
    for k in range(size):
        scale = math.sqrt((1 if k == 0 else 2) / size)
        table.append(
            [scale * math.cos(math.pi * (2 * n + 1) * k / (2 * size)) for n in range(size)]
        )
    return torch.tensor(table, dtype=torch.float64)


def ssa(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    n: int,
    rho: float,
    gauss: Noise,
    mask: Noise,
    decay: float = 0.0,
    *,
    through: bool = False,
) -> Tensor:
    """SSA (S^2I-FGSM): Long et al., ECCV 2022 (arXiv 2207.05382); program yuyang-long/SSA.

    T(x) = IDCT(DCT(x + gauss) * mask) per channel over the whole image; the n gradients are
    averaged. The program takes each gradient *at the transformed copy* (x_idct is a fresh leaf),
    not through T: that is `through=False`. `through=True` differentiates with respect to x, which
    is Eq. 6; the author says (issue 2 of the repository) that it changes success by about 1 % and
    that the short cut is there for speed.
    The program's DCT is not normalised, ours is orthonormal: the two differ by a factor per
    frequency that commutes with the mask, so T is the same map.
    Images are in [0, 1] in the program: no grey here; neither x + gauss nor T(x) is clipped.

    `gauss(b, t, i)` is the noise as it is added (authors N(0, (16/255)^2) per pixel, sigma a
    setting of its own; TransferAttack uses eps), `mask(b, t, i)` the factors themselves, uniform
    in [1 - rho, 1 + rho], per channel. Authors: n 20, rho 0.5, T 10, alpha eps / T; no momentum
    in the program as it stands (the MI lines are commented out: decay 1 when on).
    `decay` 0: plain sign of the average, nothing normalised.
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        rows_dct = cosine_matrix(clean.shape[-2]).to(clean.dtype)
        columns_dct = cosine_matrix(clean.shape[-1]).to(clean.dtype)
        adv, momentum = clean.clone(), torch.zeros_like(clean)
        for t in range(steps):
            g = torch.zeros_like(clean)
            for i in range(n):
                factors = mask(b, t, i)[None]
                if float((factors - 1).abs().max()) > rho + 1e-9:
                    raise ValueError("the mask leaves [1 - rho, 1 + rho]")
                leaf = adv.detach().clone().requires_grad_(True)
                spectrum = rows_dct @ (leaf + gauss(b, t, i)[None]) @ columns_dct.T
                copy = rows_dct.T @ (spectrum * factors) @ columns_dct
                if through:
                    one = torch.autograd.grad(cross_entropy(model, copy, label), leaf)[0]
                else:
                    one = _gradient(model, copy, label)
                g = g + one / n
            momentum = g if decay == 0 else decay * momentum + _mean_normalised(g)
            adv = _clip(adv + alpha * torch.sign(momentum), clean, eps)
        rows.append(adv)
    return torch.cat(rows)


# ------------------------------------------------------------------------------ adaptive steps


def ai_fgtm(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    *,
    mu1: float = 1.5,
    mu2: float = 1.9,
    beta1: float = 0.9,
    beta2: float = 0.99,
    lam: float = 1.3,
    kernel_size: int = 9,
    delta: float = 1e-7,
) -> Tensor:
    """AI-FGTM: Zou et al., AAAI 2022 (arXiv 2007.03838); program 278287847/AI-FGTM.

    g = W * grad J (smoothed *first*; never normalised), m <- m + mu1 g, v <- v + mu2 g^2 (the old
    moments are not decayed), x <- clip(x + a_t tanh(lam m / (sqrt(v) + delta))), with
    a_t proportional to (1 - beta1^(t+1)) / sqrt(1 - beta2^(t+1)) and adding up to eps over the T
    steps (the program's 17.6786 is that sum for T = 10).

    Here the sum is alpha * steps, which is eps with the usual alpha = eps / T.
    Authors: mu 1.5 and 1.9, beta 0.9 and 0.99, lam 1.3, kernel 9 (gaussian, linspace(-3, 3, 9);
    Dong's is 15), delta 1e-7, eps 16/255, T 10, DI always applied and resized back to 299.
    delta meets the raw gradient, so it is the one thing that knows the loss's scale: theirs is of
    a loss averaged over 10 images with respect to [-1, 1], 20 times smaller than ours.
    TransferAttack: no kernel, delta 1e-20. `kernel_size=1` means none.
    """
    weights = kernel("gaussian", kernel_size)
    shares = [(1 - beta1 ** (t + 1)) / math.sqrt(1 - beta2 ** (t + 1)) for t in range(steps)]
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv = clean.clone()
        m, v = torch.zeros_like(clean), torch.zeros_like(clean)
        for t in range(steps):
            g = _smoothed(_gradient(model, adv, label), weights)
            m = m + mu1 * g
            v = v + mu2 * g**2
            step = alpha * steps * shares[t] / sum(shares)
            adv = _clip(
                adv + step * torch.tanh(lam * _divide(m, torch.sqrt(v) + delta)), clean, eps
            )
        rows.append(adv)
    return torch.cat(rows)


def _unit(g: Tensor, of: Of) -> Tensor:
    """Return g / mean|g| or sign(g), which the adaptive relatives accumulate."""
    if of == "sign":
        return torch.sign(g)
    if of == "gradient":
        return _mean_normalised(g)
    raise ValueError(f"of is 'gradient' or 'sign', not {of!r}")


def adagrad(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    *,
    of: Of = "gradient",
    delta: float = 1e-7,
) -> Tensor:
    """AdaGrad steps: Duchi, Hazan and Singer, JMLR 2011, the diagonal form, as an attack.

    u = g / mean|g| (or sign(g)); G <- G + u^2; x <- clip(x + alpha u / sqrt(G + delta)).
    Decided: the units of u, and delta inside the root (as Algorithm 1 of AGR has it).
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv, total = clean.clone(), torch.zeros_like(clean)
        for _t in range(steps):
            u = _unit(_gradient(model, adv, label), of)
            total = total + u**2
            adv = _clip(adv + alpha * _divide(u, torch.sqrt(total + delta)), clean, eps)
        rows.append(adv)
    return torch.cat(rows)


def rmsprop(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    rho: float = 0.9,
    *,
    of: Of = "gradient",
    delta: float = 1e-7,
) -> Tensor:
    """RMSProp steps: Tieleman and Hinton, Coursera lecture 6.5, 2012, as an attack.

    G <- rho G + (1 - rho) u^2 from G = 0, no bias correction (so the first step is
    alpha / sqrt(1 - rho) where u is not zero); x <- clip(x + alpha u / sqrt(G + delta)).
    Lecture: rho 0.9. u and delta as in `adagrad`.
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv, total = clean.clone(), torch.zeros_like(clean)
        for _t in range(steps):
            u = _unit(_gradient(model, adv, label), of)
            total = rho * total + (1 - rho) * u**2
            adv = _clip(adv + alpha * _divide(u, torch.sqrt(total + delta)), clean, eps)
        rows.append(adv)
    return torch.cat(rows)


def adam(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    beta1: float = 0.9,
    beta2: float = 0.999,
    *,
    of: Of = "gradient",
    delta: float = 1e-8,
) -> Tensor:
    """Adam steps: Kingma and Ba, ICLR 2015, Algorithm 1, ascending, as an attack.

    m <- beta1 m + (1 - beta1) u, v <- beta2 v + (1 - beta2) u^2, both divided by 1 - beta^(t+1);
    x <- clip(x + alpha m_hat / (sqrt(v_hat) + delta)): delta *outside* the root. Paper: beta 0.9
    and 0.999, delta 1e-8. u as in `adagrad`.
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv = clean.clone()
        m, v = torch.zeros_like(clean), torch.zeros_like(clean)
        for t in range(steps):
            u = _unit(_gradient(model, adv, label), of)
            m = beta1 * m + (1 - beta1) * u
            v = beta2 * v + (1 - beta2) * u**2
            m_hat = m / (1 - beta1 ** (t + 1))
            v_hat = v / (1 - beta2 ** (t + 1))
            adv = _clip(adv + alpha * _divide(m_hat, torch.sqrt(v_hat) + delta), clean, eps)
        rows.append(adv)
    return torch.cat(rows)


# ------------------------------------------------------------------------------------------ AGR


def _fooled(model: Model, adv: Tensor, label: Tensor) -> bool:
    """Return whether the image's largest logit is not that of the label."""
    with torch.no_grad():
        return int(model(adv)[0].argmax()) != int(label[0])


def agr(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    phi: float = 1.0,
    delta: float = 1e-7,
    *,
    stop: bool = True,
) -> Tensor:
    """AGR, the accumulated reading: Xiao et al., Algorithm 1 with Eqs. 8 and 9 taken literally.

    s = sign(gradient at x + v); G <- G + s^2 (Eqs. 8 and 10); v <- v + alpha s / (phi sqrt(G +
    delta)) (Eqs. 9 and 11, added instead of overwritten), then the ball and [0, 1].
    With `stop` an image ends as soon as it is fooled (`while f(x + v) = f(x)`): argmax != y, tested
    before each step, so the clean image is tested too and the last iterate is not. The paper tests
    against f(x): pass the prediction as y for that. `alpha` is the base step: eps / T, or eps /
    sum_i i^(-1/2) for steps that add up to eps. Paper: phi 1, delta "10e-8" (1e-7).
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        v, total = torch.zeros_like(clean), torch.zeros_like(clean)
        for _t in range(steps):
            if stop and _fooled(model, clean + v, label):
                break
            s = torch.sign(_gradient(model, clean + v, label))
            total = total + s**2
            v = v + alpha * _divide(s, phi * torch.sqrt(total + delta))
            v = _clip(clean + v, clean, eps) - clean
        rows.append(_clip(clean + v, clean, eps))
    return torch.cat(rows)


def agr_literal(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    steps: int,
    phi: float = 1.0,
    delta: float = 1e-7,
    *,
    stop: bool = True,
) -> Tensor:
    """AGR, Algorithm 1 as printed: v is overwritten by eps s / (phi sqrt(s^2 + delta)) (Eq. 11).

    s = sign(gradient at x + v). No history and no step size: each step is one full sign step from
    the clean image, in the direction found at the last iterate. Clipped afterwards (the paper only
    states the norm as an output condition). `stop` as in `agr`.
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        v = torch.zeros_like(clean)
        for _t in range(steps):
            if stop and _fooled(model, clean + v, label):
                break
            s = torch.sign(_gradient(model, clean + v, label))
            v = eps * _divide(s, phi * torch.sqrt(s**2 + delta))
            v = _clip(clean + v, clean, eps) - clean
        rows.append(_clip(clean + v, clean, eps))
    return torch.cat(rows)
