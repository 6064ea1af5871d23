"""Runs in which something had no effect say so, with the number of images."""

from __future__ import annotations

from pathlib import Path

import pytest

from agr.evaluation.runner import run_cell
from agr.report.notes import closing
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
    text = said(tmp_path, "attack=fgsm", same, "targets=[vgg16/same,vgg16/jpeg75]")
    assert "note: the defense of vgg16/same changed none of 12 images" in text
    assert "the defense of vgg16/jpeg75" not in text


def test_a_view_that_changes_nothing(tmp_path: Path) -> None:
    text = said(tmp_path, "attack=difgsm", "attack.views.diverse.prob=0", "steps=2")
    assert "note: the view Diverse(prob=0" in text
    assert "changes nothing" in text


def test_nothing_is_said_where_all_is_well(tmp_path: Path) -> None:
    text = said(tmp_path, "attack=difgsm", "steps=2", "targets=[vgg16,vgg19/jpeg75]")
    for word in ("unchanged", "changes nothing", "changed none", "every gradient was zero"):
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
