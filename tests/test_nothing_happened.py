"""Runs in which something had no effect say so, with the number of images."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from agr.attacks.build import load_attack
from agr.evaluation.runner import run_cell
from agr.report.comparison.axes import Options
from agr.report.comparison.numbers import Comparison
from agr.report.comparison.sheet import comparison_sheet
from agr.report.leaderboard import leaderboard_sheets
from agr.report.notes import closing
from agr.report.tables import table_sheets
from tests.conftest import demo_cell

VGG = ("source=vgg16", "targets=[vgg16]", "progress=false", "n_images=6")


def said(outputs: Path, *words: str) -> str:
    """All that a run of six images says, and its closing table."""
    cell = demo_cell(outputs, *VGG, *words)
    lines: list[str] = []
    run_cell(cell, lines.append)
    return "\n".join([*lines, closing(cell)])


@pytest.mark.parametrize("attack", ["ifgsm", "mifgsm", "agr"])
def test_a_budget_below_one_level(attack: str, tmp_path: Path) -> None:
    text = said(tmp_path, f"attack={attack}", "norm=l2", "eps=3")
    assert "6 of 6 images came back unchanged: no step reached the next of the 256 levels" in text


def test_a_defense_that_changes_nothing(tmp_path: Path) -> None:
    same = "+defenses.same={_target_:agr.models.defenses.BitDepth,bits:8}"
    text = said(tmp_path, "attack=fgsm", same, "targets=[vgg16/same,vgg19/same/jpeg75]")
    for name in ("vgg16/same", "vgg19/same/jpeg75"):
        assert f"defense same of {name} changed nothing, of 6 images" in text
    assert "defense jpeg75" not in text


IDLE = {
    "Diverse(": ["attack=difgsm", "attack.views.diverse.prob=0"],
    "Spectrum(": ["attack=ssa", "attack.views.spectrum.rho=0", "attack.views.spectrum.sigma=0"],
    "Smooth(": ["attack=tifgsm", "attack.chain.smooth.size=1"],
    "Variance(": ["attack=vmifgsm", "attack.chain.variance.beta=0"],
    "Enhance(": ["attack=emifgsm", "attack.chain.enhance.reach=0"],
    "Momentum(": ["attack=mifgsm", "attack.chain.momentum.decay=0"],
    "PerturbationDecay(": ["attack=ilpd", "attack.surrogate.features.gamma=1"],
    "Reverse(": ["attack=rap", "attack.chain.reverse.reach=0"],
    "Scale(": ["attack=sifgsm", "attack.views.scale.copies=1"],
}


@pytest.mark.slow
@pytest.mark.parametrize("part", IDLE)
def test_a_part_that_changes_nothing(part: str, tmp_path: Path) -> None:
    words = [*IDLE[part], "steps=1", "n_images=2"]
    text = said(tmp_path, *words)
    assert re.search(rf"{re.escape(part)}.*\) changed nothing, of 2 images", text)
    assert said(tmp_path, *words).count("changed nothing") == 1  # nor is it forgotten


def test_tables_say_that_nothing_changed(tmp_path: Path) -> None:
    cells = [
        demo_cell(tmp_path, *VGG, f"attack={a}", "norm=l2", "eps=3") for a in ("ifgsm", "fgsm")
    ]
    for cell in cells:
        run_cell(cell, lambda _: None)
    sheets = [*table_sheets(cells), *leaderboard_sheets(cells)]
    sheets.append(comparison_sheet(Comparison(cells, Options())))
    for sheet in sheets:
        if not sheet.name.startswith("table3"):
            for title in ("I-FGSM", "FGSM"):
                assert f"{title}: 6 of 6 images came back unchanged" in "\n".join(sheet.notes)


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("attack", ["ifgsm", "mifgsm", "agr"])
def test_python_warns_of_images_that_come_back(attack: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    x = torch.randint(256, (2, 3, 8, 8)) / 255
    y = model(x).argmax(1)
    with pytest.warns(UserWarning, match="2 of 2 images came back unchanged"):
        load_attack(attack, norm="l2", eps=0.2)(model, x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_attack(attack, norm="l2", eps=300)(model, x, y)


def test_labels_that_most_networks_contradict_are_named(tmp_path: Path) -> None:
    cell = demo_cell(tmp_path, *VGG)
    labels = Path(str(cell.config.data.labels)).read_text().splitlines()
    rows = [line.split(",")[:2] for line in labels[1:]]
    (tmp_path / "l.csv").write_text(
        "\n".join(["filename,label", *(f"{name},{int(label) % 3}" for name, label in rows)])
    )
    root = Path(str(cell.config.data.root))
    words = ("attack=fgsm", f"data.labels={tmp_path}/l.csv", f"data.root={root}", "n_images=2")
    text = said(tmp_path, *words)
    assert re.search(r"right about \d+ of the first \d+ images: are the labels", text)
    assert "are the labels" not in said(tmp_path / "right", "attack=fgsm", "n_images=2")


def test_nothing_is_said_where_all_is_well(tmp_path: Path) -> None:
    text = said(tmp_path, "attack=difgsm", "steps=2", "targets=[vgg16,vgg19/jpeg75]")
    for word in ("unchanged", "changed nothing", "every gradient was zero"):
        assert word not in text


def test_columns_that_are_not_read_are_named(tmp_path: Path) -> None:
    cell = demo_cell(tmp_path, *VGG)
    root = Path(str(cell.config.data.root))
    labels = Path(str(cell.config.data.labels)).read_text()
    header, *lines = labels.splitlines()
    rows = "\n".join(f"{line},me" for line in lines)
    (tmp_path / "l.csv").write_text(f"{header},author\n{rows}\n")
    text = said(tmp_path, "attack=fgsm", f"data.labels={tmp_path}/l.csv", f"data.root={root}")
    assert "note: columns of l.csv that weren't read: author" in text
