"""Targeted presets, and what their parts promise: mixed features, cosines, calibrated logits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from agr.attacks import Attack, Linf, Pool
from agr.attacks.ball import BALLS
from agr.attacks.loss import Calibrated, Logit
from agr.attacks.rules import Angle, Mixup, TunedMixup
from agr.attacks.surrogate import Surrogate
from agr.attacks.views import Diverse
from agr.config.compose import expand
from agr.evaluation.determinism import settle
from agr.evaluation.runner import run_cell
from agr.report.comparison.axes import check_success
from agr.utils.errors import ConfigError
from tests.conftest import CLASSES, EPS, demo_cell, images
from tests.oracles.base import a_pool
from tests.transcriptions.targeted import SmallNet

SIDE = 12
CASES: list[Any] = [Mixup(prob=1, pool=10), TunedMixup(prob=0.5, pool=10)]


def net() -> SmallNet:
    torch.manual_seed(0)
    return SmallNet(CLASSES).double().eval().requires_grad_(False)


def attack_with(rule: Any, **how: Any) -> Attack:
    given: dict[str, Any] = {"steps": 3, "quantize": "off", "loss": Logit(), "pool": a_pool(SIDE)}
    return Attack(Linf(EPS), surrogate=(rule,), **(given | how))


# ---- presets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["logit", pytest.param("ftm", marks=pytest.mark.slow)])
def test_a_preset_needs_no_more_words(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from agr.jobs.session import greet

    words = (f"attack=targeted/{name}", "source=vgg16", "targets=[vgg16]", "steps=3", "n_images=8")
    cell = demo_cell(tmp_path, *words)
    assert expand([f"attack=targeted/{name}"])[0].config.steps == 300
    greet(cell)
    assert ", targeted on VGG16" in capsys.readouterr().out
    rows = run_cell(cell, lambda _: None).read()
    assert (rows["target_label"] != rows["label"]).all()
    assert (rows["success"] == (rows["adv_pred"] == rows["target_label"])).all()


def test_attacks_that_aim_are_not_compared_with_others() -> None:
    words = ["attack=targeted/logit,mifgsm"]
    with pytest.raises(ConfigError, match=r"targeted/logit succeeds.*mifgsm where.*success=label"):
        check_success(expand(words))
    for more in ("attack.targeted=true", "success=label"):
        check_success(expand([*words, more]))
    check_success(expand(["attack=targeted/logit,field/logit"]))
    check_success(expand(["attack=ifgsm", "success=label,changed"]))


@pytest.mark.slow
def test_ftm_has_a_source_whose_batch_norms_are_apart() -> None:
    for name, folded in (("cfm", True), ("ftm", False)):
        cell = expand([f"attack=targeted/{name}", "source=res152", "threads=1"])[0]
        assert settle(cell, None, ["res152"]).networks["res152"].folded is folded


# ---- mixed features ------------------------------------------------------------------------------


def test_mixed_features_by_hand() -> None:
    """With probability 1 every layer but the first, whose maps are half the image, is mixed."""
    model, x, rule = net(), images(2, size=SIDE), Mixup(prob=1, pool=10)
    attack = attack_with(rule)
    source = attack.bind(model)
    assert isinstance(source, Surrogate)
    source.prepare()
    c = attack.context(attack.begin(x, torch.zeros(2).long()), x)
    with source.ruled(c, {}):
        found = model(x)
    pool = a_pool(SIDE).images
    clean = [model.conv1(pool)]
    clean += [model.conv2(clean[0].relu())]
    clean += [model.fc(clean[1].relu().mean((2, 3)))]

    def mixed(i: int, f: Tensor) -> Tensor:
        mix = rule.mix(c.at(1 << 20, 0, 0, i), 10, (1, f.shape[1]))
        a = 0.75 * mix.ratios[:, 0].view(2, -1, *[1] * (f.dim() - 2))
        return (1 - a) * f + a * clean[i][mix.donor]

    hidden = mixed(1, model.conv2(model.conv1(x).relu())).relu()
    expected = mixed(2, model.fc(hidden.mean((2, 3))))
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert torch.equal(model(x), source(x))


@pytest.mark.filterwarnings("ignore:.* logits are not finite", "ignore:.* came back unchanged")
@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("rule", CASES, ids=lambda rule: type(rule).__name__)
def test_an_image_stays_apart(rule: Any, norm: str) -> None:
    """Alone as among others, and whatever becomes of another."""
    model, x, key = net(), images(3, size=SIDE), torch.tensor([5, 9, 2])
    y, attack = model(x).argmax(1), attack_with(rule)
    attack = replace(attack, ball=BALLS[norm](EPS if norm == "linf" else 1.0))
    good = attack(model, x, y, key)
    alone = attack(model, x[1:2], y[1:2], key[1:2])
    assert torch.allclose(good[1:2], alone, rtol=0, atol=1e-9)

    class Bad(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            bad = torch.zeros(len(x), 1, 1, 1, dtype=x.dtype)
            bad[0] = torch.nan if len(x) == 3 else 0.0  # not for the pool
            return model(x + bad)

    bad = attack(Bad().eval(), x, y, key)
    assert torch.equal(bad[1:], good[1:])
    assert bad.isfinite().all()


SMALL: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224": {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2},
    "swin_tiny_patch4_window7_224": {
        "img_size": 56, "embed_dim": 12, "depths": (1, 1), "num_heads": (2, 2)
    },
    "swinv2_tiny_window8_256": {
        "img_size": 64, "embed_dim": 12, "depths": (1, 1), "num_heads": (2, 2)
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("rule", CASES, ids=lambda rule: type(rule).__name__)
def test_networks_with_windows_and_layers_that_nobody_calls(name: str, rule: Any) -> None:
    """BEiT and Swin v2 take the weights of `qkv` alone; Swin has a row for each window."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=CLASSES, **SMALL[name]).double().eval()
    side = SMALL[name]["img_size"]
    x, key = images(3, size=side), torch.tensor([5, 9, 2])
    attack = attack_with(rule, steps=2, pool=Pool(images(10, size=side), torch.arange(10)))
    y = torch.tensor([0, 1, 2])
    found = attack(model, x, y, key)
    assert torch.allclose(found[1:2], attack(model, x[1:2], y[1:2], key[1:2]), rtol=0, atol=1e-9)
    assert not torch.equal(found, replace(attack, surrogate=())(model, x, y, key))


