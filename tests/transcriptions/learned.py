"""L2T, written down from the authors' program, one image at a time.

Conventions as in `tests.transcriptions.classic`. An attack climbs +loss, or -loss towards the label
when `targeted`. The paper's text could not be had; "program" is the authors' code.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Model = Callable[[Tensor], Tensor]
Draw = Callable[[str, tuple[int, int, int, int, int], tuple[int, ...]], Tensor]
"""(name, (b, t, sample, place in the chain, copy), shape) -> numbers; see `l2t`."""
Numbers = Callable[[str, int, tuple[int, ...]], Tensor]
"""(name, copy, shape) -> numbers, of one operation of one chain."""
Operation = tuple[str, tuple[float, ...]]


def _clip(adv: Tensor, clean: Tensor, eps: float) -> Tensor:
    """Project onto the L-infinity ball of radius eps around the clean image, and onto [0, 1]."""
    lowest = torch.clamp(clean - eps, min=0.0)
    highest = torch.clamp(clean + eps, max=1.0)
    return torch.minimum(torch.maximum(adv, lowest), highest)


def _mean_normalised(g: Tensor) -> Tensor:
    """g / mean|g|, and zero where g is zero everywhere."""
    mean = float(g.abs().mean())
    return g / mean if mean > 0 else torch.zeros_like(g)


def _nearest(stack: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Nearest pixel to (rows, cols), half to even; black outside."""
    height, width = stack.shape[-2:]
    r = torch.round(torch.round(rows, decimals=9)).long()
    c = torch.round(torch.round(cols, decimals=9)).long()
    inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
    return stack[..., r.clamp(0, height - 1), c.clamp(0, width - 1)] * inside.to(stack.dtype)


def _rotated(stack: Tensor, degrees: float) -> Tensor:
    """Rotate counter-clockwise about the middle, at the same size."""
    height, width = stack.shape[-2:]
    sin, cos = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    down = torch.arange(height, dtype=stack.dtype)[:, None] - (height - 1) / 2
    across = torch.arange(width, dtype=stack.dtype)[None, :] - (width - 1) / 2
    rows = sin * across + cos * down + (height - 1) / 2
    return _nearest(stack, rows, cos * across - sin * down + (width - 1) / 2)


def _moved(stack: Tensor, pixels: float) -> Tensor:
    """Move down and to the right by so many pixels."""
    height, width = stack.shape[-2:]
    rows = torch.arange(height, dtype=stack.dtype)[:, None] - pixels
    cols = torch.arange(width, dtype=stack.dtype)[None, :] - pixels
    return _nearest(stack, rows.expand(height, width), cols.expand(height, width))


def _weights(old: int, new: int, dtype: torch.dtype) -> Tensor:
    """(new, old) bilinear weights, pixel middles aligned, no low-pass, the edge continued."""
    weights = torch.zeros(new, old, dtype=dtype)
    for i in range(new):
        at = min(max((i + 0.5) * old / new - 0.5, 0.0), old - 1.0)
        low = math.floor(at)
        weights[i, low] += low + 1 - at
        weights[i, min(low + 1, old - 1)] += at - low
    return weights


def _resized(stack: Tensor, side: int) -> Tensor:
    height, width = stack.shape[-2:]
    down, across = (_weights(old, side, stack.dtype) for old in (height, width))
    return down @ stack @ across.T


def _cosines(size: int, dtype: torch.dtype) -> Tensor:
    """Orthonormal DCT-II: row f holds frequency f."""
    f, n = torch.arange(size, dtype=dtype)[:, None], torch.arange(size, dtype=dtype)[None, :]
    basis = torch.cos(math.pi * f * (2 * n + 1) / (2 * size)) * math.sqrt(2 / size)
    return torch.cat([basis[:1] / math.sqrt(2), basis[1:]])


def _strips(stack: Tensor, axis: int, lengths: Tensor, order: Tensor) -> list[Tensor]:
    """Cut in proportion to `lengths`, in the order that sorts `order`.

    Each length is rounded half to even; the first of the longest takes the rest.
    """
    side = stack.shape[axis]
    sizes = [round(float(v) * side / float(lengths.sum())) for v in lengths]
    sizes[sizes.index(max(sizes))] += side - sum(sizes)
    assert min(sizes) >= 0, "more blocks than pixels"
    strips = torch.split(stack, sizes, axis)
    return [strips[int(i)] for i in torch.argsort(order)]


