"""Faults that runs survive: the real command is disturbed, and ends with an undisturbed run's bits.

Each test runs the command on the demo suite in processes of its own, forked ones but for a few,
does something to it, and compares all that is recorded at the end, saved images and traces
included, bit by bit.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from agr.config.cell import Cell
from agr.evaluation.determinism import settle
from agr.evaluation.inputs import find_images
from agr.records.schema import KEYS
from agr.records.store import Records
from tests.conftest import assert_same_bits, demo_cell, foreign_lock
from tests.forked import PATIENCE, Forked, run

pytestmark = pytest.mark.slow

LONG, N = 168, 64  # images of a run, and 8 of them in a part
WORDS = [
    *("source=vgg16", "targets=[vgg16,vgg19]", "attack=mifgsm", f"n_images={N}", "slots=8"),
    *("steps=4", "threads=1", "part_seconds=0", "trace=true", "save_adversarials=true"),
    "score_steps=[2]",
]
MANY = f"n_images={LONG}"
Frames = dict[str, pd.DataFrame]


# ---- running the command -------------------------------------------------------------------------


ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "agr.run"]


def words_of(outputs: Path, *words: str) -> list[str]:
    return [*WORDS, f"outputs={outputs}", "progress=false", *words]


# Else every image is decoded before the first is attacked.
KEEPING_NO_IMAGES = "import agr.evaluation.images; agr.evaluation.images.MEMORY = 0"


def cell_of(outputs: Path, *words: str) -> Cell:
    return demo_cell(outputs, *WORDS, *words)


def parts_of(folder: Path) -> int:
    return len(list(folder.glob("rows-*.parquet")))


def wait_for(process: subprocess.Popen[str] | Forked, met: Callable[[], bool]) -> None:
    """Until a condition is met by a process at work."""
    deadline = time.monotonic() + PATIENCE
    while not met():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


# ---- comparing -----------------------------------------------------------------------------------


def recorded(outputs: Path, *words: str) -> Frames:
    """All that is recorded of the cell, as it is read, and every row that stands in a part."""
    records = Records(cell_of(outputs, *words).folder)
    frames = {}
    for kind, keys in KEYS.items():
        frame = records.read(kind).sort_values(keys).reset_index(drop=True)
        raw = sum(part.read(keys).num_rows for part in records.part_files(kind))
        assert raw == len(frame), f"{raw - len(frame)} {kind} are there twice"
        frames[kind] = frame
    return frames


def assert_whole(found: Frames, expected: Frames, n: int) -> None:
    """All of the first `n` images, and each as a longer run has it."""
    for frame in found.values():
        assert {*frame["position"]} == {*range(n)}
    assert_part_of(found, expected)


def assert_part_of(found: Frames, expected: Frames) -> None:
    """What is there is what an undisturbed run has, bit by bit."""
    for kind, frame in found.items():
        mine = expected[kind][expected[kind]["position"].isin(frame["position"])]
        assert_same_bits(frame, mine.reset_index(drop=True))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Frames:
    """What an undisturbed run records."""
    outputs = tmp_path_factory.mktemp("whole")
    done = run(words_of(outputs, MANY))
    assert done.returncode == 0, done.stderr
    frames = recorded(outputs)
    counts = [len(frames[kind]) for kind in ("rows", "adversarials", "trace")]
    assert counts == [2 * LONG, LONG, 5 * LONG]
    return frames


def goes_on(outputs: Path, whole: Frames, *words: str) -> subprocess.CompletedProcess[str]:
    """The same command again does the rest."""
    done = run(words_of(outputs, *words))
    assert done.returncode == 0, done.stderr
    assert_whole(recorded(outputs, *words), whole, LONG if MANY in words else N)
    return done


# ---- being stopped -------------------------------------------------------------------------------


def test_twenty_kills(tmp_path: Path, whole: Frames) -> None:
    """SIGKILL at 20 moments spread over the work: the same cell, over and over again."""
    folder, rng = cell_of(tmp_path).folder, random.Random(0)
    for k in range(20):
        process = Forked(words_of(tmp_path, MANY))
        wait_for(process, lambda k=k: parts_of(folder) > k)
        time.sleep(rng.uniform(0, 0.1))  # a part takes about that long
        process.kill()
        found = recorded(tmp_path)
        assert 8 * k < len(found["rows"]) / 2 <= LONG
        assert_part_of(found, whole)
    goes_on(tmp_path, whole, MANY)
    assert not list(folder.glob(".*.draft"))


@pytest.mark.parametrize(
    ("number", "code", "named"),
    [
        (signal.SIGTERM, 143, "SIGTERM"),
        (signal.SIGINT, 130, "Ctrl-C"),
        (signal.SIGHUP, 129, "SIGHUP"),
    ],
)
def test_a_signal_ends_it_cleanly(
    number: int, code: int, named: str, tmp_path: Path, whole: Frames
) -> None:
    """What is finished is written, though no part was due, and the printed command goes on."""
    folder = cell_of(tmp_path).folder
    process = Forked(words_of(tmp_path, "part_seconds=1", MANY))
    wait_for(process, lambda: parts_of(folder) > 0)
    process.send_signal(number)
    time.sleep(0.05)
    process.send_signal(number)  # people press Ctrl-C twice
    out, err = process.communicate()
    assert process.returncode == code
    assert "Traceback" not in out + err
    assert err.startswith(f"stopped by {named}: what was finished is kept; ")
    assert len(err.splitlines()) == 1
    assert not list(folder.glob(".shard*"))
    assert not list(folder.glob(".*.draft"))
    found = recorded(tmp_path)
    assert 0 < len(found["rows"]) / 2 < LONG
    assert_part_of(found, whole)
    python, *words = shlex.split(err.partition("goes on: ")[2])
    assert (python, words[:2]) == ("python", COMMAND[1:])
    done = run(words[2:])
    assert done.returncode == 0, done.stderr
    assert_whole(recorded(tmp_path), whole, LONG)


@pytest.mark.parametrize(
    "words",
    [
        *(["-m", f"agr.{name}"] for name in ("run", "status", "plan", "verify", "check", "score")),
        *(["-m", "agr.compare"], ["-m", "agr.export"], ["-m", "scripts.bench"]),
        *([f"scripts/{path.name}"] for path in sorted((ROOT / "scripts").glob("make_*.py"))),
    ],
    ids=" ".join,
)
def test_ctrl_c_while_it_loads_is_one_line(words: list[str], tmp_path: Path) -> None:
    # The first module that all of them need stands still.
    (tmp_path / "hydra.py").write_text("import time; print(flush=True); time.sleep(60)")
    process = subprocess.Popen(
        [sys.executable, *words], env=os.environ | {"PYTHONPATH": str(tmp_path)}, cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (130, "stopped by Ctrl-C\n")


def test_who_imports_agr_has_its_own_ctrl_c(tmp_path: Path) -> None:
    program = "import agr, signal; assert signal.getsignal(2) is signal.default_int_handler"
    (tmp_path / "run.py").write_text(program)
    for words in (["-c", program], [str(tmp_path / "run.py")], ["-m", "run"]):
        subprocess.run([sys.executable, *words, "agr.run"], cwd=tmp_path, check=True)


UNHEARD = {
    "a reader that has seen enough": "{} | head -1 >/dev/null; exit ${{PIPESTATUS[0]}}",
    "a full disk": "{} >/dev/full 2>/dev/full",
    "no streams": "{} >&- 2>&-",
    "an ASCII terminal": "PYTHONIOENCODING=ascii {}",
}


@pytest.mark.parametrize("kind", UNHEARD)
def test_what_cannot_be_printed_does_not_end_it(kind: str, tmp_path: Path) -> None:
    quick = ["n_images=8", "attack=fgsm", "trace=false", "save_adversarials=false"]
    line = shlex.join([*COMMAND, *words_of(tmp_path, *quick)])
    shell = ["bash", "-c", UNHEARD[kind].format(line)]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    (rows,) = tmp_path.glob("demo/*/rows-*.parquet")
    assert len(pd.read_parquet(rows)) == 16
    assert not list(tmp_path.glob("demo/*/_about/failed-*"))


CRASH = f"""{KEEPING_NO_IMAGES}
import glob, os, signal, sys, threading
import agr.data.decode as stream
decode = stream._decode
def crash(*arguments):
    if len(glob.glob({{!r}})) > 3:
        assert threading.current_thread() is not threading.main_thread()
        {{}}
    return decode(*arguments)
