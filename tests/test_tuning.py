"""Tuned networks have the same logits; the memory format is a rule, or tried once and kept."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import agr
from agr.config.schema import NetworkConfig, Tuning
from agr.evaluation.determinism import settle
from agr.evaluation.inputs import check_inputs, check_unchanged
from agr.evaluation.runner import run_cell
from agr.models import network as zoo
from agr.models import tuning
from agr.models.tuning import (
    CannotFold,
    faster_format,
    fold_batch_norms,
    preferred_format,
    tune,
)
from tests.conftest import demo_cell

VGG = ("source=vgg16", "targets=[vgg16,vgg19]", "select=source")


def trained(network: nn.Module) -> nn.Module:
    """`network` in float64 with norms that do something."""
    torch.manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                if tensor is not None:
                    tensor.data.uniform_(0.5, 1.5)
    return network.double().eval().requires_grad_(False)


def norms(network: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


def seen(n: int = 2, size: int = 75) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1)).double()


# ---- folding -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "left"),
    [("resnet18", 0), ("inception_v3", 0), ("inception_v4", 0), ("mobilenetv2_050", 0),
     ("densenet121", 62), pytest.param("vgg11_bn", 0, marks=pytest.mark.slow)],
)  # fmt: skip
def test_folding_keeps_the_function(architecture: str, left: int) -> None:
    """Also timm's norms that carry an activation; a norm that follows no convolution stays."""
    network = trained(timm.create_model(architecture, num_classes=7))
    before, logits = norms(network), network(seen())
    folded = fold_batch_norms(network, seen(1))
    assert torch.allclose(folded(seen()), logits, rtol=1e-9, atol=1e-12)
    assert (norms(folded), norms(network)) == (left, before)
    assert before > left
    assert torch.equal(network(seen()), logits)  # the original is as it was


def test_folding_by_hand() -> None:
    conv, norm = nn.Conv2d(3, 1, 1), nn.BatchNorm2d(1, eps=0)
    conv.weight.data[:], conv.bias.data[:] = 2.0, 1.0  # type: ignore[index, union-attr]
    norm.weight.data[:], norm.bias.data[:] = 3.0, 5.0
    norm.running_mean[:], norm.running_var[:] = 4.0, 4.0  # type: ignore[index]
    network = nn.Sequential(conv, norm).double().eval()
    folded = fold_batch_norms(network, seen())
    assert folded is not network
    assert fold_batch_norms(copy.deepcopy(network), seen(), in_place=True)[0].bias.tolist() == [0.5]
    assert folded[0].weight.flatten().tolist() == [3.0] * 3  # 2 * 3 / sqrt(4)
    assert folded[0].bias.tolist() == [0.5]  # (1 - 4) * 3 / 2 + 5
    assert len(folded[1]) == 0  # nothing is left of the norm


