"""FIA, NAA, BFA, ILA, RPA and TAP, written down from the programs, one image at a time.

Conventions as in `tests.transcriptions.classic`. The network is cut at a layer: `features` maps
images to the layer's activations f, `head` maps these to logits z. None of the papers' texts could
be had, so no equation numbers; "program" is the authors' code, "recalled" marks unchecked memory.
Weights are made once, from the clean image: their draws have t = 0. Every step clips to [0, 1].
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Layer = Callable[[Tensor], Tensor]
Noise = Callable[[int, int, int], Tensor]
"""(b, t, i) -> a tensor; its shape and law are said where it is used."""


def _slope(objective: Layer, point: Tensor) -> Tensor:
    """Gradient of a scalar function at the point."""
    leaf = point.detach().clone().requires_grad_(True)
    return torch.autograd.grad(objective(leaf), leaf)[0]


def _unit(g: Tensor) -> Tensor:
    """g / ||g||_2, and zero where g is zero everywhere."""
    size = float((g * g).sum()) ** 0.5
    return g / size if size > 0 else torch.zeros_like(g)


def _logit(head: Layer, label: Tensor, soft: bool = False) -> Layer:
    """Activations -> the label's logit, or its probability."""
    return lambda f: (torch.softmax(head(f)[0], 0) if soft else head(f)[0])[label[0]]


def _entropy(features: Layer, head: Layer, label: Tensor, targeted: bool) -> Layer:
    """Image -> cross-entropy with the label, or minus it when targeted."""
    sign = 1.0 if targeted else -1.0
    return lambda image: sign * torch.log_softmax(head(features(image))[0], 0)[label[0]]


def _weighted(features: Layer, w: Tensor, targeted: bool) -> Layer:
    """Image -> -sum(w * f), or plus it when targeted."""
    return _attributed(features, w, torch.zeros_like(w), 1.0, targeted)


def _attributed(features: Layer, w: Tensor, base: Tensor, gamma: float, targeted: bool) -> Layer:
    """Image -> -(sum of positive A + gamma sum of negative A), A = w * (f - base), or plus it."""
    sign = 1.0 if targeted else -1.0

    def objective(image: Tensor) -> Tensor:
        a = w * (features(image) - base)
        return sign * torch.where(a >= 0, a, gamma * a).sum()

    return objective


def _climb(
    objective: Layer, clean: Tensor, start: Tensor, eps: float, alpha: float, steps: int, mu: float
) -> Tensor:
    """Sign steps up the objective, with momentum m <- mu m + g / mean|g|."""
    lowest, highest = torch.clamp(clean - eps, min=0.0), torch.clamp(clean + eps, max=1.0)
    adv, momentum = start.clone(), torch.zeros_like(clean)
    for _ in range(steps):
        g = _slope(objective, adv)
        mean = float(g.abs().mean())
        momentum = mu * momentum + (g / mean if mean > 0 else torch.zeros_like(g))
        moved = adv + alpha * torch.sign(momentum)
        adv = torch.minimum(torch.maximum(moved, lowest), highest)
    return adv