stream._decode = crash
"""


@pytest.mark.parametrize("fault", ["os.kill(os.getpid(), signal.SIGSEGV)", "sys.exit('gone')"])
def test_a_decoder_that_dies(fault: str, tmp_path: Path, whole: Frames) -> None:
    """Decoders are threads of the run: one that crashes ends it, and the next one goes on."""
    crash = CRASH.format(str(tmp_path / "demo" / "*" / "rows-*"), fault)
    process = Forked(words_of(tmp_path, MANY), patch=crash)
    process.communicate()
    assert process.returncode in (-signal.SIGSEGV, 1)
    found = recorded(tmp_path)
    assert 0 < len(found["rows"]) / 2 < LONG
    assert_part_of(found, whole)
    goes_on(tmp_path, whole, MANY)


# ---- disks ---------------------------------------------------------------------------------------


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk can't be mounted here: that takes root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk(tmp_path: Path, whole: Frames) -> None:
    with small_disk(tmp_path / "disk", "600k") as outputs:
        done = run(words_of(outputs))
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert done.stderr.startswith(f"error: no space is left in {outputs}")
        assert "make room, and the same command goes on: python -m agr.run" in done.stderr
        found = recorded(outputs)
        assert 0 < len(found["rows"]) / 2 < N
        assert_part_of(found, whole)
        subprocess.run(["mount", "-o", "remount,size=64m", str(outputs)], check=True)
        goes_on(outputs, whole)


def without_roots_powers() -> None:
    """Root may write anywhere: not without this capability (CAP_DAC_OVERRIDE)."""
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)


def started(words: list[str]) -> subprocess.Popen[str]:
    """The real command, by a user who isn't root: the capability goes when a program is started."""
    return subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=without_roots_powers,
    )  # fmt: skip


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    folder.chmod(0o555)
    try:
        yield
    finally:
        folder.chmod(0o755)


