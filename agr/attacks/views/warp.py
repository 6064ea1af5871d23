"""DeCowA: an image warped by a thin-plate spline, against the attack's goal."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from agr.attacks.draws import fold, symmetric
from agr.attacks.parts import Context, Copy
from agr.attacks.views.sampling import bilinear
from agr.utils.checks import LIMIT, Checked, number, whole

TINY = 1e-9  # the authors', in a logarithm


@dataclass(frozen=True)
class Warp(Checked):
    """DeCowA: thin-plate warps, each made worse for the attack first (arXiv:2402.03951).

    Lin et al. (AAAI 2024), Eq. 5 to 8, and the authors' program. A mesh of `mesh` x `mesh` control
    points covers the image from -1 to 1; each copy moves the inner ones by uniform draws within
    `reach`, and then by -`rate` times the gradient of the loss that the attack climbs. That takes
    a gradient more for each copy. Authors: 20 copies, 3, 1 and 0.01.

    As in their program, places are spread from -1 to 1 over the outermost pixels' centres and read
    as if over their edges, so that no warp is the image itself; outside of it all is black.
    """

    copies: int = whole(20, 1, LIMIT)
    mesh: int = whole(3, 3, 16)
    reach: float = number(1.0, 0)
    rate: float = number(0.01, 0)
    asks = 1

    def __call__(self, x: Tensor, i: int, c: Context) -> Copy:
        assert c.losses is not None
        leaf = self.moves(i, c).to(x.dtype).requires_grad_()
        losses = c.losses(self.warped(x.detach(), leaf))
        (g,) = torch.autograd.grad(losses.sum(), leaf)
        return Copy(self.warped(x, leaf.detach() - self.rate * g), 1 / self.copies)

    def moves(self, i: int, c: Context) -> Tensor:
        """Draw how far copy `i` moves the inner points, (B, inner, 2): right and down."""
        inner = (self.mesh - 2) ** 2
        return symmetric(fold(c.key, i), (inner, 2), torch.float64) * self.reach

    def warped(self, x: Tensor, moves: Tensor) -> Tensor:
        """Warp images `x` (B, C, H, W) by moves (B, inner, 2) of the inner points."""
        height, width = x.shape[2:]
        rest, pull = _spline(height, width, self.mesh, moves.dtype, x.device)
        place = rest + torch.einsum("pk,bkd->bpd", pull, moves)  # (B, H * W, 2)
        right, down = place.view(-1, height, width, 2).unbind(3)
        return bilinear(x, ((down + 1) * height - 1) / 2, ((right + 1) * width - 1) / 2)


@lru_cache(maxsize=8)
def _spline(
    height: int, width: int, mesh: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return where a thin-plate spline puts each pixel (H * W, 2), and what each inner point adds.

    The spline interpolates the control points' places; it is linear in them.
    """
    line = torch.linspace(-1, 1, mesh, dtype=torch.float64)
    points = torch.cartesian_prod(line, line).flip(1)  # right, down
    pixels = torch.cartesian_prod(
        torch.linspace(-1, 1, height, dtype=torch.float64),
        torch.linspace(-1, 1, width, dtype=torch.float64),
    ).flip(1)
    of_points, of_pixels = _terms(points, points), _terms(pixels, points)
    system = torch.zeros(len(points) + 3, len(points) + 3, dtype=torch.float64)
    system[: len(points)] = of_points
    system[len(points) :, : len(points)] = of_points[:, len(points) :].T
    # What each pixel takes of each point's place: (H * W, points).
    shares = torch.linalg.solve(system.T, of_pixels.T).T[:, : len(points)]
    inner = (points.abs() < 1).all(1)
    rest, pull = shares @ points, shares[:, inner]
    return rest.to(dtype).to(device), pull.to(dtype).to(device)


def _terms(at: Tensor, points: Tensor) -> Tensor:
    """Return the spline's terms at places (n, 2): d^2 log d^2 of each point, and 1, right, down."""
    squares = (at[:, None] - points[None]).square().sum(2)
    ones = torch.ones(len(at), 1, dtype=at.dtype)
    return torch.cat([squares * (squares + TINY).log(), ones, at], 1)
