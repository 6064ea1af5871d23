"""Attacks that know the source's defense, and votes that abstain."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from agr.attacks import Attack
from agr.attacks.ball import Linf
from agr.attacks.draws import GRADIENT, STEPS, fold
from agr.attacks.engine import Calls, Item, craft
from agr.attacks.goal import Goal
from agr.attacks.gradient import Taker
from agr.attacks.idle import idle_parts
from agr.attacks.loss import CrossEntropy
from agr.attacks.views import Diverse, Draws
from agr.config.cell import Cell
from agr.config.compose import expand
from agr.config.schema import NetworkConfig
from agr.evaluation.runner import run_cell
from agr.models.defended import DefendedNetwork
from agr.models.defenses import BitDepth, Defense, Ending, Jpeg, Median, RandomResizePad, Smoothing
from agr.models.defenses.smoothing import p_value
from agr.models.draws import normal
from agr.models.logits import ABSTAINED, NO_ANSWER, confidence, is_fooled, joint, predict
from agr.models.network import Network
from agr.models.sources import Ensemble
from agr.records.audit import check_records
from agr.records.store import Records
from agr.report.frames import selected
from agr.report.notes import closing
from agr.utils.errors import ConfigError
from tests.conftest import images

SIZE, CLASSES = 12, 5
PAD = RandomResizePad(ratio=1.5)


class Small(nn.Module):
    """A network of any size of images whose gradient depends on the place."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, CLASSES)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.conv(x)).mean((2, 3)))  # type: ignore[no-any-return]


def network(body: nn.Module | None = None, **changes: Any) -> Network:
    config = {"size": SIZE, "mean": [0.5] * 3, "std": [0.25] * 3, "classes": CLASSES, **changes}
    config = {"architecture": "small", "weights": "none"} | config
    return Network(body or Small(), NetworkConfig(**config), "contiguous", "fp64")


# ---- gradients through a defense ----------------------------------------------------------------


def through(model: Any, x: Tensor, y: Tensor, *views: Any) -> Tensor:
    attack = Attack(ball=Linf(0.1), views=views)
    key = torch.arange(len(x)) * 7
    c = attack.context(attack.begin(x, y, key), x).at(0, GRADIENT, 0)
    live, spent = torch.ones(len(x), dtype=torch.bool), torch.zeros(len(x), dtype=torch.int64)
    goal = Goal(CrossEntropy(), None, views, targeted=False)
    taker = Taker(goal, attack.bind(model), {}, y, live, spent, spent.clone())
    g = taker.through_views(c)
    assert spent.tolist() == [math.prod(view.copies for view in views)] * len(x)
    return g


def placed(x: Tensor, key: int) -> Tensor:
    """One padded image, made with torch's own resize."""
    r, top, left = PAD.place(key, SIZE, 0)
    small = torch.nn.functional.interpolate(x, (r, r), mode="nearest")
    return torch.nn.functional.pad(small, (left, 18 - left - r, top, 18 - top - r), value=0.5)


def test_eot_is_the_mean_over_draws_made_by_hand() -> None:
    plain, x, y = network(), images(4), torch.tensor([0, 1, 2, 3])
    found = through(DefendedNetwork(plain, [PAD]), x, y, Draws(3))
    expected = torch.zeros_like(x)
    for row in range(4):
        root = torch.tensor([row * 7])
        for i in range(3):
            # image, step and use of the gradient, then the view and its copy
            key = int(fold(fold(root, STEPS, 0, 0, GRADIENT, 0, 0), i))
            leaf = x[row : row + 1].clone().requires_grad_()
            logits = plain.logits(placed(leaf, key))
            loss = torch.nn.functional.cross_entropy(logits, y[row : row + 1])
            (g,) = torch.autograd.grad(loss, leaf)
            expected[row] += g[0] / 3
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert not torch.allclose(found, through(plain, x, y, Draws(3)), rtol=0, atol=1e-3)


@pytest.mark.parametrize("defense", [Jpeg(30), BitDepth(2)])
def test_a_defense_without_a_gradient_is_passed_by(defense: Defense) -> None:
    """BPDA: the gradient at what the defense made, as if that were the image."""
    plain, x, y = network(), images(3), torch.tensor([0, 1, 2])
    made = defense(x, [0] * 3, SIZE)
    assert not torch.equal(made, x)
    found = through(DefendedNetwork(plain, [defense]), x, y, Draws(1))
    assert torch.equal(found, through(plain, made, y, Draws(1)))


