"""DeCowA and OPS, written down from the authors' programs, one image at a time.

Conventions as in `tests.transcriptions.classic`. An attack climbs +loss, or -loss towards the label
when `targeted`. The papers' text could not be had; "program" is the authors' code.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Model = Callable[[Tensor], Tensor]
Noise = Callable[[int, int, int], Tensor]
Pick = Callable[[int, int, int], int]
"""(b, t, k) -> which noise of the pool is neighbour k of this step."""
Chain = Callable[[int, int, int, int], tuple[int, ...]]
"""(b, t, k, m) -> numbers of the operators, in the order in which they are applied."""
Numbers = Callable[[int, int, int, int, int], Tensor]
"""(b, t, k, m, place in the chain) -> (3), uniform in [0, 1)."""


def _objective(model: Model, image: Tensor, label: Tensor, targeted: bool) -> Tensor:
    """Cross-entropy of one image, negative if targeted."""
    z = model(image)[0]
    value = torch.logsumexp(z, 0) - z[label[0]]
    return -value if targeted else value


def _clip(adv: Tensor, clean: Tensor, eps: float) -> Tensor:
    """Project onto the L-infinity ball of radius eps around the clean image, and onto [0, 1]."""
    lowest = torch.clamp(clean - eps, min=0.0)
    highest = torch.clamp(clean + eps, max=1.0)
    return torch.minimum(torch.maximum(adv, lowest), highest)


def _mean_normalised(g: Tensor) -> Tensor:
    """g / mean|g|, and zero where g is zero everywhere."""
    mean = float(g.abs().mean())
    return g / mean if mean > 0 else torch.zeros_like(g)


def _sample(image: Tensor, rows: Tensor, cols: Tensor, black: bool) -> Tensor:
    """Bilinear values at (rows, cols), in pixels from the middle of the first one.

    Beyond the image every pixel is 0 if `black`, else the nearest pixel of the edge.
    """
    height, width = image.shape[-2:]
    top, left = torch.floor(rows.detach()), torch.floor(cols.detach())
    total = torch.zeros_like(image[..., :1, :1])
    for r, down in ((top, top + 1 - rows), (top + 1, rows - top)):
        for c, right in ((left, left + 1 - cols), (left + 1, cols - left)):
            pixel = image[..., r.clamp(0, height - 1).long(), c.clamp(0, width - 1).long()]
            inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            if black:
                pixel = pixel * inside.to(image.dtype)
            total = total + down * right * pixel
    return total


# --------------------------------------------------------------------------------------- DeCowA


def _bending(a: Tensor, b: Tensor) -> Tensor:
    """r^2 log(r^2 + 1e-9) between points a (n, 2) and b (m, 2)."""
    square = ((a[:, None, :] - b[None, :, :]) ** 2).sum(-1)
    return square * torch.log(square + 1e-9)


def decowa_warp(image: Tensor, noise: Tensor, corners: bool = False) -> Tensor:
    """Thin-plate warp: control point c of the mesh takes its colour from c + noise.

    The mesh spans [-1, 1] x [-1, 1], as do the pixels' *middles*, first to last. `noise` (h, w, 2),
    (x, y) shifts of the inner points, row by row; the border points stay.
    """
    mesh_height, mesh_width = noise.shape[0] + 2, noise.shape[1] + 2
    height, width = image.shape[-2:]
    points, moved = [], []
    for i in range(mesh_height):
        for j in range(mesh_width):
            at = noise.new_tensor([2 * j / (mesh_width - 1) - 1, 2 * i / (mesh_height - 1) - 1])
            inner = 0 < i < mesh_height - 1 and 0 < j < mesh_width - 1
            points.append(at)
            moved.append(at + noise[i - 1, j - 1] if inner else at)
    source, target = torch.stack(points), torch.stack(moved)
    affine = torch.cat([torch.ones_like(source[:, :1]), source], 1)
    left = torch.cat([_bending(source, source), affine], 1)
    right = torch.cat([affine.T, affine.new_zeros(3, 3)], 1)
    system = torch.cat([left, right])
    weights = torch.linalg.solve(system, torch.cat([target, target.new_zeros(3, 2)]))
    y = torch.linspace(-1, 1, height, dtype=image.dtype)[:, None].expand(height, width)
    x = torch.linspace(-1, 1, width, dtype=image.dtype)[None, :].expand(height, width)
    pixels = torch.stack([x.reshape(-1), y.reshape(-1)], 1)
    basis = torch.cat([_bending(pixels, source), torch.ones_like(pixels[:, :1]), pixels], 1)
    cols, rows = (basis @ weights).reshape(height, width, 2).unbind(-1)
    if corners:
        return _sample(image, (rows + 1) / 2 * (height - 1), (cols + 1) / 2 * (width - 1), True)
    return _sample(image, ((rows + 1) * height - 1) / 2, ((cols + 1) * width - 1) / 2, True)


def decowa(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    draw: Noise,
    *,
    copies: int = 20,
    scale: float = 1.0,
    rho: float = 0.01,
    corners: bool = False,
    decay: float = 1.0,
    targeted: bool = False,
) -> Tensor:
    """DeCowA, deformation-constrained warping: Lin et al., AAAI 2024 (arXiv 2402.03951).

    Program: LinQinLiang/DeCoWA names Trustworthy-AI-Group/TransferAttack's decowa.py as its own.

    In step t, for each copy: noise n = scale u; n' = n - rho dJ/dn at the warp of x_t by n; then
    the gradient dJ/dx at the warp of x_t by n'. Their mean goes into MI-FGSM.

    `draw(b, t, k)`: (mesh height - 2, mesh width - 2, 2), uniform [-1, 1], (x, y) shifts in units
    of half the image; scaled by `scale` here.
    Authors: eps 16/255, T 10, alpha eps / T, mesh 3 x 3 (so one point moves), 20 copies, scale 1
    (noise_scale 2 times uniform in +-0.5), rho 0.01, decay 1.

    Decisions
    * n moves *down* the attack's own objective J (the constraint; program), once, by the raw
      gradient, not its sign; when targeted, J = -L(y), so L(y) rises. n' is not clipped to +-scale
      and is a constant in the second gradient.
    * The grid runs over [-1, 1] from first to last middle, but is read with align_corners false:
      pixel = ((c + 1) side - 1) / 2. So even n = 0 enlarges, by side / (side - 1), and half darkens
      the border with the black outside. Kept (program); corners = True makes n = 0 the identity.
    * The program swaps H and W, right for squares only; here each axis is its own.
    * The program has one noise for the batch and the gradient of the batch's mean loss; here each
      image has its own noise, and rho acts on its own loss.
    * x_t warped is not clipped. 1e-9 in the logarithm as in the program.
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv, momentum = clean.clone(), torch.zeros_like(clean)
        for t in range(steps):
            total = torch.zeros_like(clean)
            for k in range(copies):
                noise = (scale * draw(b, t, k)).detach().clone().requires_grad_(True)
                value = _objective(model, decowa_warp(adv, noise, corners), label, targeted)
                moved = noise.detach() - rho * torch.autograd.grad(value, noise)[0]
                leaf = adv.detach().clone().requires_grad_(True)
                value = _objective(model, decowa_warp(leaf, moved, corners), label, targeted)
                total = total + torch.autograd.grad(value, leaf)[0] / copies
            momentum = decay * momentum + _mean_normalised(total)
            adv = _clip(adv + alpha * torch.sign(momentum), clean, eps)
        rows.append(adv)
    return torch.cat(rows)


