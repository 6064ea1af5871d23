"""BSR, SIA and DeCowA, written down from the authors' programs, one image at a time.

Conventions as in `tests.transcriptions.classic`. An attack climbs +loss, or -loss towards the label
when `targeted`. Of the papers only abstracts could be had; "program" is the authors' code.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

Model = Callable[[Tensor], Tensor]
View = Callable[[Tensor], Tensor]
"""(1, 3, H, W) -> (1, 3, H, W), differentiable."""
Shuffle = Callable[[int, int, int], tuple[Tensor, Tensor, tuple[int, ...], tuple[int, ...], Tensor]]
"""(b, t, copy) -> (row lengths, column lengths, row order, column order, angles); see `bsr`."""
Blocks = Callable[
    [int, int, int], tuple[tuple[int, ...], tuple[int, ...], list[list[tuple[str, Tensor]]]]
]
"""(b, t, copy) -> (row cuts, column cuts, operation and its number for each block); see `sia`."""
Noise = Callable[[int, int, int], Tensor]


def _slope(model: Model, view: View, point: Tensor, label: Tensor, targeted: bool) -> Tensor:
    """Gradient at the point of the objective of its view: cross-entropy, negative if targeted."""
    leaf = point.detach().clone().requires_grad_(True)
    z = model(view(leaf))[0]
    value = torch.logsumexp(z, 0) - z[label[0]]
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


def _sample(image: Tensor, rows: Tensor, cols: Tensor, fill: float | None) -> Tensor:
    """Bilinear values at (rows, cols), in pixels from the middle of the first one.

    Beyond the image every pixel is `fill`, or the nearest pixel of the edge if `fill` is None.
    """
    height, width = image.shape[-2:]
    top, left = torch.floor(rows.detach()), torch.floor(cols.detach())
    total = torch.zeros_like(image[..., :1, :1])
    for r, down in ((top, top + 1 - rows), (top + 1, rows - top)):
        for c, right in ((left, left + 1 - cols), (left + 1, cols - left)):
            pixel = image[..., r.clamp(0, height - 1).long(), c.clamp(0, width - 1).long()]
            inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            if fill is not None:
                pixel = torch.where(inside, pixel, torch.full_like(pixel, fill))
            total = total + down * right * pixel
    return total


def _rotated(image: Tensor, angle: float, fill: float) -> Tensor:
    """Rotate counter-clockwise by `angle` radians about the middle, at the same size."""
    height, width = image.shape[-2:]
    down = torch.arange(height, dtype=image.dtype)[:, None] - (height - 1) / 2
    across = torch.arange(width, dtype=image.dtype)[None, :] - (width - 1) / 2
    rows = math.sin(angle) * across + math.cos(angle) * down + (height - 1) / 2
    cols = math.cos(angle) * across - math.sin(angle) * down + (width - 1) / 2
    return _sample(image, rows, cols, fill)


def _climb(
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    decay: float,
    gradient: Callable[[int, int, Tensor, Tensor], Tensor],
) -> Tensor:
    """MI-FGSM, image by image, on the gradient that `gradient(b, t, adv, label)` gives."""
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv, momentum = clean.clone(), torch.zeros_like(clean)
        for t in range(steps):
            momentum = decay * momentum + _mean_normalised(gradient(b, t, adv, label))
            adv = _clip(adv + alpha * torch.sign(momentum), clean, eps)
        rows.append(adv)
    return torch.cat(rows)


# ------------------------------------------------------------------------------------------ BSR


def bsr_lengths(u: Tensor, length: int) -> list[int]:
    """Split `length` in proportion to u: each rounded half to even, the longest takes the rest."""
    lengths = [round(float(v) * length / float(u.sum())) for v in u]
    longest = lengths.index(max(lengths))
    lengths[longest] += length - sum(lengths)
    assert min(lengths) >= 0, "more blocks than pixels"
    return lengths


def bsr_view(image: Tensor, drawn: tuple[Any, ...], spread: float, zero: float) -> Tensor:
    """One view of BSR; see `bsr`."""
    u, v, p, q, angles = drawn
    strips = []
    tall, wide = bsr_lengths(u, image.shape[2]), bsr_lengths(v, image.shape[3])
    for i in p:
        top = sum(tall[:i])
        blocks = []
        for j in q:
            left = sum(wide[:j])
            block = image[:, :, top : top + tall[i], left : left + wide[j]]
            if block.numel() > 0:
                block = _rotated(block, spread * float(angles[i, j]), zero)
            blocks.append(block)
        strips.append(torch.cat(blocks, 3))
    return torch.cat(strips, 2)


def bsr(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    draw: Shuffle,
    *,
    copies: int = 20,
    spread: float = 0.2,
    zero: float = 0.5,
    decay: float = 1.0,
    targeted: bool = False,
) -> Tensor:
    """BSR, block shuffle and rotation: Wang et al., CVPR 2024 (arXiv 2308.10299).

    Program: Trustworthy-AI-Group/BSR, mi_bsr.py, shuffle_rotate.

    In step t, mean of the gradients through `copies` views; then MI-FGSM. A view cuts the image
    into n strips of rows and n of columns, rotates every block about its own middle, and puts rows
    and columns of blocks into a new order, one order of columns for all rows.

    `draw(b, t, k)`: u (n), v (n) uniform in [0, 1], lengths of the strips in proportion; p, q: the
    new strip i is the old strip p[i], the new column j the old q[j]; a (n, n) standard normal cut
    at +-2 (redrawn beyond), by the block's *old* place; rotation by spread * a radians.
    Authors: eps 16/255, T 10, alpha eps / T, n 2, 20 copies, spread 0.2, decay 1.

    Decisions
    * Angles: truncated normal of 0.2 rad, so within +-0.4 rad or 22.9 degrees (program; its flag
      is called max_angles). The port draws uniformly in +-24 degrees.
    * The columns are cut once, at the same places in every strip of rows (program, `shuffle`
      included; the port cuts and orders each strip anew and takes rows or columns first by chance).
    * Lengths may be 0: such a block is nothing. Rounding half to even, the rest to the first of the
      longest *after* rounding (numpy).
    * Outside a rotated block is 0 of [-1, 1], grey: zero = 0.5; the port's is 0 of [0, 1], black.
      Bilinear against that level, middle at (side - 1) / 2, counter-clockwise (tfa.image.rotate).
    * All is drawn per image; the program draws cuts and orders per batch, angles per image.
    * No copy is left unchanged; copies are not clipped.
    """

    def gradient(b: int, t: int, adv: Tensor, label: Tensor) -> Tensor:
        total = torch.zeros_like(adv)
        for k in range(copies):
            view = partial(bsr_view, drawn=draw(b, t, k), spread=spread, zero=zero)
            total = total + _slope(model, view, adv, label, targeted) / copies
        return total

    return _climb(x, y, eps, alpha, steps, decay, gradient)


# ------------------------------------------------------------------------------------------ SIA


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, pixel middles aligned, no low-pass, the edge continued."""
    tall, wide = image.shape[-2:]
    rows = (torch.arange(height, dtype=image.dtype) + 0.5) * tall / height - 0.5
    cols = (torch.arange(width, dtype=image.dtype) + 0.5) * wide / width - 0.5
    return _sample(image, *torch.meshgrid(rows, cols, indexing="ij"), None)


