"""PNA-PatchOut, TGR and ATT, written down from the authors' programs, one image at a time.

Conventions as in `tests.transcriptions.classic`, but the network is given whole, as a `Vit`. Its
forward is computed again by hand (`by_hand`), and the attack's backward rules are put in by an
autograd function, without hooks. The papers' text could not be had; "program" is the authors' code.

Where the rules act. The authors hook modules with the old `register_backward_hook` (torch 1.7.1,
timm 0.4.12), which rewrites the gradient *leaving the last operation* of the module:
* attn_drop, idle at test time, hands on the softmax's own result, so the operation is the softmax
  and the gradient that of the *scores* q k^T / sqrt(d) before it, not of the map behind it
  (`at="map"` is that other reading; to zero everything is the same at both places);
* qkv and mlp end in adding a bias: the gradients of the qkv *output* (n, 3 width) and of the MLP
  *output* (n, width), without the share of the skip beside it.
All blocks take part. Extremes are signed (arg-max and arg-min, not of |g|), over all tokens, the
class token too, the first of equals, and found in each image (program: in entry 0 of the batch).
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .transformers_vit import At, Rules, Vit, by_hand

Order = Callable[[int, int], Sequence[int]]
"""(b, t) -> permutation of the image's crops, numbered row by row."""
Grid = Callable[[int, int], Tensor]
"""(b, t) -> (H / crop, W / crop), uniform in [0, 1)."""
Three = tuple[float, float, float]


def _slope(net: Vit, image: Tensor, label: Tensor, rules: Rules, targeted: bool) -> Tensor:
    """Ruled gradient of the image's cross-entropy, or of minus it when targeted."""
    leaf = image.detach().clone().requires_grad_(True)
    logits = by_hand(net, leaf, rules)[0]
    value = torch.logsumexp(logits, 0) - logits[label]
    return torch.autograd.grad(-value if targeted else value, leaf)[0]


def _clip(adv: Tensor, clean: Tensor, eps: float) -> Tensor:
    """Project onto the L-infinity ball of radius eps around the clean image, and onto [0, 1]."""
    return torch.clamp(torch.minimum(torch.maximum(adv, clean - eps), clean + eps), 0.0, 1.0)


def _mean_normalised(g: Tensor) -> Tensor:
    """g / mean|g|, and zero where g is zero everywhere."""
    mean = float(g.abs().mean())
    return g / mean if mean > 0 else torch.zeros_like(g)


def _pixels(grid: Tensor, crop: int) -> Tensor:
    """A value per crop, spread over its pixels: (H, W)."""
    return grid.repeat_interleave(crop, 0).repeat_interleave(crop, 1)


def _extremes(values: Tensor) -> tuple[int, int]:
    """Places of the largest and of the smallest value, flattened; the first of equals."""
    flat = values.flatten()
    return int((flat == flat.max()).nonzero()[0]), int((flat == flat.min()).nonzero()[0])


