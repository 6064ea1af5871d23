"""Weight files as people have them, and networks that timm has or that somebody adds to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import register_model
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from agr.config.compose import expand
from agr.config.schema import NetworkConfig
from agr.evaluation.runner import run_cell
from agr.models.network import Network, load_network
from agr.models.renaming import without_prefix
from agr.models.tuning import tune
from agr.utils.errors import ConfigError

NAME, SIDE = "test_resnet", 64
Weights = dict[str, Tensor]


def original(classes: int = 1000) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(NAME, num_classes=classes).eval()


def load(path: Path, classes: int = 1000, architecture: str = NAME) -> Network:
    config = NetworkConfig(
        architecture=architecture, weights=str(path), classes=classes, size=SIDE, crop=1.0,
        mean=[0.0] * 3, std=[1.0] * 3,
    )  # fmt: skip
    how = {"precision": "fp32", "device": "cpu"}
    return load_network("own", config, memory_format="contiguous", **how)  # type: ignore[arg-type]


def wrapped(*heads: str) -> Callable[[Weights], Any]:
    return lambda w: {f"{'.'.join(heads)}.{name}": tensor for name, tensor in w.items()}


def in_sequential(w: Weights) -> Any:
    """After a layer that normalises."""
    return {"0.mean": torch.zeros(3), "0.std": torch.ones(1, 3, 1, 1), **wrapped("1")(w)}


def of_robustness(w: Weights) -> Any:
    """As the library robustness saves an AttackerModel, and Salman et al. (2020) their networks."""
    norm = {"new_mean": torch.zeros(3, 1, 1), "new_std": torch.ones(3, 1, 1)}
    model = wrapped("module", "model")(w) | wrapped("module", "normalizer")(norm)
    attacker = wrapped("module", "attacker", "model")(w)
    attacker |= wrapped("module", "attacker", "normalize")(norm)
    others = {"epoch": 90, "optimizer": {"state": {}}, "schedule": None}
    return {"model": model | attacker, **others}


def of_robustbench(w: Weights) -> Any:
    """As RobustBench loads a network behind its ImageNormalizer."""
    norm = {"mean": torch.zeros(1, 3, 1, 1), "std": torch.ones(1, 3, 1, 1)}
    return {"state_dict": wrapped("normalize")(norm) | wrapped("model")(w)}


FILES: dict[str, tuple[str, Callable[[Weights], Any]]] = {
    "as it is": ("w.pth", lambda w: w),
    "DataParallel": ("w.pth", wrapped("module")),
    "Lightning": ("w.ckpt", lambda w: {"state_dict": wrapped("model")(w), "epoch": 3}),
    "both": ("w.pt", wrapped("module", "model")),
    "compiled": ("w.pth", wrapped("_orig_mod")),
    "averaged": ("w.pth", lambda w: {"n_averaged": torch.tensor(5), **wrapped("module")(w)}),
    "sequential": ("w.pkl", in_sequential),
    "robustness": ("w.pt", of_robustness),
    "RobustBench": ("w.pt", of_robustbench),
    "sequential in DataParallel": ("w.pth", lambda w: wrapped("module")(in_sequential(w))),
}


@pytest.mark.parametrize("kind", FILES)
def test_what_a_wrapper_adds_to_names_is_left_out(kind: str, tmp_path: Path) -> None:
    network, (name, form) = original(), FILES[kind]
    torch.save(form(network.state_dict()), tmp_path / name)
    x = torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad():
        assert torch.equal(load(tmp_path / name)(x), network(x))


def test_an_attacker_with_another_network_is_no_copy(tmp_path: Path) -> None:
    """Which of the two was meant, nobody knows."""
    saved = of_robustness(original().state_dict())
    names = saved["model"]
    name = next(n for n in names if n.startswith("module.attacker.model."))
    names[name] = names[name] + 1
    torch.save(saved, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match="holds no weights"):
        load(tmp_path / "w.pt")


@pytest.mark.slow
def test_names_that_are_a_networks_own_stay() -> None:
    for architecture in (NAME, "vgg11", "resnet18", "test_vit"):
        weights = timm.create_model(architecture).state_dict()
        assert without_prefix(weights) == (weights, {})


BESIDE = {
    "0.mean": ({"0.mean": torch.full((3,), 0.5)}, wrapped("1")),
    "std": ({"std": torch.full((1, 3, 1, 1), 0.2)}, wrapped("model")),
    "mu": ({"mu": torch.full((3,), 0.5)}, wrapped("model")),
    "new_std": ({"normalizer.new_std": torch.full((3, 1, 1), 0.2)}, wrapped("model")),
    "temperature": ({"temperature": torch.tensor(3.0)}, wrapped("model")),
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_changes_a_networks_input_is_not_left_out(name: str, tmp_path: Path) -> None:
    beside, form = BESIDE[name]
    torch.save({**beside, **form(original().state_dict())}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=rf"its [\w.]*{name} is|{name} stands"):
        load(tmp_path / "w.pth")


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, {"n_averaged": torch.tensor(3)}])
def test_a_file_without_weights_is_not_replaced_by_the_hubs(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="there are no weights in it"):
        load(tmp_path / "w.pth")


def test_a_head_of_one_logit_is_named(tmp_path: Path) -> None:
    torch.save(original(1).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="its head has one logit"):
        load(tmp_path / "w.pth", classes=2)


def test_a_head_with_a_class_for_background_loses_it(tmp_path: Path) -> None:
    torch.save(original(1001).state_dict(), tmp_path / "w.pth")
    x = torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad():
        assert torch.allclose(load(tmp_path / "w.pth")(x), original(1001)(x)[:, 1:], atol=1e-6)


@pytest.mark.parametrize(("there", "asked"), [(10, 1000), (1000, 10), (21841, 1000), (101, 100)])
def test_another_number_of_classes_is_named(there: int, asked: int, tmp_path: Path) -> None:
    torch.save(original(there).state_dict(), tmp_path / "w.pth")
    words = rf"its head knows {there:,} classes, the config {asked:,}: .* with classes: {there}"
    with pytest.raises(ConfigError, match=words):
        load(tmp_path / "w.pth", classes=asked)


def test_weights_of_another_family_are_one_line(tmp_path: Path) -> None:
    """On some, timm's own filters fail with an AttributeError."""
    for architecture in ("swin_tiny_patch4_window7_224", "test_vit", "vit_tiny_patch16_224"):
        weights = {"features.0.weight": torch.zeros(3, 3), "relative_position_index": torch.ones(4)}
        torch.save(weights, tmp_path / f"{architecture}.pth")
        with pytest.raises(ConfigError, match=f"holds no weights of {architecture}"):
            load(tmp_path / f"{architecture}.pth", architecture=architecture)