def test_a_read_only_folder_is_refused_before_the_work(tmp_path: Path) -> None:
    with read_only(tmp_path):
        process = started(words_of(tmp_path / "outputs"))
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert len(err.splitlines()) == 1
    assert f"outputs={tmp_path}/outputs cannot be written (Permission denied): name" in err


def test_a_folder_that_becomes_read_only(tmp_path: Path, whole: Frames) -> None:
    folder = cell_of(tmp_path).folder
    process = started(words_of(tmp_path))
    wait_for(process, lambda: parts_of(folder) > 1)
    with read_only(folder):
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2, out + err
    assert len(err.splitlines()) == 1, err
    assert f"{folder}" in err
    assert "cannot be read or written (Permission denied)" in err
    assert_part_of(recorded(tmp_path), whole)
    goes_on(tmp_path, whole)


# ---- images --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["deleted", "truncated"])
def test_an_image_that_goes_bad_in_mid_run(fault: str, tmp_path: Path, whole: Frames) -> None:
    """It is named and counted as lost; once it is back, the same command does it."""
    demo = cell_of(tmp_path)
    shutil.copytree(str(demo.config.data.root), tmp_path / "val")
    shutil.copy(str(demo.config.data.labels), tmp_path / "val.csv")
    here = (f"data.root={tmp_path / 'val'}", f"data.labels={tmp_path / 'val.csv'}")
    lost = whole["rows"]["image_id"][2 * (LONG - 10)]
    cell = cell_of(tmp_path, *here)
    (path,) = [e.path for e in find_images(cell).entries if e.image_id == lost]
    content = path.read_bytes()
    process = Forked(words_of(tmp_path, *here, MANY), patch=KEEPING_NO_IMAGES)
    wait_for(process, lambda: parts_of(cell.folder) > 0)
    if fault == "deleted":
        path.unlink()
    else:
        path.write_bytes(content[:200])
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert f"bad image, left out: {path.name}" in out
    assert f"1 missing or corrupt images left out: {lost}" in out
    found = recorded(tmp_path, *here)
    assert set(whole["rows"]["image_id"]) - set(found["rows"]["image_id"]) == {lost}
    assert_part_of(found, whole)
    path.write_bytes(content)
    goes_on(tmp_path, whole, *here, MANY)