class Odd(nn.Module):
    """A convolution and a norm in some relation."""

    def __init__(self, relation: Callable[[nn.Conv2d, nn.BatchNorm2d, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm, self.relation = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), relation

    def forward(self, x: Tensor) -> Tensor:
        return self.relation(self.conv, self.norm, x).mean((2, 3))


ODD = {
    "changed in place": (lambda c, n, x: n(c(x).relu_()), "no batch norm follows"),
    "something between": (lambda c, n, x: n(c(x) * 2), "no batch norm follows"),
    "norm used twice": (lambda c, n, x: n(c(x)) + n(c(x)), "no batch norm follows"),
    "two uses": (lambda c, n, x: n(y := c(x)) + y, "logits would differ by"),
    "asks the norm": (lambda c, n, x: n(c(x)) * n.weight.sum(), "doesn't run: .*weight"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_cannot_be_folded_is_refused(case: str) -> None:
    relation, why = ODD[case]
    network = trained(Odd(relation))
    with pytest.raises(CannotFold, match=why):
        fold_batch_norms(network, seen())
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(CannotFold, match=why):
        fold_batch_norms(network, seen(), in_place=True)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    fast = tune(network, seen())
    assert torch.allclose(fast(seen()), network(seen()), rtol=1e-12)


def test_tune_leaves_the_model_alone() -> None:
    model = timm.create_model("resnet18", num_classes=7).eval()
    x = seen(2, 32).float()
    fast = agr.tune(model, x)
    assert norms(fast) == 0 < norms(model)
    assert torch.allclose(fast(x), model(x), rtol=1e-4, atol=1e-4)
    assert all(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in fast.parameters())
    assert not model.conv1.weight.is_contiguous(memory_format=torch.channels_last)


def classifier(convolution: nn.Module) -> nn.Sequential:
    norm = nn.BatchNorm2d(4)
    norm.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
    norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return nn.Sequential(
        convolution, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 7)
    ).eval()


class Held(nn.Module):
    """A classifier with something that can't be copied."""

    def __init__(self, held: Any, convolution: nn.Module) -> None:
        super().__init__()
        self.held, self.body = held, classifier(convolution)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def with_a_feature() -> nn.Module:
    model = Held(None, nn.Conv2d(3, 4, 3))
    model.held = model.body[0](seen(2, 16).float())  # with its graph, as some models keep one
    return model


CLASSIFIERS: dict[str, tuple[Callable[[], nn.Module], bool]] = {  # and whether it is copied
    "weight_norm": (lambda: classifier(nn.utils.weight_norm(nn.Conv2d(3, 4, 3))), True),
    "weight_norm, of now": (
        lambda: classifier(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))), True,
    ),
    "spectral_norm": (lambda: classifier(nn.utils.spectral_norm(nn.Conv2d(3, 4, 3))), True),
    "pruned": (
        lambda: classifier(prune.l1_unstructured(nn.Conv2d(3, 4, 3), "weight", 0.5)), True,
    ),
    "a pruned bias": (
        lambda: classifier(prune.l1_unstructured(nn.Conv2d(3, 4, 3), "bias", 0.5)), True,
    ),
    "scripted": (lambda: torch.jit.script(classifier(nn.Conv2d(3, 4, 3))), True),
    "traced": (
        lambda: torch.jit.trace(classifier(nn.Conv2d(3, 4, 3)), torch.rand(2, 3, 16, 16)), True,
    ),
    "frozen": (
        lambda: torch.jit.freeze(torch.jit.script(classifier(nn.Conv2d(3, 4, 3)))), True,
    ),
    "a kept feature": (with_a_feature, True),
    "a lock": (lambda: Held(threading.Lock(), nn.Conv2d(3, 4, 3)), False),
    "a generator": (lambda: Held((i for i in "ab"), nn.Conv2d(3, 4, 3)), False),
    "features in a list": (lambda: Held([torch.ones(2, requires_grad=True) * 2],
                                        nn.Conv2d(3, 4, 3)), False),
    "yet to be made": (lambda: classifier(nn.LazyConv2d(4, 3)), False),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of torch
@pytest.mark.parametrize("memory_format", ["auto", "channels_last"])
@pytest.mark.parametrize("case", CLASSIFIERS)
def test_any_classifier_is_taken(case: str, memory_format: str) -> None:
    torch.manual_seed(0)
    make, copied = CLASSIFIERS[case]
    model, x = make(), seen(2, 16).float()
    fast = tune(model, x, memory_format)
    assert (fast is not model) is copied
    point = x.clone().requires_grad_()
    torch.testing.assert_close(fast(point), model(x), rtol=1e-4, atol=1e-5)
    assert torch.autograd.grad(fast(point).sum(), point)[0].abs().max() > 0


@pytest.mark.parametrize("memory_format", ["auto", "try"])
def test_a_model_that_takes_no_single_image_is_not_folded(memory_format: str) -> None:
    class Pairs(Held):
        def forward(self, x: Tensor) -> Tensor:
            return self.body(x).reshape(2, -1)

    model, x = Pairs(None, nn.Conv2d(3, 4, 3)), seen(2, 16).float()
    model.body[-1] = nn.Linear(4, 1)
    fast = tune(model, x, memory_format)
    torch.testing.assert_close(fast(x), model(x))


# ---- memory format -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("contiguous", "chosen"), [(0.5, "contiguous"), (0.96, "channels_last"), (2, "channels_last")]
)
def test_the_clearly_faster_format_is_chosen(
    contiguous: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = []

    def seconds(network: nn.Module, x: Tensor) -> float:
        last = x.is_contiguous(memory_format=torch.channels_last)
        weight = network.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == last
        turns.append(last)
        if len(turns) <= 2:  # the first round pays for setting up
            return 1.0 if last else 100.0
        return 1.0 if last else contiguous

    monkeypatch.setattr(tuning, "gradient_seconds", seconds)
    assert faster_format(nn.Conv2d(3, 4, 3), seen().float()) == chosen
    assert turns[:4] == [True, False, True, False]


RULE = {
    "inception_v3": "channels_last",
    "vgg16": "channels_last",
    "resnet18": "channels_last",
    "densenet121": "channels_last",
    "mobilenetv2_100": "channels_last",
    "regnety_004": "channels_last",
    "convnext_atto": "channels_last",
    "efficientnet_lite0": "channels_last",
    "vit_tiny_patch16_224": "contiguous",
    "swin_tiny_patch4_window7_224": "contiguous",
    "mixer_s32_224": "contiguous",
    "resmlp_12_224": "contiguous",
}


@pytest.mark.parametrize("name", RULE)
def test_the_format_of_a_network_is_a_rule(name: str) -> None:
    """Set from the figures of docs/performance.md: no clock has a part in it."""
    with torch.device("meta"):
        network = timm.create_model(name)
    assert preferred_format(network) == RULE[name]


def test_no_clock_is_read_for_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any) -> float:
        raise AssertionError("a gradient was timed")

    monkeypatch.setattr(tuning, "gradient_seconds", never)
    monkeypatch.setattr("agr.evaluation.determinism._tunings", {})
    settle(demo_cell(tmp_path, *VGG), None)
    assert not (demo_cell(tmp_path, *VGG).suite_folder / "tuning.json").exists()
    with pytest.raises(AssertionError, match="timed"):
        settle(demo_cell(tmp_path, *VGG, "memory_format=try"), None)


@pytest.mark.slow
def test_tune_takes_a_format(monkeypatch: pytest.MonkeyPatch) -> None:
    x = seen(2, 32).float()
    model = timm.create_model("resnet18", num_classes=7).eval()
    monkeypatch.setattr(tuning, "faster_format", lambda network, x: "contiguous")
    for given, used in (("auto", True), ("channels_last", True), ("try", False)):
        weight = agr.tune(model, x, given).conv1.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) is used