def test_what_cannot_be_mixed_is_named() -> None:
    x, y = images(2, size=40), torch.tensor([0, 1])
    enlarged = attack_with(Mixup(pool=10), views=(Diverse(prob=1),), pool=a_pool(40))
    model = net()
    with pytest.raises(ValueError, match=r"^Mixup needs features of conv2 .*diverse.back=true"):
        enlarged(model, x, y)
    assert not any("forward" in vars(module) for module in model.modules())
    with pytest.raises(ValueError, match=r"\(Flatten\) has no convolution or linear layer"):
        attack_with(Mixup()).bind(nn.Flatten())
    with pytest.raises(ValueError, match="the attack mixes in other images: "):
        attack_with(Mixup(), pool=None)(net(), x, y)


def test_only_living_rows_keep_what_a_layer_learned() -> None:
    """Its perturbation is the first gradient's direction, in the mixed layers of living rows."""
    model, x, rule = net(), images(3, size=SIDE), TunedMixup(prob=1, pool=10)
    attack = attack_with(rule, steps=1)
    s = attack.begin(x, torch.zeros(3).long())
    s["live"] = torch.tensor([True, True, False])
    _, s = attack.tick(model, s)
    kept = s["made"]["kept"]["0 0"]
    assert {*kept} == {"conv2", "fc"}  # maps of conv1 are too large
    for tuned in kept.values():
        assert (tuned.flatten(1).abs().amax(1) > 0).tolist() == [True, True, False]


# ---- logits --------------------------------------------------------------------------------------


def test_angles_by_hand() -> None:
    model, x = net(), images(3, size=SIDE)
    attack = attack_with(Angle(), pool=None)
    source = attack.bind(model)
    f = model.conv2(model.conv1(x).relu()).relu().mean((2, 3))
    with source.ruled(attack.context(attack.begin(x, torch.zeros(3).long()), x), {}):
        found = model(x)
        assert torch.equal(model.fc(torch.zeros(1, 6).double()), torch.zeros(1, CLASSES).double())
    expected = nn.functional.cosine_similarity(f[:, None], model.fc.weight[None], dim=2)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert source.described() == ["Angle changes 1 module (fc)"]
    with pytest.raises(ValueError, match="several classifiers"):
        attack_with(Angle()).bind(timm.create_model("levit_128s"))


def test_calibrated_logits_by_hand() -> None:
    z = torch.tensor([[1.0, 4.0, 2.0], [3.0, 3.0, 0.0]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 2])
    losses = Calibrated()(z, y)
    assert losses[0].item() == pytest.approx(torch.tensor([0.5, 2, 1]).logsumexp(0).item() - 0.5)
    (g,) = torch.autograd.grad(losses.sum(), z)
    assert g.isfinite().all()
    chances = torch.tensor([0.5, 2, 1]).double().softmax(0)
    assert torch.allclose(g[0], (chances - torch.tensor([1.0, 0, 0])) / 2)  # none through the gap
    by_half = Calibrated("temperature", 0.5)(z, y)
    assert torch.allclose(by_half, nn.functional.cross_entropy(2 * z, y, reduction="none"))