# ---- damaged records -----------------------------------------------------------------------------


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[len(content) // 3] ^= 1
    return bytes(changed)


@pytest.fixture(scope="module")
def finished_outputs(tmp_path_factory: pytest.TempPathFactory, whole: Frames) -> Path:
    outputs = tmp_path_factory.mktemp("finished")
    goes_on(outputs, whole)
    return outputs


@pytest.mark.parametrize("damage", [cut, flip])
@pytest.mark.parametrize("kind", ["rows", "trace", "steps", "adversarials"])
def test_a_damaged_part(
    kind: str,
    damage: Callable[[bytes], bytes],
    tmp_path: Path,
    finished_outputs: Path,
    whole: Frames,
) -> None:
    """It is found, set aside, done again, and said; tables and agr.verify don't take it."""
    outputs = tmp_path / "outputs"
    shutil.copytree(finished_outputs, outputs)
    path = Records(cell_of(outputs).folder).part_files(kind)[3].path
    path.write_bytes(damage(path.read_bytes()))
    verified = run([f"outputs={outputs}"], module="agr.verify")
    assert verified.returncode == 1
    assert f"problem: {path.name} was changed after it was written" in verified.stdout
    said = ""
    if kind == "adversarials":  # of a finished cell they are looked at once they are used
        score = run([f"outputs={outputs}", "targets=[vgg16]"], module="agr.score")
        said = score.stdout + score.stderr
        assert f"{path.name} " in said
    said += goes_on(outputs, whole).stdout
    assert f"{path.name} was damaged: it is set aside in _about/damaged" in said
    assert (cell_of(outputs).folder / "_about/damaged" / path.name).exists()


# ---- networks ------------------------------------------------------------------------------------


def test_a_network_that_gives_nan(tmp_path: Path) -> None:
    """It is named and counted; what it doesn't answer is neither a success nor a silent failure."""
    weights = load_file(cell_of(tmp_path).suite.networks["vgg19"].weights)
    last = [name for name in weights if name.startswith("head.")]
    broken = tmp_path / "vgg19.safetensors"
    save_file({k: v * (3e38 if k in last else 1) for k, v in weights.items()}, broken)
    words = [f"suite.networks.vgg19.weights={broken}", "suite.networks.vgg19.sha256=null"]
    done = run(words_of(tmp_path, *words, "select=source", "n_images=24"))
    assert done.returncode == 0, done.stderr
    rows = Records(cell_of(tmp_path, *words, "select=source").folder).read("rows")
    silent = rows[(rows["target"] == "vgg19") & (rows["adv_pred"] < 0)]
    assert len(silent) > 0
    assert not silent["success"].any()
    assert "VGG19 (vgg19): no finite answer (NaN) to" in done.stdout
    assert f"VGG19 gave no finite answer (NaN) for {len(silent)} of 24 adversarial" in done.stdout


# ---- two at once ---------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["wait=false", "wait=true"])
def test_two_processes_on_one_cell(word: str, tmp_path: Path, whole: Frames) -> None:
    """One works; the other one leaves it to that, or waits and finds it done."""
    both = [Forked(words_of(tmp_path, word)) for _ in range(2)]
    said = [process.communicate() for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes == ([0, 0] if word == "wait=true" else [0, 2]), said
    if word == "wait=false":
        (err,) = [err for (_, err), process in zip(said, both, strict=True) if process.returncode]
        (other,) = [process.pid for process in both if not process.returncode]
        assert f"is being run: process {other} on " in err
        assert len(err.splitlines()) == 1
    assert_whole(recorded(tmp_path), whole, N)


def lock_ahead(folder: Path, ahead: float) -> Path:
    """A lock of another host, whose clock is `ahead` seconds ahead of ours."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".shard-0of1.lock"
    foreign_lock(path, 3.0, pid=1)
    os.utime(path, (time.time() + ahead, time.time() + ahead))
    return path


# As AGR_LEASE_SECONDS=3, which is read when a program starts.
IMPATIENT = "import agr.utils.locks as locks; locks.LEASE, locks.BEAT = 3.0, 0.25"


@pytest.mark.parametrize("ahead", [-86400.0, 86400.0])
def test_a_lock_of_a_dead_process_elsewhere(ahead: float, tmp_path: Path) -> None:
    """It is taken over once nobody has touched it for a lease's time, whatever its clock says."""
    lock = lock_ahead(cell_of(tmp_path).folder, ahead)
    started = time.monotonic()
    done = run(words_of(tmp_path, "n_images=8"), patch=IMPATIENT)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started > 3
    assert not lock.exists()
    assert len(recorded(tmp_path)["rows"]) == 2 * 8


@pytest.mark.parametrize("ahead", [-86400.0, 86400.0])
def test_a_lock_of_a_living_process_elsewhere(ahead: float, tmp_path: Path) -> None:
    lock = lock_ahead(cell_of(tmp_path).folder, ahead)
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.25):
            os.utime(lock, (time.time() + ahead, time.time() + ahead))

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        done = run(words_of(tmp_path, "n_images=8"), patch=IMPATIENT)
    finally:
        over.set()
        heart.join()
    assert done.returncode == 2
    assert "is being run: process 1 on elsewhere is at work; wait for it" in done.stderr
    assert lock.exists()
    assert not parts_of(lock.parent)


# ---- memory --------------------------------------------------------------------------------------

OUT_OF_MEMORY = """
import torch, agr.models.network as zoo
forward, calls = zoo.Network.forward, []
def fail(self, x, side=None):
    if x.requires_grad is {crafting} and x.shape[0] == 8 and self.config.title == {title!r}:
        calls.append(1)
        if len(calls) == {at}:
            raise torch.OutOfMemoryError("none left")
    return forward(self, x, side)
zoo.Network.forward = fail
"""


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Frames:
    """What an undisturbed run with half the slots records."""
    outputs = tmp_path_factory.mktemp("narrow")
    done = run(words_of(outputs, "slots=4"))
    assert done.returncode == 0, done.stderr
    return recorded(outputs, "slots=4")


CHUNKS = ["attack=library/ddn", "norm=l2", "trace=false", "score_steps=null"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["n_images=2", "slots=4000"], "slots=4000 is more than 2 images"),
        (["n_images=300", "slots=301"], "slots=301 is more than 300 images"),
        (["n_images=1000000", "slots=5000"], "slots=5000 is more than "),
        (["n_images=1", "width=257"], "width=257 is more than 1 image "),
        ([*CHUNKS, "attack.library.chunk=257"], "attack.library.chunk=257 is more than 64 images"),
    ],
)
def test_places_that_no_image_takes_are_refused(
    words: list[str], named: str, tmp_path: Path
) -> None:
    done = run(words_of(tmp_path, *words))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {named}")
    assert done.stderr.endswith(" or fewer\n")
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.rglob("rows-*"))


