"""Networks by their names, where their weights come from, and ensembles of them."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from timm.models import get_pretrained_cfg
from torch.nn import functional as F

from agr.attacks import Attack
from agr.attacks.ball import Linf
from agr.attacks.engine import Calls, Item, craft
from agr.attacks.goal import Goal
from agr.attacks.loss import CrossEntropy
from agr.attacks.stop import OnceFooled
from agr.config.cell import Cell
from agr.config.compose import expand
from agr.config.registry import describe, family_of
from agr.config.schema import Geometry, NetworkConfig
from agr.evaluation.predictions import predict_batched
from agr.evaluation.runner import run_cell
from agr.models.network import Network, load_network
from agr.models.sources import Ensemble
from agr.models.weights import weights_file
from agr.report.notes import closing
from agr.report.tables import write_tables
from agr.utils import hub as hub_module
from agr.utils.errors import ConfigError
from agr.utils.hub import hub_file
from agr.utils.packages import PACKAGE
from tests.conftest import demo_cell, small_model

SMALL = "test_resnet.r160_in1k"  # timm's own network for tests: 0.5 M parameters, 160 px


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache on a machine without a network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub_module._unreachable.cache_clear()
    yield tmp_path / "hub"
    hub_module._unreachable.cache_clear()


def cache(hub: Path, hub_id: str, name: str) -> Path:
    """Where the hub's client keeps a file: a link in a snapshot, as it writes it."""
    folder = hub / f"models--{hub_id.replace('/', '--')}"
    snapshot = folder / "snapshots" / "0123456789"
    snapshot.mkdir(parents=True, exist_ok=True)
    (folder / "blobs").mkdir(exist_ok=True)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text("0123456789")
    blob = folder / "blobs" / name
    blob.touch()
    (snapshot / name).symlink_to(os.path.relpath(blob, snapshot))
    return blob


def random_weights(path: Path, name: str = SMALL, seed: int = 0) -> torch.nn.Module:
    """A network of timm with random weights, and these in a file."""
    torch.manual_seed(seed)
    network = timm.create_model(name).eval()
    if path.suffix in (".safetensors", ""):
        save_file(network.state_dict(), path)
    else:
        torch.save({"state_dict": network.state_dict()}, path)
    return network


def load(name: str, config: NetworkConfig) -> Network:
    return load_network(name, config, memory_format="contiguous", precision="fp32", device="cpu")


# ---- names ---------------------------------------------------------------------------------------