def test_a_median_has_its_own_gradient() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, SIZE, SIZE, dtype=torch.float64)  # without equal neighbours
    plain, y = network(), torch.tensor([0, 1])
    found = through(DefendedNetwork(plain, [Median(3)]), x, y, Draws(1))
    by_hand = torch.zeros_like(x)
    made = Median(3)(x, [0, 0], SIZE)
    g = through(plain, made, y, Draws(1))
    for place in np.ndindex(*x.shape):
        step = torch.zeros_like(x)
        step[place] = 1e-7
        moved = (Median(3)(x + step, [0, 0], SIZE) - Median(3)(x - step, [0, 0], SIZE)) / 2e-7
        by_hand[place] = (g * moved).sum()
    assert torch.allclose(found, by_hand, rtol=0, atol=1e-6)


def test_noise_lets_the_gradient_pass() -> None:
    plain, x, y = network(), images(2), torch.tensor([0, 1])
    defense = Smoothing(0.5)
    found = through(DefendedNetwork(plain, [defense]), x, y, Draws(1))
    key = fold(fold(torch.arange(2) * 7, STEPS, 0, 0, GRADIENT, 0, 0), 0)
    noisy = defense.draw(x, key.tolist(), SIZE, 0)
    leaf = noisy.requires_grad_()
    loss = torch.nn.functional.cross_entropy(plain(leaf), y, reduction="sum")
    assert torch.allclose(found, torch.autograd.grad(loss, leaf)[0], rtol=0, atol=1e-12)


def test_a_chain_and_a_view_before_it() -> None:
    """DI's larger copies reach a defense as they are, and the random one resizes them."""
    x, y = images(3), torch.tensor([0, 1, 2])
    defended = DefendedNetwork(network(), [BitDepth(4), PAD])
    found = through(defended, x, y, Diverse(prob=1), Draws(2))
    assert found.shape == x.shape
    assert (found != 0).flatten(1).any(1).all()
    assert not torch.equal(found, through(defended, x, y, Draws(2)))


def test_members_of_an_ensemble_draw_too() -> None:
    x, y = images(3), torch.tensor([0, 1, 2])
    plain, defended = network(), DefendedNetwork(network(), [PAD])
    both = Ensemble([plain, defended], "losses")
    found = through(both, x, y, Draws(2))
    mean = (through(plain, x, y, Draws(2)) + through(defended, x, y, Draws(2))) / 2
    assert torch.allclose(found, mean, rtol=0, atol=1e-12)


@pytest.mark.parametrize("defense", [PAD, Smoothing(0.25, 20), Jpeg(60)])
def test_results_do_not_feel_companions(defense: Defense | Ending) -> None:
    source = DefendedNetwork(network(), [defense])
    attack = Attack(ball=Linf(10 / 255), steps=3, views=(Draws(2),))
    levels = (images(7) * 255).round().to(torch.uint8).numpy()
    items = [Item(i, pixels, i % CLASSES, key=100 + i) for i, pixels in enumerate(levels)]

    def crafted(some: list[Item[int]]) -> dict[int, Any]:
        return {m.item.tag: m for m in craft(attack, source, some, 4)}

    calls = Calls()
    [*craft(attack, source, items[:4], 4, calls=calls)]
    assert calls.backwards == 3 * 2
    together, apart = crafted(items), crafted(items[::-1][:5]) | crafted(items[:2])
    for i, m in together.items():
        assert np.array_equal(m.image, apart[i].image)
        assert (m.backwards, m.steps_used) == (6, 3)
    assert len({m.image.tobytes() for m in together.values()}) == 7


def test_only_a_draw_is_worth_a_copy_that_is_the_image() -> None:
    assert idle_parts(Attack(ball=Linf(0.1), views=(Draws(2),))) == []


# ---- votes --------------------------------------------------------------------------------------


def test_p_value_is_scipys() -> None:
    for a, b in [(10, 0), (9, 1), (5, 5), (6, 5), (70, 30), (66, 34), (0, 0), (1, 0), (3, 40)]:
        expected = binomtest(a, a + b, 0.5).pvalue if a + b else 1.0
        assert p_value(a, b) == pytest.approx(expected, rel=1e-12)


