"""docs/recipes.md: every command works as it is printed, and its output has the shape it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file

from tests import standins
from tests.forked import AT_ONCE, run
from tests.pages import DOCS, blocks, commands, globbed

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("recipes")]
COMMANDS = [words[1:] for block in blocks(DOCS / "recipes.md", "sh") for words in commands(block)]
N = 4
QUICK = [f"n_images={N}", "slots=4", "progress=false"]
MINE = """
defaults: [mifgsm]
name: mine
title: MI-FGSM, slow momentum
chain: {momentum: {decay: 0.5}}
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the page speaks of: an attack, weights, and images in folders."""
    place = tmp_path_factory.mktemp("recipes")
    (place / "my/attack").mkdir(parents=True)
    (place / "my/attack/mine.yaml").write_text(MINE)
    for seed, name in enumerate(("mine", "other")):
        torch.manual_seed(seed)
        network = timm.create_model("resnet18")
        save_file(network.state_dict(), place / f"{name}.safetensors")
    standins.synset_folders(place / "images", standins.photos(N))
    return place


def command(part: str, here: Path) -> str:
    """Run the page's command that has this in it, with few images; return what it prints."""
    (words,) = [line for line in COMMANDS if part in " ".join(line)]
    _, module, *rest = words
    given = [each for word in rest for each in globbed(word, here)]
    more = QUICK if module in ("agr.compare", "agr.run") else []
    done = run([*given, *more], module=module, cwd=here, patch=AT_ONCE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def compared(part: str, place: Path) -> pd.DataFrame:
    """Run a comparison; return its table, of which all files must be there."""
    out = command(part, place)
    (line,) = [line for line in out.splitlines() if line.startswith("written: ")]
    paths = [place / path for path in line.removeprefix("written: ").split()]
    assert {p.suffix for p in paths} == {".md", ".tex", ".csv", ".png", ".pdf", ".html"}
    assert all(path.stat().st_size > 100 for path in paths)
    (table,) = [path for path in paths if path.suffix == ".csv"]
    return pd.read_csv(table)


def means(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["target"] == "mean transfer"]


def test_three_attacks_on_two_sources(here: Path) -> None:
    frame = compared("agr source=inc_v3,vgg16", here)
    assert [*means(frame)["source"]] == ["inc_v3"] * 3 + ["vgg16"] * 3 + ["all"] * 3
    assert [*means(frame)["attack"]] == ["ifgsm", "mifgsm", "agr"] * 3
    own = frame[(frame["source"] == "vgg16") & (frame["attack"] == "agr") & (frame["n"] > 0)]
    assert {*own["target"]} == {"mean transfer", "vgg16", "vgg19", "res152"}


def test_a_sweep_over_eps(here: Path) -> None:
    frame = compared("eps=2,4,8,16", here)
    assert [*frame["eps"]] == [2, 4, 8, 16] * 3
    assert frame["asr"].between(0, 100).all()
    assert (frame["n"] == N).all()


def test_a_sweep_over_steps(here: Path) -> None:
    frame = compared("steps=5,10,20", here)
    assert [*frame["steps"]] == [5, 10, 20] * 3
    plain = frame[frame["attack"] != "agr"]
    assert (plain["gradients"] == plain["steps"]).all()


def test_an_attack_of_ones_own(here: Path) -> None:
    frame = means(compared("mifgsm,mine", here))
    assert [*frame["attack"]] == ["ifgsm", "mifgsm", "mine"]
    assert frame["paired_n"].tolist() == [N, 0, N]  # against MI-FGSM


def test_a_network_and_images_of_ones_own(here: Path) -> None:
    frame = compared("mine.safetensors", here)
    assert {*frame["target"]} == {
        "mean transfer",
        *(f"resnet18.tv_in1k:{name}.safetensors" for name in ("mine", "other")),
    }
    assert (means(frame)["n"] == N).all()


def test_a_wanted_class(here: Path) -> None:
    frame = compared("attack.targeted=true", here)
    assert [*means(frame)["attack"]] == ["ifgsm", "mifgsm"]
    rows = pd.concat(map(pd.read_parquet, here.glob("outputs/demo/mifgsm-*/rows-*.parquet")))
    wanted = rows[rows["target_label"].notna()]
    assert (wanted["success"] == (wanted["adv_pred"] == wanted["target_label"])).all()
    assert (wanted["target_label"] != wanted["label"]).all()
    assert len(wanted)


def test_an_ensemble_beside_its_members(here: Path) -> None:
    frame = means(compared("[inc_v3,inc_v4]", here))
    assert [*frame["source"]] == ["inc_v3", "inc_v4", "inc_v3+inc_v4"]
    assert [*frame["gradients"]] == [10, 10, 20]


def test_targets_behind_defenses(here: Path) -> None:
    frame = compared("inc_v4/jpeg75", here)
    names = ["mean transfer", "inc_v4", "inc_v4/jpeg75", "inc_v4/randpad"]
    assert [*frame["target"]] == names * 2
    assert (frame["n"] <= N).all()


def test_an_adaptive_attack(here: Path) -> None:
    frame = compared("eot=10", here)
    assert {*frame["target"]} == {"mean transfer", "inc_v3/randpad", "inc_v3", "inc_v4", "ir_v2"}
    assert {*frame["gradients"]} == {100}


def test_duckdb_has_the_numbers_of_the_table(here: Path) -> None:
    frame = compared("agr source=inc_v3,vgg16", here)
    (words,) = [line for line in COMMANDS if line[0] == "-c"]
    subprocess.run([sys.executable, *words], cwd=here, check=True)
    found = pd.read_csv(here / "asr.csv").set_index(["attack", "target"])["asr"]
    table = frame[
        (frame["source"] == "inc_v3") & frame["target"].isin(["inc_v3", "inc_v4", "ir_v2"])
    ]
    expected = table.set_index(["attack", "target"])["asr"].round(1)
    assert len(expected) == 9
    # Other recipes may have scored these cells on more targets.
    assert found[expected.index].to_dict() == expected.to_dict()


def test_images_go_out_and_come_back(tmp_path: Path) -> None:
    command("save_adversarials=true", tmp_path)
    assert f"{N} images" in command("agr.export", tmp_path)
    assert len([*(tmp_path / "exported").glob("*.png")]) == N
    assert len([*(tmp_path / "exported/clean").glob("*.png")]) == N
    command("name=theirs", tmp_path)
    ours, theirs = (
        pd.read_parquet(next(tmp_path.glob(f"{name}-linf-*")))
        for name in ("theirs/demo/mifgsm", "outputs/demo/theirs")
    )
    key = ["image_id", "target"]
    same = ours.merge(theirs, on=key, suffixes=("", "_given"))
    assert len(same) == 3 * N
    for name in ("adv_sha256", "adv_pred", "success", "l2"):
        assert (same[name] == same[f"{name}_given"]).all()


def test_every_recipe_is_tried_here() -> None:
    """Eleven questions, of which the last takes three commands."""
    assert len(COMMANDS) == 13