TAGS = {
    "imagenet": {
        "inc_v3": "inception_v3.tf_in1k", "inc_v4": "inception_v4.tf_in1k",
        "ir_v2": "inception_resnet_v2.tf_in1k", "vgg16": "vgg16.tv_in1k",
        "vgg19": "vgg19.tv_in1k", "res152": "resnet152.tv_in1k",
        "inc_v3_adv": "inception_v3.tf_adv_in1k",
        "ir_v2_ens": "inception_resnet_v2.tf_ens_adv_in1k",
    },
    "lite": {f"lite{i}": f"tf_efficientnet_lite{i}.in1k" for i in range(3)},
    "transfer2026": {
        "resnet50": "resnet50.tv_in1k",
        "vit_b": "vit_base_patch16_224.augreg2_in21k_ft_in1k",
        "resnet50_v2": "resnet50.tv2_in1k",
        "resnet18": "resnet18.tv_in1k",
        "resnet101": "resnet101.tv_in1k",
        "resnet152": "resnet152.tv_in1k",
        "resnext50": "resnext50_32x4d.tv_in1k",
        "densenet121": "densenet121.tv_in1k",
        "vgg16": "vgg16.tv_in1k",
        "vgg19": "vgg19.tv_in1k",
        "vgg19_bn": "vgg19_bn.tv_in1k",
        "mobilenet_v2": "mobilenetv2_100.ra_in1k",
        "inc_v3_tv": "inception_v3.tv_in1k",
        "inc_v3": "inception_v3.tf_in1k",
        "inc_v4": "inception_v4.tf_in1k",
        "ir_v2": "inception_resnet_v2.tf_in1k",
        "pnasnet": "pnasnet5large.tf_in1k",
        "effnet_v2_m": "tf_efficientnetv2_m.in1k",
        "lite0": "tf_efficientnet_lite0.in1k",
        "lite1": "tf_efficientnet_lite1.in1k",
        "lite2": "tf_efficientnet_lite2.in1k",
        "convnext_t": "convnext_tiny.fb_in1k",
        "convnext_b": "convnext_base.fb_in1k",
        "deit_b": "deit_base_patch16_224.fb_in1k",
        "beit_b": "beit_base_patch16_224.in22k_ft_in22k_in1k",
        "swin_t": "swin_tiny_patch4_window7_224.ms_in1k",
        "swin_b": "swin_base_patch4_window7_224.ms_in1k",
        "pit_b": "pit_b_224.in1k",
        "visformer_s": "visformer_small.in1k",
        "cait_s": "cait_s24_224.fb_dist_in1k",
        "levit": "levit_256.fb_dist_in1k",
        "mixer_b": "mixer_b16_224.goog_in21k_ft_in1k",
        "inc_v3_adv": "inception_v3.tf_adv_in1k",
        "ir_v2_ens": "inception_resnet_v2.tf_ens_adv_in1k",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", TAGS)
def test_a_suite_says_what_timm_says(name: str) -> None:
    """Its networks are written out; this is what keeps them true."""
    suite, tags = expand([f"suite={name}"])[0].suite, TAGS[name]
    assert {name: n.tag for name, n in suite.networks.items()} == tags
    for name, n in suite.networks.items():
        theirs = NetworkConfig(**describe(tags[name], name))
        theirs.title, theirs.top1 = n.title, n.top1
        if n.weights.startswith(PACKAGE):  # which states no licence
            theirs.weights, theirs.sha256, theirs.license = n.weights, n.sha256, None
        if n.size != theirs.size:  # one was trained at a smaller size than it is tested at
            test = get_pretrained_cfg(tags[name])
            theirs.size, theirs.crop = test.test_input_size[-1], test.test_crop_pct
        assert n == theirs
        assert n.top1 is not None


def test_families_follow_the_architecture() -> None:
    demo = expand(["suite=demo"])[0].suite.networks
    assert all(family_of(n.architecture) == n.family for n in demo.values())
    assert [name for name, n in demo.items() if n.family != "cnn"] == ["vit", "swin"]
    for name, family in {
        "convnext_nano": "cnn",
        "maxvit_tiny_rw_224": "transformer",
        "vit_tiny_r_s16_p8_224": "transformer",
        "resmlp_12_224": "mlp",
        "mobilenetv4_conv_small": "cnn",
        "mobilenetv4_hybrid_medium": "transformer",
        "poolformer_s12": None,  # its module has caformer_s18, too
    }.items():
        assert family_of(name) == family


def test_a_family_is_no_part_of_a_cells_identity() -> None:
    words = ["attack=ifgsm", "norm=linf", "suite.networks.vgg16.family="]
    one, other = (expand([*words[:2], words[2] + f, "source=vgg16"])[0] for f in ("cnn", "mlp"))
    assert other.family("vgg16/jpeg75") == "mlp"
    assert (one.id, one.network_digest("vgg16")) == (other.id, other.network_digest("vgg16"))
    with pytest.raises(ConfigError, match=r"network vgg16: family=vit is unknown: .*transformer"):
        expand([*words[:2], words[2] + "vit"])


def test_any_tag_of_timm_is_a_source_or_a_target() -> None:
    vit = "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k"
    cell = expand(["suite=imagenet", f"source={vit}", "targets=[vgg16,resnet50,vgg16/jpeg75]"])[0]
    assert (cell.geometry.size, cell.geometry.crop, cell.geometry.interpolation) == (
        224, 0.9, "bicubic",
    )  # fmt: skip
    assert cell.selecting == [vit]
    assert cell.networks == [vit, "vgg16", "resnet50"]
    assert cell.suite.networks[vit].fixed_size
    assert cell.suite.networks["resnet50"].tag == "resnet50.a1_in1k"  # pinned, as timm has it now
    assert "/" not in cell.name


def test_a_network_in_a_suite_may_be_one_line(tmp_path: Path) -> None:
    (tmp_path / "suite").mkdir()
    text = (
        "defaults: [imagenet]\nnetworks:\n  deit: {tag: deit_base_patch16_224.fb_in1k, top1: 81.8}"
    )
    (tmp_path / "suite" / "mine.yaml").write_text(text)
    words = [f"hydra.searchpath=[{tmp_path}]", "suite=mine", "source=vgg16", "targets=[deit]"]
    network = expand(words)[0].suite.networks["deit"]
    assert (network.architecture, network.crop, network.top1) == (
        "deit_base_patch16_224",
        0.9,
        81.8,
    )


def test_what_a_suite_says_beats_the_registry(tmp_path: Path) -> None:
    (tmp_path / "suite").mkdir()
    own = "crop: 1.0, interpolation: bilinear, resize: bilinear, mode: center"
    vit = f"vit: {{tag: vit_base_patch16_224.augreg2_in21k_ft_in1k, {own}}}"
    idle = "other: {tag: nonsense.x}"  # nobody asks for it
    text = f"defaults: [imagenet]\nnetworks:\n  {vit}\n  {idle}"
    (tmp_path / "suite" / "mine.yaml").write_text(text)
    cell = expand([f"hydra.searchpath=[{tmp_path}]", "suite=mine", "source=vit"])[0]
    assert cell.geometry == Geometry(224, 1.0, "bilinear", "center")
    assert cell.suite.networks["vit"].resize == "bilinear"
    assert cell.suite.networks["vit"].mean == [0.5, 0.5, 0.5]


def test_white_box_is_a_matter_of_networks_not_of_names() -> None:
    alias = "timm/inception_v3.tf_in1k"
    cell = expand(["suite=imagenet", "source=inc_v3", f"targets=[inc_v3,{alias},inc_v4]"])[0]
    assert [cell.white_box(t) for t in cell.targets] == [True, True, False]
    cell = expand(["suite=imagenet", f"targets=[{alias}/jpeg75]"])[0]
    assert not cell.white_box(f"{alias}/jpeg75")
    with pytest.raises(ConfigError, match="are one network"):
        expand(["suite=imagenet", f"source=[inc_v3,{alias}]"])
    # files of one name in two folders are two networks
    cell = expand(["suite=imagenet", "source=resnet18:a/w.pth", "targets=[resnet18:b/w.pth]"])[0]
    assert not cell.white_box("resnet18:b/w.pth")


def test_a_squashing_network_keeps_its_mode() -> None:
    cell = expand(["suite=imagenet", "source=convnext_base.clip_laion2b_augreg_ft_in12k_in1k_384"])
    assert (cell[0].geometry.mode, cell[0].geometry.size) == ("squash", 384)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("inc_v5", "did you mean inc_v"),
        ("resnet50.tv_in1", r"timm [\d.]+ has no resnet50.tv_in1: did you mean resnet50.tv_in1k"),
        ("timm/resnet51", "timm .* has no resnet51: did you mean"),
        ("[inc_v3,inc_v3]", "a list of different networks"),
        ("[]", "a list of different networks"),
        ("{a:1}", "is not a network: give a name, or a list"),
        ("vgg16/jpeg75", "an attack that knows the defense needs eot=1"),
        (
            "owner/name",
            "config.json of owner/name is not in the hub cache .*hf download owner/name",
        ),
        ("hf-hub:a/b/c", "is not a hub id"),
        ("vit_base_patch14_dinov2.lvd142m", "has no classes"),
    ],
)
def test_wrong_sources(name: str, reason: str, hub: Path) -> None:
    with pytest.raises(ConfigError, match=reason) as e:
        expand(["suite=imagenet", f"source={name}"])
    assert "\n" not in str(e.value)


