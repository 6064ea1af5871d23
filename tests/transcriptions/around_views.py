"""MuMoDIG and ANDA, written down from the authors' programs, one image at a time.

Conventions as in `tests.transcriptions.classic`. An attack climbs +loss, or -loss towards the label
when `targeted`. No paper's text could be had (of MuMoDIG: the appendix); "program" is the authors'
code, "port" is Trustworthy-AI-Group/TransferAttack. A gradient of zero stays zero (programs: NaN).
MEF, RAP and DEM are in `around`.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Model = Callable[[Tensor], Tensor]
Draw = Callable[[int, int, int], Tensor]
"""(b, t, i) -> (3, regions - 1), uniform in [0, 1]."""
Move = Callable[[int, int, int], tuple[str, tuple[float, ...]]]
"""(b, t, k) -> name and numbers of one of MuMoDIG's transforms."""


def cross_entropy(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Sum over images of log(sum_j exp z_j) - z_y; with one image, its cross-entropy."""
    z = model(x)
    return sum((torch.logsumexp(z[b], 0) - z[b, y[b]] for b in range(len(x))), z.new_zeros(()))


def _slope(model: Model, leaf: Tensor, point: Tensor, label: Tensor, targeted: bool) -> Tensor:
    """d/dleaf of the objective at a point made from the leaf: +loss, or -loss when targeted."""
    value = cross_entropy(model, point, label)
    return torch.autograd.grad(-value if targeted else value, leaf)[0]


def _clip(adv: Tensor, clean: Tensor, eps: float) -> Tensor:
    """Project onto the L-infinity ball of radius eps around the clean image, and onto [0, 1]."""
    lowest, highest = torch.clamp(clean - eps, min=0.0), torch.clamp(clean + eps, max=1.0)
    return torch.minimum(torch.maximum(adv, lowest), highest)


def _unit(g: Tensor) -> Tensor:
    """g / mean|g|, and zero where g is zero everywhere."""
    mean = float(g.abs().mean())
    return g / mean if mean > 0 else torch.zeros_like(g)


def _look(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The image read at fractional pixel places (H, W), bilinearly, with black all around it."""
    height, width = image.shape[-2:]
    places = torch.stack([2 * columns / (width - 1) - 1, 2 * rows / (height - 1) - 1], -1)
    return F.grid_sample(image, places[None].to(image), "bilinear", "zeros", align_corners=True)


def _pixels(image: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of each pixel, (H, W) each."""
    down, along = (torch.arange(n, dtype=image.dtype) for n in image.shape[-2:])
    return down[:, None].expand(len(down), len(along)), along[None].expand(len(down), len(along))


def _shrunk(image: Tensor, large: int, size: int, top: int, left: int) -> Tensor:
    """Resize to the size, pad with black to the large one, resize back; all bilinear. Squares."""
    small = F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)
    pads = (left, large - size - left, top, large - size - top)
    side = (image.shape[-2], image.shape[-1])
    return F.interpolate(F.pad(small, pads), size=side, mode="bilinear", align_corners=False)


def _moved(image: Tensor, move: tuple[str, tuple[float, ...]], large: int) -> Tensor:
    """One of MuMoDIG's six transforms; angles are degrees, counter-clockwise."""
    name, numbers = move
    if name in ("down", "along"):  # cyclic shifts
        return image.roll(int(numbers[0]), dims=2 if name == "down" else 3)
    if name in ("upside_down", "mirror"):
        return image.flip(dims=(2 if name == "upside_down" else 3,))
    if name == "resize":
        return _shrunk(image, large, *(int(number) for number in numbers))
    assert name == "rotate"
    down, along = _pixels(image)
    middle_down, middle_along = (image.shape[2] - 1) / 2, (image.shape[3] - 1) / 2
    down, along = down - middle_down, along - middle_along
    c, s = math.cos(math.radians(numbers[0])), math.sin(math.radians(numbers[0]))
    return _look(image, middle_down + s * along + c * down, middle_along + c * along - s * down)


def _floors(image: Tensor, levels: Tensor) -> Tensor:
    """LBQ: every pixel falls to the lower end of its region of its own channel's range."""
    flat = image.detach().clone()
    for c in range(image.shape[1]):
        low, high = flat[0, c].min(), flat[0, c].max()
        ends = torch.sort(torch.cat([low[None], levels[c] * (high - low) + low])).values
        for end in ends:
            flat[0, c] = torch.where(image[0, c].detach() >= end, end, flat[0, c])
    return flat


def mumodig(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    move: Move,
    levels: Draw,
    *,
    n: int = 6,
    baselines: int = 1,
    points: int = 1,
    lamb: float = 0.65,
    large: int = 245,
    decay: float = 1.0,
    targeted: bool = False,
) -> Tensor:
    """MuMoDIG: Ren et al., AAAI 2025 (arXiv 2412.18844).

    Program: RYC-98/Codes-for-MuMoDIG, transferattack/ours/mumodig.py and lb_quantization.py.

    For the image itself and n transforms T_k of it, with baseline B = LBQ(T(x_t)), a constant, and
    path P = T(x_t) - B >= 0, sum over baselines and over i < points
        G += P * d/dx J(B + (i + lamb) / points * (T(x) - B))   at x = x_t
    then m <- decay m + G / mean|G| and a step alpha sign m. LBQ cuts a channel's [min, max] at
    regions - 1 uniform places; a pixel becomes the lower end of its part (a pixel on a cut: it).

    `levels(b, t, k * baselines + j)`: (3, regions - 1), uniform in [0, 1], which also says how many
    regions there are; k = 0 is the image itself, k = 1 .. n the transforms. `move(b, t, k)`, k from
    1 to n: "resize" (size, top, left) with chance 1/2, size in [side, large), top and left in
    [0, large - size); else, 1/10 each, "down" (s,), s in [0, H), "along" (s,), s in [0, W),
    "upside_down" (), "mirror" (), "rotate" (degrees,), uniform in [-45, 45].
    Authors: eps 16/255, T 10, alpha eps / T, n 6, 1 baseline, 1 point, 2 regions, lamb 0.65,
    large 245 (for side 224; it fails from 245 on: pass another), decay 1. Gradients: 7 a step.

    Decisions
    * d/dx goes back through T, so the gradient lies in the image's own frame while P lies in the
      transform's: they are multiplied pixel by pixel all the same (program).
    * The factor (i + lamb) / points of the chain rule stays in (program; with 1 point no matter).
    * The image itself weighs as much as each transform; a sum, no mean. Nothing is normalised
      before the sum. Baselines are new in every step. No interpolated point is clipped.
    * P is 0 at a channel's minimum, so there G is 0; a flat channel gets no gradient of its own.
    * The appendix prints x + a (x - b); the program's b + a (x - b) is meant. Padding and corners
      of the rotation are black in [0, 1] (program; kornia: bilinear, about ((H-1)/2, (W-1)/2)).
    * One transform per image; the program draws all but the angle once for the batch.
    """
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv, momentum = clean.clone(), torch.zeros_like(clean)
        for t in range(steps):
            total = torch.zeros_like(clean)
            for k in range(n + 1):
                how = move(b, t, k) if k else ("down", (0.0,))
                for j in range(baselines):
                    floor = _floors(_moved(adv, how, large), levels(b, t, k * baselines + j))
                    for i in range(points):
                        leaf = adv.detach().clone().requires_grad_(True)
                        path = _moved(leaf, how, large) - floor
                        point = floor + (i + lamb) / points * path
                        slope = _slope(model, leaf, point, label, targeted)
                        total = total + slope * path.detach()
            momentum = decay * momentum + _unit(total)
            adv = _clip(adv + alpha * torch.sign(momentum), clean, eps)
        rows.append(adv)
    return torch.cat(rows)


def anda(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    sample: Callable[[int], Tensor] | None = None,
    *,
    side: int = 5,
    reach: float = 0.3,
    targeted: bool = False,
) -> Tensor:
    """ANDA, asymptotically normal: Fang et al., CVPR 2024 (arXiv 2209.11964).

    Program: CLIAgroup/ANDA, attack/anda.py and utils.py.

    side^2 fixed shifts, a grid of side values in [-reach, reach] each way, in half images:
        g_(t,i) = dJ(shift_i(x_t)) with respect to x_t,   black comes in at the edges
        mean_t  = mean of *all* gradients so far, (t + 1) side^2 of them
        x_{t+1} = clip(x_t + alpha sign mean_t)
    With `sample`, the last step takes the sign of a draw from the normal distribution learnt:
        mean_T + sum_k z_k (g_k - mean_(step of k)) / sqrt(T side^2 - 1)

    `sample(b)`: (steps * side^2,), N(0, 1), by step, then shift along (outer), then down (inner);
    None: no sampling (authors' output a; with it, output b).
    Authors: eps 16/255, T 10, alpha eps / T, 25 shifts (side 5), reach 0.3. No momentum.

    Decisions
    * Nothing is normalised: a step with a large gradient outweighs the others to the end. The mean
      is the sum over steps of raw gradients, an MI-FGSM with decay 1 without its normalising.
    * Shifts are fractional (reach * W / 2 pixels): bilinear, black, align_corners False. Output
      (r, c) reads input (r + down H / 2, c + along W / 2). The gradient comes back to x_t's frame.
    * A deviation is from the mean that includes its own step, and is not updated later (program).
    * Both outputs share every step but the last. The program and the port take one image a batch.
    """
    values = [-reach + 2 * reach * i / max(side - 1, 1) for i in range(side)]
    rows = []
    for b in range(len(x)):
        clean, label = x[b : b + 1], y[b : b + 1]
        adv, total = clean.clone(), torch.zeros_like(clean)
        down, along = _pixels(clean)
        away: list[Tensor] = []
        for t in range(steps):
            slopes = []
            for right in values:
                for below in values:
                    places = (down + below * clean.shape[2] / 2, along + right * clean.shape[3] / 2)
                    leaf = adv.detach().clone().requires_grad_(True)
                    slopes.append(_slope(model, leaf, _look(leaf, *places), label, targeted))
            for slope in slopes:
                total = total + slope
            noise = total / (len(away) + len(slopes))
            away += [slope - noise for slope in slopes]
            if sample is not None and t == steps - 1:
                for z, deviation in zip(sample(b), away, strict=True):
                    noise = noise + z * deviation / math.sqrt(max(len(away) - 1, 1))
            adv = _clip(adv + alpha * torch.sign(noise), clean, eps)
        rows.append(adv)
    return torch.cat(rows)
