"""SGM, LinBP, BPA, ILPD, Ghost and DHF, written down from the authors' programs, one image each.

Conventions as in `tests.transcriptions.classic`. Climbs +loss, or -loss(y) when `targeted`.
The papers' text could not be had: "program" is the authors' code, and decides. `net` is a
`Residual` of the images' dtype. `decay` 0 is I-FGSM, 1 is MI-FGSM; defaults are the authors'.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tests.transcriptions.surrogates_net import (
    LinearBranch,
    Residual,
    Scaled,
    SiluRelu,
    SoftPool,
    blocks,
    climb,
    forward,
    plain_branch,
    slope,
)

Noise = Callable[[int, int, int], Tensor]
Draw = Callable[[int, int, str, torch.Size], Tensor]
Draws = Callable[[int, int, str, torch.Size], tuple[Tensor, Tensor]]


def sgm(
    net: Residual,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    *,
    gamma: float = 0.2,
    decayed: tuple[str, ...] = ("layer1.1", "layer2.1"),
    decay: float = 0.0,
    targeted: bool = False,
) -> Tensor:
    """SGM, skip gradient method: Wu et al., ICLR 2020 (arXiv 2002.05990).

    Program: csdongxian/skip-connections-matter, utils_sgm.py and attack_sgm.py.
    The gradient through the residual branch of each block in `decayed` is multiplied by gamma; the
    one through the shortcut is not. Forward pass unchanged. Base: I-FGSM (program: or MI).
    Authors: eps 16/255, alpha 2/255, T 10, gamma 0.2 (ResNet), 0.5 (DenseNet): the README's
    headings (its --arch flags are swapped); attack_sgm.py's default is 0.5.

    Decisions
    * `decayed` is every block but the first of its stage, with or without a down-sampling shortcut:
      the program skips names holding "0.relu". (By that test it also skips layer3.10 and layer3.20
      of deep ResNets: an accident, not followed.)
    * Once per branch: a branch with two ReLUs gets sqrt(gamma) at each. The program also scales the
      ReLU after the addition and the stem's, and divides by the batch's std after each block.
      These multiply branch and shortcut alike, so nothing is left of them after g / mean|g|.
    """
    scaled = {f"{name}.bn2" for name in decayed}

    def visit(name: str, z: Tensor) -> Tensor:
        return Scaled.apply(z, gamma) if name in scaled else z

    def gradient(b: int, t: int, adv: Tensor) -> Tensor:
        return slope(partial(forward, net, visit=visit), adv, y[b : b + 1], targeted)

    return climb(gradient, x, eps, alpha, steps, decay)


def linbp(
    net: Residual,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    *,
    first: str = "layer2.0",
    decay: float = 0.0,
    targeted: bool = False,
) -> Tensor:
    """LinBP, linear back-propagation: Guo, Li and Chen, NeurIPS 2020 (arXiv 2012.03528).

    Program: qizhangli/linbp-attack, attack/imagenet/utils.py, linbp_backw_resnet50.
    In each block from `first` on, with v the gradient at the branch's output, the branch sends back
        ||J' v|| / ||L' v||  L' v       J' its true Jacobian transposed, L' with ReLUs as identity
    (L2 over the image's features). The shortcut sends back its true gradient. Base: I-FGSM.
    Authors: eps 0.03, alpha 1/255, T 300, first 3_1 in a ResNet-50 (layer3.1).

    Decisions
    * Only the branch's inner ReLUs are linear; the one after the addition stays true (program).
    * Without branches (their VGG-19) ReLUs are plainly linear, no norms. ||L' v|| = 0: nothing goes
      back through the branch (program: NaN).
    * The program's "pgd" looks the gradient up at x_t + eps u, u uniform in [-1, 1], in each step;
      this is its "ifgsm" ("mifgsm": decay 1). Its SGM factor `sgm_lambda` is 1.
    """
    linear = blocks(net, first)

    def branch(name: str, block: Any, z: Tensor, relu: Any, visit: Any) -> Tensor:
        if name in linear:
            return LinearBranch.apply(z, name, block)
        return plain_branch(name, block, z, relu, visit)

    def gradient(b: int, t: int, adv: Tensor) -> Tensor:
        return slope(partial(forward, net, branch=branch), adv, y[b : b + 1], targeted)

    return climb(gradient, x, eps, alpha, steps, decay)


def bpa(
    net: Residual,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    *,
    first: str = "layer2.0",
    heat: float = 10.0,
    decay: float = 1.0,
    targeted: bool = False,
) -> Tensor:
    """BPA, backward propagation attack: Wang, Tong and He, NeurIPS 2023 (arXiv 2306.12685).

    Program: Trustworthy-AI-Group/BPA, utils.py and attack_eval_imagenet.py.
    Backwards, every ReLU of the blocks from `first` on (the one after the addition too) has SiLU's
    derivative s + z s (1 - s), s = sigmoid(z), and the stem's max-pool shares each gradient over
    its window as softmax(heat z). Forward pass unchanged. Base: MI-FGSM (program: also PGD).
    Authors: eps 8/255, alpha 1.6/255 (README 0.03, 0.006), T 10, heat 10,
    first layer3.1 in a ResNet-50.

    Decisions
    * The pool's padding counts as zeros in the softmax (program: unfold), so border windows lose
      the share of the padding; the forward max-pool pads with -infinity.
    * exp(10 z) overflows in the program's float32 above z = 8.87 (NaN); here the softmax is stable.
      The program's 2x2 pools (VGG) have heat 1, not 10. `first` leaves the pool alone.
    """
    smooth = tuple(f"{name}.act" for name in blocks(net, first))

    def relu(name: str, z: Tensor) -> Tensor:
        return SiluRelu.apply(z) if name.startswith(smooth) else torch.relu(z)

    def gradient(b: int, t: int, adv: Tensor) -> Tensor:
        model = partial(forward, net, relu=relu, pool=lambda z: SoftPool.apply(z, heat))
        return slope(model, adv, y[b : b + 1], targeted)

    return climb(gradient, x, eps, alpha, steps, decay)


def ilpd(
    net: Residual,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    draw: Noise,
    *,
    layer: str = "layer1.1",
    gamma: float = 0.1,
    sigma: float = 0.05,
    n: int = 1,
    decay: float = 0.0,
    targeted: bool = False,
) -> Tensor:
    """ILPD, intermediate-level perturbation decay: Li et al., NeurIPS 2023 (arXiv 2304.13410).

    Program: qizhangli/ILPD-attack, attacks/ilpd.py.
    With h the features at `layer`, the network goes on from gamma h(x_t) + (1 - gamma) h(x + s u);
    mean of n gradients, each with its own u. Base: I-FGSM.
    `draw(b, t, i)`: (3, H, W), N(0, 1); scaled by sigma here, in [0, 1] units.
    Authors: eps 8/255, alpha 1/255, T 100, gamma 0.1 ("1/gamma" in the help), sigma 0.05, n 1,
    the output of layer2.3 (the last block of stage 2 of 4, after its ReLU) in a ResNet-50.

    Decisions
    * The reference is the *noisy* clean image, drawn anew for each gradient, not clipped, and a
      constant. sigma 0: the clean image. The program has no `targeted`.
    """

    def gradient(b: int, t: int, adv: Tensor) -> Tensor:
        total = torch.zeros_like(adv)
        for i in range(n):
            kept: dict[str, Tensor] = {}
            forward(net, x[b : b + 1] + sigma * draw(b, t, i)[None], visit=kept.setdefault)

            def visit(name: str, z: Tensor, kept: dict[str, Tensor] = kept) -> Tensor:
                return gamma * z + (1 - gamma) * kept[name] if name == layer else z

            g = slope(partial(forward, net, visit=visit), adv, y[b : b + 1], targeted)
            total = total + g / n
        return total

    return climb(gradient, x, eps, alpha, steps, decay)


def ghost(
    net: Residual,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    draw: Draw,
    *,
    spread: float = 0.22,
    keep: float = 1.0,
    decay: float = 1.0,
    targeted: bool = False,
) -> Tensor:
    """Ghost networks, one per step: Li et al., AAAI 2020 (arXiv 1812.03413).

    Program: LiYingwei/ghost-network, attack.py, nets/resnet_v2_50.py and inception_v3.py.
    Skip erosion (residual networks): each block's shortcut, after its projection if it has one, is
    multiplied per channel by a factor uniform in [1 - spread, 1 + spread]. Dropout erosion (others;
    off at keep 1): act1, maxpool and every block's output but the last go through dropout / keep.
    Drawn anew in each step (longitudinal ensemble). Base: MI-FGSM (program: also I-FGSM).
    `draw(b, t, "layer1.0.downsample", (C,))`: U[-1, 1], one number is enough;
    `draw(b, t, "act1" | "maxpool" | "layer1.0", (C, H, W))`: U[0, 1], kept where below `keep`.
    Authors: eps 8/255, alpha 1/255, T 10; spread .22, .16, .12 (ResNet-v2-50, -101, -152), .08
    (Inception-ResNet-v2) with keep 1; keep .994 (Inception-v3), .988 (-v4) with spread 0.

    Decisions
    * The factor is per channel (program), for a whole batch at once there, per image here. The
      program's blocks are pre-activation; here it stands before the addition and act2.
    """
    last = list(blocks(net))[-1]

    def gradient(b: int, t: int, adv: Tensor) -> Tensor:
        def visit(name: str, z: Tensor) -> Tensor:
            if spread > 0 and name.endswith("downsample"):
                z = z * (1 + spread * draw(b, t, name, z.shape[1:2]).reshape(-1, 1, 1))
            if keep < 1 and (name in blocks(net) or name in ("act1", "maxpool")) and name != last:
                z = z * (draw(b, t, name, z.shape[1:]) < keep) / keep
            return z

        return slope(partial(forward, net, visit=visit), adv, y[b : b + 1], targeted)

    return climb(gradient, x, eps, alpha, steps, decay)


def dhf(
    net: Residual,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    draw: Draws,
    *,
    places: tuple[str, ...] = ("layer1.1", "layer2.0", "layer2.1"),
    most: float = 0.2,
    keep: float = 0.9,
    decay: float = 1.0,
    targeted: bool = False,
) -> Tensor:
    """DHF, diversifying high-level features: Wang et al., BMVC 2023 (arXiv 2304.10136).

    Program: Trustworthy-AI-Group/DHF (TensorFlow), mi_fgsm.py and nets/resnet_101_dhf.py.
    In the blocks `places`, each branch feature z (after act1, and bn2) becomes, per element,
        z <- most u c + (1 - most u) z      c the clean image's feature there, a constant
        z <- mean of z over the image where v > keep (the gradient goes through the mean)
    but only once the image has been misclassified in an earlier step. Base: MI-FGSM.
    `draw(b, t, "layer1.1.act1", (C, H, W))` -> (u, v), both uniform in [0, 1].
    Authors: eps 16/255, alpha 1.6/255, T 10, most 0.2, keep 0.9, the last 5/6 of the blocks or so.

    Decisions
    * The switch is off at t = 0, looks at the logits of each pass as it was made (with DHF), and
      stays on for good ("if_mixup |= pred != y"); per image. targeted (none in the program): on
      once the target has been predicted.
    * After the ReLU of the branch's inner convolutions and at its end before the addition: program,
      whose ResNets are v2 (no BatchNorm at that end). Clean features come from an unchanged pass.
    """
    names = {f"{place}.{end}" for place in places for end in ("act1", "bn2")}
    clean: list[dict[str, Tensor]] = [{} for _ in x]
    for b in range(len(x)):
        forward(net, x[b : b + 1], visit=clean[b].setdefault)
    fooled = [False] * len(x)

    def gradient(b: int, t: int, adv: Tensor) -> Tensor:
        seen: list[Tensor] = []

        def visit(name: str, z: Tensor) -> Tensor:
            if not fooled[b] or name not in names:
                return z
            u, v = draw(b, t, name, z.shape[1:])
            z = most * u * clean[b][name] + (1 - most * u) * z
            return torch.where(v > keep, z.mean(), z)

        def model(p: Tensor) -> Tensor:
            seen.append(forward(net, p, visit=visit))
            return seen[-1]

        g = slope(model, adv, y[b : b + 1], targeted)
        fooled[b] = fooled[b] or (int(seen[-1].argmax()) == int(y[b])) == targeted
        return g

    return climb(gradient, x, eps, alpha, steps, decay)