def test_weights_that_are_not_on_the_hub_say_where_they_are() -> None:
    network = expand(["suite=imagenet", "source=gcvit_tiny"])[0].suite.networks["gcvit_tiny"]
    with pytest.raises(ConfigError, match=r"not on the hub: fetch https://.* gcvit_tiny.in1k:path"):
        weights_file("gcvit_tiny", network)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("vgg16/jpg75", "jpg75 is not a defense: did you mean jpeg75"),
        ("vgg16/jpeg75/squeez", "squeez is not a defense: did you mean squeeze"),
        ("vgg91", "did you mean vgg19"),
    ],
)
def test_wrong_targets(target: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        expand(["suite=imagenet", f"targets=[vgg16,{target}]"])


# ---- weights -------------------------------------------------------------------------------------


def test_weights_come_from_the_hub_cache(hub: Path) -> None:
    blob = cache(hub, f"timm/{SMALL}", "model.safetensors")
    theirs = random_weights(blob)
    config = NetworkConfig(**describe(SMALL, SMALL))
    assert weights_file(SMALL, config).resolve() == blob
    mine = load(SMALL, config)
    assert not mine.body.pretrained_cfg  # timm would keep the weights in it, a second time
    x = torch.rand(2, 3, config.size, config.size)
    mean, std = torch.tensor(config.mean).view(3, 1, 1), torch.tensor(config.std).view(3, 1, 1)
    assert torch.equal(mine(x), theirs((x - mean) / std))


def test_a_hub_id_brings_its_own_config(hub: Path) -> None:
    blob = cache(hub, "owner/mine", "pytorch_model.bin")
    torch.manual_seed(1)
    theirs = timm.create_model("test_resnet", num_classes=7).eval()
    torch.save(theirs.state_dict(), blob)
    own = {"input_size": [3, 96, 96], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6],
           "interpolation": "bicubic", "crop_pct": 0.9, "num_classes": 1000}  # fmt: skip
    stored = {"architecture": "test_resnet", "num_classes": 7, "pretrained_cfg": own}
    cache(hub, "owner/mine", "config.json").write_text(json.dumps(stored))
    for name in ("owner/mine", "hf-hub:owner/mine"):
        config = NetworkConfig(**describe(name, name))
        assert (config.classes, config.size, config.crop, config.resize) == (7, 96, 0.9, "bicubic")
        x = torch.rand(2, 3, 96, 96)
        mean, std = torch.tensor(own["mean"]).view(3, 1, 1), torch.tensor(own["std"]).view(3, 1, 1)
        assert torch.equal(load(name, config)(x), theirs((x - mean) / std))