# ---- chosen once ---------------------------------------------------------------------------------


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Networks whose tuning is chosen, in turn, with the memory format of the config."""
    calls: list[str] = []
    monkeypatch.setattr("agr.evaluation.determinism._tunings", {})

    def choose(name: str, *args: Any, **kwargs: Any) -> Tuning:
        calls.append(f"{name} {kwargs['memory_format']}")
        return zoo.choose_tuning(name, *args, **kwargs)

    monkeypatch.setattr("agr.evaluation.determinism.choose_tuning", choose)
    return calls


@pytest.mark.slow
def test_a_tuning_is_chosen_once_for_all_cells(chosen: list[str], tmp_path: Path) -> None:
    first = settle(demo_cell(tmp_path, *VGG, "n_images=2"), None)
    assert chosen == ["vgg16 auto", "vgg19 auto"]
    assert {t.folded for t in first.networks.values()} == {False}  # plain VGGs have no norms
    assert settle(demo_cell(tmp_path, *VGG, "attack=fgsm"), None) == first
    assert settle(demo_cell(tmp_path, *VGG, "source=vgg19"), None) == first
    assert settle(demo_cell(tmp_path / "elsewhere", *VGG), None) == first
    assert len(chosen) == 2
    for word in ("memory_format=contiguous", "fold=false", "precision=fp64", "threads=2"):
        settle(demo_cell(tmp_path, *VGG, word), None, ["vgg16"])
    assert len(chosen) == 6  # each is another question


def test_a_trial_is_made_once_per_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def settled(folder: str) -> str:
        monkeypatch.setattr("agr.evaluation.determinism._tunings", {})  # as in a new process
        cell = demo_cell(tmp_path / folder, *VGG, "memory_format=try")
        return settle(cell, None, ["vgg16"]).networks["vgg16"].memory_format

    results = iter(["contiguous", "channels_last", "contiguous"])
    monkeypatch.setattr(zoo, "faster_format", lambda network, x: next(results))
    assert [settled("one"), settled("one")] == ["contiguous"] * 2
    assert [settled("two"), settled("two"), settled("one")] == ["channels_last"] * 2 + [
        "contiguous"
    ]
    (file,) = (tmp_path / "two").glob("*/tuning.json")
    for damaged in ("{", "[]", file.read_text().replace("channels_last", "nchw")):
        file.write_text(damaged)
        results = iter(["contiguous"])
        assert [settled("two"), settled("two")] == ["contiguous"] * 2


def test_a_trial_that_fails_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Tuning:
        raise RuntimeError("no")

    cell = demo_cell(tmp_path, *VGG, "memory_format=try")
    with monkeypatch.context() as patch:
        patch.setattr("agr.evaluation.determinism.choose_tuning", fail)
        with pytest.raises(RuntimeError) as held:
            settle(cell, None)
    assert settle(cell, None).networks
    assert str(held.value) == "no"


def test_a_place_that_cannot_be_written_is_done_without(chosen: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert settle(demo_cell(tmp_path / "file", *VGG, "memory_format=try"), None, ["vgg16"]).networks
    assert chosen[0] == "vgg16 try"


def test_what_is_asked_for_is_taken(tmp_path: Path) -> None:
    cell = demo_cell(tmp_path, "source=inc_v3", "memory_format=contiguous", "fold=false")
    assert settle(cell, None, ["inc_v3"]).networks == {"inc_v3": Tuning("contiguous", False)}
    folded = settle(demo_cell(tmp_path, "source=inc_v3"), None, ["inc_v3"]).networks["inc_v3"]
    assert folded.folded


def test_a_cell_keeps_its_tuning(tmp_path: Path) -> None:
    words = ("source=res152", "targets=[res152]", "select=source", "n_images=2")
    run = run_cell(demo_cell(tmp_path, *words)).run()
    assert run is not None
    assert run.numeric is not None
    assert run.numeric.networks["res152"].folded
    for word, key in (("fold=false", "fold"), ("memory_format=contiguous", "memory_format")):
        other = demo_cell(tmp_path, *words, word)
        with pytest.raises(agr.utils.errors.ConfigError, match=f"begun with {key}="):
            check_unchanged(other, run, check_inputs(other))
    kept = replace(run.numeric, networks={"res152": Tuning("contiguous", False)})
    assert settle(demo_cell(tmp_path, *words), kept).networks["res152"].memory_format == (
        "contiguous"
    )


def test_norms_that_stay_are_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> nn.Module:
        raise CannotFold("its logits would differ by 3e-05 of the largest")

    monkeypatch.setattr(zoo, "fold_batch_norms", refuse)
    monkeypatch.setattr("agr.evaluation.determinism._tunings", {})
    said: list[str] = []
    words = ("source=res152", "targets=[res152]", "select=source", "n_images=2")
    run_cell(demo_cell(tmp_path, *words), said.append)
    assert (
        "res152: batch norms stay as they are: its logits would differ by 3e-05 of the largest"
        in said
    )


@pytest.mark.slow
def test_a_network_of_timm_is_folded_as_it_is_used(tmp_path: Path) -> None:
    """timm builds networks in training mode: their norms would take statistics of what they see."""
    network = trained(timm.create_model("resnet18", num_classes=7)).float()
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    config = NetworkConfig(
        architecture="resnet18", weights=str(tmp_path / "resnet18.pth"), classes=7, size=32,
        mean=[0.5] * 3, std=[0.5] * 3,
    )  # fmt: skip
    how = {"memory_format": "contiguous", "precision": "fp32", "device": "cpu"}
    assert zoo.choose_tuning("r", config, fold=True, **how) == Tuning("contiguous", True)  # type: ignore[arg-type]
    for again in (False, True):
        if again:
            zoo._loaded.clear()
        folded = zoo.load_network("r", config, folded=True, **how)  # type: ignore[arg-type]
        assert norms(folded) == 0
        x = torch.rand(2, 3, 32, 32)
        assert torch.allclose(folded(x), network((x - 0.5) / 0.5), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_network_in_float64_is_folded_in_float64(tmp_path: Path) -> None:
    config = demo_cell(tmp_path).suite.networks["res152"]
    x = torch.rand(1, 3, config.size, config.size, dtype=torch.float64)
    how = {"memory_format": "contiguous", "precision": "fp64", "device": "cpu"}
    zoo.choose_tuning("res152", config, fold=True, **how)  # type: ignore[arg-type]
    chosen = zoo.load_network("res152", config, folded=True, **how)  # type: ignore[arg-type]
    zoo._loaded.clear()
    folded, plain = (zoo.load_network("res152", config, folded=f, **how) for f in (True, False))  # type: ignore[arg-type]
    assert norms(folded) == 0 < norms(plain)
    assert torch.equal(chosen(x), folded(x))
    assert torch.allclose(folded(x), plain(x), rtol=1e-11)


@pytest.mark.slow
def test_every_demo_network_answers_as_unfolded(tmp_path: Path) -> None:
    left = {"dense121": 62}  # norms that follow no convolution: they stand before the activations
    for name in ("inc_v3", "inc_v4", "ir_v2", "res152", "res50", "dense121"):
        config = demo_cell(tmp_path).suite.networks[name]
        x = torch.rand(2, 3, config.size, config.size)
        plain, folded = (
            zoo.load_network(
                name, config, memory_format="contiguous", precision="fp32", device="cpu", folded=f
            )
            for f in (False, True)
        )
        assert norms(folded) == left.get(name, 0) < norms(plain)
        assert torch.allclose(folded(x), plain(x), atol=1e-4)


@pytest.mark.parametrize("name", ["test_resnet", "test_byobnet", "test_efficientnet", "test_vit"])
def test_a_tuned_network_is_one_that_can_be_attacked(name: str) -> None:
    """What stands in place of a folded norm is in evaluation mode, as the network is."""
    torch.manual_seed(0)
    network = timm.create_model(name).eval()
    x = torch.randint(0, 256, (2, *network.pretrained_cfg["input_size"])) / 255
    tuned = tune(network, x)
    assert not any(part.training for part in tuned.modules())
    y = network(x).argmax(1)
    adv = agr.load_attack("fgsm", norm="linf", eps=4)(tuned, x, y)
    assert (adv - x).abs().max() > 0