# ------------------------------------------------------------------------------------------ OPS


def _rotated(image: Tensor, degrees: float) -> Tensor:
    """Rotate counter-clockwise about the middle; nearest pixel, half to even; black outside."""
    height, width = image.shape[-2:]
    sin, cos = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    down = torch.arange(height, dtype=image.dtype)[:, None] - (height - 1) / 2
    across = torch.arange(width, dtype=image.dtype)[None, :] - (width - 1) / 2
    rows = torch.round(sin * across + cos * down + (height - 1) / 2, decimals=9)
    cols = torch.round(cos * across - sin * down + (width - 1) / 2, decimals=9)
    return _sample(image, torch.round(rows), torch.round(cols), True)


def _resized(image: Tensor, side: int) -> Tensor:
    """Bilinear to (side, side), pixel middles aligned, no low-pass, the edge continued."""
    tall, wide = image.shape[-2:]
    middle = torch.arange(side, dtype=image.dtype) + 0.5
    rows, cols = middle * tall / side - 0.5, middle * wide / side - 0.5
    rows, cols = torch.meshgrid(rows, cols, indexing="ij")
    return _sample(image, rows, cols, False)


ROTATIONS = (5, -5, 15, -15, 45, -45, 90, -90, 180)
RATES = (1.1, 1.3, 1.5, 1.7, 1.9, 2.1, 2.3, 2.5, 2.7, 2.9)