def test_a_run_of_many_slots_may_ask_for_fewer_images_later(tmp_path: Path) -> None:
    cell = cell_of(tmp_path, "n_images=2", "slots=300")
    stored = settle(replace(cell, config=replace(cell.config, n_images=300)), None)
    assert settle(cell, stored) == stored


@pytest.mark.parametrize(("crafting", "title", "at"), [(True, "VGG16", 20), (False, "VGG19", 20)])
def test_memory_that_runs_out(
    crafting: bool, title: str, at: int, tmp_path: Path, whole: Frames, narrow: Frames
) -> None:
    """No image is lost, and each part says how wide it was: it has the bits of that width."""
    patch = OUT_OF_MEMORY.format(crafting=crafting, title=title, at=at)
    done = run(words_of(tmp_path), patch=patch)
    assert done.returncode == 0, done.stderr
    assert "out of memory with slots=8: going on with slots=4" in done.stdout
    records = Records(cell_of(tmp_path).folder)
    run_file = json.loads(records.run_file.read_text())
    assert run_file["numeric"]["slots"] == run_file["numeric"]["width"] == 4
    found, widths = recorded(tmp_path), {}
    assert len(found["rows"]) == 2 * N
    assert_part_of(
        *[{k: f[["position", "image_id"]] for k, f in x.items()} for x in (found, whole)]
    )
    for part in records.part_files("rows"):
        for position in part.read(["position"])["position"].to_pylist():
            widths[position] = part.about()["slots"]
    assert set(widths.values()) == {8, 4}
    for width, expected in ((8, whole), (4, narrow)):
        mine = {position for position, slots in widths.items() if slots == width}
        for kind, frame in found.items():
            own, theirs = (
                f[f["position"].isin(mine)].reset_index(drop=True) for f in (frame, expected[kind])
            )
            assert_same_bits(own, theirs)
    verified = run([f"outputs={tmp_path}", "images=12"], module="agr.verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