def votes(*counts: int) -> list[Tensor]:
    """Logits of draws of one image, of which so many are for each class."""
    chosen = [c for c, n in enumerate(counts) for _ in range(n)]
    return [torch.eye(len(counts))[c][None] for c in chosen]


def test_the_vote_by_hand() -> None:
    """Of 20 votes 18 to 2 is a win at 0.001 (p = 0.0004), 17 to 3 is none (0.0026)."""
    smoothing = Smoothing(0.25, draws=20)
    won = smoothing.joined(votes(2, 18, 0))
    assert predict(won).tolist() == [1]
    assert confidence(won).tolist() == pytest.approx([0.9])
    assert won.softmax(1)[0].tolist() == pytest.approx([0.1, 0.9, 0])
    lost = smoothing.joined(votes(3, 17, 0))
    assert predict(lost).tolist() == [ABSTAINED]
    assert confidence(lost).tolist() == pytest.approx([0.85])
    # n_A against n_B alone: 14 to 0 of the runner-up would do, whatever the others have
    assert predict(smoothing.joined(votes(14, 3, 3))).tolist() == [ABSTAINED]
    assert predict(Smoothing(0.25, 20, 0.05).joined(votes(12, 3, 3, 2))).tolist() == [0]
    assert not is_fooled(predict(lost), torch.tensor([0]), targeted=False).any()


def test_a_silent_draw_is_no_abstention() -> None:
    draws = votes(18, 2)
    draws[7] = torch.full_like(draws[7], torch.nan)
    assert predict(Smoothing(0.25, draws=20).joined(draws)).tolist() == [NO_ANSWER]


def test_an_abstention_among_members() -> None:
    """Whichever classes they were for, a mean with an abstention is one."""
    smoothing = Smoothing(0.25, draws=20)
    lost, other = smoothing.joined(votes(3, 17, 0)), smoothing.joined(votes(0, 9, 11))
    won = smoothing.joined(votes(0, 0, 20))
    for members in ([lost, won], [lost, other], [lost, lost], [won, lost, other]):
        assert predict(joint(torch.stack(members, 1))).tolist() == [ABSTAINED]
    assert predict(joint(torch.stack([won, won], 1))).tolist() == [2]


def test_noise_is_normal_and_of_its_key() -> None:
    smoothing, x = Smoothing(0.25), torch.zeros(2, 3, 100, 100, dtype=torch.float64)
    noise = smoothing.draw(x, [1, 2], 100, 0)
    assert abs(float(noise.mean())) < 5 * 0.25 / math.sqrt(noise.numel())
    assert float(noise.std()) == pytest.approx(0.25, rel=0.02)
    assert torch.equal(smoothing.draw(x[1:], [2], 100, 0)[0], noise[1])
    others = [smoothing.draw(x, [1, 2], 100, 1), Smoothing(0.25, seed=1).draw(x, [1, 2], 100, 0)]
    for one in (*others, noise.flip(0)):
        assert (
            abs(float(torch.corrcoef(torch.stack([one.flatten(), noise.flatten()]))[0, 1])) < 0.03
        )
    key = fold(torch.tensor([2]), 0, 0)
    assert torch.equal(noise[1:], 0.25 * normal(key, (3, 100, 100), torch.float64))


