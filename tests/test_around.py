"""MEF, RAP, DEM, MuMoDIG and ANDA beyond their oracles: targets, views, costs, averaged logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from agr.attacks import Attack, Linf
from agr.attacks.ball import L2
from agr.attacks.loss import Logit
from agr.attacks.stages import Flatten, Integrate, Reverse
from agr.attacks.stages.paths import floors
from agr.attacks.views import DiversityEnsemble, Scale, Warp
from agr.config.cost import left_out
from tests.conftest import CLASSES, EPS, images
from tests.oracles import ORACLES
from tests.oracles.around import begun
from tests.oracles.base import AnySize, Draws, Given
from tests.test_slots import Along
from tests.transcriptions import around as papers

SMALL = [o for o in ORACLES.values() if o.attack in ("mef", "rap", "mumodig", "anda", "dem")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mef", "rap", "mumodig", "anda", "dem"])
def test_targets_are_approached(name: str) -> None:
    """The objective goes up towards another label, in both norms."""
    oracle = next(o for o in SMALL if o.attack == name and o.overrides)
    model, x, y, _ = oracle.given()
    target = (y + 1) % CLASSES
    for ball in (Linf(EPS), L2(EPS * x[0].numel() ** 0.5)):
        attack = replace(oracle.ours(), ball=ball, targeted=True)
        made = attack(model, x, target)
        assert float(ball.length(made - x).max()) <= ball.eps * (1 + 1e-9)
        before, after = (F.cross_entropy(model(z), target) for z in (x, made))
        assert after < before - 0.1, (ball, before, after)


def test_the_inner_steps_of_rap_see_neither_views_nor_the_loss() -> None:
    """As in the authors' targeted runs: the logit loss of copies outside, cross-entropy inside."""
    model, x = AnySize(gain=8), images(2, seed=4, size=12)
    y = (model(x).argmax(1) + 1) % CLASSES
    attack = Attack(
        Linf(EPS),
        steps=4,
        loss=Logit(),
        views=(Scale(2),),
        chain=(Reverse(3, late=0.5),),
        targeted=True,
        quantize="off",
    )
    given = Given(model, x, y, Draws(attack, x, y))

    def outer(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
        return -(model(x)[0, y[0]] + model(0.5 + (x - 0.5) / 2)[0, y[0]]) / 2

    def draw(b: int, t: int, i: int) -> Tensor:
        return begun(given, b, t, i)

    numbers = {"inner_eps": EPS, "inner_steps": 3, "targeted": True}
    theirs = papers.rap(model, x, y, EPS, EPS / 4, 4, draw, late=2, loss=outer, **numbers)  # type: ignore[arg-type]
    assert attack.gradients() == 2 + 3
    assert left_out(attack.chain, attack.steps) == 2 * 3
    assert float((attack(model, x, y) - theirs).abs().max()) <= 1e-12
    plain = replace(attack, loss=Attack(Linf(EPS)).loss)
    assert float((plain(model, x, y) - theirs).abs().max()) > 1e-4


def test_a_loss_of_averaged_logits_has_their_gradient() -> None:
    """Copies of one image: the gradient is that of the mean of their logits, all in one graph."""
    model, x = AnySize(), images(2, seed=4, size=12)
    y = model(x).argmax(1)
    view = DiversityEnsemble(3)
    attack = Attack(Linf(EPS), steps=1, size="full", views=(view, Scale(2)), quantize="off")
    seen: list[Tensor] = []

    def watched(images: Tensor) -> Tensor:
        seen.append(images.detach().clone())
        return model(images)  # type: ignore[no-any-return]

    made = attack(watched, x, y)
    assert len(seen) == 2 * 6
    assert all(torch.equal(a, b) for a, b in zip(seen[:6], seen[6:], strict=True))
    c = attack.context(attack.begin(x, y), x)
    c = c.at(0, 1, 0)  # of the gradient at the iterate
    leaf = x.clone().requires_grad_()
    logits = torch.zeros((), dtype=x.dtype)
    for i in range(3):
        copy = view(leaf, i, c.at(0)).image
        for j in range(2):
            logits = logits + model(Scale(2)(copy, j, c.at(1, i)).image) / 6
    loss = F.cross_entropy(logits, y, reduction="sum")
    (g,) = torch.autograd.grad(loss, leaf)
    expected = torch.clamp(x + EPS * g.sign(), x - EPS, x + EPS).clamp(0, 1)
    assert torch.allclose(made, expected, rtol=0, atol=1e-12)


def test_averaged_logits_go_with_no_part_that_needs_each_copy() -> None:
    for parts in ({"objective": Along()}, {"views": (DiversityEnsemble(), Warp())}):
        with pytest.raises(ValueError, match=r"averages the logits of all copies.*leave out one"):
            Attack(Linf(EPS), **{"views": (DiversityEnsemble(),)} | parts)  # type: ignore[arg-type]


def test_directions_are_kept_for_each_neighbour() -> None:
    s = Flatten(3).init(images(2))
    assert {k: v.shape for k, v in s.items()} == {str(k): images(2).shape for k in range(3)}


def test_pixels_fall_to_the_lower_end_of_their_part() -> None:
    x = torch.tensor([0.0, 0.2, 0.5, 0.6, 0.9, 1.0], dtype=torch.float64).view(1, 1, 2, 3)
    levels = torch.tensor([0.6, 0.5], dtype=torch.float64).view(1, 1, 2)
    assert floors(x, levels).flatten().tolist() == [0, 0, 0.5, 0.6, 0.6, 0.6]


def test_mumodig_takes_square_images() -> None:
    x = images(1, size=12)[:, :, :8]
    model = AnySize()
    with pytest.raises(ValueError, match="8 x 12 px: this attack takes square ones"):
        Attack(Linf(EPS), chain=(Integrate(),))(model, x, model(x).argmax(1))
