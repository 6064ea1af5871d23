"""What a run leaves behind: parts that are whole or found damaged, run.json, failures, locks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from agr.evaluation.runner import run_cell
from agr.records.part_files import Damaged
from agr.records.run_info import RunInfo
from agr.records.store import Records, _digest
from agr.utils import locks
from agr.utils.errors import ConfigError
from agr.utils.files import is_whole, write_content, write_named
from agr.utils.locks import Busy, Holder, alive, holder, locked, this_host
from agr.utils.signals import Interrupted, stoppable, unbroken
from tests.conftest import demo_cell, foreign_lock


def row(position: int, target: str = "vgg16") -> dict[str, Any]:
    return {"position": position, "image_id": f"i{position}", "target": target}


def trace(position: int) -> dict[str, Any]:
    return {"position": position, "image_id": f"i{position}", "step": 0}


@pytest.fixture
def records(tmp_path: Path) -> Records:
    found = Records(tmp_path / "cell")
    found.update_run(lambda run: setattr(run, "eligible", 3))
    return found


# ---- files ---------------------------------------------------------------------------------------


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_content(path, b"old")

    def half(draft: Path, content: bytes) -> None:
        draft.write_text("new, but no")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match=r"No space left on device: .*a\.json"):
        write_content(path, b"new, but not whole")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_names_tell_what_is_whole(tmp_path: Path) -> None:
    path = write_named(tmp_path, "part", ".bin", b"content")
    # sha256 of b"content", from `printf content | sha256sum`
    assert path.name == "part-ed7002b439e9ac84.bin"
    assert is_whole(path)
    path.write_bytes(b"contemt")
    assert not is_whole(path)
    assert not is_whole(tmp_path / "part-ed7002b439e9ac85.bin")


# ---- parts ---------------------------------------------------------------------------------------


def test_parts_are_numbered_on_and_say_what_they_are_about(records: Records) -> None:
    for position in range(3):
        about = {"slots": 8 >> position}
        records.write_part("0/1", {"rows": [row(position)], "trace": [trace(position)]}, about)
    parts = records.part_files("rows")
    assert [part.number for part in parts] == [0, 1, 2]
    assert [part.about()["slots"] for part in parts] == [8, 4, 2]
    assert records.positions("trace") == records.positions("rows") == {0, 1, 2}


def test_a_number_that_a_kill_left_is_not_used_again(records: Records) -> None:
    """A trace without its rows must not find rows that were written later."""
    records.write_part("0/1", {"rows": [row(0)], "trace": [trace(0)]})
    (part,) = records.part_files("rows")
    part.path.unlink()
    assert records.part_files("trace") == []
    records.write_part("0/1", {"rows": [row(1)]})
    assert [p.number for p in records.part_files("rows")] == [1]
    assert records.read("trace").empty
    records.mend("0/1")
    assert len(list(records.folder.glob("_trace/*"))) == 0


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-1], lambda c: c[:40] + b"?" + c[41:], lambda c: b""]
)
def test_damaged_parts_are_set_aside(damage: Any, records: Records) -> None:
    for position in range(2):
        records.write_part("0/1", {"rows": [row(position)]})
    path = records.part_files("rows")[0].path
    content = damage(path.read_bytes())
    path.write_bytes(content)
    with pytest.raises(Damaged, match=f"{path} is damaged: run the cell again"):
        records.positions("rows")
    (said,) = records.mend("0/1")
    assert said.startswith(f"{path.name} was damaged: it is set aside in _about/damaged")
    assert (records.folder / "_about/damaged" / path.name).read_bytes() == content
    assert records.positions("rows") == {1}
    assert records.mend("0/1") == []


def test_a_part_that_cannot_be_read_now_is_not_damaged(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.write_part("0/1", {"rows": [row(0)]})

    def fail(*arguments: object) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("agr.utils.files._hash_of", fail)
    for use in (records.positions, records.mend):
        with pytest.raises(OSError, match=r"Input/output error: .*rows-0of1-00000-"):
            use("rows" if use == records.positions else "0/1")
    monkeypatch.undo()
    assert records.positions("rows") == {0}


def test_mending_clears_what_its_own_shard_left(records: Records) -> None:
    records.write_part("0/2", {"rows": [row(0)], "trace": [trace(0)]})
    records.write_part("1/2", {"rows": [row(1)], "trace": [trace(1)]})
    for part in records.part_files("rows"):
        part.path.unlink()
    drafts = [records.folder / f".rows-{s}-00007-abc.parquet.12.draft" for s in ("0of2", "1of2")]
    for draft in drafts:
        draft.touch()
    records.mend("0/2")
    assert [path.name[:10] for path in records.folder.glob("_trace/*")] == ["trace-1of2"]
    assert [draft.exists() for draft in drafts] == [False, True]


# ---- run.json ------------------------------------------------------------------------------------


def test_run_json_tells_when_it_was_touched(records: Records) -> None:
    def change(run: RunInfo) -> None:
        run.lost, run.eps_effective, run.command = [1], 0.1, "title=‖v‖"

    records.update_run(change)
    assert records.run() == RunInfo(eligible=3, lost=[1], eps_effective=0.1, command="title=‖v‖")
    text = records.run_file.read_text()
    for old, new in (('"eligible": 3', '"eligible": 2'), ("[\n  1\n ]", "[]"), ("0.1", "0.2")):
        assert old in text
        records.run_file.write_text(text.replace(old, new))
        with pytest.raises(ConfigError, match="is damaged, or was edited: restore it, or move"):
            records.run()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"schema_version": 2}', "has schema 2, this program writes 8: use another outputs"),
        ('{"schema_version": 9}', "has schema 9"),
        ('{"schema_version": 8}', "damaged"),
        ("{}", "damaged"),
        ("[1]", "damaged"),
        ("3", "damaged"),
        ("", "damaged"),
        ("[" * 100_000, "damaged"),
    ],
)
def test_other_run_files_are_refused(text: str, words: str, records: Records) -> None:
    records.run_file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        records.run()


@pytest.mark.parametrize(
    "change",
    [
        {"eligible": "3"},
        {"eligible": True},
        {"lost": [1.5]},
        {"lost": 1},
        {"weights": {"vgg16": None}},
        {"data": {"layout": "flat"}},
        {"numeric": {"slots": 8}},
        {"sessions": [{}]},
        {"more": 1},
        {"config": None},
        {"config": {"eps": "ten"}},
        {"config": {"suite": {"groups": "${oc.env:HOME}"}}},
        {"config": {"suite": {"groups": {"g": {"networks": [[]]}}}}},
        {"config": {"experiment": ["${seed}"]}},
        {"narrowed": [{"slots": 0, "width": 1, "rows": 1}]},
    ],
    ids=str,
)
def test_run_json_has_a_schema(change: dict[str, Any], records: Records) -> None:
    """Also where its own hash is right: keys and types of values are looked at."""
    content = asdict(RunInfo()) | change
    records.run_file.write_text(json.dumps(content | {"digest": _digest(content)}))
    with pytest.raises(ConfigError, match="is damaged, or was edited: restore it, or move"):
        records.run()


def test_a_run_json_without_later_keys_is_read(records: Records) -> None:
    content = {"schema_version": 8, "eligible": 7}
    records.run_file.write_text(json.dumps(content | {"digest": _digest(content)}))
    assert records.run() == RunInfo(eligible=7)


def test_rows_without_run_json_are_refused(records: Records) -> None:
    """Nobody knows with which numeric identity they were made."""
    records.write_part("0/1", {"rows": [row(0)]})
    records.run_file.unlink()
    for use in (records.run, lambda: records.update_run(lambda run: None)):
        with pytest.raises(ConfigError, match=r"has rows but no run\.json"):
            use()


def test_failures_are_kept_until_they_are_over(records: Records) -> None:
    records.note_failure("3/8", {"error": "ValueError: no"})
    assert records.failures() == {"3/8": {"error": "ValueError: no"}}
    records.note_failure("3/8", None)
    records.note_failure("3/8", None)
    assert records.failures() == {}


def nest(path: Path) -> None:
    path.write_text('{"error": ' + "[" * 100_000 + "]" * 100_000 + "}")


def spread(path: Path) -> None:
    path.write_text('{"error": "x"}')
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, Path.mkdir, nest, spread, lambda path: path.write_text('{"error": [[]]}'),
     lambda path: path.write_text("[" * 100_000), lambda path: path.symlink_to("/dev/zero")],
)  # fmt: skip
def test_failures_that_nobody_noted_are_passed_over(make: Any, records: Records) -> None:
    records.note_failure("3/8", {"error": "ValueError: no"})
    make(records.folder / "_about/failed-0of1.json")
    assert records.failures() == {"3/8": {"error": "ValueError: no"}}


def test_a_run_json_without_end_is_refused(records: Records) -> None:
    os.truncate(records.run_file, 1 << 40)
    with pytest.raises(ConfigError, match="is damaged, or was edited"):
        records.run()


# ---- locks ---------------------------------------------------------------------------------------


def test_a_shard_has_one_writer(records: Records) -> None:
    with records.lock("0/2"), Records(records.folder).lock("1/2"):
        with pytest.raises(Busy, match=rf"0/2 of cell is being run: process {os.getpid()} on"):
            Records(records.folder).lock("0/2").__enter__()
        assert len(records.lock_files()) == 2
    assert records.lock_files() == []


def test_waiting_for_a_lock(tmp_path: Path) -> None:
    path, order = tmp_path / "a.lock", []

    def other() -> None:
        with locked(path):
            order.append("second")

    with locked(path):
        thread = threading.Thread(target=other)
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def killed_holder(path: Path) -> int:
    """The id of a process that was killed while it held the lock."""
    code = (
        "import sys, time; from pathlib import Path; from agr.utils.locks import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.kill()
    return process.pid


def test_the_lock_of_a_killed_process_is_taken_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    pid = killed_holder(path)
    assert holder(path) == Holder(this_host(), pid)
    assert alive([path]) == {}
    started = time.monotonic()
    with locked(path, wait=False):
        assert time.monotonic() - started < 5
        assert alive([path]) == {path: Holder(this_host(), os.getpid())}
    assert holder(path) is None


@pytest.mark.slow
def test_locks_of_other_machines_are_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that stirs is alive, whatever its clock says; one that doesn't is taken over."""
    monkeypatch.setattr(locks, "LEASE", 1.2)
    monkeypatch.setattr(locks, "BEAT", 0.1)
    dead, living = tmp_path / "dead.lock", tmp_path / "living.lock"
    for path in (dead, living):
        foreign_lock(path, 1.2)
        os.utime(path, (2e9, 2e9))
    over = threading.Event()

    def beat() -> None:
        n = 0
        while not over.wait(0.03):
            n += 1
            os.utime(living, (1e9 + n, 1e9 + n))

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        assert alive([dead, living]) == {living: Holder("elsewhere", 7, 1.2)}
        with pytest.raises(Busy, match="process 7 on elsewhere is at work"):
            locked(living, wait=False).__enter__()
    finally:
        over.set()
        heart.join()
    with locked(dead, wait=False):
        assert holder(dead) == Holder(this_host(), os.getpid(), 1.2)


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", "12\nelsewhere\n"])
def test_a_lock_that_names_nobody(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a process leaves that is killed while it makes one: taken once nobody touches it."""
    monkeypatch.setattr(locks, "LEASE", 0.6)
    monkeypatch.setattr(locks, "BEAT", 0.05)
    path = tmp_path / "a.lock"
    path.write_text(content)
    path.chmod(0o600)
    started = time.monotonic()
    with locked(path, wait=False):
        assert time.monotonic() - started > 0.5
        assert holder(path) == Holder(this_host(), os.getpid(), 0.6)


def test_a_lock_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"a\.lock can't be read: remove it"):
        locked(path).__enter__()


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_lock_that_is_no_file_is_not_waited_for(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    make(path)
    with pytest.raises(ConfigError, match=r"a\.lock can't be read: remove it"):
        locked(path).__enter__()
    assert alive([path]) == {}


def test_a_lease_without_end_is_not_watched_for_as_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LONGEST", 0.1)
    foreign_lock(tmp_path / "a.lock", 1e300)
    assert alive([tmp_path / "a.lock"]) == {}


@pytest.mark.parametrize("value", ["2min", "0", "-1", "nan", "inf"])
def test_a_lease_is_a_number_of_seconds(value: str, tmp_path: Path) -> None:
    use = "locked(Path('a')).__enter__()"
    code = f"from pathlib import Path; from agr.utils.locks import locked; {use}"
    environment = os.environ | {"AGR_LEASE_SECONDS": value}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert f"AGR_LEASE_SECONDS={value} is not a number of seconds: give one" in done.stderr


def test_all_processes_agree_about_leases(tmp_path: Path) -> None:
    foreign_lock(tmp_path / "a.lock", 17)
    with pytest.raises(ConfigError, match="another AGR_LEASE_SECONDS than 120"):
        locked(tmp_path / "a.lock").__enter__()


def test_who_lost_the_lock_writes_no_more(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that stood still for longer than a lease: another one has taken its lock."""
    monkeypatch.setattr(locks, "LEASE", 0.6)
    monkeypatch.setattr(locks, "BEAT", 0.05)
    with records.lock("0/1"):
        records.write_part("0/1", {"rows": [row(0)]})
        path = records.lock_file("0/1")
        path.unlink()
        foreign_lock(path, 0.6)
        for write in (lambda: records.write_part("0/1", {"rows": [row(1)]}),
                      lambda: records.mend("0/1")):  # fmt: skip
            with pytest.raises(ConfigError, match="stood still so long that another one took over"):
                write()
    assert records.positions("rows") == {0}
    assert holder(path) == Holder("elsewhere", 7, 0.6)


# ---- signals -------------------------------------------------------------------------------------


def test_sigterm_is_raised_as_ctrl_c_is() -> None:
    before = signal.getsignal(signal.SIGTERM)

    done = []

    def work() -> None:
        with stoppable():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(1)
            finally:  # Slurm sends it twice
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.05)
                done.append("written")

    with pytest.raises(Interrupted):
        work()
    assert done == ["written"]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_write_is_not_cut_in_two(number: int) -> None:
    done = []

    def work() -> None:
        with stoppable():
            with unbroken():
                os.kill(os.getpid(), number)
                os.kill(os.getpid(), number)
                time.sleep(0.05)
                done.append("written")
            done.append("never")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["written"]


