"""A rehearsal of the field's protocols: full-size networks with random weights, whole commands.

As in `tests.test_rehearsal` weights are in the hub's cache and the machine is offline; images are
in the layout of the NIPS 2017 set, labelled with ResNet-50's own predictions.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform

from agr.config.cell import Cell
from agr.config.compose import expand
from agr.records.store import Records
from agr.report.leaderboard import leaderboard
from tests import standins
from tests.forked import run
from tests.standins import Item, target_of
from tests.test_networks import cache
from tests.test_rehearsal import lines, random_network

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("field")]
N = 8
NETWORKS = ("resnet50", "vit_b", "mobilenet_v2", "swin_t")
TARGETS = f"targets=[{','.join(NETWORKS)}]"


class World(NamedTuple):
    """What the rehearsal finds on its machine."""

    folder: Path
    items: list[Item]

    def call(self, module: str, *words: str, code: int | None = 0) -> str:
        """Run a module, offline, with the NIPS 2017 set; what it prints."""
        hub = f"""
import huggingface_hub.constants as constants  # made from HF_HOME and HF_HUB_OFFLINE
constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE = {str(self.folder / "hub")!r}, True
"""
        env = {"NIPS17_DIR": str(self.folder / "nips")}
        words = (*words, f"outputs={self.folder / 'outputs'}")
        done = run(words, module=module, patch=hub, env=env)
        assert code in (None, done.returncode), done.stdout + done.stderr
        return done.stdout + done.stderr

    def cells(self, *words: str) -> list[Cell]:
        return expand([*words, f"outputs={self.folder / 'outputs'}"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("field")
    items = standins.photos(N)
    # The images of the set's files, as ResNet-50 would have them.
    root = standins.nips_csv(folder / "nips", items)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    resize = create_transform(224, crop_pct=0.875, interpolation="bilinear", mean=mean, std=std)
    files = [root / "images" / f"{item.image_id}.png" for item in items]
    x = torch.stack([resize(Image.open(io.BytesIO(f.read_bytes())).convert("RGB")) for f in files])
    known = expand(["suite=transfer2026"])[0].suite.networks
    for name in NETWORKS:
        tag = str(known[name].tag)
        network = random_network(tag, x)
        save_file(network.state_dict(), cache(folder / "hub", f"timm/{tag}", "model.safetensors"))
        if name == "resnet50":
            with torch.no_grad():
                labels = network(x).argmax(1).tolist()
            assert len(set(labels)) > 3
    items = [item._replace(label=y) for item, y in zip(items, labels, strict=True)]
    standins.nips_csv(root, items)
    yield World(folder, items)
    shutil.rmtree(folder)  # a gigabyte


@pytest.fixture(autouse=True)
def nips(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIPS17_DIR", str(world.folder / "nips"))


QUICK = ["slots=2", "fold=false", "memory_format=contiguous"]
SMALL = ["n_images=2", "steps=2", "progress=false", *QUICK]


def test_the_check_and_the_plan(world: World) -> None:
    words = ["experiment=field", "attack=mifgsm", TARGETS, *QUICK]
    page = world.call("agr.check", *words, "check.seconds=0.2", code=None)
    fine, wrong = lines(page, "ok"), lines(page, "problem")
    assert "NIPS 2017" in fine["images"]
    assert "a set of its own" in fine["complete"]
    assert fine["top-1 resnet50"].startswith(f"100.0 % of {N} images")
    for name in ("resnet50", "vit_b", "swin_t"):
        assert "sha256" in fine[f"weights {name}"]
    assert not {"memory", "disk", "time", "device", "files"} & {*wrong}, page
    plan = world.call("agr.plan", *words)
    assert "2 cells, 0 done" in plan
    assert "ViT-B" in plan
    assert "?" not in plan


def test_the_untargeted_protocol(world: World) -> None:
    words = ["experiment=field", "attack=field/dim", TARGETS, *SMALL]
    out = world.call("agr.run", *words)
    assert "to transformers" in out
    board, rates = leaderboard(world.cells(*words))
    assert board["run"].all()
    assert (board["n"] == 4).all()  # two images from two sources
    for name in ("transfer_cnn", "transfer_transformer"):
        assert board[name].between(0, 100).all()
    assert rates.groupby("source")["white_box"].sum().to_dict() == {"resnet50": 1, "vit_b": 1}
    for cell in world.cells(*words):
        rows = Records(cell.folder).read("rows")
        assert (rows["linf"] <= 16).all()
        assert (rows["backwards"] == 2).all()
        assert rows["psnr"].notna().all()
        stored = Records(cell.folder).run()
        assert stored
        assert stored.config["suite"]["networks"]["swin_t"]["family"] == "transformer"


def test_the_targeted_protocol(world: World) -> None:
    """Towards the set's own target labels, from a network that takes one size."""
    words = ["experiment=field_targeted", "attack=field/logit", "source=vit_b", TARGETS, *SMALL]
    world.call("agr.run", *words)
    rows = Records(world.cells(*words)[0].folder).read("rows")
    wanted = {item.image_id: target_of(item) for item in world.items}
    assert rows["image_id"].map(wanted).tolist() == rows["target_label"].tolist()
    assert (rows["linf"] == 4).all()  # two steps of 2 levels


def test_transferattacks_protocol(world: World) -> None:
    """On the networks that are here: its images as a whole, all of them counted."""
    words = ["experiment=transferattack", "attack=mifgsm", "source=resnet50", TARGETS, *SMALL]
    world.call("agr.run", *words)
    board, _ = leaderboard(world.cells(*words))
    assert (board["images"] == 2).all()
    assert board["transfer_cnn"].notna().all()
