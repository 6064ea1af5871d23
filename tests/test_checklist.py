"""The reproducibility checklist: every answer from the records, and what they lack said."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agr.config.cell import Cell
from agr.config.compose import expand
from agr.records.run_info import DataInfo, RunInfo, Session
from agr.records.store import Records
from agr.report.checklist import checklist, markdown
from agr.report.claims.page import judge_claims
from agr.report.html.render import render
from agr.report.outcomes import Outcomes
from agr.write_report import main
from tests.browser import a_page
from tests.conftest import called
from tests.madeup import record

COMMAND = "agr report checklist=true"


def cells_of(outputs: Path, *words: str) -> list[Cell]:
    asked = ["attack=ifgsm,agr", "source=vgg16", "norm=linf", f"outputs={outputs}", "n_images=4"]
    return expand([*asked, *words])


def answers(cells: list[Cell], further: list[Cell] | None = None) -> dict[str, list[str]]:
    outcomes = Outcomes(cells)
    verdicts = judge_claims(outcomes, "agr_paper")
    return dict(checklist(outcomes, verdicts, COMMAND, further or []))


def finish(cell: Cell, backwards: list[int | None], git: str | None = "abc") -> None:
    """Two sessions of 10 and 2.5 seconds, of which crafting took half."""
    record(cell, {cell.source: [1] * len(backwards)}, backwards=backwards)

    def change(run: RunInfo) -> None:
        run.sessions = [Session("2026-01-01", "0/1", 2, s, s / 2, 7, 5) for s in (10.0, 2.5)]
        run.git, run.versions = git, {"agr": "0.1.0", "torch": "2.15.0"}
        run.data, run.weights = DataInfo("csv", "f" * 64), {"vgg16": "a" * 64}

    Records(cell.folder).update_run(change)


def test_costs_are_added_up_by_hand(tmp_path: Path) -> None:
    cells, further = cells_of(tmp_path), cells_of(tmp_path, "eps=4")
    for cell in cells:
        finish(cell, [10, 10, 3, 0])
    finish(further[0], [10, 10, 10, None])
    found = answers(cells, [cells[0], further[0]])  # a cell in both counts once
    assert found["What did the computations take?"][:4] == [
        "machine: cpu, 1 thread",
        "time: 38 s in 6 sessions, added up, of which 19 s went into crafting; figures' sweeps "
        "over eps included",
        "gradients: 76 for 12 attacked images (of 1 image unknown)",
        "passes of whole batches: 42 forward, 30 backward",
    ]
    assert found["What are the limitations?"][0] == "2 of 2 cells finished"
    bars = found["Are there error bars, and of what?"]
    assert bars[0] == "rates: 95 % Wilson intervals over images; images per cell: 4 to 4"
    assert bars[2].startswith("seeds: 0; variation over seeds: not measured")
    needed = found["What is needed to reproduce the results?"]
    assert needed[:3] == [
        f"command: {COMMAND}", "commit of agr: abc", "versions: agr 0.1.0, torch 2.15.0"
    ]  # fmt: skip


def test_what_nobody_ran_is_not_recorded(tmp_path: Path) -> None:
    found = answers(cells_of(tmp_path))
    assert found["What are the limitations?"][0] == "0 of 2 cells finished"
    assert any(line.startswith("missing: ") for line in found["What are the limitations?"])
    assert found["What is needed to reproduce the results?"][1] == "commit of agr: not recorded"
    cost = found["What did the computations take?"]
    assert cost[0] == "machine: not recorded"
    assert cost[2] == "gradients: 0 for 0 attacked images"
    assert "images per cell: none yet" in found["Are there error bars, and of what?"][0]
    cells = cells_of(tmp_path)
    finish(cells[0], [1] * 4, git=None)
    needed = answers(cells)["What is needed to reproduce the results?"]
    assert needed[1] == "commit of agr: not recorded (git in run.json): no checkout"


def licences(*cells: Cell) -> list[str]:
    return answers([*cells])["What are the licences of data, weights and code?"]


def test_licences_are_what_the_suite_states(tmp_path: Path) -> None:
    told = licences(*cells_of(tmp_path))
    assert told[:2] == [
        "images of suite demo: Apache-2.0",
        "weights of Res152, VGG16, VGG19: Apache-2.0",
    ]
    words = ["suite.data_license=null", "suite.networks.vgg16.license=null"]
    words += ["suite.networks.vgg19.license=MIT"]
    assert licences(*cells_of(tmp_path, *words))[:4] == [
        "images of suite demo: not stated (see data_license in the suite's file demo.yaml)",
        "weights of VGG16: not stated (see license of the network in the suite's file)",
        "weights of VGG19: MIT",
        "weights of Res152: Apache-2.0",
    ]
    (tmp_path / "own").mkdir()
    others = licences(*cells_of(tmp_path, f"data.root={tmp_path / 'own'}"))
    assert others[0] == "images of suite demo: not stated (see data.root)"  # the suite's are others


def test_a_licence_is_no_part_of_a_networks_identity(tmp_path: Path) -> None:
    one = cells_of(tmp_path)[0]
    other = cells_of(tmp_path, "suite.networks.vgg16.license=null", "suite.data_license=x")[0]
    assert one.id == other.id
    assert one.network_digest("vgg16") == other.network_digest("vgg16")


def test_weights_of_ones_own_have_no_licence_of_timms(tmp_path: Path) -> None:
    theirs, own = "test_resnet.r160_in1k", tmp_path / "own.safetensors"
    own.touch()
    given = ["suite=imagenet", f"targets=[{theirs},{theirs}:{own}]", "source=vgg16"]
    networks = expand(given)[0].suite.networks
    assert networks[theirs].license == "apache-2.0"
    assert networks[f"{theirs}:{own}"].license is None


def test_the_page_shows_it_as_text(tmp_path: Path) -> None:
    text = render(a_page(checklist=[("Why <b>?", ["because |<i>|"])]))
    assert '<a href="#checklist">Checklist</a>' in text
    assert "<h3>Why &lt;b&gt;?</h3>" in text
    assert "<li>because |&lt;i&gt;|</li>" in text
    assert 'id="checklist"' not in render(a_page(checklist=[]))
    cells = cells_of(tmp_path)
    finish(cells[0], [1] * 4)
    outcomes = Outcomes(cells)
    told = markdown(checklist(outcomes, judge_claims(outcomes, "agr_paper"), "a | b <c>"))
    assert told.startswith("# Reproducibility checklist\n\n## Are the claims")
    assert r"- command: a \| b \<c>" in told


@pytest.mark.slow
def test_the_command_writes_it_on_the_page_and_as_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["experiment=readings", "attack=ifgsm,agr", "source=vgg16", "norm=linf", "n_images=4"]
    words += [f"outputs={tmp_path}"]
    for cell in expand(words):
        finish(cell, [10, 10, 3, 0])
    monkeypatch.setattr(sys, "argv", ["report", *words, "checklist=true"])
    code, out, err = called(main, capsys)
    assert (code, err) == (0, "")
    (folder,) = (tmp_path / "demo" / "report").iterdir()
    assert str(folder / "checklist.md") in out
    text, page = ((folder / name).read_text() for name in ("checklist.md", "report.html"))
    assert "\n- gradients: 46 for 8 attacked images\n" in text
    assert "<li>gradients: 46 for 8 attacked images</li>" in page
    assert f"outputs={tmp_path} checklist=true</code>" in page  # the command that makes it again
    monkeypatch.setattr(sys, "argv", ["report", *words, "checklist=false"])
    assert called(main, capsys)[0] == 0
    assert 'id="checklist"' not in (folder / "report.html").read_text()
    assert not (folder / "checklist.md").exists()


def test_the_word_is_true_or_false(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["report", "checklist=yes"])
    with pytest.raises(ValueError, match="checklist=yes: give true or false"):
        called(main, capsys)