def test_signals_are_the_main_threads() -> None:
    done = []

    def work() -> None:
        with stoppable(), unbroken():
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]


def test_an_update_is_written_or_not(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop while it is thought about leaves the old one, one while it is written the new one."""

    def stopped(run: RunInfo) -> None:
        run.eligible = 5
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

    with pytest.raises(KeyboardInterrupt):
        records.update_run(stopped)
    assert (records.run() or RunInfo()).eligible == 3

    def write(path: Path, content: bytes) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        write_content(path, content)

    monkeypatch.setattr("agr.utils.files.write_content", write)
    with pytest.raises(KeyboardInterrupt):
        records.update_run(lambda run: setattr(run, "eligible", 7))
    assert (records.run() or RunInfo()).eligible == 7
    assert not records.folder.joinpath(".run.lock").exists()


def test_a_stop_while_a_part_is_written_does_not_double_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Records.write_part

    def write(self: Records, *args: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        real(self, *args)

    monkeypatch.setattr(Records, "write_part", write)
    cell = demo_cell(
        tmp_path, "source=vgg16", "targets=[vgg16]", "attack=fgsm", "part_seconds=0",
        "progress=false",
    )  # fmt: skip

    def work() -> None:
        with stoppable():
            run_cell(cell)

    with pytest.raises(Interrupted):
        work()
    records = Records(cell.folder)
    raw = sum(part.read(["position"]).num_rows for part in records.part_files("rows"))
    assert raw == len(records.read("rows")) == 8
