"""LPIPS against the authors' own package, its files and their errors, and its column.

Its networks have random weights here; the heads are the authors'.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import lpips
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import agr.export
import agr.score
import agr.verify
from agr.evaluation import preflight
from agr.evaluation.perceptual import perceptual_sizes
from agr.evaluation.runner import run_cell
from agr.models.lpips import load_lpips
from agr.models.weights import check_lpips
from agr.records.progress import finished
from agr.records.schema import PERCEPTUAL
from agr.records.store import Records
from agr.utils.errors import ConfigError
from tests.conftest import demo_cell
from tests.test_perceptual import pairs

HEADS = "package:lpips/lpips/weights/v0.1/{}.pth"
QUICK = ("attack=fgsm", "source=vgg16", "n_images=4", "slots=4")


def module(net: str) -> torch.nn.Module:
    """The authors' LPIPS, with a network of random weights."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, of how the package calls it
        made: torch.nn.Module = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    return made.eval()


def backbone(made: torch.nn.Module) -> dict[str, Tensor]:
    """The weights of its network under torchvision's names."""
    weights = made.state_dict().items()
    return {re.sub(r"net\.slice\d", "features", k): w for k, w in weights if k.startswith("net.")}


@pytest.fixture(scope="module")
def alex(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of an AlexNet."""
    place = tmp_path_factory.mktemp("alex") / "alexnet.pth"
    torch.save(backbone(module("alex")), place)
    return place


def heads(net: str) -> Path:
    return Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth"


@pytest.mark.slow
@pytest.mark.parametrize(("net", "side"), [("alex", 32), ("alex", 65), ("vgg", 33)])
def test_values_are_the_authors(net: str, side: int, tmp_path: Path) -> None:
    """In float64, of the same files; equal images are at distance 0."""
    own = module(net)
    torch.save(backbone(own), tmp_path / "net.pth")
    ours = load_lpips([tmp_path / "net.pth", heads(net)])
    x, y = (torch.from_numpy(images) for images in pairs(side))
    with torch.no_grad():
        expected = own.double()(x / 127.5 - 1, y / 127.5 - 1).flatten()
    assert ours(x, y).tolist() == pytest.approx(expected.tolist(), abs=1e-7)
    assert ours(x, y)[1] > 0.1  # noise turned around
    assert ours(x, y)[4] == 0


def test_one_file_may_have_all(alex: Path, tmp_path: Path) -> None:
    """The state dict of the authors' module, and its order of files, change nothing."""
    torch.save(module("alex").state_dict(), tmp_path / "whole.pth")
    x, y = (torch.from_numpy(images) for images in pairs(32))
    expected = load_lpips([alex, heads("alex")])(x, y)
    assert torch.equal(load_lpips([tmp_path / "whole.pth"])(x, y), expected)
    assert torch.equal(load_lpips([heads("alex"), alex])(x, y), expected)


def test_values_do_not_depend_on_the_batch(alex: Path) -> None:
    measure = load_lpips([alex, heads("alex")])
    x, y = (torch.from_numpy(np.tile(images, (2, 1, 1, 1))) for images in pairs(40))
    alone = [r for i in range(10) for r in perceptual_sizes(x[i : i + 1], y[i : i + 1], measure)]
    assert perceptual_sizes(x, y, measure) == alone
    assert all(row["lpips"] is not None for row in alone)


WRONG: dict[str, tuple[Callable[[dict[str, Tensor]], object], str, str]] = {
    "no backbone": (lambda w: w.clear(), "alex", "no file has features.0.weight: give lpips="),
    "part of one": (
        lambda w: w.pop("features.8.bias"), "alex", "no file has features.8.bias: give lpips="
    ),
    "no heads": (lambda w: None, "", r"no file has lin0.model.1.weight: .*weights/v0.1/alex.pth"),
    "other heads": (
        lambda w: None, "vgg", r"lin1.model.1.weight is .* \(1, 128, 1, 1\), .* \(1, 192, 1, 1\)"
    ),
    "another network": (
        lambda w: w.update({"features.0.weight": torch.ones(8, 3, 3, 3)}), "alex",
        r"features.0.weight is of shape \(8, 3, 3, 3\): give torchvision's AlexNet",
    ),
    "no numbers": (
        lambda w: w["features.3.bias"].fill_(torch.nan), "alex", "features.3.bias is .* finite"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_missing_is_named(case: str, alex: Path, tmp_path: Path) -> None:
    spoil, net, message = WRONG[case]
    weights = torch.load(alex)
    spoil(weights)
    files = [heads(net)] if net else []
    if weights:
        torch.save(weights, tmp_path / "net.pth")
        files.append(tmp_path / "net.pth")
    with pytest.raises(ConfigError, match=message):
        load_lpips(files)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("lpips=3", "lpips=3 names no files: give lpips="),
        ("lpips=[]", "names no files"),
        ("lpips=[a.pth,null]", "names no files"),
    ],
)
def test_what_names_no_file_is_refused(word: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        demo_cell(tmp_path, *QUICK, word)


def test_small_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="images of 31 px are too small"):
        demo_cell(tmp_path, *QUICK, "suite.groups.vgg_resnet.geometry.size=31", "lpips=a.pth")


def test_files_are_looked_for_before_a_run(tmp_path: Path) -> None:
    cell = demo_cell(tmp_path, *QUICK, "lpips=[nowhere.pth]")
    with pytest.raises(ConfigError, match=r"lpips: there is no weight file nowhere\.pth"):
        run_cell(cell, lambda _: None)
    (tmp_path / "text.pth").write_text("weights")
    cell = demo_cell(tmp_path, *QUICK, f"lpips={tmp_path / 'text.pth'}")
    with pytest.raises(ConfigError, match=r"text.pth holds no weights: "):
        run_cell(cell, lambda _: None)


def test_the_check_before_a_run_loads_it(alex: Path, tmp_path: Path) -> None:
    def said(files: str) -> preflight.Line:
        return list(preflight._weights([demo_cell(tmp_path, *QUICK, f"lpips={files}")]))[-1]

    fine = said(f"[{alex},{HEADS.format('alex')}]")
    assert (fine.fine, fine.about, fine.text) == (True, "weights LPIPS", "alexnet.pth, alex.pth")
    wrong = said(str(alex))
    assert (wrong.fine, wrong.about) == (False, "weights LPIPS")
    assert wrong.text.startswith("no file has lin0.model.1.weight: give lpips=[BACKBONE,HEADS]")


@pytest.mark.slow
def test_rows_have_it_and_are_checked_again(
    alex: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = f"lpips=[{alex},{HEADS.format('alex')}]"
    words = (*QUICK, "targets=[vgg16]", "save_adversarials=true")
    cell = demo_cell(tmp_path / "a", *words, files)
    records = run_cell(cell, lambda _: None)
    measure = load_lpips([alex, heads("alex")])
    rows = records.read().set_index("position")
    for some in records.saved_images({*range(4)}):
        for saved in some:
            shape = (saved["height"], saved["width"], 3)
            x, y = (
                torch.frombuffer(bytearray(saved[name]), dtype=torch.uint8).view(shape)
                for name in ("clean_pixels", "pixels")
            )
            (found,) = measure(x.permute(2, 0, 1)[None], y.permute(2, 0, 1)[None]).tolist()
            assert rows.at[saved["position"], "lpips"] == pytest.approx(found, abs=1e-6)
    assert rows[["psnr", "ssim", "ciede2000"]].notna().all().all()  # which come with it
    run = records.run()
    assert run
    assert run.lpips == check_lpips([str(alex), HEADS.format("alex")])

    agr.score.main([str(cell.folder), "targets=[vgg19]"])  # with the cell's own files
    moved = tmp_path / "moved.pth"
    alex.rename(moved)
    with pytest.raises(ConfigError, match=r"lpips: there is no weight file .*alexnet\.pth"):
        agr.score.main([str(cell.folder), "targets=[res152]"])
    agr.score.main([str(cell.folder), "targets=[vgg16/jpeg75]", "lpips=null"])
    words_of_files = f"lpips=[{moved},{HEADS.format('alex')}]"
    agr.score.main([str(cell.folder), "targets=[res152]", words_of_files])
    moved.rename(alex)
    both = records.read()
    assert both.groupby("position")["lpips"].nunique().eq(1).all()
    counted = both.groupby("target")["lpips"].count().to_dict()
    assert counted == {"res152": 4, "vgg16": 4, "vgg16/jpeg75": 0, "vgg19": 4}
    capsys.readouterr()
    agr.verify.main([f"outputs={tmp_path / 'a'}", "images=2"])
    assert "2 images crafted and scored again: nothing is wrong" in capsys.readouterr().out

    other = tmp_path / "other.pth"
    torch.save({k: w + 0 for k, w in torch.load(alex).items()} | {"more": torch.ones(1)}, other)
    changed = demo_cell(tmp_path / "a", *words, f"lpips=[{other},{HEADS.format('alex')}]")
    with pytest.raises(ConfigError, match="the weights of LPIPS changed since it was begun"):
        run_cell(changed, lambda _: None)


@pytest.mark.slow
def test_images_of_another_program_have_it(alex: Path, tmp_path: Path) -> None:
    """Exported and scored as if they were another's: the same images have the same sizes."""
    files = f"lpips=[{alex},{HEADS.format('alex')}]"
    cell = demo_cell(tmp_path / "a", *QUICK, "targets=[vgg16]", "save_adversarials=true", files)
    mine = run_cell(cell, lambda _: None).read().set_index("image_id").sort_index()
    place = tmp_path / "exported"
    agr.export.main([str(cell.folder), f"to={place}", "clean=true"])
    given = [f"images={place}", f"clean={place / 'clean'}", f"outputs={tmp_path / 'b'}", files]
    agr.score.main([*given, *QUICK[1:], "targets=[vgg16]", "progress=false"])
    (folder,) = (tmp_path / "b").glob("demo/given-*")
    theirs = Records(folder).read().set_index("image_id").sort_index()
    pd.testing.assert_frame_equal(theirs[[*PERCEPTUAL]], mine[[*PERCEPTUAL]])


def test_rows_without_it_do_not_get_it(tmp_path: Path) -> None:
    words = (*QUICK, "targets=[vgg16]", "perceptual=true")
    run_cell(demo_cell(tmp_path, *words), lambda _: None)
    again = demo_cell(tmp_path, *words, "lpips=[a.pth,b.pth]")
    with pytest.raises(ConfigError, match=r"lpips=…: .* scored without it: use another outputs"):
        finished(again, Records(again.folder))