def test_a_suite_and_a_network_know_the_same_classes(tmp_path: Path) -> None:
    """1,000 classes on images of 10: hits by chance would count as right."""
    torch.save(original().state_dict(), tmp_path / "w.pth")
    words = [f"source='{NAME}.r160_in1k:{tmp_path}/w.pth'", "n_images=4", f"outputs={tmp_path}"]
    with pytest.raises(ConfigError, match=r"knows 1,000 classes, the images of suite=demo have 10"):
        run_cell(expand([*words, "attack=fgsm"])[0], lambda _: None)


OWN = """
from timm.models import register_model
import torch

@register_model
def my_net(pretrained=False, num_classes=10, pretrained_cfg=None,
                  pretrained_cfg_overlay=None, **kwargs):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, num_classes))
    if pretrained:
        network.load_state_dict(pretrained_cfg_overlay["state_dict"])
    return network
"""


@pytest.mark.parametrize("data", ["data.root={}", "suite.root={}"])
def test_a_suites_own_classes_hold_wherever_the_images_are(data: str, tmp_path: Path) -> None:
    torch.save(original().state_dict(), tmp_path / "w.pth")
    (tmp_path / "copy").symlink_to(Path(expand(["attack=fgsm"])[0].suite.root or "").parent)
    words = [f"source='{NAME}.r160_in1k:{tmp_path}/w.pth'", "n_images=4", f"outputs={tmp_path}"]
    words += [data.format(tmp_path / "copy/val"), f"data.labels={tmp_path}/copy/val.csv"]
    for more in ([], ["suite.classes=10"]):
        (cell,) = expand([*words, "attack=fgsm", *more])
        assert cell.image_classes == 10


