"""Images that leave and that come: agr.export, and agr.score on another program's images."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torchattacks
from PIL import Image
from torch import nn

import agr.export
import agr.plan
import agr.score
from agr.config.cell import Cell
from agr.config.compose import expand
from agr.evaluation.runner import run_cell
from agr.records.store import Records
from agr.report.leaderboard import leaderboard_sheets
from agr.utils.errors import ConfigError
from tests.conftest import demo_network

SOURCE = ["source=vgg16", "targets=[vgg16,vgg19]", "norm=linf"]
QUICK = ["slots=6", "threads=1", "progress=false"]
N = 6


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Cell:
    """A cell with saved images."""
    outputs = tmp_path_factory.mktemp("ours")
    words = [*SOURCE, *QUICK, f"n_images={N}", "attack=mifgsm", "eps=8", f"outputs={outputs}"]
    (cell,) = expand([*words, "save_adversarials=true", "attack.steps=3"])
    run_cell(cell, lambda _: None)
    return cell


@pytest.fixture
def exported(ours: Cell, tmp_path: Path) -> Path:
    folder = tmp_path / "exported"
    agr.export.main([str(ours.folder), f"to={folder}", "clean=true"])
    return folder


def score(images: Path, clean: Path, outputs: Path, *words: str) -> pd.DataFrame:
    given = [f"images={images}", f"clean={clean}", "name=theirs", f"outputs={outputs}"]
    agr.score.main([*given, *SOURCE, *QUICK, *words])
    (folder,) = outputs.glob("demo/theirs-*")
    return Records(folder).read("rows").set_index(["image_id", "target"]).sort_index()


def test_what_is_exported_is_what_was_scored(ours: Cell, exported: Path) -> None:
    rows = Records(ours.folder).read("rows").drop_duplicates("image_id").set_index("image_id")
    with (exported / "labels.csv").open() as f:
        labels = {line["filename"]: line for line in csv.DictReader(f)}
    assert set(labels) == {f"{i}.png" for i in rows.index}
    for image_id, row in rows.iterrows():
        assert labels[f"{image_id}.png"]["label"] == str(row["label"])
        assert labels[f"{image_id}.png"]["targeted_label"] == ""
        adv, clean = (np.asarray(Image.open(p / f"{image_id}.png")).astype(float)
                      for p in (exported, exported / "clean"))  # fmt: skip
        assert abs(adv - clean).max() == pytest.approx(row["linf"])


@pytest.mark.slow
def test_a_round_trip_gives_the_same_rows(ours: Cell, exported: Path, tmp_path: Path) -> None:
    theirs = score(exported, exported / "clean", tmp_path / "o", "eps=8")
    mine = Records(ours.folder).read("rows").set_index(["image_id", "target"]).sort_index()
    assert len(theirs) == 2 * N
    same = ["label", "adv_sha256", "clean_pred", "adv_pred", "source_adv_pred", "success"]
    sizes = ["linf", "l2", "mean_abs", "rel_l2", "cosine", "adv_conf", "clean_conf"]
    pd.testing.assert_frame_equal(theirs[same], mine[same])
    pd.testing.assert_frame_equal(theirs[sizes], mine[sizes], rtol=1e-6)
    assert theirs["steps_used"].isna().all()
    assert theirs["backwards"].isna().all()


@pytest.mark.slow
def test_a_defended_source_needs_no_draws(ours: Cell, exported: Path, tmp_path: Path) -> None:
    """Their gradients were taken elsewhere: eot would be part of nothing."""
    name = f"{ours.source}/jpeg75"
    targets = f"targets=[vgg16,{name}]"
    rows = score(exported, exported / "clean", tmp_path / "o", f"source={name}", targets)
    white = rows.reset_index().groupby("target")["white_box"].all()
    assert white[name]
    assert not white[ours.source]
    with pytest.raises(ConfigError, match="was made elsewhere: leave it out"):
        score(exported, exported / "clean", tmp_path / "p", f"source={name}", "eot=2")


def test_the_original_images_serve_as_well(ours: Cell, exported: Path, tmp_path: Path) -> None:
    """The clean ones need not be exported: in the cell's geometry they are the same pixels."""
    root = str(ours.config.data.root)
    words = [f"data.labels={ours.config.data.labels}", "eps=8"]
    theirs = score(exported, Path(root), tmp_path / "o", *words)
    mine = Records(ours.folder).read("rows").set_index(["image_id", "target"]).sort_index()
    assert theirs["adv_pred"].tolist() == mine["adv_pred"].tolist()