def l2t_operation(operation: Operation, stack: Tensor, numbers: Numbers) -> Tensor:
    """Put a stack of square images (m, 3, S, S) through one operation: a stack again, often longer.

    All of the stack shares what is drawn, but for "keep", "gauss", "spectrum" and "partner".
    """
    name, values = operation
    side = stack.shape[-1]
    if name == "identity":
        return stack
    if name == "rotate":  # the angle, a half, a quarter, ...
        return torch.cat([_rotated(stack, values[0] / 2**i) for i in range(5)])
    if name == "scale":
        return torch.cat([stack / 2**i for i in range(int(values[0]))])
    if name == "resize and pad":
        full = int(side * values[0])
        u = numbers("place", 0, (3,))
        size = side + int(u[0] * (full - side))
        top, left = int(u[1] * (full - size)), int(u[2] * (full - size))
        canvas = stack.new_zeros(*stack.shape[:2], full, full)
        canvas[:, :, top : top + size, left : left + size] = _resized(stack, size)
        return _resized(canvas, side)
    copies = []
    if name == "shuffle":
        n = int(values[0])
        for k in range(10):
            first = 2 if float(numbers("first", k, (1,))) < 0.5 else 3
            outer, inner = numbers("outer", k, (2, n)), numbers("inner", k, (n, 2, n))
            strips = _strips(stack, first, outer[0], outer[1])
            parts = [_strips(strips[i], 5 - first, inner[i, 0], inner[i, 1]) for i in range(n)]
            copies.append(torch.cat([torch.cat(part, 5 - first) for part in parts], first))
    elif name == "mix":
        partners = [numbers("partner", k, tuple(stack.shape)) for k in range(int(values[0]))]
        mixed = torch.cat([stack + values[1] * partner.detach() for partner in partners])
        copies = [mixed / 2**i for i in range(3)]
    elif name == "drop":
        for k, p in enumerate(values):
            copies.append(stack * (numbers("keep", k, tuple(stack.shape)) >= p).to(stack.dtype))
    elif name == "mask":
        n = int(values[0])
        cut = [round(side / n * i) for i in range(n + 1)]
        for k in range(5):
            r, c = (int(v * n) for v in numbers("block", k, (2,)))
            keep = torch.ones(side, side, dtype=stack.dtype)
            keep[cut[r] : cut[r + 1], cut[c] : cut[c + 1]] = 0
            copies.append(stack * keep)
    elif name == "spectrum":
        basis = _cosines(side, stack.dtype)
        for k in range(5):
            noisy = stack + numbers("gauss", k, tuple(stack.shape)) * 16 / 255
            factor = 1 + values[0] * (2 * numbers("spectrum", k, tuple(stack.shape)) - 1)
            copies.append(basis.T @ ((basis @ noisy @ basis.T) * factor) @ basis)
    elif name == "crop":
        for k in range(5):
            kept = int(side * (values[0] + (1 - values[0]) * (k + 1) / 5))
            at = (side - kept) // 2
            copies.append(_resized(stack[:, :, at : at + kept, at : at + kept], side))
    else:
        assert name == "move", name
        copies = [_moved(stack, values[0] * (k + 1) / 5) for k in range(5)]
    return torch.cat(copies)


_DROPS = ((1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), (1, 2, 3, 4, 5), (2, 3, 4, 5), (1, 3, 4, 5))
L2T_OPERATIONS: list[Operation] = [
    ("identity", ()),
    *[("rotate", (30.0 * i,)) for i in range(1, 11)],
    *[("scale", (float(i),)) for i in range(1, 11)],
    *[("resize and pad", (r,)) for r in (1.1, 1.15, 1.2, 1.25, 1.3, 1.35, 1.4, 1.45, 1.5, 1.55)],
    *[("shuffle", (float(i),)) for i in range(3, 13)],
    *[("mix", (float(i), s)) for s in (0.2, 0.4) for i in range(1, 6)],
    *[("drop", tuple(p / 10 for p in d)) for d in _DROPS],
    *[("drop", tuple(p / 10 for p in d)) for d in ((1, 2, 4, 5), (1, 2, 3, 5), (1, 2, 3, 4))],
    *[("mask", (float(i),)) for i in (2, 4, 6, 8, 10, 3, 5, 7, 9, 11)],
    *[("spectrum", (r,)) for r in (0.2, 0.4, 0.5, 0.6, 0.8, 0.1, 0.3, 0.7, 0.9)],
    *[("crop", (i / 10,)) for i in range(1, 10)],
    *[("move", (r,)) for r in (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)],
]


def l2t_choice(policy: Tensor, u: float) -> int:
    """First operation whose softmax probabilities, summed up to it, exceed u in [0, 1)."""
    passed = torch.cumsum(torch.softmax(policy, 0), 0)
    return min(int((passed <= u).sum()), len(policy) - 1)


