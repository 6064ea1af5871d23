"""A sweep seen from outside: what is done, begun, running, failed or missing."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from agr.config.overrides import without_shards
from agr.evaluation.runner import run_cell
from agr.jobs.session import run_overrides
from agr.records.store import Records
from agr.status import main, status_of
from agr.utils.locks import Holder, alive, this_host
from tests.conftest import demo_cell
from tests.forked import run

VGG = ("source=vgg16", "targets=[vgg16]", "n_images=4", "progress=false")
SWEEP = ["-m", *VGG, "slots=8", "threads=1", "attack=agr,ifgsm,mifgsm,fgsm"]


def test_every_status_of_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SWEEP, f"outputs={tmp_path}"]
    run_cell(demo_cell(tmp_path, *VGG, "attack=agr"))
    run_cell(demo_cell(tmp_path, *VGG, "attack=ifgsm", "n_images=1"))
    failed = Records(demo_cell(tmp_path, *VGG, "attack=mifgsm").folder)
    failed.note_failure("3/8", {"error": "ValueError: no such thing", "traceback": []})
    running = Records(demo_cell(tmp_path, *VGG, "attack=ifgsm").folder)
    capsys.readouterr()
    with running.lock("1/8"):
        main([*words, "shards=8"])
    out = capsys.readouterr().out
    lines = {line.split()[0]: line for line in out.splitlines()[2:6]}
    assert "done     4 of 4" in lines["agr"]
    assert "running  1 of 4" in lines["ifgsm"]
    assert f"process {os.getpid()} on {this_host()}" in lines["ifgsm"]
    assert "failed   0 of 4    shard 3/8: ValueError: no such thing" in lines["mifgsm"]
    assert "missing  0 of 4" in lines["fgsm"]
    assert "4 cells: 1 done, 1 running, 1 failed, 1 missing" in out
    assert f"{failed.folder}/_about/failed-*.json has it whole" in out
    assert out.splitlines()[-1].startswith("what is missing: python -m agr.run -m source=vgg16")
    assert "shards=8" in out.splitlines()[-1]


@pytest.mark.slow
def test_the_command_of_status_does_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-m", *VGG, "slots=8", "threads=1", "attack=fgsm", "eps=4,8", f"outputs={tmp_path}"]
    main(words)
    line = capsys.readouterr().out.splitlines()[-1].removeprefix("what is missing: ")
    command = shlex.split(line)
    assert command[0] == "python"
    assert command[1:3] == ["-m", "agr.run"]
    assert run(command[3:]).returncode == 0
    main(words)
    out = capsys.readouterr().out
    assert "2 cells: 2 done" in out
    assert "what is missing" not in out


def test_damaged_records_are_a_state(tmp_path: Path) -> None:
    cell = demo_cell(tmp_path, *VGG, "attack=fgsm")
    records = run_cell(cell)
    part = records.part_files("rows")[0]
    content = part.path.read_bytes()
    part.path.write_bytes(content[:-1])
    assert status_of(cell, {}).word == "damaged"
    lock = records.lock_file("0/1")
    lock.touch()
    assert status_of(cell, {lock: Holder("n1", 12)}).word == "running"
    lock.unlink()
    part.path.write_bytes(content)
    assert status_of(cell, {}).word == "done"
    records.run_file.write_text("{")
    state = status_of(cell, {})
    assert state.word == "damaged"
    assert "run.json is damaged" in state.more


def test_what_is_lost_is_not_missing(tmp_path: Path) -> None:
    """The command that is offered for what is missing can't mend an image."""
    cell = demo_cell(tmp_path, *VGG, "attack=fgsm", "shard=0/2")
    records = run_cell(cell)
    whole = demo_cell(tmp_path, *VGG, "attack=fgsm")
    assert status_of(whole, {})[:3] == ("begun", 2, 4)
    records.update_run(lambda run: run.lost.extend([1, 3]))
    assert status_of(whole, {})[:3] == ("done, 2 lost", 0, 4)


def test_failures_are_over_once_the_cell_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the work was divided then."""
    words = [*VGG, "attack=fgsm", "slots=8", "threads=1", f"outputs={tmp_path}"]
    records = Records(demo_cell(tmp_path, *VGG, "attack=fgsm").folder)
    records.note_failure("3/8", {"error": "ValueError: no"})
    (records.folder / "_about/failed-1of8.json").write_text("[1]")
    assert [*records.failures()] == ["3/8"]
    run_overrides(words)
    assert records.failures() == {}


def test_a_pipe_in_place_of_a_failure_is_not_waited_for(tmp_path: Path) -> None:
    cell = demo_cell(tmp_path, *VGG, "attack=fgsm")
    records = Records(cell.folder)
    records.update_run(lambda run: None)
    os.mkfifo(records.folder / "_about/failed-0of1.json")
    (records.folder / "_about/failed-1of8.json").write_text("[" * 100_000)
    os.mkfifo(records.lock_file("0/1"))
    assert status_of(cell, alive(records.lock_files())).word == "missing"


def test_shards_are_not_cells() -> None:
    assert without_shards(["-m", "shard=0/2,1/2", "shards=8", "eps=2"]) == ["-m", "eps=2"]