@pytest.mark.slow
def test_they_stand_beside_ours(
    ours: Cell, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the attack that agr.score writes, other commands find them."""
    outputs = tmp_path / "o"
    score(exported, exported / "clean", outputs, "eps=8")
    assert f"--config-dir={outputs / 'given'} attack=theirs" in capsys.readouterr().out
    words = [*SOURCE, *QUICK, f"n_images={N}", "eps=8", f"outputs={outputs}"]
    words += [f"data.root={exported / 'clean' / 'labels.csv'}", "data.labels=null"]
    words += [f"hydra.searchpath=[{outputs / 'given'}]", "attack=theirs,fgsm"]
    cells = expand(["hydra.mode=MULTIRUN", *words])
    agr.plan.main(["-m", *words, "targets=[vgg16,vgg19,res152]"])  # its cost isn't known
    assert re.search(r"theirs .* \?$", capsys.readouterr().out, re.M)
    for cell in cells:
        run_cell(cell, lambda _: None)
    (sheet,) = leaderboard_sheets(cells)
    board = sheet.frame.set_index("attack")
    assert board["run"].all()
    assert pd.isna(board.loc["theirs", "gradients"])
    assert board.loc["fgsm", "gradients"] == 1


@pytest.mark.slow
def test_images_of_torchattacks(exported: Path, tmp_path: Path) -> None:
    """Its PGD, saved as PNGs; the budget is measured, and predictions are those of a plain call."""
    (cell,) = expand([*SOURCE, *QUICK])
    network = demo_network(cell)
    clean = {p.stem: np.asarray(Image.open(p)) for p in sorted((exported / "clean").glob("*.png"))}
    with (exported / "labels.csv").open() as f:
        label = {line["filename"][:-4]: int(line["label"]) for line in csv.DictReader(f)}
    x = torch.from_numpy(np.stack([*clean.values()])).permute(0, 3, 1, 2).float() / 255
    torch.manual_seed(0)
    attack = torchattacks.PGD(nn.Sequential(network).eval(), eps=6 / 255, steps=3)
    adv = attack(x, torch.tensor([label[i] for i in clean]))
    folder = tmp_path / "theirs"
    folder.mkdir()
    pixels = (adv * 255).round().to(torch.uint8)
    for image_id, image in zip(clean, pixels, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{image_id}.png")
    rows = score(folder, exported / "clean", tmp_path / "o")
    assert rows["eps"].unique().tolist() == [6.0]  # as measured
    with torch.no_grad():
        expected = network(pixels.float() / 255).argmax(1).tolist()
    found = rows.xs("vgg16", level="target").loc[[*clean], "adv_pred"].tolist()
    assert found == expected


# ---- what is wrong is named ----------------------------------------------------------------------


def first(folder: Path) -> Path:
    return sorted(folder.glob("*.png"))[0]


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "16 bits": (
        lambda f: Image.fromarray(np.zeros((64, 64), np.uint16)).save(first(f)),
        "is of mode I;16: save it as 8-bit RGB",
    ),
    "transparent": (
        lambda f: Image.new("RGBA", (64, 64)).save(first(f)), "is of mode RGBA: save it as 8-bit"
    ),
    "of another size": (
        lambda f: Image.new("RGB", (80, 80)).save(first(f)), "is 80 x 80 px, and the cell's images"
    ),
    "no image": (lambda f: first(f).write_bytes(b"PNG"), "cannot be read"),
    "of another name": (
        lambda f: first(f).rename(f / "stranger.png"), "stranger is none of the clean images"
    ),
    "lacking": (lambda f: first(f).unlink(), "and the cell attacks that image"),
    "too far": (
        lambda f: Image.new("RGB", (64, 64)).save(first(f)), "1 of 6 are farther than eps=8 from"
    ),
    "no PNG": (lambda f: [p.rename(p.with_suffix(".jpg")) for p in f.glob("*.png")], "has no PNG"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_wrong_images_are_named(name: str, exported: Path, tmp_path: Path) -> None:
    spoil, message = WRONG[name]
    spoil(exported)
    words = ["eps=8", f"n_images={N}"]
    with pytest.raises(ConfigError, match=message):
        score(exported, exported / "clean", tmp_path / "o", *words)
    assert not list(tmp_path.glob("o/demo/*/rows-*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "reference"), [("linf", "null"), *(("l2", n) for n in ("null", 1, 268203))]
)
def test_the_measured_budget_allows_all_images(
    norm: str, reference: object, exported: Path, tmp_path: Path
) -> None:
    """Also the farthest that there can be, and with the suite's rescaling of L2 budgets."""
    for path in exported.glob("*.png"):
        Image.new("RGB", (64, 64), (0,) * 3).save(path)
    Image.new("RGB", (64, 64), (255,) * 3).save(first(exported / "clean"))
    words = [f"images={exported}", f"clean={exported / 'clean'}", f"outputs={tmp_path / 'o'}"]
    words += [*SOURCE[:2], f"norm={norm}", f"suite.l2_reference={reference}"]
    cell = agr.score.given_cell(words)
    largest = 255 * (1 if norm == "linf" else 64 * 3**0.5)
    assert cell.eps_effective == pytest.approx(largest, rel=1e-12)
    with pytest.raises(ConfigError, match=r"farther than eps=\d+\.\d{5}.*: give a larger eps") as e:
        agr.score.given_cell([*words, f"eps={cell.config.eps * (1 - 1e-9)!r}"])
    enough = re.findall(r"larger eps \((\S+) at least", str(e.value))
    assert agr.score.given_cell([*words, f"eps={enough[0]}"]).config.eps == cell.config.eps


@pytest.mark.parametrize("name", ["mifgsm", "agr"])
def test_a_name_of_our_attacks_is_refused(name: str, exported: Path, tmp_path: Path) -> None:
    """Else that attack would be run in place of the images."""
    words = [f"images={exported}", f"clean={exported / 'clean'}", f"outputs={tmp_path / 'o'}"]
    with pytest.raises(ConfigError, match=f"name={name} is one of our attacks: give another"):
        agr.score.given_cell([*words, *SOURCE, f"name={name}"])
    assert not (tmp_path / "o" / "given").exists()


@pytest.mark.slow
def test_a_refused_score_leaves_the_attack_of_an_earlier_one(
    exported: Path, tmp_path: Path
) -> None:
    outputs, words = tmp_path / "o", [f"n_images={N}", "targets=[vgg16]"]
    lacking = shutil.copytree(exported, tmp_path / "lacking")
    first(lacking).unlink()
    with pytest.raises(ConfigError, match="and the cell attacks that image"):
        score(lacking, exported / "clean", outputs, *words)
    place = outputs / "given" / "attack" / "theirs.yaml"
    good = [f"images={exported}", f"clean={exported / 'clean'}", "name=theirs"]
    # with one image more, and its name isn't in use yet
    agr.score.main([*good, f"outputs={outputs}", *SOURCE, *QUICK, *words])
    before = place.read_bytes()
    for eps in ("8", "1"):
        with pytest.raises(ConfigError, match=r"^name=theirs: .* is of other .*another name="):
            score(lacking, exported / "clean", outputs, f"eps={eps}")
    with pytest.raises(ConfigError, match="farther than eps=1 "):
        score(exported, exported / "clean", outputs, "eps=1", "title=Mine")
    assert place.read_bytes() == before
    with pytest.raises(ConfigError, match="farther than eps=1 "):
        score(exported, exported / "clean", tmp_path / "new", "eps=1")
    assert not (tmp_path / "new" / "given").exists()


@pytest.mark.slow
def test_images_that_change_are_refused(exported: Path, tmp_path: Path) -> None:
    outputs = tmp_path / "o"
    score(exported, exported / "clean", outputs, "eps=8")
    Image.new("RGB", (64, 64)).save(first(exported))
    words = [*SOURCE, f"n_images={N}", "eps=8", f"outputs={outputs}", "targets=[vgg16,res152]"]
    words += [f"data.root={exported / 'clean' / 'labels.csv'}", "data.labels=null"]
    (cell,) = expand([*words, f"hydra.searchpath=[{outputs / 'given'}]", "attack=theirs"])
    with pytest.raises(ConfigError, match="any more: restore them"):
        run_cell(cell, lambda _: None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["to=x"], "give folders of cells"),
        (["cell"], "give folders of cells"),
        (["nowhere", "to=x"], "nowhere has no records"),
        (["nowhere", "to=."], "to=. already exists"),
        (["nowhere", "to=x", "clean=perhaps"], "clean=perhaps: give true or false"),
    ],
)
def test_wrong_words_of_an_export(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        agr.export.main(words)


def test_cells_of_one_name_are_not_exported_together(ours: Cell, tmp_path: Path) -> None:
    other, to = tmp_path / "o2" / ours.folder.name, tmp_path / "both"
    shutil.copytree(ours.folder, other)
    with pytest.raises(ConfigError, match=r"would both be written to .* one at a time"):
        agr.export.main([str(ours.folder), str(other), f"to={to}"])
    assert not to.exists()
    (tmp_path / "link").symlink_to(other)
    agr.export.main([str(other), str(tmp_path / "link"), f"to={to}"])  # one cell
    assert len([*to.glob("*.png")]) == N
    with pytest.raises(ConfigError, match="already exists"):
        agr.export.main([str(ours.folder), f"to={to}"])


@pytest.mark.parametrize("sign", "=+-@")
def test_a_name_that_is_a_formula_is_not_exported(
    sign: str, ours: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that reads labels.csv must find the file, so that a ' before it would not do."""
    read = Records.read

    def renamed(records: Records, kind: str = "rows", columns: Any = None) -> pd.DataFrame:
        frame = read(records, kind, columns)
        return frame.replace(frame["image_id"][0], f"{sign}12") if "image_id" in frame else frame

    monkeypatch.setattr(Records, "read", renamed)
    with pytest.raises(ConfigError, match=rf"\{sign}12\.png would be a formula in labels\.csv"):
        agr.export.main([str(ours.folder), f"to={tmp_path / 'x'}"])
    assert not (tmp_path / "x").exists()


def test_a_folder_whose_name_steers_a_terminal_is_named_harmlessly(
    ours: Cell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "c\r\x1b[A\nall is well"
    shutil.copytree(ours.folder, folder)
    agr.export.main([str(folder), f"to={tmp_path / 'x'}"])
    assert "c\\r\\x1b[A\\nall is well: " in capsys.readouterr().out


@pytest.mark.slow
def test_saved_cells_are_named_by_folder_or_overrides(
    ours: Cell, capsys: pytest.CaptureFixture[str]
) -> None:
    agr.score.main(["targets=[res152]", str(ours.folder)])
    assert "MI-FGSM on VGG16, linf eps 8" in capsys.readouterr().out
    words = [word for word in ours.overrides if not word.startswith("targets=")]
    agr.score.main(["targets=[inc_v3]", *words])
    told = capsys.readouterr().out
    assert "denominator=all" in told
    assert {"res152", "inc_v3"} <= {*Records(ours.folder).read("rows")["target"]}
