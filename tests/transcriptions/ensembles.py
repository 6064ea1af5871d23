"""SVRE, AdaEA, MI-CWA and SMER, written down from the authors' programs, one image at a time.

Conventions as in `tests.transcriptions.classic`. `models` is the list of the K members, in the
caller's order. An attack climbs +loss, or -loss towards the label when `targeted`; the loss is the
cross-entropy (Inception's auxiliary logits, which some authors add, are left out). The papers'
texts could not be had; "program" is the authors' code, "port" is TransferAttack's, "ours" a choice.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Model = Callable[[Tensor], Tensor]
Noise = Callable[[int, int, int], Tensor]
"""(b, t, i) -> (3, H, W)."""
Pick = Callable[[int, int, int], int]
"""(b, t, i) -> index of a member, 0 to K - 1."""
Order = Callable[[int, int, int], list[int]]
"""(b, t, i) -> a permutation of 0 to K - 1."""


def cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    """log(sum_j exp z_j) - z_y of one image; z is (1, classes) and y is (1,)."""
    return torch.logsumexp(z[0], 0) - z[0, y[0]]


def _slope(model: Model, point: Tensor, label: Tensor, targeted: bool) -> Tensor:
    """Gradient of the objective at the point: of +loss, or of -loss when targeted."""
    leaf = point.detach().clone().requires_grad_(True)
    value = cross_entropy(model(leaf), label)
    return torch.autograd.grad(-value if targeted else value, leaf)[0]


def _loss(model: Model, point: Tensor, label: Tensor) -> float:
    """The cross-entropy at the point, a number."""
    with torch.no_grad():
        return float(cross_entropy(model(point), label))


def _fused(models: list[Model], weights: list[float]) -> Model:
    """The network whose logits are sum_k weights[k] z_k."""

    def logits(x: Tensor) -> Tensor:
        total = weights[0] * models[0](x)
        for k in range(1, len(models)):
            total = total + weights[k] * models[k](x)
        return total

    return logits


def _clip(adv: Tensor, clean: Tensor, eps: float) -> Tensor:
    """Project onto the L-infinity ball of radius eps around the clean image, and onto [0, 1]."""
    lowest = torch.clamp(clean - eps, min=0.0)
    highest = torch.clamp(clean + eps, max=1.0)
    return torch.minimum(torch.maximum(adv, lowest), highest)


def _mean_normalised(g: Tensor) -> Tensor:
    """g / mean|g|, and zero where g is zero everywhere."""
    mean = float(g.abs().mean())
    return g / mean if mean > 0 else torch.zeros_like(g)


def _l2_normalised(g: Tensor) -> Tensor:
    """g / ||g||_2 over the whole image, and zero where g is zero everywhere."""
    size = float((g * g).sum()) ** 0.5
    return g / size if size > 0 else torch.zeros_like(g)


def svre(
    models: list[Model], x: Tensor, y: Tensor, eps: float, alpha: float, steps: int, draw: Pick, *,
    inner: int = 16, beta: float | None = None, decay: float = 1.0, inner_decay: float = 1.0,
    targeted: bool = False,
) -> Tensor:  # fmt: skip
    """SVRE-MI-FGSM, variance-reduced ensemble: Xiong et al., CVPR 2022 (arXiv 2111.10752).

    Program: JHL-HUST/SVRE, SVRE-MI-FGSM.py.

    In step t, with h the gradient of the loss of the mean logits at x_t, v_0 = x_t, G_0 = 0 and
    `inner` rounds i with k = draw(b, t, i):
        g   = grad_k(v_i) - (grad_k(x_t) - h)
        G  <- inner_decay G + g / mean|g|,   v_{i+1} = clip(v_i + beta sign G)
    then m <- decay m + G / mean|G| with the last G, and x_{t+1} = clip(x_t + alpha sign m).

    `draw(b, t, i)`: one member, uniform, with replacement.
    Authors: eps 16/255, T 10, alpha eps / T, beta = alpha, inner 16 (K 4), both decays 1.

    Decisions
    * What goes outward is the last inner momentum G, neither the last g nor v - x_t (program).
    * G and v start anew in every step; m does not. One decay for both in the program; two here.
    * h is the gradient of the loss of the *mean logits*, grad_k that of the loss of member k: the
      mean of grad_k is not h, so the estimate is biased (program).
    * Round 0 uses h whatever is drawn: v_0 = x_t. The member is drawn per image (program: batch).
    * v is clipped to the same ball, around the clean image.
    * inner: 16 with MI, DI, TI; 32 in the program's SI and Admix. A number, not 4 K, by default.
    * The program's SVRE-I-FGSM is decay 0 with inner_decay 1: its inner loop still adds up.
    * targeted (ours): all gradients of -L(y).
    """
    size = alpha if beta is None else beta
    mean = _fused(models, [1 / len(models)] * len(models))
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv, momentum = clean.clone(), torch.zeros_like(clean)
        for t in range(steps):
            whole = _slope(mean, adv, label, targeted)
            walker, gathered = adv.clone(), torch.zeros_like(clean)
            for i in range(inner):
                member = models[draw(b, t, i)]
                here = _slope(member, walker, label, targeted)
                there = _slope(member, adv, label, targeted)
                gathered = inner_decay * gathered + _mean_normalised(here - (there - whole))
                walker = _clip(walker + size * torch.sign(gathered), clean, eps)
            momentum = decay * momentum + _mean_normalised(gathered)
            adv = _clip(adv + alpha * torch.sign(momentum), clean, eps)
        rows.append(adv)
    return torch.cat(rows)


def _pixel_cosine(a: Tensor, c: Tensor) -> Tensor:
    """(1, 1, H, W): cosine of the three channels per pixel, zero where one of them is all zero."""
    dot = (a * c).sum(1, keepdim=True)
    size = ((a * a).sum(1, keepdim=True) * (c * c).sum(1, keepdim=True)).sqrt()
    return torch.where(size > 0, dot / torch.where(size > 0, size, 1.0), 0.0)


def adaea(
    models: list[Model], x: Tensor, y: Tensor, eps: float, alpha: float, steps: int, draw: Noise, *,
    beta: float = 10.0, threshold: float = -0.3, start: float = 0.001, decay: float = 0.9,
    rows_of: Literal["program", "all"] = "program", targeted: bool = False,
) -> Tensor:  # fmt: skip
    """AdaEA-MI-FGSM, adaptive ensemble: Chen et al., ICCV 2023 (arXiv 2308.02897).

    Program: CHENBIN99/AdaEA, attack/AdaEA_Base.py (agm, drf) and AdaEA_MIFGSM.py.

    Start at x + start * n. In step t, with g_k the gradient of member k's own loss at x_t:
        a_k = clip(x_t + alpha sign g_k),     w = softmax_k( beta sum_{i != k} L_i(a_k) / L_i(a_i) )
        c   = per pixel, mean over members i of mean over j != i of cos(g_i, g_j) across channels
        G   = gradient of L(sum_k w_k z_k) at x_t, w constant; zero where c < threshold
        m  <- decay m + G / mean|G|,   x_{t+1} = clip(x_t + alpha sign m)

    `draw(b, 0, 0)`: (3, H, W), normal N(0, 1); scaled by `start` here. Called once per image.
    Authors: attack.py has eps 8/255, alpha 2/255, T 10; the unused utils/args.py eps 16/255, alpha
    1.6/255 (TransferAttack's choice); classes have T 20. beta 10, threshold -0.3, decay 0.9.

    Decisions
    * rows_of "program": the row i = K - 1 of c is never filled (its `if i < j` stands after the
      loop over j) but still counted in the mean, so c is too near 0: pairs with the last member
      count once, other pairs twice, over K (K - 1). c depends on the members' order; with K = 2 it
      is half the cosine. "all": every row, c the mean cosine of all pairs, as documented there.
    * A pixel is kept at c >= threshold. The mask is the same for the three channels and cuts G
      before it is normalised; m goes on moving pixels that are masked now.
    * w multiplies logits, not losses or gradients; beta stands inside the softmax.
    * The ratio's denominator is at least 1e-12 (ours; program: inf or NaN when it is 0). Members
      sure of the label make ratios of tiny losses: in float32 they are rough.
    * Losses and w are per image (program: batch means, one w for the batch).
    * The start isn't clipped; every later point is. start = 0 gives the clean image.
    * K = 1: w = 1, no mask (ours; program: K >= 2).
    * targeted (ours; the program has none): gradients of -L(y), and the ratio turned over,
      L_i(a_i) / L_i(a_k), so that again a member that helps the others weighs more.
    """
    tiny, count = 1e-12, len(models)
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv, momentum = clean + start * draw(b, 0, 0)[None], torch.zeros_like(clean)
        for _ in range(steps):
            slopes = [_slope(f, adv, label, targeted) for f in models]
            tries = [_clip(adv + alpha * torch.sign(g), clean, eps) for g in slopes]
            scores = []
            for k in range(count):
                score = 0.0
                for i in range(count):
                    if i != k:
                        other = _loss(models[i], tries[k], label)
                        own = _loss(models[i], tries[i], label)
                        over, under = (own, other) if targeted else (other, own)
                        score += beta * over / max(under, tiny)
                scores.append(score)
            weights = torch.softmax(torch.tensor(scores, dtype=torch.float64), 0).tolist()
            agree = torch.zeros_like(clean[:, :1])
            for i in range(count if rows_of == "all" else count - 1):
                for j in range(count):
                    if i != j:
                        agree = agree + _pixel_cosine(slopes[i], slopes[j]) / (count * (count - 1))
            grad = _slope(_fused(models, weights), adv, label, targeted)
            if count > 1:
                grad = torch.where(agree >= threshold, grad, 0.0)
            momentum = decay * momentum + _mean_normalised(grad)
            adv = _clip(adv + alpha * torch.sign(momentum), clean, eps)
        rows.append(adv)
    return torch.cat(rows)


def mi_cwa(
    models: list[Model], x: Tensor, y: Tensor, eps: float, alpha: float, steps: int, *,
    reverse: float = 16 / 255 / 15, inner_step: float = 250.0, decay: float = 1.0,
    inner_decay: float = 1.0, fuse: Literal["sum", "mean"] = "sum", targeted: bool = False,
) -> Tensor:  # fmt: skip
    """MI-CWA, common weakness: Chen et al., ICLR 2024 (arXiv 2303.09105).

    Program: huanranchen/AdversarialAttacks, AdversarialInput/CommonWeakness.py, MI_CommonWeakness.

    In step t, with h the gradient of the loss of the summed logits at x_t:
        v_0 = clip(x_t - reverse sign h)                                 (down the loss: SAM's part)
        for k = 0 .. K - 1 in order:   n <- inner_decay n + grad_k(v_k) / ||grad_k(v_k)||_2
                                       v_{k+1} = clip(v_k + inner_step n)
        m <- decay m + d / mean|d|,  d = v_K - x_t,      x_{t+1} = clip(x_t + alpha sign m)

    No draws. Authors: eps 16/255, T 10, alpha 16/255/5, reverse 16/255/15, inner_step 250, both
    decays 1. alpha is written into end_attack; its `step_size` argument does nothing.

    Decisions
    * h is of the *summed* logits (program, no 1/K): a sharper softmax than that of "mean" (port).
    * n lives on through all steps (program); it is never reset. Members go in the caller's order.
    * n is added as it is, no sign. 250 suits about 224 x 224: a unit-norm gradient has entries
      of 1 / sqrt(3 H W), so v mostly lands on the faces of the ball. Not rescaled here.
    * d is measured from x_t, before the reverse step, and so includes it.
    * d is normalised per image (program and port: L1 norm of the whole batch). d = 0: adds 0.
    * A zero grad_k adds 0 to n (program: NaN).
    * reverse is a length in [0, 1], not a share of eps. All v are clipped around the clean image.
    * targeted: gradients of -L(y) throughout; that is what the program does.
    """
    share = 1.0 if fuse == "sum" else 1 / len(models)
    whole = _fused(models, [share] * len(models))
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv, outer, gathered = clean.clone(), torch.zeros_like(clean), torch.zeros_like(clean)
        for _ in range(steps):
            walker = adv - reverse * torch.sign(_slope(whole, adv, label, targeted))
            walker = _clip(walker, clean, eps)
            for member in models:
                slope = _slope(member, walker, label, targeted)
                gathered = inner_decay * gathered + _l2_normalised(slope)
                walker = _clip(walker + inner_step * gathered, clean, eps)
            outer = decay * outer + _mean_normalised(walker - adv)
            adv = _clip(adv + alpha * torch.sign(outer), clean, eps)
        rows.append(adv)
    return torch.cat(rows)


def smer(
    models: list[Model], x: Tensor, y: Tensor, eps: float, alpha: float, steps: int, draw: Order, *,
    rounds: int = 4, beta: float | None = None, rate: float = 0.02, shrink: float = 0.002,
    decay: float = 1.0, inner_decay: float = 1.0, targeted: bool = False,
) -> Tensor:  # fmt: skip
    """SMER-MI-FGSM, members one by one, reweighed: Tang et al., CVPR 2024 (no arXiv number found).

    Program: tangbwb/SMER, attack_method.py, MI_FGSM_SMER.

    Weights w = (1, .., 1) at the start of the attack. In step t, with v = x_t, G = 0, for r = 0 ..
    rounds - 1 and for each k in draw(b, t, r):
        g   = gradient of L(w_k z_k) at v
        w  <- w - rate (-(dL/dw) / L + shrink w),   L the loss of (1/K) sum_j w_j z_j at v
        G  <- inner_decay G + g / mean|g|,   v <- clip(v + beta sign G)
    then m <- decay m + G / mean|G| with the last G, and x_{t+1} = clip(x_t + alpha sign m).

    `draw(b, t, r)`: one random order of all members per round, without replacement.
    Authors: eps 16/255, T 10, alpha eps / T, beta = alpha, rounds 4 (4 K inner steps), SGD rate
    0.02 with weight decay 0.002, decay 1 (the inner one is written in as 1).

    Decisions
    * g uses the w from before this step's update; both g and L are taken at v before it moves.
    * w is one step of SGD on -log L: it climbs the loss, as the attack does. It shrinks to 0, not
      to 1, isn't clamped nor normalised, may turn negative, and lives on through all steps.
    * w_k acts inside the softmax, as an inverse temperature, on every g: not a factor of g.
    * w is per image, from its own log L (program: log of the batch mean, one w for the batch).
    * L = 0: no pull, only shrinking (program: NaN). g = 0 everywhere adds 0.
    * G and v start anew in every step. The order is drawn per image (program: for the batch).
    * targeted (ours; the program has none): g of -L(y), and w descends log L.
    """
    size, count = alpha if beta is None else beta, len(models)
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv, momentum = clean.clone(), torch.zeros_like(clean)
        weights = torch.ones(count, dtype=x.dtype)
        for t in range(steps):
            walker, gathered = adv.clone(), torch.zeros_like(clean)
            for k in [k for r in range(rounds) for k in draw(b, t, r)]:
                slope = _slope(_fused([models[k]], [float(weights[k])]), walker, label, targeted)
                leaf = weights.clone().requires_grad_(True)
                with torch.no_grad():
                    logits = [f(walker) for f in models]
                group = torch.stack([leaf[j] * logits[j] for j in range(count)]).sum(0) / count
                value = cross_entropy(group, label)
                pull = torch.zeros_like(weights)
                if float(value.detach()) > 0:
                    pull = torch.autograd.grad(value, leaf)[0] / float(value.detach())
                weights = weights - rate * ((pull if targeted else -pull) + shrink * weights)
                gathered = inner_decay * gathered + _mean_normalised(slope)
                walker = _clip(walker + size * torch.sign(gathered), clean, eps)
            momentum = decay * momentum + _mean_normalised(gathered)
            adv = _clip(adv + alpha * torch.sign(momentum), clean, eps)
        rows.append(adv)
    return torch.cat(rows)