def _cosines(size: int, dtype: torch.dtype) -> Tensor:
    """Orthonormal DCT-II: row f holds frequency f."""
    f, n = torch.arange(size, dtype=dtype)[:, None], torch.arange(size, dtype=dtype)[None, :]
    basis = torch.cos(math.pi * f * (2 * n + 1) / (2 * size)) * math.sqrt(2 / size)
    return torch.cat([basis[:1] / math.sqrt(2), basis[1:]])


def sia_operation(name: str, value: Tensor, block: Tensor) -> Tensor:
    """One of SIA's ten operations on a block (1, 3, h, w); the numbers are the program's."""
    height, width = block.shape[-2:]
    if name == "resize":
        small = _resized(block, int(height * 0.8) + 1, int(width * 0.8) + 1)
        return torch.clamp(_resized(small, height, width), 0, 1)
    if name == "vertical shift":
        return torch.roll(block, int(value), 2)
    if name == "horizontal shift":
        return torch.roll(block, int(value), 3)
    if name == "vertical flip":
        return torch.flip(block, (2,))
    if name == "horizontal flip":
        return torch.flip(block, (3,))
    if name == "rotate 180":
        return torch.flip(block, (2, 3))
    if name == "scale":
        return float(value) * block
    if name == "noise":
        return torch.clamp(block + value[None] * 16 / 255, 0, 1)
    if name == "dct":
        down, across = _cosines(height, block.dtype), _cosines(width, block.dtype)
        keep = torch.zeros(height, width, dtype=block.dtype)
        keep[: height - int(height * 0.4), : width - int(width * 0.4)] = 1
        return down.T @ ((down @ block @ across.T) * keep) @ across
    assert name == "dropout", name
    return block * (value >= 0.1).to(block.dtype)[None, :, None, None] / 0.9