def test_the_share_of_votes_is_the_chance_that_noise_leaves_it() -> None:
    """For a linear network of two classes it is Phi(margin / (sigma |w|)) (Cohen et al.)."""

    class Linear(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            margin = (x * 0.25 + 0.5).sum((1, 2, 3)) - 216.5  # undoes the preprocessing
            return torch.stack([margin * 0, margin], 1)

    x = torch.full((1, 3, SIZE, SIZE), 0.5, dtype=torch.float64)
    x[0, 0, 0, 0] = 1.0 + 0.5 + 5.0 - 0.5  # a margin of 5 above 216 = 0.5 * 432
    x = x.clamp(0, 1) + 5.0 / 432
    margin = float(x.sum()) - 216.5
    expected = 0.5 * (1 + math.erf(margin / (0.25 * math.sqrt(432)) / math.sqrt(2)))
    answer = DefendedNetwork(network(Linear(), classes=2), [Smoothing(0.25, draws=2000)])(x)
    assert predict(answer).tolist() == [1]
    spread = math.sqrt(expected * (1 - expected) / 2000)
    assert abs(float(confidence(answer)) - expected) < 5 * spread


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"draws": 10}, "draws=10 always abstain at alpha=0.001: give 11 or more"),
        ({"sigma": 0}, "sigma=0 cannot be"),
        ({"alpha": 0}, "always abstain at alpha=0: give more"),
    ],
)
def test_wrong_parameters(parameters: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Smoothing(**parameters)
    Smoothing(draws=11)


# ---- whole runs ---------------------------------------------------------------------------------


def cell_of(outputs: Path, *words: str) -> Cell:
    small = ["attack=mifgsm", "n_images=4", "steps=3", "slots=4", "progress=false", "threads=1"]
    return expand([*small, *words, f"outputs={outputs}"])[0]


def quietly(cell: Cell) -> Records:
    return run_cell(cell, lambda _: None)


def images_of(cell: Cell) -> list[str]:
    return Records(cell.folder).read("rows", ["adv_sha256"])["adv_sha256"].unique().tolist()


def test_a_run_on_a_defended_source(tmp_path: Path) -> None:
    words = ["targets=[vgg16,vgg16/randpad]", "trace=true"]
    cell = cell_of(tmp_path, "source=vgg16/randpad", "eot=3", *words)
    records = quietly(cell)
    rows = selected(cell)
    assert rows is not None
    assert [cell.white_box(t) for t in cell.targets] == [False, True]
    assert set(rows["backwards"]) == {9}
    own = rows[rows["target"] == "vgg16/randpad"]
    assert (own["clean_pred"] == own["label"]).all()  # it selects
    assert not check_records(records).problems
    other = cell_of(tmp_path, "source=vgg16/randpad", "eot=2", *words)
    assert other.id != cell.id
    plain = cell_of(tmp_path, "source=vgg16", *words)
    quietly(plain)
    assert not set(images_of(plain)) & set(images_of(cell))
    assert cell.group.networks[-1] == "vgg16/randpad"
    assert "VGG16/randpad *" in closing(cell)


def test_abstentions_of_a_run_are_counted(tmp_path: Path) -> None:
    smooth = "+defenses.smooth={_target_:agr.models.defenses.Smoothing,sigma:0.25,draws:11}"
    words = ["source=vgg16", smooth, "targets=[vgg19/smooth]", "n_images=8"]
    cell = cell_of(tmp_path, *words)
    records = quietly(cell)
    rows = selected(cell)
    assert rows is not None
    away = rows["adv_pred"] == ABSTAINED
    assert away.any()
    assert not rows["success"][away].any()
    clean = int((rows["clean_pred"] == ABSTAINED).sum())
    note = f"VGG19/smooth abstained from {clean} of 8 clean images and {int(away.sum())} adv"
    assert note in closing(cell)
    assert not check_records(records).problems


def test_a_defense_that_has_no_gradient_as_source(tmp_path: Path) -> None:
    cell = cell_of(tmp_path, "source=vgg16/jpeg75", "eot=1", "targets=[vgg16/jpeg75]")
    rows = selected(quietly(cell) and cell)
    assert rows is not None
    assert rows["success"].mean() >= 0.5
    assert set(rows["backwards"]) == {3}


def test_budgets_count_draws(tmp_path: Path) -> None:
    assert cell_of(tmp_path, "source=vgg16/randpad", "eot=4").config.steps == 3
    words = ["source=vgg16/randpad", "eot=4", "gradients=9"]
    assert expand(["attack=mifgsm", *words])[0].config.steps == 2


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["source=vgg16/randpad"], "knows the defense needs eot=1"),
        (["source=vgg16", "eot=2"], "vgg16 has none: leave it out"),
        (["source=vgg16/jpeg75", "eot=2"], "all draws are the same: use eot=1"),
        (["source=vgg16/randpad", "eot=-1"], "eot=-1 is too small"),
        (["source=vgg16/randpad/jpeg75", "eot=1"], "source vgg16/randpad/jpeg75: RandomResizePad"),
        (["source=vgg16/smooth025/randpad", "eot=1"], "network's own answer: put it last"),
        (["source=vgg16/randpad", "eot=1", "attack=library/ddn"], "can't know a defense"),
        (["source=vgg16/randpat", "eot=1"], "randpat is not a defense: did you mean randpad"),
        (["source=[vgg16/jpeg75,vgg16/jpeg75]", "eot=1"], "a list of different networks"),
    ],
)
def test_wrong_words(tmp_path: Path, words: list[str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        quietly(cell_of(tmp_path, *words))