def test_a_hub_config_is_completed_as_timm_does(hub: Path) -> None:
    """What it leaves out has timm's defaults, and its arguments reach the constructor."""
    stored = {"architecture": "test_resnet", "num_classes": 7, "model_args": {"stem_type": "deep"},
              "pretrained_cfg": {"mean": [0.5, 0.5, 0.5]}}  # fmt: skip
    cache(hub, "owner/mine", "config.json").write_text(json.dumps(stored))
    torch.manual_seed(0)
    theirs = timm.create_model("test_resnet", num_classes=7, stem_type="deep")
    save_file(theirs.state_dict(), cache(hub, "owner/mine", "model.safetensors"))
    config = NetworkConfig(**describe("owner/mine", "source"))
    own = timm.data.resolve_data_config(pretrained_cfg=stored["pretrained_cfg"])
    assert (config.size, config.crop, config.interpolation) == (
        own["input_size"][1], own["crop_pct"], own["interpolation"],
    )  # fmt: skip
    assert config.mean == list(own["mean"])
    assert config.std == list(own["std"])
    x = torch.rand(1, 3, 224, 224)
    mean, std = torch.tensor(config.mean).view(3, 1, 1), torch.tensor(config.std).view(3, 1, 1)
    expected = theirs.eval()((x - mean) / std)
    assert torch.allclose(load("mine", config)(x), expected, rtol=0, atol=1e-6)


