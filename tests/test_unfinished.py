"""What tables say of cells that aren't finished: the command, and how many images are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from agr.config.cell import Cell
from agr.records.claim import CLAIM
from agr.records.run_info import RunInfo
from agr.records.store import Records
from agr.report.figures import check_finished
from agr.report.outcomes import Outcomes
from agr.report.unfinished import images_there, rest_of
from agr.utils.errors import ConfigError
from tests.conftest import demo_cell
from tests.madeup import record

VGG = ("attack=ifgsm", "source=vgg16", "targets=[vgg16,vgg19]", "n_images=8")


def begun(outputs: Path, images: int, *words: str, **successes: list[int]) -> Cell:
    cell = demo_cell(outputs, *VGG, *words)
    record(cell, {"vgg16": [1] * images, "vgg19": [1] * images} | successes)
    return cell


def test_what_is_there_is_said(tmp_path: Path) -> None:
    cell = begun(tmp_path, 5)
    assert images_there(cell) == 5
    assert rest_of(cell) == f"{cell.command()}  # n_images=5 shows what is there"
    new = demo_cell(tmp_path, *VGG, "attack=mifgsm")
    assert images_there(new) == 0
    assert rest_of(new) == new.command()


def test_several_cells_show_what_all_of_them_have(tmp_path: Path) -> None:
    three, six = begun(tmp_path, 3, "seed=1"), begun(tmp_path, 6, "seed=2")
    commands = f"{three.command()} && {six.command()}"
    assert rest_of(three, six) == f"{commands}  # n_images=3 shows what is there"
    none = demo_cell(tmp_path, *VGG, "seed=3")
    assert "#" not in rest_of(three, six, none)


def test_only_first_images_count(tmp_path: Path) -> None:
    """One whose rows of a target are fewer, one that lost its first image and has no other."""
    cell = demo_cell(tmp_path, *VGG)
    record(cell, {"vgg16": [1] * 8, "vgg19": [1] * 8})
    assert images_there(demo_cell(tmp_path, *VGG, "targets=[vgg16,inc_v3]")) == 0
    lost = demo_cell(tmp_path, *VGG, "seed=5")
    Records(lost.folder).update_run(lambda run: setattr(run, "lost", [0]))
    assert images_there(lost) == 0


def test_an_entry_is_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / CLAIM).touch()
    for cell in (begun(tmp_path / "records", 5), demo_cell(tmp_path / "records", *VGG, "seed=1")):
        assert rest_of(cell).endswith("copy the entry's records and give the copy as outputs=…")


def test_figures_say_what_to_run(tmp_path: Path) -> None:
    cell = begun(tmp_path, 5)
    with pytest.raises(ConfigError, match=r"run them, as by .* n_images=5 shows what is there"):
        check_finished(Outcomes([cell]))
    alone = demo_cell(tmp_path, *VGG, "seed=6", "n_images=1")

    def lose(run: RunInfo) -> None:
        run.eligible, run.lost = 1, [0]

    Records(alone.folder).update_run(lose)
    with pytest.raises(ConfigError, match="is finished: "):
        check_finished(Outcomes([alone]))