def fia(
    features: Layer, head: Layer, x: Tensor, y: Tensor, eps: float, alpha: float, steps: int,
    draw: Noise, *, n: int = 30, keep: float = 0.7, decay: float = 1.0, targeted: bool = False,
) -> Tensor:  # fmt: skip
    """FIA, feature importance: Wang et al., ICCV 2021 (arXiv 2107.14185).

    Program: hcguoO0/FIA, attack.py.
    w = sum over n copies x * mask of the gradient of z_y to the activations, made a unit vector;
    MI-FGSM climbs -sum(w * f(x_t)).
    `draw(b, 0, i)`: (3, H, W), uniform in [0, 1]; the mask is 1 where it is below `keep`.
    Authors: eps 16/255, T 10, alpha eps / T, decay 1, n 30, keep 0.7 (README; the flag's default
    0.9 is, recalled, for defended targets); VGG-16 conv3_3 after its ReLU.

    Decisions
    * Gradient of the logit (program), not of the probability (TransferAttack, torchattack).
    * Masks act per pixel *and* channel, on the [0, 255] image: dropped means black, not grey.
    * w = 0 (program: NaN): the image stays.
    * targeted (decided here; program untargeted): w of the target's logit, climb +sum(w * f).
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        w = torch.zeros_like(features(clean))
        for i in range(n):
            mask = (draw(b, 0, i)[None] < keep).to(x.dtype)
            w = w + _slope(_logit(head, label), features(clean * mask))
        objective = _weighted(features, _unit(w), targeted)
        rows.append(_climb(objective, clean, clean, eps, alpha, steps, decay))
    return torch.cat(rows)


def naa(
    features: Layer, head: Layer, x: Tensor, y: Tensor, eps: float, alpha: float, steps: int,
    draw: Noise, *, n: int = 30, sigma: float = 0.1, gamma: float = 1.0, decay: float = 1.0,
    targeted: bool = False,
) -> Tensor:  # fmt: skip
    """NAA, neuron attribution: Zhang et al., CVPR 2022 (arXiv 2204.00008).

    Program: jpzhang1810/NAA, NAA.py.
    w = sum over i = 0 .. n-1 of the gradient of the *probability* p_y to the activations, at
    (1 - i / n) (x + sigma u), u normal; unit vector. A = w * (f(x_t) - f(black)); MI-FGSM climbs
    -(sum of positive A + gamma * sum of negative A).
    `draw(b, 0, i)`: (3, H, W), N(0, 1).
    Authors: eps 16/255, T 10, alpha eps / T, decay 1, n 30, gamma 1 (then the objective is
    -sum(w * f) and f(black) drops out); Inc-v3 Mixed_5b.

    Decisions
    * The noise is in the program only (recalled: not in the text; sigma 0 is the text): 0.2 in the
      networks' [-1, 1], so 0.1 here, shrunk together with the image, not clipped.
    * Points run from x itself to x / n; black is none of them (ports: from black to (n-1)/n x).
    * The program splits by the sign of -A, so its gamma weighs the other side; at 1 no matter.
    * w = 0 (program: NaN): the image stays. targeted: as in FIA (decided here).
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        base = features(torch.zeros_like(clean)).detach()
        w = torch.zeros_like(base)
        for i in range(n):
            point = (1 - i / n) * (clean + sigma * draw(b, 0, i)[None])
            w = w + _slope(_logit(head, label, soft=True), features(point))
        objective = _attributed(features, _unit(w), base, gamma, targeted)
        rows.append(_climb(objective, clean, clean, eps, alpha, steps, decay))
    return torch.cat(rows)