def test_a_broken_config_on_the_hub_is_named(hub: Path) -> None:
    cache(hub, "owner/mine", "config.json").write_text('{"num_classes": 10}')
    with pytest.raises(ConfigError, match="timm has no architecture None"):
        describe("owner/mine", "source=owner/mine")
    cache(hub, "owner/list", "config.json").write_text("[1, 2]")
    with pytest.raises(ConfigError, match=r"config.json of owner/list describes no network"):
        describe("owner/list", "source=owner/list")


def test_missing_weights_say_where_they_belong(hub: Path) -> None:
    config = expand(["suite=imagenet"])[0].suite.networks["inc_v3"]
    with pytest.raises(ConfigError) as e:
        weights_file("inc_v3", config)
    for words in (
        "network inc_v3: model.safetensors of timm/inception_v3.tf_in1k is not in the hub cache",
        str(hub), "offline: HF_HUB_OFFLINE is set", "models--timm--inception_v3.tf_in1k",
        "hf download timm/inception_v3.tf_in1k model.safetensors",
        "suite.networks.inc_v3.weights=FILE",
    ):  # fmt: skip
        assert words in str(e.value)
    with pytest.raises(ConfigError, match=f"name a file: {SMALL}:FILE in place of {SMALL}"):
        weights_file(SMALL, NetworkConfig(**describe(SMALL, SMALL)))


