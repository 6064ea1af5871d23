"""The field's protocols: what experiments compose to, and the attacks of conf/attack/field."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from scipy.stats import norm
from torch import Tensor
from torch.nn import functional as F

from agr.attacks.build import build_attack
from agr.attacks.loss import CrossEntropy, Logit, Margin, margin
from agr.attacks.views import Diverse
from agr.config.cell import Cell
from agr.config.compose import expand
from agr.config.schema import Geometry, conf_dir
from tests.conftest import CLASSES, images
from tests.oracles.base import AnySize, Draws, find


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NIPS17_DIR", "IMAGENET_DIR"):
        monkeypatch.delenv(name, raising=False)


def attacks_of(cells: list[Cell]) -> list[str]:
    return list(dict.fromkeys(cell.config.attack.name for cell in cells))


# ---- experiments ---------------------------------------------------------------------------------


def test_the_suite_takes_the_images_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """One group at 224 px: ILSVRC's centre, the NIPS 2017 images as a whole, apart in outputs."""
    monkeypatch.setenv("IMAGENET_DIR", "/ilsvrc")
    cell = expand(["suite=transfer2026"])[0]
    assert (cell.suite.name, cell.suite.images) == ("transfer2026", 50_000)
    assert (cell.config.data.root, cell.geometry.crop) == ("/ilsvrc", 0.875)
    assert cell.source == "resnet50"
    assert cell.targets == [*cell.suite.networks] == [*cell.group.networks]
    families = [cell.family(t) for t in cell.targets]
    assert {f: families.count(f) for f in families} == {"cnn": 24, "transformer": 9, "mlp": 1}
    monkeypatch.setenv("NIPS17_DIR", "/nips")
    small = expand(["suite=transfer2026"])[0]
    assert (small.suite.name, small.suite.images) == ("transfer2026-nips17", 1000)
    assert (small.config.data.root, small.geometry.crop) == ("/nips", 1.0)
    assert small.geometry.size == cell.geometry.size == 224


@pytest.mark.slow
def test_the_fields_protocol() -> None:
    """ILSVRC or NIPS 2017, L-infinity 16, eps/T or (targeted) 300 steps of 2 levels, all images."""
    for name in ("field", "field_targeted"):
        both = expand([f"experiment={name}", "attack=mifgsm"])
        assert [cell.source for cell in both] == ["resnet50", "vit_b"]
    untargeted = expand(["experiment=field", "source=vit_b"])
    targeted = expand(["experiment=field_targeted", "source=vit_b"])
    for cell in (*untargeted, *targeted):
        c = cell.config
        assert (c.norm.name, c.eps, c.select, c.quantize) == ("linf", 16, "none", "end")
        assert len(cell.targets) == 34
    for cell in untargeted:
        attack = build_attack(cell.config)
        assert attack.steps == 10
        if not cell.config.attack.name.startswith("agr"):
            assert attack.size == "even"
        assert cell.success == "label"
        momentum = cell.config.attack.chain["momentum"]
        assert bool(momentum) is (cell.config.attack.name not in ("ifgsm", "agr", "agr_nostop"))
        diverse = cell.config.attack.views["diverse"]
        assert diverse is None or diverse["back"]  # ViT-B takes one size
    for cell in targeted:
        attack = build_attack(cell.config)
        assert (attack.steps, attack.size, attack.targeted) == (300, 2 / 255, True)
        assert cell.success == "targeted"
    losses = [type(build_attack(cell.config).loss) for cell in targeted]
    assert losses == [CrossEntropy, Logit, Margin]


def test_transferattacks_protocol() -> None:
    cells = expand(["experiment=transferattack"])
    for cell in cells:
        assert cell.geometry == Geometry(224, 1.0, "bicubic", "squash")
        assert cell.source == cell.targets[0] == "resnet50_v2"
        assert len(cell.targets) == 8
        assert [cell.family(t) for t in cell.targets] == ["cnn"] * 4 + ["transformer"] * 4
        assert cell.suite.networks["inc_v3_tv"].resize == "bilinear"
        c = cell.config
        assert (c.eps, c.select, c.denominator, c.n_images) == (16, "none", "all", 1000)
        assert c.steps == (1 if c.attack.name == "fgsm" else 10)
        assert {v.get("zero") for v in c.attack.views.values() if v} <= {"black"}
    assert "field/dim" in attacks_of(cells)


