"""The slim networks: timm's layers at a fraction of the width, and batch norm folded away."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import BatchNormAct2d
from torch import nn

from agr.models.slim import load_slim, slim
from scripts.demo.recipes import RECIPES, Recipe
from scripts.demo.weights import fold_batch_norm, initialise_weights

LAYERS = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)


def full(architecture: str) -> nn.Module:
    """timm's own network, without storage."""
    with torch.device("meta"):
        return timm.create_model(architecture, num_classes=10)


def initialised(architecture: str, width: float = 1 / 8, classes: int = 10) -> nn.Module:
    network = slim(architecture, width, classes)
    initialise_weights(network)
    return network


def shape(layer: nn.Module) -> tuple[int, int]:
    """Return the channels in and out."""
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels, layer.out_channels
    if isinstance(layer, nn.BatchNorm2d):
        return layer.num_features, layer.num_features
    assert isinstance(layer, nn.Linear)
    return layer.in_features, layer.out_features


SLIM = {name: recipe for name, recipe in RECIPES.items() if recipe.width is not None}


@pytest.mark.parametrize("recipe", SLIM.values(), ids=SLIM)
def test_every_layer_is_divided(recipe: Recipe) -> None:
    assert recipe.width is not None
    network = slim(recipe.architecture, recipe.width, 10)
    reference = full(recipe.architecture)
    pairs = list(zip(network.modules(), reference.modules(), strict=True))
    keep = {3: 3, 10: 10, 4096: 4096 * recipe.width / 4}
    for layer, original in pairs:
        assert type(layer) is type(original)
        if isinstance(layer, LAYERS):
            assert shape(layer) == tuple(keep.get(n, n * recipe.width) for n in shape(original))
            assert layer.weight.device.type == "cpu"
    assert sum(isinstance(layer, LAYERS) for layer, _ in pairs) > 10


def test_batch_norm_keeps_its_activation() -> None:
    network = initialised("inception_resnet_v2", 3 / 16)
    norms = [m for m in network.modules() if isinstance(m, BatchNormAct2d)]
    assert len(norms) > 200
    for norm, original in zip(
        norms,
        (m for m in full("inception_resnet_v2").modules() if isinstance(m, BatchNormAct2d)),
        strict=True,
    ):
        assert type(norm.act) is type(original.act)
        assert type(norm.drop) is type(original.drop)
    x = torch.randn(2, norms[0].num_features, 4, 4)
    assert norms[0](x).min() == 0
    assert norms[0](x).max() > 0


@pytest.mark.parametrize("architecture", ["inception_v3", "vgg16_bn", "resnet152"])
def test_initialised_for_training(architecture: str) -> None:
    network = initialised(architecture, classes=7)
    assert not network.training
    network.train()
    logits = network(torch.randn(4, 3, 80, 80))
    assert logits.shape == (4, 7)
    assert 1e-3 < logits.std() < 1e3
    logits.logsumexp(1).sum().backward()
    if architecture == "resnet152":
        last = [p for name, p in network.named_parameters() if name.endswith("bn3.weight")]
        assert len(last) == 50
        assert not any(weight.any() for weight in last)


@pytest.mark.parametrize("architecture", ["vgg16", "vgg19"])
def test_folding_keeps_the_function(architecture: str) -> None:
    torch.manual_seed(0)
    trained = initialised(architecture + "_bn").double()  # so only algebra can differ
    plain = slim(architecture, 1 / 8, 10).double()
    x = torch.randn(8, 3, 64, 64, dtype=torch.float64)
    for norm in (m for m in trained.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.2)
    trained.train()(x)  # running statistics other than 0 and 1
    assert fold_batch_norm(trained.eval(), plain) is plain
    assert not any(isinstance(m, nn.BatchNorm2d) for m in plain.modules())
    with torch.no_grad():
        expected = trained(x)
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(plain(x), expected, rtol=1e-10, atol=1e-10)


def test_folding_refuses_another_network() -> None:
    with pytest.raises(ValueError, match=r"16 .* 19"):
        fold_batch_norm(slim("vgg16_bn", 1 / 8, 10), slim("vgg19", 1 / 8, 10))


def test_loading_casts_halves_up(tmp_path: Path) -> None:
    network = initialised("resnet152")
    halves = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    save_file(halves, tmp_path / "w.safetensors")
    loaded = load_slim("resnet152", 1 / 8, 10, tmp_path / "w.safetensors")
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, halves[name].to(value.dtype))
        assert value.dtype in (torch.float32, torch.int64)


def test_loading_refuses_another_networks_weights(tmp_path: Path) -> None:
    save_file(slim("vgg16", 1 / 8, 10).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(RuntimeError, match=r"VGG"):
        load_slim("vgg19", 1 / 8, 10, tmp_path / "w.safetensors")


@pytest.mark.parametrize("width", [0, -0.5, 1.5])
def test_width_is_a_fraction(width: float) -> None:
    with pytest.raises(ValueError, match=r"fraction in \(0, 1\]"):
        slim("vgg16", width, 10)


def test_width_must_divide_every_layer() -> None:
    with pytest.raises(ValueError, match=r"turns 64 channels into 6\.4"):
        slim("vgg16", 1 / 10, 10)


def test_grouped_convolutions_are_refused() -> None:
    with pytest.raises(ValueError, match="32 groups"):
        slim("resnext50_32x4d", 1 / 8, 10)