def bfa(
    features: Layer, head: Layer, x: Tensor, y: Tensor, eps: float, alpha: float, steps: int,
    *, n: int = 30, eta: float = 28.0, decay: float = 1.0, targeted: bool = False,
) -> Tensor:  # fmt: skip
    """BFA, black-box features: Wang et al., Neurocomputing 2024 (no arXiv number found).

    Program: tlemangen/BFA, attacks/bfa.py. No randomness.
    Fitted images: v_0 = x, v_{k+1} = x + eta g_k / ||g_k||_2, g_k the gradient of the cross-entropy
    at v_k. w = sum over v_1 .. v_n of the gradient of z_y to the activations, made a unit vector;
    MI-FGSM climbs -sum(w * f(x_t)).
    Authors: eps 16/255, T 10, alpha eps / T, decay 1, n 30, eta 28; Res-152 layer2.7.

    Decisions
    * Every fitted image starts again at x: eta is its distance, and only g_k comes from v_k. It is
      not clipped. x itself, v_0, gives no weight.
    * g_k is taken in [0, 1] units (ports). The program takes it in normalised units but adds it in
      [0, 1]: the same but for the ratios of the three standard deviations (2 %).
    * g_k = 0: v_{k+1} = x. w = 0: the image stays (program: NaN both).
    * targeted (decided here): all mirrored, g_k goes down the target's cross-entropy, w of the
      target's logit, climb +sum(w * f). torchattack mirrors the last only, TransferAttack nothing.
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        loss = _entropy(features, head, label, targeted)
        w, fitted = torch.zeros_like(features(clean)), clean
        for _ in range(n):
            fitted = clean + eta * _unit(_slope(loss, fitted))
            w = w + _slope(_logit(head, label), features(fitted))
        objective = _weighted(features, _unit(w), targeted)
        rows.append(_climb(objective, clean, clean, eps, alpha, steps, decay))
    return torch.cat(rows)


def ila(
    features: Layer, head: Layer, x: Tensor, y: Tensor, eps: float, alpha: float, steps: int,
    *, guide: Tensor | None = None, guide_steps: int = 10, guide_ratio: float = 0.8,
    from_guide: bool = False, targeted: bool = False,
) -> Tensor:  # fmt: skip
    """ILA with projection (ILAP): Huang et al., ICCV 2019 (arXiv 1907.10823).

    Program: CUAI/Intermediate-Level-Attack, attacks.py, ILA and Proj_Loss. No randomness.
    d = f(guide) - f(x); I-FGSM climbs sum(d * (f(x_t) - f(x))), without momentum.
    `guide` (B, 3, H, W): another attack's result; None is I-FGSM on the cross-entropy with
    `guide_steps` steps of `guide_ratio` * alpha.
    Authors: ImageNet eps 0.03, T 10, step 0.01 (guide 10 steps of 0.008) in *normalised* units, so
    about 0.0023 in [0, 1]; CIFAR-10 0.006 (guide 0.002). Demo layer: ResNet-18 layer3.

    Decisions
    * Start at x (program); recalled, the paper's algorithm starts at the guide: `from_guide`.
    * The program divides by the batch's ||d||^2: no effect on the sign. Its ILAF is off: not here.
    * d = 0 (program: NaN): the image stays. targeted acts on the made guide only.
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        loss = _entropy(features, head, label, targeted)
        made = _climb(loss, clean, clean, eps, guide_ratio * alpha, guide_steps, 0.0)
        lead = made if guide is None else guide[b : b + 1]
        d = (features(lead) - features(clean)).detach()
        start = lead if from_guide else clean
        rows.append(_climb(_weighted(features, d, True), clean, start, eps, alpha, steps, 0.0))
    return torch.cat(rows)


def _patches(pick: Tensor, fill: Tensor, size: int, keep: float) -> Tensor:
    """RPA's mask (3, H, W): 1 where kept, `fill` in the dropped patches of one channel each."""
    if size == 1:
        return torch.where(pick < keep, torch.ones_like(fill), fill)
    mask = torch.ones_like(fill)
    down, across = fill.shape[1] // size, fill.shape[2] // size
    count = down * across * 3
    for k in range(int(count * (1 - keep))):
        place, channel = divmod(int(pick[k]), 3)
        top, left = place // across * size, place % across * size
        spot = (channel, slice(top, top + size), slice(left, left + size))
        mask[spot] = fill[spot]
    return mask


