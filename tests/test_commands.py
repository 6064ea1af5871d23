"""The smaller commands: plan and score."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import agr.plan
import agr.score
from agr.evaluation.runner import run_cell
from agr.records.store import Records
from agr.utils.errors import ConfigError
from tests.conftest import demo_cell

VGG = ("source=vgg16", "targets=[vgg16]", "n_images=4", "progress=false")


@pytest.mark.slow
def test_plan_lists_cells_states_and_an_estimate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["norm=linf", "attack=agr,ifgsm,mifgsm", *VGG[:3], "slots=8", "threads=1"]
    words += [f"outputs={tmp_path}"]
    run_cell(demo_cell(tmp_path, "attack=ifgsm", *VGG))
    run_cell(demo_cell(tmp_path, "attack=agr", *VGG, "n_images=1"))
    capsys.readouterr()
    agr.plan.main(words)
    out = capsys.readouterr().out
    states = {line.split()[0]: " ".join(line.split()[4:]) for line in out.splitlines()[2:5]}
    assert states["ifgsm"] == "0 done -"
    assert "3 of 4 left" in states["agr"]
    assert "missing" in states["mifgsm"]
    assert "3 cells, 1 done" in out
    assert "at most about" in out


def test_score_adds_a_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell = demo_cell(tmp_path, *VGG, "save_adversarials=true")
    run_cell(cell)
    agr.score.main([f"outputs={tmp_path}", "targets=[vgg19]"])
    assert "VGG19" in capsys.readouterr().out
    assert Records(cell.folder).scored()["vgg19"] == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "give targets="),
        (["target=[vgg19]"], "give targets="),
        (["targets=[vgg19]", "outputs=/nowhere"], "outputs=/nowhere is not a folder"),
        (["targets=[vgg19]", "outputs=conf"], "no saved adversarial images below SUITE/CELL"),
        (["targets=[vgg19]", "seed=0", "outputs=/nowhere"], "has no saved adversarial images"),
        (["images=x"], "give both images=FOLDER and clean=DATA"),
        (["clean=x"], "give both images=FOLDER and clean=DATA"),
        (["images=nowhere", "clean=x"], "images=nowhere is not a folder"),
        (["images=.", "clean=x", "name=a/b"], "name=a/b: give letters"),
        (["targets=[vgg16]", "cell", "attack=agr"], "not both"),
        (["targets=[vgg16]", "nowhere"], "nowhere has no saved adversarial images"),
    ],
)
def test_wrong_words_for_score(words: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        agr.score.main(words)


@pytest.mark.slow
def test_score_finds_images_that_moved(tmp_path: Path) -> None:
    cell = demo_cell(tmp_path)
    shutil.copytree(str(cell.config.data.root), tmp_path / "old")
    words = (*VGG, "save_adversarials=true", f"data.root={tmp_path / 'old'}")
    cell = demo_cell(tmp_path / "o", *words)
    run_cell(cell)
    (tmp_path / "old").rename(tmp_path / "new")
    outputs = f"outputs={tmp_path / 'o'}"
    with pytest.raises(ConfigError, match="old is not there"):
        agr.score.main([outputs, "targets=[vgg19]"])
    agr.score.main([outputs, "targets=[vgg19,vgg19/median2]", f"data.root={tmp_path / 'new'}"])
    assert Records(cell.folder).scored()["vgg19/median2"] == {0, 1, 2, 3}


@pytest.mark.slow
def test_score_leaves_out_what_it_cannot_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for attack in ("fgsm", "ifgsm"):
        root = tmp_path / attack
        shutil.copytree(str(demo_cell(tmp_path).config.data.root), root)
        words = (*VGG, "save_adversarials=true", "n_images=2", f"data.root={root}")
        run_cell(demo_cell(tmp_path / "o", *words, f"attack={attack}"))
    shutil.rmtree(tmp_path / "fgsm")
    agr.score.main([f"outputs={tmp_path / 'o'}", "targets=[vgg19]"])
    out = capsys.readouterr().out
    assert "left out: fgsm-linf" in out
    assert "VGG19" in out.partition("ifgsm-linf")[2]


def test_plan_lists_cells_whose_weights_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["norm=linf", "attack=agr", *VGG[:3], f"outputs={tmp_path}"]
    agr.plan.main([*words, "suite.networks.vgg16.weights=/nowhere"])
    out = capsys.readouterr().out
    assert "missing  ?" in out
    assert "?: not tried, network vgg16: there is no weight file /nowhere" in out


@pytest.mark.slow
def test_score_refuses_an_unknown_target(tmp_path: Path) -> None:
    run_cell(demo_cell(tmp_path, *VGG, "save_adversarials=true", "n_images=1"))
    with pytest.raises(ConfigError, match="target vgg91 is unknown: did you mean vgg19"):
        agr.score.main([f"outputs={tmp_path}", "targets=[vgg91]"])