def test_what_the_network_can_fetch_is_fetched(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The repository has no safetensors: the second name is tried."""
    from huggingface_hub.errors import EntryNotFoundError

    asked = []

    def fetch(hub_id: str, name: str, cache_dir: str) -> str:
        asked.append((hub_id, name, cache_dir))
        if name == "model.safetensors":
            raise EntryNotFoundError("404")
        path = hub / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        return str(path)

    monkeypatch.setattr(hub_module, "_unreachable", lru_cache(lambda: ""))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    names = ("model.safetensors", "pytorch_model.bin")
    assert hub_file("a/b", names, "here") == hub / "pytorch_model.bin"
    assert asked == [("a/b", name, str(hub)) for name in names]
    with pytest.raises(ConfigError, match=r"it has no model.safetensors"):
        hub_file("a/b", names[:1], "here")


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_a_local_file_with_its_architecture(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"mine.{ending}"
    theirs = random_weights(path)
    name = f"test_resnet:{path}"
    cell = expand(["suite=imagenet", f"source={name}", "targets=[vgg16]"])[0]
    config = cell.suite.networks[name]
    assert config.title == path.name
    x = torch.rand(1, 3, config.size, config.size)
    mean, std = torch.tensor(config.mean).view(3, 1, 1), torch.tensor(config.std).view(3, 1, 1)
    assert torch.equal(load(name, config)(x), theirs((x - mean) / std))


class Trap:
    """Unpickling this would make a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_a_file_that_could_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trap.pth"
    torch.save({"state_dict": Trap(tmp_path / "sprung")}, path)
    with pytest.raises(ConfigError, match="loading it could run code"):
        load("trap", NetworkConfig(**describe(f"test_resnet:{path}", "source")))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04"])
@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_what_is_no_weight_file_is_one_line(ending: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"bad.{ending}"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"network bad: .* holds ") as e:
        load("bad", NetworkConfig(**describe(f"test_resnet:{path}", "source")))
    assert "\n" not in str(e.value)


@pytest.mark.slow
def test_a_missing_weight_is_never_left_random(tmp_path: Path) -> None:
    """timm loads an Inception-v3 of torchvision without looking for what is missing."""
    torch.manual_seed(0)
    whole = timm.create_model("inception_v3").state_dict()
    part = {k: v for k, v in whole.items() if not k.startswith("Mixed_7c.branch_pool")}
    path = tmp_path / "part.safetensors"
    save_file(part, path)
    for tag in ("inception_v3", "inception_v3.tf_in1k"):
        config = NetworkConfig(**describe(f"{tag}:{path}", "source"))
        with pytest.raises(ConfigError, match=r"it lacks Mixed_7c.branch_pool|Missing key"):
            load("part", config)
    extra = whole | {"AuxLogits.fc.weight": torch.zeros(3)}  # torchvision's files have it
    save_file(extra, path)
    load("whole", NetworkConfig(**describe(f"inception_v3:{path}", "source")))


def test_an_image_of_another_size_is_resized_as_the_network_says(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    random_weights(path)
    config = NetworkConfig(**describe(f"test_resnet:{path}", "source"))
    x = torch.rand(1, 3, 100, 100)
    for mode in ("bilinear", "bicubic"):
        config.resize = mode
        network = load("n", config)
        size = (config.size, config.size)
        by_hand = F.interpolate(x, size, mode=mode, antialias=True)
        assert torch.equal(network.fit(x), by_hand)
        assert torch.equal(network(x), network(by_hand))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    random_weights(path, "test_vit")
    with pytest.raises(ConfigError, match="holds no weights of test_resnet"):
        load("other", NetworkConfig(**describe(f"test_resnet:{path}", "source")))


# ---- ensembles -----------------------------------------------------------------------------------


def members(cell: Cell) -> list[Network]:
    return [
        load_network(
            n, cell.suite.networks[n], memory_format="channels_last", precision="fp32", device="cpu"
        )
        for n in cell.sources
    ]


def test_an_ensemble_of_logits_is_their_mean(x: torch.Tensor, y: torch.Tensor) -> None:
    bodies = [small_model(0), small_model(1)]
    config = NetworkConfig("n", None, "", {}, "", classes=5, size=12, mean=[0.0] * 3, std=[1.0] * 3)
    nets = [Network(body, config, "contiguous", "fp64") for body in bodies]
    point = x.clone().requires_grad_()
    mine = Ensemble(nets, "logits")(point)
    theirs = (bodies[0](point) + bodies[1](point)) / 2
    assert torch.allclose(mine, theirs, rtol=0, atol=1e-12)


def test_losses_are_averaged_by_hand(x: torch.Tensor, y: torch.Tensor) -> None:
    """One step of FGSM on the mean of two losses; on the mean of logits it goes elsewhere."""
    bodies = [small_model(0), small_model(1)]
    config = NetworkConfig("n", None, "", {}, "", classes=5, size=12, mean=[0.0] * 3, std=[1.0] * 3)
    nets = [Network(body, config, "contiguous", "fp64") for body in bodies]
    attack = Attack(ball=Linf(10 / 255), steps=1, quantize="off")
    point = x.clone().requires_grad_()
    loss = sum(F.cross_entropy(body(point), y, reduction="sum") for body in bodies) / 2
    (g,) = torch.autograd.grad(loss, point)
    expected = (x + 10 / 255 * g.sign()).clamp(0, 1)
    losses = attack(Ensemble(nets, "losses"), x, y)
    assert torch.allclose(losses, expected, rtol=0, atol=1e-12)
    assert not torch.equal(attack(Ensemble(nets, "logits"), x, y), losses)


def test_an_ensemble_stops_on_its_own_answer(x: torch.Tensor) -> None:
    config = NetworkConfig("n", None, "", {}, "", classes=5, size=12, mean=[0.0] * 3, std=[1.0] * 3)
    nets = [Network(small_model(i), config, "contiguous", "fp64") for i in (0, 1)]
    y = Ensemble(nets, "logits")(x).argmax(1)
    for over in ("logits", "losses"):
        ensemble = Ensemble(nets, over)
        attack = Attack(ball=Linf(30 / 255), stop=OnceFooled(), quantize="always")
        adv = attack(ensemble, x, y)
        mean = (nets[0](adv) + nets[1](adv)) / 2
        assert (mean.argmax(1) != y).float().mean() > 0.5
        items = [Item(i, (255 * x[i]).round().to(torch.uint8).numpy(), int(y[i])) for i in range(6)]
        calls = Calls()
        made = sorted(craft(attack, ensemble, items, 4, calls=calls), key=lambda m: m.item.tag)
        for i, m in enumerate(made):
            assert torch.equal(torch.from_numpy(m.image).double() / 255, adv[i])
            assert m.forwards == 2 * (m.steps_used + 1)  # both members are paid for
            assert m.backwards == 2 * m.steps_used
        assert calls.forwards % 2 == 0
        said = predict_batched(ensemble, [m.image for m in made], 4)
        assert [a.pred for a in said] == mean.argmax(1).tolist()


def test_losses_of_members_are_averaged(x: torch.Tensor, y: torch.Tensor) -> None:
    """The mean, not the sum, whatever a step makes of it afterwards."""
    logits = torch.stack([small_model(0)(x), small_model(1)(x)], 1)
    each = [F.cross_entropy(logits[:, i], y, reduction="none") for i in (0, 1)]
    mine = Goal(CrossEntropy(), None, views=(), targeted=False).own(logits, y)
    assert torch.allclose(mine, (each[0] + each[1]) / 2, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_a_run_on_an_ensemble(tmp_path: Path) -> None:
    """Every member counts as white-box, and the geometry is the first one's."""
    words = ["source=[vgg16,inc_v3]", "attack=ifgsm", "progress=false"]
    cells = [demo_cell(tmp_path, *words, f"ensemble={over}") for over in ("logits", "losses")]
    alone = demo_cell(tmp_path, "source=vgg16")
    assert len({c.id for c in (*cells, alone)}) == 3
    assert alone.id == demo_cell(tmp_path, "source=vgg16", "ensemble=losses").id
    cell = cells[0]
    assert cell.geometry.size == 64
    assert cell.targets == cell.selecting == ["vgg16", "vgg19", "res152", "inc_v3"]
    rows = {c.config.ensemble: run_cell(c).read("rows") for c in cells}
    assert (rows["logits"]["adv_sha256"] != rows["losses"]["adv_sha256"]).any()
    for frame in rows.values():
        assert set(frame["source"]) == {"vgg16+inc_v3"}
        white = frame.groupby("target")["white_box"].all()
        assert white.to_dict() == {"vgg16": True, "inc_v3": True, "vgg19": False, "res152": False}
        assert frame[frame["white_box"]]["success"].mean() > 0.8
        assert (frame["forwards"] == 22).all()
        assert (frame["linf"] <= 10).all()
    assert "Inc-v3 *" in closing(cell)
    write_tables(cells[:1], tmp_path / "tables")
    text = (tmp_path / "tables" / "table1.md").read_text()
    assert "VGG16 + Inc-v3" in text
    assert text.count(r"\*") >= 2


def test_an_ensemble_attacks_what_its_members_all_have_right(tmp_path: Path) -> None:
    words = ["source=[vgg16,inc_v3]", "targets=[vgg19]", "attack=fgsm", "progress=false"]
    cell = demo_cell(tmp_path, *words, "select=source")
    assert cell.selecting == ["vgg16", "inc_v3"]
    rows = run_cell(cell).read("rows")
    assert (rows["source_clean_pred"] == rows["label"]).all()
    nets = members(cell)
    assert len(nets) == 2