def rpa(
    features: Layer, head: Layer, x: Tensor, y: Tensor, eps: float, alpha: float, steps: int,
    pick: Noise, fill: Noise, *, n: int = 60, keep: float = 0.7,
    sizes: Sequence[int] = (1, 3, 5, 7), decay: float = 1.0, targeted: bool = False,
) -> Tensor:  # fmt: skip
    """RPA, random patches: Zhang et al., IJCAI 2022, pages 1672-1678 (no arXiv number found).

    Program: alwaysfoggy/RPA, attack.py. FIA with other masks: copy i is x * mask with patches of
    size s = sizes[i mod 4], dropped ones being multiplied by uniform noise instead of by 0.
    `fill(b, 0, i)`: (3, H, W), uniform in [0, 1]. `pick(b, 0, i)`: for s = 1 the same, kept below
    `keep`; else a permutation of the 3 * (H // s) * (W // s) patches, (row * columns + column) * 3
    + channel, whose first int(count * (1 - keep)) are dropped.
    Authors: eps 16/255, T 10, alpha eps / T, decay 1, n 60, keep 0.7; VGG-16 conv3_3, its ReLU.

    Decisions
    * The published program tests `i % 1 == 0`, always true: only s = 1 ever happens (that is
      `sizes=(1,)`), and --attack_method RPA dies of an undefined weight unless FIA is in its name.
      Its last branch (7) needs i mod 4, as in the independent port with 1, 3, 5, 7: taken here.
    * A patch is of one channel, its noise per pixel; the strip beyond the last whole patch stays.
    * Gradient of the logit (program), not of the probability (ports). w = 0, targeted: as FIA.
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        w = torch.zeros_like(features(clean))
        for i in range(n):
            mask = _patches(pick(b, 0, i), fill(b, 0, i), sizes[i % len(sizes)], keep)
            w = w + _slope(_logit(head, label), features(clean * mask[None]))
        objective = _weighted(features, _unit(w), targeted)
        rows.append(_climb(objective, clean, clean, eps, alpha, steps, decay))
    return torch.cat(rows)


def _power(f: Tensor, a: float) -> Tensor:
    """sign(f) |f|^a, with slope 0 at f = 0 (where it is infinite)."""
    size = f.abs()
    return torch.where(size > 0, torch.sign(f) * torch.where(size > 0, size, 1.0) ** a, 0.0)


def _disruption(
    layers: Sequence[Layer], loss: Layer, clean: Tensor, lam: float, a: float, eta: float, s: int
) -> Layer:
    """Image -> TAP's objective."""
    before = [(layer, _power(layer(clean), a).detach()) for layer in layers]

    def objective(image: Tensor) -> Tensor:
        far = sum(((_power(layer(image), a) - f) ** 2).sum() for layer, f in before)
        box = torch.nn.functional.avg_pool2d(image - clean, s).abs().sum()
        return loss(image) + lam * far + eta * box

    return objective


def tap(
    features: Sequence[Layer], head: Layer, x: Tensor, y: Tensor, eps: float, alpha: float,
    steps: int, *, lam: float = 0.005, power: float = 0.5, eta: float = 0.01, size: int = 3,
    targeted: bool = False,
) -> Tensor:  # fmt: skip
    """TAP, transferable adversarial perturbations: Zhou et al., ECCV 2018.

    No program of the authors found; "program" is ILA's authors' (CUAI, attacks.py) here.
    I-FGSM, no momentum, climbs cross-entropy + lam * sum over layers ||T(f(x_t)) - T(f(x))||_2^2
    + eta * sum |box mean of x_t - x|, T(f) = sign(f) |f|^power. `head` follows features[-1].
    Program: lam 0.005, power 0.5, eta 0.01, size 3, eps 0.03, all of a network's top modules, the
    logits too; step 0.008 (ImageNet, normalised units). The paper's own values were not checked.

    Decisions
    * The box term is climbed too: it rewards smooth perturbations. Means of size * size blocks side
      by side, per channel, rest dropped (program); recalled: the paper convolves, i.e. the windows
      overlap. x_t - x in [0, 1] units (program: normalised).
    * Program: cross-entropy is the batch mean, the others batch sums, so the batch size weighs
      them. Per image here. At x_0 = x only the cross-entropy has a slope; T's slope at 0 is 0
      (program: 0 * infinity = NaN, which a ReLU below happens to swallow).
    * targeted (decided here): only the cross-entropy is mirrored; TransferAttack turns all round.
    """
    rows = []
    for b in range(len(x)):
        clean = x[b : b + 1]
        loss = _entropy(features[-1], head, y[b : b + 1], targeted)
        objective = _disruption(features, loss, clean, lam, power, eta, size)
        rows.append(_climb(objective, clean, clean, eps, alpha, steps, 0.0))
    return torch.cat(rows)