def test_every_attack_of_the_folder_is_in_an_experiment() -> None:
    named = {f"field/{path.stem}" for path in Path(conf_dir(), "attack", "field").glob("*.yaml")}
    used: list[str] = []
    for name in ("field", "field_targeted", "transferattack"):
        file: Any = OmegaConf.load(Path(conf_dir(), "experiment", f"{name}.yaml"))
        used += file.hydra.sweeper.params.attack.split(",")
    assert named == {a for a in used if a.startswith("field/")}


# ---- the attacks, written down once more ---------------------------------------------------------


def diverse(x: Tensor, drawn: tuple[bool, int, int, int], canvas: int) -> Tensor:
    """DI: enlarged, padded with black, and back, by torch's own resize."""
    coin, size, top, left = drawn
    if not coin:
        return x
    large = F.interpolate(x, size=(size, size), mode="bilinear")
    padded = F.pad(large, (left, canvas - size - left, top, canvas - size - top))
    return F.interpolate(padded, size=x.shape[-2:], mode="bilinear")


def gaussian(size: int, reach: float = 3.0) -> Tensor:
    line = norm.pdf(torch.linspace(-reach, reach, size).double().numpy())
    weights = torch.from_numpy(line[:, None] * line[None, :])
    return (weights / weights.sum()).expand(3, 1, size, size)


@pytest.mark.parametrize("name", ["dim", "logit", "ce", "margin"])
def test_attacks_by_hand(name: str) -> None:
    """Image by image in float64, at our draws: DI-FGSM, and the targeted ones of Zhao et al."""
    side, steps, targeted = 40, 4, name != "dim"
    words = [f"attack=field/{name}", "norm=linf", "eps=16", f"steps={steps}", "quantize=off"]
    attack = build_attack(expand(words)[0].config)
    model, x = AnySize(), images(3, seed=4, size=side)
    y = (model(x).argmax(1) + targeted) % CLASSES
    draws = Draws(attack, x, y)
    at, view = find(attack.views, Diverse)
    loss = {
        "logit": lambda z, y: -z[0, y],
        "margin": lambda z, y: margin(z, y[None])[0],
    }.get(name, lambda z, y: F.cross_entropy(z, y[None]))
    expected = []
    for b in range(len(x)):
        clean, adv, momentum = x[b : b + 1], x[b : b + 1], torch.zeros_like(x[:1])
        for t in range(steps):
            c = draws._context(b, draws._view(b, t, at))
            size, top, left = map(int, view.place(side, c))
            coin = bool(replace(view, prob=0.7 if targeted else 0.5).coin(c))
            point = adv.detach().requires_grad_()
            seen = diverse(point, (coin, size, top, left), int(1.1 * side))
            (g,) = torch.autograd.grad(loss(model(seen), y[b]), point)
            smooth = F.conv2d(g, gaussian(5), padding=2, groups=3)
            g = -smooth if targeted else g / g.abs().mean()
            momentum = momentum + g
            adv = adv + (2 / 255 if targeted else 16 / 255 / steps) * momentum.sign()
            adv = adv.clamp(clean - 16 / 255, clean + 16 / 255).clamp(0, 1)
        expected.append(adv.detach())
    assert (attack(model, x, y) - torch.cat(expected)).abs().max() < 1e-10


@pytest.mark.parametrize("name", ["sim", "admix", "ssm"])
def test_variants_differ_from_their_authors_by_what_they_say(name: str) -> None:
    """Each is an attack that has oracles of its own, with overrides that these have as well."""
    spectrum = "copies: 20, rho: 0.5, sigma: 16.0, through: true, zero: black"
    same = {
        "sim": ["attack=sifgsm", "attack.views.scale.zero=black"],
        "admix": ["attack=admix", "attack.views.scale.zero=black", "attack.views.admix.zero=black"],
        "ssm": [
            "attack=mifgsm",
            f"attack.views.spectrum={{_target_: agr.attacks.views.Spectrum, {spectrum}}}",
        ],
    }[name]
    mine, theirs = (expand([*w, "norm=linf"])[0] for w in ([f"attack=field/{name}"], same))
    assert mine.attack_hash == theirs.attack_hash
