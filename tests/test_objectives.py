"""Objectives over features: their passes, their targets, and sources that they can't read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from agr import load_attack
from agr.attacks import Attack, Linf
from agr.attacks.engine import Calls, Item, craft
from agr.attacks.objectives import Attribution, FeatureDistance, Importance, Patches, Projection
from agr.attacks.views import Diverse
from agr.config.compose import expand
from agr.config.schema import NetworkConfig
from agr.evaluation.crafting import attack_of
from agr.models.network import Network
from agr.utils.errors import ConfigError
from tests.conftest import CLASSES, EPS, images
from tests.oracles.base import Draws, Given
from tests.oracles.objectives import Listed, chance, cut, fill, noise, pick
from tests.transcriptions import objectives as papers

MANY = ("attack.objective.copies=3",)
TARGETED: dict[str, tuple[Callable[..., Any], dict[str, Any], tuple[str, ...]]] = {
    "fia": (partial(cut, papers.fia, chance), {"n": 3}, MANY),
    "naa": (partial(cut, papers.naa, noise), {"n": 3}, MANY),
    "bfa": (partial(cut, papers.bfa), {"n": 3, "eta": 2.0},
            ("attack.objective.rounds=3", "attack.objective.distance=2")),
    "ila": (partial(cut, papers.ila, at=3), {}, ()),
    "rpa": (partial(cut, papers.rpa, pick, fill), {"n": 3}, MANY),
    "tap": (partial(cut, papers.tap, at=3, several=True), {}, ()),
}  # fmt: skip


@pytest.mark.parametrize("name", TARGETED)
def test_targets_are_what_the_papers_mean(name: str) -> None:
    run, how, overrides = TARGETED[name]
    overrides = (*overrides, "attack.targeted=true", "attack.target=random")
    attack = load_attack(name, eps=10, quantize="off", overrides=overrides)
    model, x = Listed(), images(2, seed=4)
    y = (model(x).argmax(1) + 1) % CLASSES
    made = attack(model, x, y)
    theirs = run(**how, targeted=True)(Given(model, x, y, Draws(attack, x, y)))
    assert float((made - theirs).abs().max()) <= 1e-12
    assert float((made - replace(attack, targeted=False)(model, x, y)).abs().max()) > 1e-4


PASSES = {  # forwards and gradients of an image before its first step
    "fia": (30, 30),
    "naa": (30 + 1, 30),  # black
    "bfa": (2 * 30, 2 * 30),
    "ila": (10 + 2, 10),  # the guide and the clean image
    "rpa": (60, 60),
    "tap": (1, 0),
    "agr+bfa": (2 * 30, 2 * 30),
}


@pytest.mark.parametrize("name", PASSES)
def test_passes_are_those_of_hooks(name: str) -> None:
    config = NetworkConfig(
        architecture="", weights="", classes=CLASSES, size=12, mean=[0.0] * 3, std=[1.0] * 3
    )
    network = Network(Listed(), config, "contiguous", "fp64")
    pixels = (images(3) * 255).round().to(torch.uint8)
    labels = network(pixels / 255.0).argmax(1).tolist()
    items = [Item(i, pixels[i].numpy(), labels[i], key=i) for i in range(3)]
    attack, calls = replace(load_attack(name, steps=3), stop=None), Calls()
    made = list(craft(attack, network, items, 3, calls=calls))
    forwards, backwards = PASSES[name]
    assert attack.objective is not None
    assert attack.objective.once == backwards
    assert calls == Calls(forwards + 4, backwards + 3)
    assert {(m.forwards, m.backwards) for m in made} == {(forwards + 4, backwards + 3)}


LOGIT = "attack.loss._target_=agr.attacks.loss.Logit"


@pytest.mark.parametrize("name", ["fia", "rpa", "naa"])
def test_a_loss_without_effect_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"attack={name}: loss=Logit\(\) has no effect on \w+\("):
        load_attack(name, overrides=[LOGIT])


@pytest.mark.parametrize("name", ["bfa", "ila", "tap"])
def test_a_loss_that_is_used_changes_the_images(name: str) -> None:
    model, x = Listed(), images(2, seed=4)
    made = [
        load_attack(name, eps=10, steps=2, quantize="off", overrides=words)(model, x)
        for words in ((), (LOGIT,))
    ]
    assert not torch.equal(*made)


def test_patches_are_whole_and_the_rest_stays() -> None:
    x = torch.ones(2, 3, 16, 17, dtype=torch.float64)
    part, key = Patches(keep=0.7), torch.arange(2)
    for i, size in enumerate((1, 3, 5, 7)):
        hit = part.masked(x, key, i) != 1
        assert not torch.equal(hit[0], hit[1])
        if size > 1:
            down, right = 16 // size, 17 // size
            inner = hit[:, :, : down * size, : right * size]
            patches = inner.unfold(2, size, size).unfold(3, size, size).flatten(4)
            assert torch.equal(patches.any(4), patches.all(4))
            assert patches.all(4).sum((1, 2, 3)).tolist() == [int(down * right * 3 * 0.3)] * 2
            assert int(hit.sum()) == int(inner.sum())
    assert torch.equal(Importance(keep=1).masked(x, key, 0), x)


def test_the_slope_of_the_power_is_finite_where_features_are_0() -> None:
    part = FeatureDistance(layers=["act"], distance=1, smooth=0)
    assert part == FeatureDistance(layers=("act",), distance=1, smooth=0)
    f = torch.tensor([[0.0, 4.0, -9.0]], requires_grad=True)
    state = {"clean": {"0": torch.zeros(1, 3)}, "image": torch.zeros(1, 3, 3, 3)}
    value = part(f, f, [f, torch.ones(1, 3, 3, 3)], state)
    value.sum().backward()
    assert value.tolist() == [13.0]
    assert f.grad is not None
    assert f.grad.tolist() == [[0.0, 1.0, -1.0]]  # of |f|


class Strange(nn.Module):
    """A network that lists no layers, with modules whose outputs an objective can't read."""

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.pair, self.rows = nn.Conv2d(3, 4, 3), self.Pair(), nn.Identity()
        self.head = nn.Linear(4, CLASSES)
        self.double().eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        features, _ = self.pair(self.conv(x))
        features = self.rows(features.flatten(0, 1)).view(features.shape)
        return self.head(features.mean((2, 3)))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (0.5, r"\(Strange\) doesn't list its layers, so that 0.5 .*such as conv, pair, rows, head"),
        ("convs", "no layer convs: use one of conv, pair"),
        ("pair", "pair returns a tuple, and the attack reads a tensor there: name another layer"),
        ("rows", "layer rows makes 8 rows of 2 images"),
        (1.5, "layer=1.5 is not a layer: give a depth from 0 to 1, or the name of a module"),
        ("", "layer= is not a layer"),
        (True, "layer=True is not a layer"),
    ],
)
@pytest.mark.parametrize("kind", [Importance, Projection, Attribution])
def test_layers_that_cannot_be_read(layer: Any, message: str, kind: Callable[..., Any]) -> None:
    model, x = Strange(), images(2)
    with pytest.raises(ValueError, match=message):
        Attack(Linf(EPS), objective=kind(layer=layer))(model, x, model(x).argmax(1))


def test_blocks_larger_than_images_are_refused() -> None:
    cell = expand(["attack=tap", "attack.objective.size=81"])[0]
    assert cell.geometry.size == 80
    with pytest.raises(
        ConfigError, match=r"attack=tap: attack.objective: size=81: .* give 1 to 80$"
    ):
        attack_of(cell)  # before a network is loaded
    model, x = Listed(), images(2)
    attack = load_attack("tap", quantize="off", steps=1, overrides=["attack.objective.size=13"])
    with pytest.raises(ValueError, match=r"size=13: blocks of 13 px .* give 1 to 12$"):
        attack(model, x)


def test_what_else_is_refused() -> None:
    model, x = Strange(), images(2)
    y = model(x).argmax(1)
    layers: Any
    for layers in ([], [2], "conv", 0.5):
        with pytest.raises(ValueError, match="are not layers: give a list of depths"):
            FeatureDistance(layers=layers)
    enlarged = Attack(Linf(EPS), objective=Importance("conv"), views=(Diverse(prob=1),))
    with pytest.raises(ValueError, match=r"^Importance needs features .*diverse.back=true"):
        enlarged(model, x, y)
    replace(enlarged, views=(Diverse(prob=1, back=True),), steps=1)(model, x, y)