def sia_view(image: Tensor, drawn: tuple[Any, ...]) -> Tensor:
    """One view of SIA; see `sia`."""
    across, along, chosen = drawn
    tall = [0, *sorted(across), image.shape[2]]
    wide = [0, *sorted(along), image.shape[3]]
    strips = []
    for i in range(len(tall) - 1):
        blocks = []
        for j in range(len(wide) - 1):
            block = image[:, :, tall[i] : tall[i + 1], wide[j] : wide[j + 1]]
            blocks.append(sia_operation(*chosen[i][j], block))
        strips.append(torch.cat(blocks, 3))
    return torch.cat(strips, 2)


def sia(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    draw: Blocks,
    *,
    copies: int = 20,
    decay: float = 1.0,
    targeted: bool = False,
) -> Tensor:
    """SIA, structure invariant: Wang, Zhang and Zhang, ICCV 2023 (arXiv 2309.14700).

    Program: xiaosen-wang/SIT, attack.py, SIA.blocktransform.

    In step t, mean of the gradients through `copies` views; then MI-FGSM. A view cuts the image
    into n x n blocks and puts each through an operation of its own, in place.

    `draw(b, t, k)`: rows, n - 1 different cuts in 1 .. H - 1; columns likewise, in 1 .. W - 1, the
    same for all strips; for block [i][j] (name, value), the name uniform over the ten of
    `sia_operation`, the value: shifts, whole, 0 .. side - 1; scale, uniform [0, 1]; noise, block's
    (3, h, w), uniform [-1, 1], times 16/255 here; dropout, (3) uniform [0, 1]; others, not read.
    Authors: eps 16/255, T 10, alpha eps / T, n 3, 20 copies, decay 1.

    Decisions
    * Ten operations, equally likely (program); the port has seven: no resize, dct, dropout.
    * Cuts are distinct whole numbers, sorted; so every block has a pixel (unlike BSR).
    * DCT drops the last int(0.4 side) frequencies of each axis. For a side of 1 or 2 the program's
      slice -0: drops all and blackens the block; nothing is dropped here.
    * Dropout is of whole channels of a block, p 0.1, survivors / 0.9 and not clipped (dropout2d).
    * Scale goes towards black, resize and noise are clipped to [0, 1]: the program works in [0, 1].
      The noise is 16/255 whatever eps is.
    * main.py passes momentum 0 unless told; the class's default, 1, is meant.
    * All is drawn per image; the program draws all but noise and dropout per batch.
    """

    def gradient(b: int, t: int, adv: Tensor, label: Tensor) -> Tensor:
        total = torch.zeros_like(adv)
        for k in range(copies):
            view = partial(sia_view, drawn=draw(b, t, k))
            total = total + _slope(model, view, adv, label, targeted) / copies
        return total

    return _climb(x, y, eps, alpha, steps, decay, gradient)