def ops_operator(number: int, u: Tensor, image: Tensor) -> Tensor:
    """One of the 31 operators of OPS on a square image; u (3) uniform in [0, 1)."""
    side = image.shape[-1]
    if number == 0:
        return image
    if number in (1, 2):  # flips, of rows and of columns
        return torch.flip(image, (number + 1,))
    if number in (3, 4):  # cyclic shifts, down and to the right
        return torch.roll(image, int(u[0] * side), number - 1)
    if number < 14:
        return _rotated(image, ROTATIONS[number - 5])
    if number < 21:
        return image / (number - 12)
    full = int(side * RATES[number - 21])
    size = side + int(u[0] * (full - side))
    top, left = int(u[1] * (full - size)), int(u[2] * (full - size))
    canvas = image.new_zeros(*image.shape[:2], full, full)
    canvas[:, :, top : top + size, left : left + size] = _resized(image, size)
    return _resized(canvas, side)


def ops(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    noise: Noise,
    pick: Pick,
    chain: Chain,
    draw: Numbers,
    *,
    neighbours: int = 10,
    operators: int = 20,
    beta: float = 2.0,
    ratios: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5),
    decay: float = 1.0,
    targeted: bool = False,
) -> Tensor:
    """OPS, operators and perturbations: Guo et al., "Boosting Adversarial Transferability through
    Augmentation in Hypothesis Space", CVPR 2025 (no arXiv number found).

    Program: the-full/OPS, TransferAttack/transferattack/input_transformation/ops.py.

    A pool of noises is drawn once: for each ratio r, `neighbours` of them, uniform in +-beta eps r.
    In step t the gradient is the mean of that at x_t itself and of those at op(x_t + n), for
    `neighbours` noises n of the pool and, with each, `operators` chains op; then MI-FGSM.

    `noise(b, 0, j)`: (3, H, W), uniform [-1, 1], the pool's j-th; its ratio is number
    j // neighbours. `pick(b, t, k)`: different for different k. `chain(b, t, k, m)`: a sample
    without replacement from 93 chains, 31 each of 2, 3 and 4 operators, each operator any of the
    31, all made anew for every k. `draw(b, t, k, m, s)`: the numbers of the chain's s-th operator.
    Authors: eps 16/255, T 10, alpha eps / T, 10 neighbours, 20 operators, beta 2, decay 1.

    Decisions
    * 10 x 20 is the class's default; main_for_ops.py has 20 x 20, its scripts go from 1 x 1
      to 30 x 30; TransferAttack has said 30 x 30 since 2026-02. Nought of either is MI-FGSM.
    * The pool is fixed over the steps (program) and, here, per image; there, one for the batch.
      Six radii, from eps / 2 to 3 eps, and 180 noises for 30 neighbours; not 30 radii.
    * x_t counts once, as much as one of the N M; gradients are averaged as they are.
    * Rotations: nearest pixel, black outside (torchvision's default). A tie (45 degrees, even side,
      on the diagonals) goes to the even number here; there, rounding noise decides.
    * Resize and pad always happens (the chance of 1/2 is commented out); size in [S, int(S r)), top
      and left in [0, free), never the last place. With no room it is the identity (program: error).
    * Division goes towards black. Nothing is clipped.
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv, momentum = clean.clone(), torch.zeros_like(clean)
        for t in range(steps):
            leaf = adv.detach().clone().requires_grad_(True)
            total = torch.autograd.grad(_objective(model, leaf, label, targeted), leaf)[0]
            for k in range(neighbours):
                j = pick(b, t, k)
                shift = beta * eps * ratios[j // neighbours] * noise(b, 0, j)[None]
                for m in range(operators):
                    leaf = adv.detach().clone().requires_grad_(True)
                    image = leaf + shift
                    for s, number in enumerate(chain(b, t, k, m)):
                        image = ops_operator(number, draw(b, t, k, m, s), image)
                    value = _objective(model, image, label, targeted)
                    total = total + torch.autograd.grad(value, leaf)[0]
            total = total / (neighbours * operators + 1)
            momentum = decay * momentum + _mean_normalised(total)
            adv = _clip(adv + alpha * torch.sign(momentum), clean, eps)
        rows.append(adv)
    return torch.cat(rows)