def _shrink_pairs(g: Tensor, factor: float) -> Tensor:
    """Per head: row and column of the largest entry, then of the smallest, times the factor.

    What lies on several of these lines is multiplied several times (program, `*=` four times).
    """
    g = g.clone()
    for head in g:
        for place in _extremes(head):
            head[place // len(head), :] *= factor
            head[:, place % len(head)] *= factor
    return g


def _shrink_tokens(g: Tensor, factor: float) -> Tensor:
    """Per channel: the largest and the smallest of the tokens' entries times the factor."""
    g = g.clone()
    for c in range(g.shape[1]):
        for place in _extremes(g[:, c]):
            g[place, c] *= factor
    return g


def pna_patchout(
    net: Vit,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    draw: Order,
    *,
    kept: int = 130,
    crop: int = 16,
    lam: float = 0.1,
    decay: float = 0.0,
    targeted: bool = False,
) -> Tensor:
    """PNA-PatchOut, pay no attention: Wei et al., AAAI 2022 (arXiv 2109.04176).

    Program: zhipeng-wei/PNA-PatchOut, our_method.py, OurAlgorithm (and OurAlgorithm_MI).

    With d = adv - x, climb L(x + M d) + lam ||d||_2 over d; M keeps `kept` random crops of
    crop x crop pixels and blanks the rest. Backwards the attention maps count as constants (PNA):
    the gradient reaches the tokens through v, the MLPs and the skips alone.

    `draw(b, t)`: a permutation of the image's crops; its first `kept` keep their perturbation.
    Authors: eps 16/255, T 10, alpha eps / T, 130 of 196 crops, crop 16 for every network, lam 0.1;
    decay 0 (OurAlgorithm, the README's command), 1 (OurAlgorithm_MI).

    Decisions
    * The norm is the whole d's, in [0, 1] units, not M d's: blanked crops still grow by it, and
      move by alpha along their own sign. Its gradient at d = 0 is 0 (torch). The norm is one
      image's; the program's is the batch's, worth sqrt(B) times more against the mean loss.
    * targeted: -L(y) + lam ||d||, the norm still climbed (program).
    * Momentum, if any, sums the whole gradient, the norm's share included.
    * The program seeds the crops by the step: the same ones for all images.
    """
    flat = Rules(lambda _, g: 0 * g, lambda _, g: g, lambda _, g: g)
    rows = []
    for b in range(len(x)):
        clean, adv, momentum = x[b], x[b].clone(), torch.zeros_like(x[b])
        down, across = clean.shape[1] // crop, clean.shape[2] // crop
        for t in range(steps):
            grid = torch.zeros(down, across, dtype=x.dtype)
            for place in draw(b, t)[:kept]:
                grid[place // across, place % across] = 1.0
            mask, d = _pixels(grid, crop), adv - clean
            g = mask * _slope(net, clean + mask * d, y[b], flat, targeted)
            size = math.sqrt(float((d * d).sum()))
            if size > 0:
                g = g + lam * d / size
            momentum = decay * momentum + _mean_normalised(g)
            adv = _clip(adv + alpha * torch.sign(momentum), clean, eps)
        rows.append(adv)
    return torch.stack(rows)


def tgr(
    net: Vit,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    *,
    attention: float = 0.25,
    qkv: float = 0.75,
    mlp: float = 0.5,
    at: At = "scores",
    decay: float = 1.0,
    targeted: bool = False,
) -> Tensor:
    """TGR, token gradient regularization: Zhang et al., CVPR 2023 (arXiv 2303.15754).

    Program: jpzhang1810/TGR, methods.py, TGR. MI-FGSM whose gradient, in every block, is
    * attention (heads, n, n): times `attention`; per head the row and column of the largest entry
      and those of the smallest are zeroed;
    * qkv output (n, 3 width) and MLP output (n, width): times `qkv`, `mlp`; per channel the largest
      and the smallest token's entry are zeroed, that entry alone.

    Authors: eps 16/255, T 10, alpha eps / T, decay 1, factors 0.25, 0.75, 0.5. No draws: PatchOut
    is commented out. A port says the paper's MLP factor is 0.25; unchecked, the program is kept.

    Decisions
    * The last block's MLP and scores have a gradient in the class token's row alone, which always
      is an extreme: there the rules zero both altogether.
    * q, k and v channels are treated alike. targeted: -L(y).
    """
    rules = Rules(
        lambda _, g: _shrink_pairs(attention * g, 0.0),
        lambda _, g: _shrink_tokens(qkv * g, 0.0),
        lambda _, g: _shrink_tokens(mlp * g, 0.0),
        at,
    )
    rows = []
    for b in range(len(x)):
        clean, adv, momentum = x[b], x[b].clone(), torch.zeros_like(x[b])
        for _ in range(steps):
            g = _slope(net, adv, y[b], rules, targeted)
            momentum = decay * momentum + _mean_normalised(g)
            adv = _clip(adv + alpha * torch.sign(momentum), clean, eps)
        rows.append(adv)
    return torch.stack(rows)


def _att_rules(
    depth: int, weaken: Three, gamma: float, lam: float, truncated: int, at: At
) -> Rules:
    """ATT's rules for one backward pass; they remember the variance of the block above."""
    above = {"attention": 0.0, "qkv": 0.0, "mlp": 0.0}

    def tune(kind: str, g: Tensor, shrink: Callable[[Tensor, float], Tensor]) -> Tensor:
        factor = gamma
        if above[kind] != 0:
            factor = gamma + lam * (1 - math.sqrt(float(g.var()) / above[kind]))
            factor = min(max(factor, 0.0), 1.0)
        g = shrink(g, factor)
        above[kind] = float(g.var())
        return g

    def attention(block: int, g: Tensor) -> Tensor:
        weight = weaken[0] if block < depth - truncated else 0.0
        return tune("attention", weight * g, _shrink_pairs)

    return Rules(
        attention,
        lambda _, g: tune("qkv", weaken[1] * g, _shrink_tokens),
        lambda _, g: tune("mlp", weaken[2] * g, _shrink_tokens),
        at,
    )


def _importance(net: Vit, image: Tensor, rules: Rules, block: int, crop: int) -> Tensor:
    """Importance of each crop in [0, 1], from a block's output and its gradient."""
    patch, (height, wide) = net.patch_embed.proj.kernel_size[0], image.shape[1:]
    logits, outputs = by_hand(net, image.detach().clone().requires_grad_(True), rules)
    g = torch.autograd.grad(logits.sum(), outputs[block])[0]
    tokens = (outputs[block].detach() * g)[1:].sum(-1)
    tokens = tokens.reshape(1, 1, height // patch, wide // patch)
    fine = interpolate(tokens, size=(height, wide), mode="bilinear", align_corners=False)
    coarse = fine.reshape(height // crop, crop, wide // crop, crop).mean((1, 3))
    low, high = coarse.min(), coarse.max()
    return (coarse - low) / (high - low) if high > low else torch.zeros_like(coarse)


def att(
    net: Vit,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    draw: Grid,
    *,
    weaken: Three = (0.45, 0.7, 0.65),
    gamma: float = 0.5,
    lam: float = 0.01,
    truncated: int = 2,
    scale: float = 0.4,
    offset: float = 0.4,
    start: float = 0.99,
    block: int = -2,
    crop: int = 16,
    at: At = "scores",
    decay: float = 1.0,
    targeted: bool = False,
) -> Tensor:
    """ATT, adaptive token tuning: Ming et al., NeurIPS 2024 (no arXiv number found).

    Program: MisterRpeng/ATT, methods.py, ATT. MI-FGSM with
    * rules as TGR's, but a softer factor f in place of 0 on the extremes. From the last block down,
      for attention scores, qkv and MLP apart:
          g <- w g, w the kind's `weaken`; attention in the last `truncated` blocks: g <- 0
          f = clamp(gamma + lam (1 - sqrt(var(g) / V)), 0, 1),  f = gamma where V = 0
          extremes of g times f;  V <- var(g), for the block below
    * patch-out by importance: with F the output of block `block` on the clean image and G the
      gradient there of the sum of *all* logits, under the same rules, F G summed over channels is
      a map of tokens (class token left out). It is resized to the image (bilinear), averaged per
      crop and brought to s in [0, 1]. In step t (from 0) the crop keeps its perturbation if
          u <= start - (start - offset - scale s) (t + 1) / T,   u uniform

    `draw(b, t)`: (H / crop, W / crop), uniform in [0, 1). One gradient more than T per image.
    Authors: eps 16/255, T 10, alpha eps / T, decay 1, gamma 0.5, lam 0.01, start 0.99, crop 16; per
    source network (defaults: ViT-B's) weaken, truncated of depth, scale, offset:
        ViT-B 0.45 0.7 0.65, 2 of 12, 0.4, 0.4       PiT-B     0.25 0.6 0.65, 4 of 13, 0.3, 0.45
        CaiT  0.3  1   0.6, 21 of 25, 0.35, 0.4      Visformer 0.4  0.8 0.3,  0 of 8, 0.15, 0.25
    `block` is the last but one (ViT-B: blocks[10]; PiT-B, Visformer: of the last stage).

    Decisions
    * V starts at 0 in every backward pass, the importance's too (program: from the second image on
      that one starts with the last image's V). V = 0 under the cut attentions: f = gamma next.
    * var is unbiased, over one image's whole gradient (program: the batch's, its batch is 1); V is
      taken after weakening and shrinking, var(g) after weakening alone.
    * An entry hit twice gets f twice, as on crossings and where both extremes share a row.
    * F G is signed: no ReLU, no absolute value. All crops equal: s = 0 (program: NaN).
    * Resizing and averaging over patches of even size p = crop is the filter (1, 6, 1) / 8 along
      both axes, the edge repeated: s is not the tokens' own value.
    * For CaiT and Visformer the program registers a forward hook for G and so gets F F, not F G.
    * Blanked crops have no gradient and move by their momentum alone. targeted: -L(y); the
      importance stays.
    """
    depth = len(net.blocks)
    rows = []
    for b in range(len(x)):
        clean, adv, momentum = x[b], x[b].clone(), torch.zeros_like(x[b])
        rules = _att_rules(depth, weaken, gamma, lam, truncated, at)
        lowest = offset + scale * _importance(net, clean, rules, block, crop)
        for t in range(steps):
            keep = (draw(b, t) <= start - (start - lowest) * (t + 1) / steps).to(x.dtype)
            mask = _pixels(keep, crop)
            rules = _att_rules(depth, weaken, gamma, lam, truncated, at)
            g = mask * _slope(net, clean + mask * (adv - clean), y[b], rules, targeted)
            momentum = decay * momentum + _mean_normalised(g)
            adv = _clip(adv + alpha * torch.sign(momentum), clean, eps)
        rows.append(adv)
    return torch.stack(rows)
