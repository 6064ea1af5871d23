"""Balls: projections, directions and rounding keep every budget."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agr.attacks import L2, Linf
from agr.attacks.ball import Ball, row_norm
from agr.utils.pixels import is_8bit
from tests.conftest import images

NORMS = {"linf": lambda v: v.flatten(1).abs().amax(1), "l2": row_norm}
D = 3 * 12 * 12


def balls(norm: str, eps_levels: float) -> Ball:
    return Linf(eps_levels / 255) if norm == "linf" else L2(eps_levels * D**0.5 / 255)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@settings(max_examples=60, deadline=None)
@given(
    eps=st.floats(0, 60),
    spread=st.floats(1e-4, 3),
    seed=st.integers(0, 10_000),
    whole=st.booleans(),
)
def test_projection_and_rounding_keep_the_budget(
    norm: str, eps: float, spread: float, seed: int, whole: bool
) -> None:
    ball = balls(norm, round(eps) if whole else eps)
    x0 = images(4, seed)
    x = x0 + spread * torch.randn_like(x0)
    for inside in (ball.project(x, x0), ball.round(ball.project(x, x0), x0)):
        assert (NORMS[norm](inside - x0) <= ball.eps * (1 + 1e-6) + 1e-12).all()
        assert inside.min() >= 0
        assert inside.max() <= 1
    rounded = ball.round(ball.project(x, x0), x0)
    assert is_8bit(rounded)
    assert torch.equal(rounded, (rounded * 255).round().to(torch.uint8).double() / 255)


def test_l2_rounding_is_to_nearest_when_the_budget_allows() -> None:
    x0 = images(4)
    x = (x0 + 0.03 * torch.randn_like(x0)).clamp(0, 1)
    nearest = (x * 255).round() / 255
    assert torch.equal(L2(100.0).round(x, x0), nearest)
    assert torch.equal(Linf(1.0).round(x, x0), nearest)


def test_l2_rounding_undoes_few_pixels() -> None:
    """Only the pixels rounded farthest out step back at the boundary, not all of them."""
    x0 = torch.full((1, 3, 12, 12), 0.5, dtype=torch.float64).mul(255).round() / 255
    ball = L2(3 * D**0.5 / 255)
    x = ball.project(x0 + torch.randn_like(x0), x0)
    rounded = ball.round(x, x0)
    assert row_norm(rounded - x0) <= ball.eps
    assert row_norm(rounded - x0) >= 0.995 * ball.eps
    assert ((rounded - x).abs() > 0.5 / 255 + 1e-9).float().mean() < 0.1


def test_linf_rounding_by_hand() -> None:
    x0 = torch.tensor([100, 100, 100, 2, 254], dtype=torch.float64).view(1, 1, 1, 5) / 255
    x = torch.tensor([102.4, 102.6, 97.4, 0.0, 255.0], dtype=torch.float64).view(1, 1, 1, 5) / 255
    levels = (Linf(2.5 / 255).round(x, x0) * 255).round().flatten().tolist()
    assert levels == [102, 102, 98, 0, 255]  # 2.5 levels allow two: 102.6 and 97.4 are undone


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.1)])
def test_directions_are_units_and_safe(ball: Ball) -> None:
    g = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    g[1] = 0
    g[2] *= 1e-200  # squares underflow
    g[3] *= 1e200  # squares overflow
    g[4, 0, 0, 0] = float("nan")
    for unit in (ball.direction(g), ball.direction(g.sign())):
        length = NORMS["linf" if isinstance(ball, Linf) else "l2"](unit)
        assert torch.allclose(length, torch.tensor([1.0, 0, 1, 1, 1], dtype=torch.float64))
        assert unit.isfinite().all()
        assert unit[4, 0, 0, 0] == 0


def test_l2_projection_is_the_nearest_point_when_no_pixel_clips() -> None:
    x0 = torch.full((1, 3, 4, 4), 0.5, dtype=torch.float64)
    v = torch.randn_like(x0) * 0.01
    ball = L2(0.01)
    expected: Tensor = x0 + v * 0.01 / v.norm()
    assert torch.allclose(ball.project(x0 + v, x0), expected, atol=1e-15)


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(ValueError, match=r"eps=-1"):
        Linf(-1.0)