@register_model
def nested(pretrained: bool = False, num_classes: int = 10, **given: Any) -> nn.Module:
    """A network whose only child has the name of a wrapper."""
    network = nn.Sequential()
    network.model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, num_classes))
    network.forward = network.model.forward  # type: ignore[method-assign]
    if pretrained:
        network.load_state_dict(given["pretrained_cfg_overlay"]["state_dict"])
    return network


@register_model
def forgetful(pretrained: bool = False, num_classes: int = 10, **given: Any) -> nn.Module:
    """A network whose function passes over the weights of one layer, or of all."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, num_classes))
    weights = given["pretrained_cfg_overlay"]["state_dict"]
    if pretrained and "0.weight" in weights:
        network[1].load_state_dict({k.removeprefix("1."): v for k, v in weights.items()})
    return network


def test_a_child_called_like_a_wrapper_stays(tmp_path: Path) -> None:
    torch.save(nested().state_dict(), tmp_path / "w.pth")
    assert load(tmp_path / "w.pth", 10, "nested")(torch.rand(1, 3, SIDE, SIDE)).shape == (1, 10)


def test_an_architecture_that_loads_nothing_is_refused(tmp_path: Path) -> None:
    torch.save({"1.weight": torch.rand(10, 3 * SIDE * SIDE)}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"its function never loaded 1\.weight"):
        load(tmp_path / "w.pth", 10, "forgetful")


@pytest.mark.slow
def test_an_own_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_nets.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 10))
    torch.save(body.state_dict(), tmp_path / "w.pth")
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "mine.yaml").write_text(
        "defaults: [demo]\nname: mine\nnetworks:\n  own: {architecture: my_net, classes: 10, "
        f"weights: {tmp_path}/w.pth, size: 64, mean: [0, 0, 0], std: [1, 1, 1]}}\n"
    )
    words = [f"hydra.searchpath=[{tmp_path}]", "suite=mine", "source=own", "targets=own"]
    words += ["select=none", "n_images=2", "attack=fgsm", f"outputs={tmp_path}"]
    with pytest.raises(ConfigError, match="timm has no architecture my_net"):
        run_cell(expand(words)[0], lambda _: None)
    rows = run_cell(expand([*words, "allow=my_nets"])[0], lambda _: None).read()
    assert len(rows) == 2
    with pytest.raises(ConfigError, match=r"allow=\[no_such_nets\] can't be imported"):
        expand([*words, "suite.networks.own.architecture=other", "allow=no_such_nets"])


# ---- tuning --------------------------------------------------------------------------------------


class Block(nn.Module):
    """A convolution whose weight is computed, and a batch norm after it."""

    def __init__(self, norm: Callable[[nn.Module], nn.Module]):
        super().__init__()
        self.conv = norm(nn.Conv2d(3, 8, 3))
        self.bn = nn.BatchNorm2d(8)
        self.volume = nn.Parameter(torch.randn(2, 2, 1, 1, 1))  # five dimensions
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x)).relu().mean((2, 3)) * self.volume.sum()
        logits: Tensor = self.head(x)
        return logits


@pytest.mark.parametrize(
    "norm", [parametrizations.weight_norm, parametrizations.spectral_norm, lambda layer: layer]
)
def test_computed_weights_are_not_folded(norm: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    network = Block(norm).eval()
    x = torch.rand(2, 3, 16, 16)
    for memory_format in ("auto", "try", "channels_last", "contiguous"):
        tuned = tune(network, x, memory_format)
        assert torch.allclose(tuned(x), network(x), atol=1e-5)