def l2t_policy(
    policy: Tensor, chains: Sequence[Sequence[int]], values: Sequence[float], rate: float
) -> Tensor:
    """One step up the mean over chains of (product of its probabilities) x (its objective)."""
    q = torch.softmax(policy, 0)
    slope = torch.zeros_like(policy)
    for chain, value in zip(chains, values, strict=True):
        chance = math.prod(float(q[a]) for a in chain)
        for a in chain:
            one = torch.zeros_like(policy)
            one[a] = 1
            slope = slope + value * chance * (one - q) / len(chains)
    return policy + rate * slope


def _numbers(draw: Draw, b: int, t: int, i: int, place: int) -> Numbers:
    return lambda name, copy, shape: draw(name, (b, t, i, place, copy), shape)


def l2t(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    draw: Draw,
    *,
    operations: Sequence[Operation] = tuple(L2T_OPERATIONS),
    samples: int = 3,
    length: int = 2,
    rate: float = 0.01,
    decay: float = 1.0,
    targeted: bool = False,
) -> Tensor:
    """L2T, learning to transform: Zhu et al., CVPR 2024 (arXiv 2405.14077).

    Program: RongyiZhu/L2T, l2t.py.

    A policy theta, one number per operation, starts at 0. In step t, `samples` chains of `length`
    operations are drawn with replacement from softmax(theta); J_i is the mean objective over all
    copies that chain i makes. The gradient of the mean of the J_i goes into MI-FGSM, and
        theta <- theta + rate d/dtheta [mean_i J_i prod_{a in chain i} softmax(theta)_a].

    `draw(name, (b, t, i, place, k), shape)`, uniform in [0, 1) but for two: "choice" (1), by
    `l2t_choice`; "place" (3) size, top, left; "first" (1) below 1/2 rows first; "outer" (2, n) and
    "inner" (n, 2, n), by new strip, lengths in proportion and keys to sort by; "block" (2); "keep",
    "spectrum" as the stack; "gauss" as the stack, N(0, 1); "partner" as the stack, images.
    Authors: eps 16/255, T 10, alpha eps / T, 3 samples, chains of 2, rate 0.01, decay 1.

    Decisions
    * 98 operations; the program's comments, numbering them to 100, miscount.
    * The step is up p J, not J log p (program). As p starts at 1 / 98^2, theta moves by some 1e-6 J
      a step: in effect the choice stays uniform. J is a constant there, and negative if targeted.
    * One theta and chain per image (program: per batch). theta starts anew for each image.
    * Chains multiply copies: 10 shuffles of 5 rotations are 50, and J_i is their plain mean.
    * "spectrum" has 5 copies (program; ports 10), noise 16/255 whatever eps. "drop" is drawn per
      number and not rescaled, as dropout's 1 / (1 - p) is multiplied away again.
    * "move" is by offset (k + 1) / 5 *pixels*, 0.1 to 0.9, nearest: one pixel or none. The program
      hands torchvision fractions where it takes pixels. Kept.
    * Rotation and move take the nearest pixel, ties to even (there, rounding noise decides).
    * "mix" partners are shuffled entries of the batch's stack, possibly itself; here the caller's.
    * Dividing, padding, masking, turning go to black. Nothing is clipped.
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], int(y[b])
        adv, momentum = clean.clone(), torch.zeros_like(clean)
        policy = torch.zeros(len(operations), dtype=x.dtype)
        for t in range(steps):
            total, chains, values = torch.zeros_like(clean), [], []
            for i in range(samples):
                leaf = adv.detach().clone().requires_grad_(True)
                stack, chain = leaf, []
                for s in range(length):
                    numbers = _numbers(draw, b, t, i, s)
                    chain.append(l2t_choice(policy, float(numbers("choice", 0, (1,)))))
                    stack = l2t_operation(operations[chain[-1]], stack, numbers)
                z = model(stack)
                value = torch.zeros((), dtype=x.dtype)
                for row in z:
                    value = value + (torch.logsumexp(row, 0) - row[label]) / len(z)
                value = -value if targeted else value
                total = total + torch.autograd.grad(value, leaf)[0] / samples
                chains.append(chain)
                values.append(float(value.detach()))
            policy = l2t_policy(policy, chains, values, rate)
            momentum = decay * momentum + _mean_normalised(total)
            adv = _clip(adv + alpha * torch.sign(momentum), clean, eps)
        rows.append(adv)
    return torch.cat(rows)
