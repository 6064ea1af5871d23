"""Real networks on real photographs: the NIPS 2017 set where it is, else those of foolbox."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agr.config.cell import Cell
from agr.config.compose import expand
from agr.config.overrides import shell_command
from agr.evaluation.runner import run_cell
from agr.models.network import load_network
from agr.models.renaming import renamed
from agr.models.weights import weights_file
from agr.records.store import Records, image_of
from agr.utils.errors import ConfigError
from agr.utils.packages import package_file

LITE = ("lite0", "lite1", "lite2")
SHARED = Path(__file__).parents[2] / "shared" / "nips17"
NIPS17 = Path(os.environ.get("NIPS17_DIR") or SHARED)
HAS_NIPS17 = (NIPS17 / "images.csv").is_file()
LOADED: dict[str, Any] = {"memory_format": "channels_last", "precision": "fp32", "device": "cpu"}


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NIPS17_DIR", raising=False)


def cell(*words: str) -> Cell:
    return expand(["suite=lite", "attack=ifgsm", "source=lite0", "norm=linf", *words])[0]


# ---- weights from packages -----------------------------------------------------------------------


@pytest.mark.parametrize("name", LITE)
def test_every_weight_gets_its_name_and_shape(name: str) -> None:
    config = cell().suite.networks[name]
    weights = torch.load(weights_file(name, config), weights_only=True)
    with torch.device("meta"):
        own = timm.create_model(config.architecture).state_dict()
    found = renamed(weights, own)
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in own.items()}
    # in both programs weights are listed in the order of the layers
    assert list(found) == list(own)
    assert all(a is b for a, b in zip(found.values(), weights.values(), strict=True))


def test_other_weights_keep_their_names() -> None:
    weights = {"conv_stem.weight": torch.zeros(1), "_blocks.0._bn1.weight": torch.zeros(1)}
    assert renamed(weights, ["blocks.0.0.bn1.weight"]) == weights


def test_weights_of_another_network_are_refused() -> None:
    """Lite1 has more blocks than Lite0, and wider heads have other shapes."""
    networks = cell().suite.networks
    for architecture in ("tf_efficientnet_lite0", "tf_efficientnet_lite3"):
        config = networks["lite1"]
        config = type(config)(**vars(config) | {"architecture": architecture})
        with pytest.raises(ConfigError, match=f"holds no weights of {architecture}"):
            load_network("lite1", config, **LOADED)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "package:no-such-thing/x.pth",
            "no-such-thing is not installed: pip install no-such-thing",
        ),
        ("package:timm/no/such.pth", "the package timm has no file no/such.pth: correct the path"),
        ("package:timm", "the package timm has no file"),
        ("package:", "is not installed"),
        ("package:timm/../secret", "has no file"),
    ],
)
def test_what_is_not_installed_is_named(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        package_file(name, "network x")


def test_a_package_is_found_and_not_imported() -> None:
    path = package_file("package:timm/timm/version.py", "x")
    assert path.read_text() == Path(timm.version.__file__).read_text()
    assert metadata.version("timm") in path.read_text()


@pytest.mark.slow
def test_images_of_another_hash_are_left_out(tmp_path: Path) -> None:
    """What a package brings is checked as any file of a CSV is."""
    name = "package:foolbox/foolbox/data/imagenet_00_243.jpg"
    listed = tmp_path / "mine.csv"
    listed.write_text(f"filename,label,sha256\n{name},243,{'0' * 64}\n")
    wrong = cell(f"data.root={listed}", "select=none", f"outputs={tmp_path}")
    with pytest.raises(ConfigError, match="imagenet_00_243"):
        run_cell(wrong, lambda _: None)


def test_two_sets_of_images_have_folders_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    photographs = cell()
    monkeypatch.setenv("NIPS17_DIR", "/data/nips")
    nips = cell()
    assert photographs.folder != nips.folder
    assert nips.config.data.root == "/data/nips"


def test_printed_commands_say_which_images_they_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    run = "python -m agr.run suite=lite"
    assert shell_command("-m", "agr.run", "suite=lite") == run
    monkeypatch.setenv("NIPS17_DIR", "/data/nips 2017")
    monkeypatch.setenv("IMAGENET_DIR", "/data/val")
    assert shell_command("-m", "agr.run", "suite=lite") == f"NIPS17_DIR='/data/nips 2017' {run}"
    assert cell().command().startswith(f"NIPS17_DIR='/data/nips 2017' {run}")
    assert shell_command("-m", "agr.plan", "suite=demo") == "python -m agr.plan suite=demo"
    big = shell_command("scripts/make_tables.py", "suite=imagenet", "a=b c")
    assert big == "IMAGENET_DIR=/data/val python scripts/make_tables.py suite=imagenet 'a=b c'"


# ---- real images ---------------------------------------------------------------------------------


def on_images(*words: str) -> list[Cell]:
    """Cells on the NIPS 2017 set where it is, else on the photographs of foolbox."""
    root = [f"data.root={NIPS17}", "suite.name=lite-nips17"] if HAS_NIPS17 else []
    return expand(["suite=lite", *root, *words])


@pytest.mark.slow
def test_clean_accuracy(tmp_path: Path) -> None:
    """At least 85 % of 60 images, or 17 of 20, each network in the group's geometry."""
    n = 60 if HAS_NIPS17 else 20
    words = ["attack=fgsm", "norm=linf", "eps=1", "source=lite0", f"targets=[{','.join(LITE)}]"]
    (one,) = on_images(*words, "select=none", f"n_images={n}", f"outputs={tmp_path}")
    rows = run_cell(one, lambda _: None).read("rows")
    assert len(rows) == n * len(LITE)
    right = rows["clean_pred"] == rows["label"]
    assert right.groupby(rows["target"]).mean().min() >= 0.85


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The cells of experiment=real from one source, of fewer images than `make real` has."""
    outputs = tmp_path_factory.mktemp("lite")
    words = ["experiment=real", "n_images=10", f"outputs={outputs}", "trace=false", "slots=5"]
    words += ["source=lite0"]
    attacks = ["ifgsm", "mifgsm", "agr", *["agr_nostop"] * HAS_NIPS17]
    cells = on_images(*words, "save_adversarials=false", f"attack={','.join(attacks)}")
    assert len(cells) == len(attacks)
    return pd.concat([run_cell(c, lambda _: None).read("rows") for c in cells])


@pytest.mark.slow
@pytest.mark.xdist_group("lite")
def test_attacks_transfer_in_the_known_order(rows: pd.DataFrame) -> None:
    """MI-FGSM > AGR without its stop > I-FGSM > AGR, in mean transfer to two networks."""
    across = rows[~rows["white_box"]]
    mean = across.groupby("attack")["success"].mean()
    assert mean["mifgsm"] > mean["ifgsm"] > mean["agr"]
    if HAS_NIPS17:
        assert mean["mifgsm"] > mean["agr_nostop"] > mean["ifgsm"]
    assert rows[rows["white_box"]].groupby("attack")["success"].mean().min() > 0.95


@pytest.mark.slow
@pytest.mark.xdist_group("lite")
def test_no_image_leaves_its_budget(rows: pd.DataFrame) -> None:
    assert (rows["linf"] <= 10).all()
    assert (rows["linf"] > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", LITE)
def test_images_are_those_of_a_plain_loop(name: str, tmp_path: Path) -> None:
    """I-FGSM written out, on timm's network with weights in the order of its layers."""
    words = ["attack=ifgsm", "norm=linf", f"source={name}", f"targets=[{name}]", "n_images=1"]
    how = ["slots=1", "select=source", "steps=2", "save_adversarials=true", "precision=fp64"]
    (one,) = on_images(*words, *how, f"outputs={tmp_path}")
    run_cell(one, lambda _: None)

    config = one.suite.networks[name]
    body = timm.create_model(config.architecture)
    weights = torch.load(weights_file(name, config), weights_only=True)
    body.load_state_dict(dict(zip(body.state_dict(), weights.values(), strict=True)))
    body.eval().double()
    labels = Records(one.folder).read("rows").set_index("image_id")["label"]
    ((image,),) = Records(one.folder).saved_images({0})
    clean, mine = (image_of(image, k) for k in ("clean_pixels", "pixels"))
    loop = plain_ifgsm(body, as_tensor(clean), int(labels[image["image_id"]]), config.size)
    wrong = (loop != as_tensor(mine)).double().mean()
    assert wrong < 0.01  # signs of gradients near 0 depend on rounding


def as_tensor(image: NDArray[np.uint8]) -> Tensor:
    """(H, W, 3), uint8, to (3, H, W), float64, on 0-255."""
    return torch.from_numpy(image.copy()).permute(2, 0, 1).double()


def plain_ifgsm(body: nn.Module, clean: Tensor, label: int, size: int) -> Tensor:
    """Two steps of eps/2 at eps 10, of which the network sees the rounded iterate; on 0-255."""
    x0 = x = clean / 255
    for _ in range(2):
        seen = (x * 255).round().div(255).requires_grad_(True)
        resized = nn.functional.interpolate(
            seen[None], (size, size), mode="bicubic", antialias=True
        )
        loss = nn.functional.cross_entropy(body((resized - 0.5) / 0.5), torch.tensor([label]))
        (gradient,) = torch.autograd.grad(loss, seen)
        x = x + 10 / 255 / 2 * gradient.sign()
        x = x.clamp(x0 - 10 / 255, x0 + 10 / 255).clamp(0, 1)
    return (x * 255).round()
