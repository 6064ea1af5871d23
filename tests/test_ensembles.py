"""Attacks on several networks: what their strategies promise, by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from agr.attacks.draws import START, fold
from agr.attacks.engine import Calls, Item, craft
from agr.attacks.ensembles import Adaptive, Reweighing, VarianceReduction
from agr.attacks.start import Normal
from agr.attacks.views import Diverse, Scale
from agr.evaluation.runner import run_cell
from agr.utils.errors import ConfigError
from tests.conftest import CLASSES, EPS, Several, demo_cell, images, small_model
from tests.oracles.base import Draws, Given, ours
from tests.oracles.ensembles import noise, order, pick, three
from tests.test_parts import a_context
from tests.transcriptions import ensembles as papers

pytestmark = pytest.mark.xdist_group("oracles")  # the attacks are composed once
NAMES = ("svre", "adaea", "cwa", "smer")


@pytest.mark.parametrize("name", NAMES)
def test_one_network_is_refused_before_anything_is_crafted(name: str, tmp_path: Path) -> None:
    cell = demo_cell(tmp_path, f"attack={name}", "source=vgg16", "n_images=1")
    message = rf"^attack={name} on vgg16: .* needs a source of several networks: source=\[A,B\]"
    with pytest.raises(ConfigError, match=message):
        run_cell(cell, lambda _: None)
    x = images(1)
    with pytest.raises(ValueError, match="in Python a module whose `members` they are"):
        ours(name)(small_model(), x, torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize(
    ("name", "paper"),
    [
        ("svre", lambda g: partial(papers.svre, alpha=EPS / 10, draw=partial(pick, g), inner=4)),
        ("adaea", lambda g: partial(papers.adaea, alpha=EPS / 4, draw=partial(noise, g))),
        ("cwa", lambda g: partial(papers.mi_cwa, alpha=EPS / 5, reverse=EPS / 15)),
        ("smer", lambda g: partial(papers.smer, alpha=EPS / 10, draw=partial(order, g))),
    ],
)
def test_targets_are_climbed_to_as_papers_would(
    name: str, paper: Callable[[Given], Callable[..., Tensor]]
) -> None:
    inner = ["attack.ensemble.inner=4"] if name == "svre" else []
    size = ["attack.size=eps/10"] if name in ("svre", "smer") else []
    attack = ours(name, "linf", "steps=3", "attack.targeted=true", *inner, *size)
    source, x = three(), images(2, seed=4)
    y = (source(x).argmax(1) + 1) % CLASSES
    made = paper(Given(source, x, y, Draws(attack, x, y)))
    theirs = made([*source.members], x, y, EPS, steps=3, targeted=True)
    assert float((attack(source, x, y) - theirs).abs().max()) <= 1e-12


def test_the_programs_slip_in_counting_pairs() -> None:
    """With two members half the cosine; with more, pairs with the last one count half."""
    a, b, c = (torch.tensor(v).view(1, 3, 1, 1) for v in ([1.0, 0, 0], [3.0, 4, 0], [-2.0, 0, 0]))
    program, mended = Adaptive(), Adaptive(pairs="all")
    assert program.agreement([a, b]).item() == pytest.approx(0.3)
    assert mended.agreement([a, b]).item() == pytest.approx(0.6)
    # cos(a, b) = 0.6, cos(a, c) = -1, cos(b, c) = -0.6
    assert mended.agreement([a, b, c]).item() == pytest.approx(-1 / 3)
    assert program.agreement([a, b, c]).item() == pytest.approx((2 * 0.6 - 1.6) / 6)
    assert program.agreement([a, c, b]).item() == pytest.approx((-2 * 1 + 0.6 - 0.6) / 6)
    assert not program.agreement([a * 0, b * 0, c * 0]).any()


def test_members_whose_steps_help_the_others_weigh_more() -> None:
    # [k, i]: loss of member i at the step of k
    losses = torch.tensor([[[2.0, 3.0], [1.0, 4.0]]])
    expected = torch.tensor([[3 / 4, 1 / 2]]).softmax(1)
    assert torch.allclose(Adaptive(beta=1.0).weights(losses, targeted=False), expected)
    turned = torch.tensor([[4 / 3, 2 / 1]]).softmax(1)
    assert torch.allclose(Adaptive(beta=1.0).weights(-losses, targeted=True), turned)
    sure = Adaptive().weights(torch.zeros(1, 2, 2), targeted=False)
    assert torch.allclose(sure, torch.full((1, 2), 0.5))


def test_orders_and_members_are_the_images_own() -> None:
    c = a_context(images(400), root=torch.arange(400).repeat(1))
    drawn = Reweighing().order(4, 0, c)
    assert torch.equal(drawn.sort(1).values, torch.arange(4).expand(400, 4))
    assert len({*map(tuple, drawn.tolist())}) == 24
    assert not torch.equal(drawn, Reweighing().order(4, 1, c))
    members = torch.stack([VarianceReduction().member(4, i, c) for i in range(16)])
    counts = members.flatten().bincount(minlength=4)
    assert len(counts) == 4
    assert int((counts - 1600).abs().max()) < 150  # four deviations


def test_weights_of_a_sure_ensemble_only_shrink() -> None:
    class Sure:
        targeted = False

        def logits(self, point: Tensor) -> Tensor:
            return torch.tensor([[[1000.0, 0.0], [1000.0, 0.0]]])

        def loss(self, logits: Tensor) -> Tensor:
            return torch.nn.functional.cross_entropy(logits, torch.tensor([0]), reduction="none")

    weights = torch.tensor([[1.0, 0.5]])
    found = Reweighing().reweighed(weights, Sure(), images(1))  # type: ignore[arg-type]
    assert torch.allclose(found, weights * (1 - 0.02 * 0.002))


def test_normal_noise_is_on_the_pixel_scale() -> None:
    x = torch.full((2, 3, 64, 64), 0.5, dtype=torch.float64)
    made = Normal(2.0)(x, ours("ifgsm").ball, fold(torch.arange(2), START)) - x
    assert made.std().item() * 255 == pytest.approx(2, rel=0.03)
    assert not torch.equal(made[0], made[1])


@pytest.mark.parametrize("name", NAMES)
def test_views_take_part_and_each_copy_of_each_member_counts(name: str) -> None:
    """By hooks, for an image alone; half of DI's copies are made with another size."""
    attack = replace(ours(name, "linf", "steps=1"), quantize="always")
    source = three()
    item = Item(0, (images(1)[0] * 255).round().to(torch.uint8).numpy(), 0, key=5)
    looks = {"adaea": 9, "smer": 36}.get(name, 0)
    for views, copies in (((Scale(2),), 2), ((Diverse(back=True),), 1)):
        calls = Calls()
        (made,) = craft(replace(attack, views=views), source, [item], 1, calls=calls)
        assert attack.ensemble
        gradients = copies * attack.ensemble.gradients(3)
        assert (made.forwards, made.backwards) == (gradients + looks, gradients)
        assert calls == Calls(gradients + looks, gradients)


@pytest.mark.filterwarnings("ignore:.* logits are not finite")
def test_a_member_that_fails_for_an_image_leaves_the_others_alone() -> None:
    """Weights and momenta of a row that got NaN are its own."""

    class Bad(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            z = model(x)
            return torch.cat([z[:1] * torch.nan, z[1:]])

    model, x = small_model(1), images(3)
    y, source = model(x).argmax(1), Several(small_model(2), Bad().eval())
    for name in NAMES:
        attack = ours(name, "linf", "steps=2")
        good, bad = (attack(s, x, y) for s in (Several(small_model(2), model), source))
        assert torch.equal(bad[1:], good[1:])
        assert bad.isfinite().all()
