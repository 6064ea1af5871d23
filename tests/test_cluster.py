"""Sweeps as jobs: what is submitted, when a job is over, what is said of it; and a real Slurm."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

import agr.config.compose
import agr.jobs.pools
import agr.jobs.sweep
import agr.jobs.tasks
from agr.config.cell import Cell
from agr.config.compose import compose_cells, expand
from agr.config.overrides import shards_of
from agr.evaluation.runner import run_cell
from agr.jobs.launcher import Launcher, check_submitit, launcher_of
from agr.jobs.pools import LocalJobPool, SlurmJobPool, _deaf_children, batches, overrides_of
from agr.jobs.slurm_job import STOPPING, Job
from agr.jobs.sweep import sweep
from agr.jobs.tasks import Task, different, failure_of, report, shortened, undone
from agr.records.run_info import RunInfo
from agr.records.store import Records
from agr.utils.errors import ConfigError
from tests.conftest import assert_same_bits
from tests.slurm import NoSlurm, Slurm, slurm

ROOT = Path(__file__).parent.parent
SMALL = ["source=vgg16", "slots=8", "threads=1", "progress=false"]


# ---- words ---------------------------------------------------------------------------------------


def test_shards_become_a_sweep() -> None:
    assert shards_of(["eps=2", "shards=3", "seed=1"]) == 3
    assert shards_of(["-m", "shards=1"]) == 1
    assert shards_of(["shard=0/2"]) == 0
    cells = expand(["eps=2,4", "shards=3", "seed=1"])
    assert [(c.config.eps, c.config.shard) for c in cells] == [
        (eps, f"{i}/3") for eps in (2, 4) for i in range(3)
    ]
    assert cells[1].overrides == ("eps=2", "seed=1", "shard=1/3")
    assert cells[1].whole.config == expand(["eps=2", "seed=1"])[0].config
    assert len({c.id for c in cells}) == 2


def test_thousands_of_shards_are_composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    to_cell = agr.config.compose.to_cell
    monkeypatch.setattr(agr.config.compose, "to_cell", lambda *a: made.append(1) or to_cell(*a))
    cells = expand(["eps=2,4", "shards=4000"])
    assert (len(cells), len(made)) == (8000, 2)
    assert cells[-1].shard == (3999, 4000)
    assert cells[-1].whole.id == cells[4000].id


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["shards=0"], "shards=0 is not a number of shards: give shards=K, K from 1 to 9999"),
        (["shards=x"], "shards=x is not a number of shards"),
        (["shards="], "shards= is not a number of shards"),
        (["shards=2,4"], "shards=2,4 is not a number of shards"),
        (["shards=-1"], "shards=-1 is not a number of shards"),
        (["shards=10000"], "shards=10000 is not a number of shards"),
        (["shards=2", "shards=3"], "shards=2 shards=3 is not a number of shards"),
        (["shards=2", "shard=0/2"], "shards=2 and shard=0/2: give one"),
    ],
)
def test_wrong_shards_are_one_line(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as e:
        shards_of(words)
    assert "\n" not in str(e.value)


def launcher_in(arguments: list[str]) -> Launcher | None:
    """The launcher that a command line names, as the command finds it."""
    check_submitit(arguments)
    return launcher_of(compose_cells(arguments).config)


@pytest.fixture
def on_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name, **_: f"/usr/bin/{name}")


@pytest.mark.slow
@pytest.mark.usefixtures("on_a_cluster")
def test_words_choose_the_launcher() -> None:
    assert launcher_in(["-m", "eps=2,4"]) is None
    assert launcher_in(["-m", "hydra/launcher=basic"]) is None
    words = ["-m", "hydra/launcher=slurm", "hydra.launcher.partition=gpu", "outputs=x", "shards=2"]
    found = launcher_in([*words, "eps=2,4"])
    assert found is not None
    assert found.kind == "slurm"
    assert found.params["partition"] == "gpu"
    assert found.params["submitit_folder"] == "x/sweep/.submitit/%j"
    assert found.params["additional_parameters"] == {"requeue": True}
    local = launcher_in(["hydra/launcher=local"])
    assert local is not None
    assert local.kind == "local"


@pytest.mark.usefixtures("on_a_cluster")
@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            "hydra.launcher.partitionn=x",
            "hydra.launcher.partitionn is not a key of the launcher: did",
        ),
        ("+hydra.launcher.partitionn=x", "did you mean partition"),
        ("hydra.launcher.timeout_min=x", "timeout_min=x: give a whole number"),
        ("hydra.launcher.timeout_min=2", "timeout_min=2 is too short for signal_delay_s=120"),
        ("hydra.launcher.nodes=2", "hydra.launcher.nodes=2: a job is one process"),
        ("hydra.launcher.tasks_per_node=4", "give 1, and shards=K for more jobs"),
        ("hydra.launcher.exclude=n1,n2", "quote it if the comma belongs to it, .*'n1,n2'"),
        ("hydra/launcher=slurmm", r"hydra/launcher=slurmm is unknown: did you mean slurm\?"),
        ("eps=[", "cannot be read"),
    ],
)
def test_a_wrong_launcher_is_one_line(word: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as e:
        launcher_in([*["hydra/launcher=slurm"] * ("hydra/launcher" not in word), word])
    assert "\n" not in str(e.value)


def test_a_launcher_that_is_not_there_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name, **_: None)
    with pytest.raises(ConfigError, match="there is no srun here"):
        launcher_in(["hydra/launcher=slurm"])
    monkeypatch.setattr("agr.jobs.launcher.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'needs submitit: pip install "agr-bench\[slurm\]"'):
        launcher_in(["hydra/launcher=slurm"])


@pytest.mark.slow
def test_nothing_heavy_is_imported() -> None:
    code = (
        "import agr.jobs.sweep, sys; assert not {'torch', 'timm', 'submitit'} & {*sys.modules}, "
        "sorted({'torch', 'timm', 'submitit'} & {*sys.modules})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- what is submitted ---------------------------------------------------------------------------


def cells_in(outputs: Path, *words: str) -> list[Cell]:
    return expand([f"outputs={outputs}", "n_images=12", *SMALL, *words])


class NowherePool:
    """Jobs that are over as soon as they are begun; `undone` of them did nothing."""

    def __init__(self) -> None:
        self.begun: list[Task] = []
        self.undone = 0
        self.interrupt = False
        self.left: list[Task] = []

    def begin(self, tasks: list[Task]) -> None:
        self.begun += tasks

    def ended(self, tasks: list[Task]) -> list[Task]:
        if self.interrupt:
            raise KeyboardInterrupt
        return tasks[:1]

    def leave(self, tasks: list[Task]) -> None:
        self.left += tasks


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> NowherePool:
    pool = NowherePool()

    def failure(task: Task) -> str | None:
        return "Slurm says CANCELLED" if task in pool.begun[: pool.undone] else None

    monkeypatch.setattr(agr.jobs.sweep, "SlurmJobPool", lambda launcher: pool)
    monkeypatch.setattr(agr.jobs.sweep, "failure_of", failure)
    return pool


def test_finished_cells_are_left_out(
    tmp_path: Path,
    pool: NowherePool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["hydra/launcher=slurm", "hydra.launcher.partition=gpu", "eps=2,4,8", "shards=2"]
    cells = cells_in(tmp_path, *words)
    missing = {2.0: {1, 3, 5}, 4.0: {0, 2}, 8.0: {0, 11}}  # eps 2 has its first shard, ...
    everything = set(range(cells[0].config.n_images))
    monkeypatch.setattr(agr.jobs.tasks, "_done", lambda c, run: everything - missing[c.config.eps])
    pool.undone = 1
    assert sweep(Launcher("slurm", {}), ["-m", *words], cells) == 1
    assert [t.cell.config.shard for t in pool.begun] == ["1/2", "0/2", "0/2", "1/2"]
    assert pool.begun[0].overrides[-2:] == ["eps=2", "shard=1/2"]
    assert not any("launcher" in word for t in pool.begun for word in t.overrides)
    out = capsys.readouterr().out
    assert "6 jobs: 2 finished before, 4 to do" in out
    assert "python -m agr.status -m eps=2,4,8 shards=2\n" in out
    assert "[1/4] failed: agr linf 2 vgg16 shard 1/2\n[2/4] done: agr linf 4 vgg16 shard 0/2" in out
    assert "1 of 4 jobs failed; the same command does what is missing" in out
    missing.update({eps: set() for eps in missing})
    pool.begun.clear()
    assert sweep(Launcher("slurm", {}), ["-m", *words], cells) == 0
    assert pool.begun == []
    assert "6 jobs: 6 finished before, nothing is missing" in capsys.readouterr().out


def test_who_stops_waiting_leaves_the_jobs(tmp_path: Path, pool: NowherePool) -> None:
    pool.interrupt = True
    with pytest.raises(KeyboardInterrupt):
        sweep(Launcher("slurm", {}), ["eps=2,4"], cells_in(tmp_path, "eps=2,4"))
    assert len(pool.left) == 2


def test_a_cell_is_submitted_once_and_no_shard_without_images(tmp_path: Path) -> None:
    assert len(different(cells_in(tmp_path, "eps=4,4.0,8"))) == 2
    shards = different(cells_in(tmp_path, "n_images=3", "shards=5"))
    assert [c.config.shard for c in shards] == ["0/5", "1/5", "2/5"]


def test_arrays_are_no_larger_than_the_cluster_takes(tmp_path: Path) -> None:
    (cell,) = cells_in(tmp_path)
    tasks = [Task(cell) for _ in range(10)]
    assert [len(part) for part in batches(tasks, 4)] == [4, 4, 2]
    assert [t for part in batches(tasks, 4) for t in part] == tasks
    assert [len(part) for part in batches(tasks, 10)] == [10]
    assert batches([], 4) == []


# ---- the job -------------------------------------------------------------------------------------


def test_a_pickled_job_is_found_under_its_name(tmp_path: Path) -> None:
    from submitit.core.utils import DelayedSubmission

    job = Job(["eps=2", "shard=3/8"])
    DelayedSubmission(job).dump(tmp_path / "job.pkl")
    assert overrides_of(tmp_path / "job.pkl") == ("eps=2", "shard=3/8")
    assert b"agr.jobs.slurm_job" in (tmp_path / "job.pkl").read_bytes()
    assert job.checkpoint().function == job
    assert overrides_of(tmp_path / "none.pkl") == ()
    (tmp_path / "other.pkl").write_bytes(pickle.dumps("other"))
    assert overrides_of(tmp_path / "other.pkl") == ()


@pytest.fixture
def interrupted_run(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A run that gets a signal, and more of them while it writes what is finished."""
    import agr.jobs.session

    said: list[str] = []

    def run_overrides(words: list[str]) -> None:
        number = int(words[0])
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
            said.append("not stopped")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), number)
            said.append("written")

    monkeypatch.setattr(agr.jobs.session, "run_overrides", run_overrides)
    before = {n: signal.getsignal(n) for n in STOPPING}
    yield said
    for n, handler in before.items():
        signal.signal(n, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_job_writes_first_and_once(number: int, interrupted_run: list[str]) -> None:
    with pytest.raises(SystemExit) as e:
        Job([str(int(number))])()
    assert e.value.code == 128 + number
    assert interrupted_run == ["written"]


def test_a_job_out_of_time_writes_before_it_is_requeued(interrupted_run: list[str]) -> None:
    def requeue(number: int, frame: object) -> None:  # as submitit's handler
        interrupted_run.append("requeued")
        raise SystemExit(-1)

    signal.signal(signal.SIGUSR2, requeue)
    with pytest.raises(SystemExit) as e:
        Job([str(int(signal.SIGUSR2))])()
    assert e.value.code == -1
    assert interrupted_run == ["written", "requeued"]


def test_a_job_leaves_signals_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    import agr.jobs.session

    ran = []
    monkeypatch.setattr(agr.jobs.session, "run_overrides", ran.append)
    before = signal.getsignal(signal.SIGTERM)
    Job(["eps=2"])()
    assert ran == [["eps=2"]]
    assert signal.getsignal(signal.SIGTERM) is before


# ---- when a job is over, and how -----------------------------------------------------------------


@pytest.fixture
def task(tmp_path: Path) -> Task:
    from submitit.core.utils import JobPaths

    (cell,) = cells_in(tmp_path)
    paths = JobPaths(tmp_path / "%j", job_id="7_0")
    paths.folder.mkdir()
    return Task(cell, id="7_0", paths=paths)


def answers(monkeypatch: pytest.MonkeyPatch, *said: dict[str, tuple[str, str]] | None) -> None:
    """What squeue says, time after time, to one who asks without waiting."""
    left = list(said)
    monkeypatch.setattr(agr.jobs.pools, "poll_slurm", lambda: left.pop(0))
    monkeypatch.setattr(agr.jobs.pools, "GLANCE", 0.0)
    monkeypatch.setattr(agr.jobs.pools, "AGAIN", 0.0)
    monkeypatch.setattr(agr.jobs.pools, "OFTEN", 0.0)


def slurm_pool() -> SlurmJobPool:
    params = {"cpus_per_task": 2, "setup": None, "additional_parameters": {"requeue": False}}
    return SlurmJobPool(Launcher("slurm", params))


def test_a_job_is_over_when_slurm_says_so_twice(
    task: Task, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    over = {"7_0": ("CANCELLED", "None"), "8": ("RUNNING", "None")}
    on = [{"7_0": (s, "None")} for s in ("RUNNING", "COMPLETING", "SUSPENDED", "CONFIGURING")]
    held = {"7_0": ("PENDING", "JobHeldAdmin")}
    answers(monkeypatch, *on, over, on[0], None, over, held, held, {}, None, over)
    pool = slurm_pool()
    assert [bool(pool.ended([task])) for _ in range(13)] == [False] * 12 + [True]
    assert task.state == "Slurm says CANCELLED"
    said = capsys.readouterr().out
    assert said.count("Slurm has job 7_0, if not others, wait: JobHeldAdmin") == 1
    assert said.count("waiting for it") == 1


def test_a_forgotten_job_is_over(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, {}, {})
    pool = slurm_pool()
    assert pool.ended([task]) == []
    assert pool.ended([task]) == [task]
    assert failure_of(task) == "the job is gone, and left no result"


def test_a_result_ends_a_job(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, {"7_0": ("RUNNING", "None")})
    assert task.paths is not None
    task.paths.result_pickle.write_bytes(pickle.dumps(("success", None)))
    assert slurm_pool().ended([task]) == [task]
    assert failure_of(task) == "the job ended well, but rows are missing"


def test_options_of_sbatch_that_are_false_are_left_out() -> None:
    params = slurm_pool().launcher.params
    assert params["additional_parameters"] == {}
    assert params["setup"] == ["export SRUN_CPUS_PER_TASK=2"]


def test_what_the_records_hold_counts(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that was cancelled when all was done did its cell."""
    monkeypatch.setattr(agr.jobs.tasks, "_missing", lambda cell, run, done: 0)
    task.state = "Slurm says CANCELLED"
    assert failure_of(task) is None
    assert task.paths is not None
    task.paths.result_pickle.write_bytes(pickle.dumps(("error", "Traceback\nValueError: no")))
    assert failure_of(task) == "Traceback\nValueError: no"


def test_rows_of_bad_images_are_not_waited_for(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    task.state = "Slurm says COMPLETED"
    monkeypatch.setattr(Records, "run", lambda self: RunInfo(lost=list(range(11))))
    assert failure_of(task) == "Slurm says COMPLETED"
    monkeypatch.setattr(Records, "run", lambda self: RunInfo(lost=list(range(12))))
    assert failure_of(task) is None


def test_what_is_missing_is_what_a_run_would_do(tmp_path: Path) -> None:
    """By the records of a real run: shard 0 of 2, for one of two targets."""
    words = ["attack=fgsm", "targets=[vgg16]", "n_images=5"]
    (half,) = cells_in(tmp_path, *words, "shard=0/2")
    assert undone([half]) == [half]
    run_cell(half, lambda _: None)
    shards = cells_in(tmp_path, *words, "shards=2")
    assert [c.config.shard for c in undone(shards)] == ["1/2"]
    assert [c.config.shard for c in undone(cells_in(tmp_path, *words, "shards=4"))] == [
        "1/4",
        "3/4",
    ]
    more = cells_in(tmp_path, *words, "targets=[vgg16,vgg19]", "shard=0/2")
    assert undone(more) == more
    next(half.folder.glob("rows-*")).write_bytes(b"damaged")
    assert len(undone(shards)) == 2


def test_a_traceback_begins_with_what_is_ours() -> None:
    file, call = agr.jobs.slurm_job.__file__, "run_overrides(self.overrides)"
    ours = f'  File "{file}", line 5, in __call__\n    {call}'
    text = f'Traceback (most recent call last):\n  File "submitit.py"\n{ours}\nValueError: no\n'
    assert shortened(text) == f"Traceback (most recent call last):\n{ours}\nValueError: no"
    mended = f"{text}agr.utils.errors.ConfigError: network vgg16: there is no weight file: fetch it"
    assert shortened(mended) == "network vgg16: there is no weight file: fetch it"
    assert shortened("ValueError: a\nb") == "ValueError: a\nb"
    late = f"{ours}\nsubmitit.core.utils.UncompletedJobError: Job not requeued because: too often"
    assert shortened(late) == "Job not requeued because: too often"


def test_the_report_names_cell_reason_command_and_log(task: Task) -> None:
    fine = Task(task.cell)
    assert report([fine]) == "1 job done"
    task.failure = "Traceback\nValueError: no"
    again = Task(task.cell, id="9", failure=task.failure)
    assert "\n  ValueError: no (as agr linf 10 vgg16)\n" in report([task, again])
    assert report([fine, task]).splitlines() == [
        "",
        "",
        "agr linf 10 vgg16, job 7_0:",
        "  Traceback",
        "  ValueError: no",
        f"  its command: python -m agr.run {' '.join(task.overrides)}",
        f"  its log: {task.paths.stdout}",
        "",
        "1 of 2 jobs failed; the same command does what is missing",
    ]


class Process:
    """A process that ends when asked for the third time."""

    def __init__(self, number: int, folder: Path):
        from submitit.core.utils import JobPaths

        self.job_id, self.asked = str(number), 0
        self.paths = JobPaths(folder / "%j", job_id=self.job_id)

    def done(self) -> bool:
        self.asked += 1
        return self.asked > 2


def test_processes_are_as_many_at_once_as_there_are_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agr.jobs.pools, "GLANCE", 0.0)
    monkeypatch.setattr(agr.jobs.pools, "_cores", lambda: 5)
    made: list[Process] = []

    class Executor:
        def submit_array(self, jobs: list[Job]) -> list[Process]:
            made.append(Process(len(made), tmp_path))
            return made[-1:]

    monkeypatch.setattr(agr.jobs.pools, "executor_of", lambda launcher: Executor())
    pool = LocalJobPool(Launcher("local", {"cpus_per_task": 2, "submitit_folder": "x/%j"}))
    tasks = [Task(cell) for cell in cells_in(tmp_path, "eps=2,4,6,8,10")]
    pool.begin(tasks)
    left, most = list(tasks), 0
    while left:
        for over in pool.ended(left):
            left.remove(over)
        most = max(most, sum(bool(t.process) for t in left))
    assert (len(made), most) == (5, 2)
    assert LocalJobPool(Launcher("local", {"cpus_per_task": 64})).at_once == 1


# ---- real jobs -----------------------------------------------------------------------------------

COMMAND = [sys.executable, "-m", "agr.run"]
ON_SLURM = [
    "-m",
    "hydra/launcher=slurm",
    "hydra.launcher.partition=main",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.gpus_per_node=null",
    "hydra.launcher.mem_gb=1",
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    place = tmp_path_factory.mktemp("cluster") / "slurm"
    try:
        with slurm(place) as running:
            yield running
    except NoSlurm as e:
        pytest.skip(str(e))


class Submitted:
    """The command of a sweep on the cluster, at work."""

    def __init__(self, cluster: Slurm, place: Path, *words: str):
        self.cluster, self.place = cluster, place
        self.words = [*ON_SLURM, f"outputs={place / 'out'}", *SMALL, *words]
        self.env = cluster.env | {"PYTHONPATH": f"{place}:{ROOT}"}
        self.known = {*cluster.states()}
        self.cells: dict[str, Cell] = {}
        self.process = subprocess.Popen(
            [*COMMAND, *self.words],
            env=self.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def end(self, seconds: float) -> tuple[int, str]:
        """Its exit code and what it said."""
        out, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode, out

    def jobs(self) -> list[str]:
        """Its jobs, by Slurm's id."""
        return [job_id for job_id in self.cluster.states() if job_id not in self.known]

    def cell(self, job_id: str) -> Cell:
        if job_id not in self.cells:
            path = self.place / "out/sweep/.submitit" / job_id / f"{job_id}_submitted.pkl"
            self.cells[job_id] = expand(overrides_of(path))[0]
        return self.cells[job_id]

    def begun(self, node: str) -> str | None:
        """The job that runs there, if it has recorded something, but not all."""
        for job_id in self.cluster.running_on(node):
            if job_id not in self.known:
                cell = self.cell(job_id)
                have = len(Records(cell.folder).positions("rows"))
                if 0 < have < cell.config.n_images // 2:
                    return job_id
        return None

    def restarts(self, job_id: str) -> int:
        said = self.cluster.say("scontrol", "show", "job", job_id)
        return int(said.split("Restarts=")[1].split()[0])


@pytest.fixture
def submit(cluster: Slurm, tmp_path: Path) -> Iterator[Callable[..., Submitted]]:
    """Submits a sweep, given its words; what is left of it ends with the test."""
    submitted: list[Submitted] = []

    def start(*words: str) -> Submitted:
        submitted.append(Submitted(cluster, tmp_path, *words))
        return submitted[-1]

    yield start
    for one in submitted:
        one.process.kill()
        one.process.communicate()
    cluster.say("scancel", "-u", "root")


def until(found: Callable[[], Any], what: str, seconds: float = 90) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"not after {seconds} s: {what}"
        time.sleep(0.05)
    return value


def rows_of(cell: Cell) -> pd.DataFrame:
    """All rows in all parts, as they stand there: what was made twice would be here twice."""
    frames = [pd.read_parquet(path) for path in sorted(cell.folder.glob("rows-*.parquet"))]
    return pd.concat(frames).sort_values(["position", "target"]).reset_index(drop=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_terminals_signals_reach_the_command_alone(number: int) -> None:
    """Also one that comes while a process of this machine is started."""
    heard, before = [], signal.signal(number, lambda n, frame: heard.append(n))
    try:
        with _deaf_children():
            program = "import time; print(flush=True); time.sleep(60)"
            child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
            os.kill(os.getpid(), number)
        assert child.stdout
        assert child.stdout.readline()
        child.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.2)
        child.terminate()
        child.communicate(timeout=10)
        assert child.returncode == -signal.SIGTERM
        assert heard == [number]
    finally:
        signal.signal(number, before)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_terminal_stops_processes_of_this_machine(number: int, code: int, tmp_path: Path) -> None:
    """They write what is finished, and the same command goes on."""
    words = ["-m", "hydra/launcher=local", f"outputs={tmp_path}", *SMALL]
    words += ["hydra.launcher.cpus_per_task=1", "attack=mifgsm", "shards=2"]
    words += ["n_images=160", "part_seconds=1"]
    command = subprocess.Popen([*COMMAND, *words], start_new_session=True, stdout=subprocess.PIPE)
    (cell,) = cells_in(tmp_path, "attack=mifgsm", "n_images=160")
    try:
        until(lambda: list(cell.folder.glob("rows-*")), "rows")
        os.killpg(command.pid, number)  # as a terminal does
        command.communicate(timeout=60)
    finally:
        command.kill()
    assert command.returncode == code
    jobs = {int(p.name) for p in (tmp_path / "sweep/.submitit").iterdir() if p.name.isdigit()}
    assert jobs
    assert not any(map(psutil.pid_exists, jobs))
    assert not list(cell.folder.glob(".shard*"))
    assert 0 < len(rows_of(cell)) < 160 * 3
    if number == signal.SIGHUP:  # goes on as after Ctrl-C
        return
    done = subprocess.run([*COMMAND, *words], check=True, capture_output=True, timeout=200)
    assert b"jobs done" in done.stdout
    assert len(rows_of(cell)) == 160 * 3


@pytest.mark.slow
@pytest.mark.xdist_group("slurm")
def test_a_sweep_survives_what_happens_on_a_cluster(
    cluster: Slurm,
    submit: Callable[..., Submitted],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """Of 6 jobs one is cancelled, one preempted, and one loses its machine; then once more."""
    words = ["attack=ifgsm,mifgsm,agr", "eps=2,4", "n_images=96", "part_seconds=0"]
    first = submit(*words)
    cancelled = until(lambda: first.begun("n1"), "a job at work on n1")
    cluster.say("scancel", cancelled)
    preempted = until(lambda: first.begun("n2"), "a job at work on n2")
    cluster.say("sbatch", "-p", "urgent", "-w", "n2", "-o", "/dev/null", "--wrap", "sleep 1")
    until(lambda: cluster.states()[preempted] != "RUNNING", "the job has made way")
    bereft = until(lambda: first.begun("n1"), "another job at work on n1")
    cluster.kill_node("n1")
    alone = [f"outputs={tmp_path / 'alone'}", *SMALL, *words]
    run = [sys.executable, "-m", "agr.run", "-m", *alone]  # on the core that is free now
    undisturbed = subprocess.Popen(run, stdout=subprocess.DEVNULL, cwd=ROOT)
    request.addfinalizer(undisturbed.wait)
    request.addfinalizer(undisturbed.kill)
    cluster.wait_for_node("n1", "down", 90)
    cluster.start_node("n1")
    code, said = first.end(300)
    assert code == 1, said
    assert "6 jobs: 0 finished before, 6 to do" in said
    # MaxArraySize is 4 here
    assert said.count(" jobs submitted, logs in ") == 2
    assert said.count("] done: ") == 5
    lost = first.cell(cancelled)
    assert f"failed: {Task(lost).name}" in said
    assert f"{Task(lost).name}, job {cancelled}:\n  Slurm says CANCELLED\n" in said
    assert f"{cancelled}_0_log.err" in said
    assert [first.restarts(j) for j in (cancelled, preempted, bereft)] == [0, 1, 1]

    again = submit(*words)
    code, said = again.end(120)
    assert code == 0, said
    assert "6 jobs: 5 finished before, 1 to do" in said
    assert len(again.jobs()) == 1
    code, said = submit(*words).end(60)
    assert code == 0, said
    assert "6 finished before, nothing is missing" in said

    assert undisturbed.wait(200) == 0
    for cell in expand(alone):
        expected = rows_of(cell)
        assert len(expected) == 96 * 3
        survived = rows_of(expand([*cell.overrides, f"outputs={tmp_path / 'out'}"])[0])
        assert_same_bits(survived, expected)


ONES_OWN = """
import os, time
from dataclasses import dataclass
from agr.attacks.parts import Stateless

@dataclass(frozen=True)
class Fails(Stateless):
    def update(self, g, s, c):
        raise ZeroDivisionError("a part of one's own")

@dataclass(frozen=True)
class Slow(Stateless):  # the first time
    def update(self, g, s, c):
        time.sleep(0 if "SLURM_RESTART_COUNT" in os.environ else 1.5)
        return g, s
"""


@pytest.fixture
def parts_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """attack=fails, attack=slow, and the words for them; jobs find them by PYTHONPATH."""
    monkeypatch.syspath_prepend(tmp_path)  # their code is part of a cell's identity
    (tmp_path / "ones_own.py").write_text(ONES_OWN)
    (tmp_path / "my" / "attack").mkdir(parents=True)
    for name in ("Fails", "Slow"):
        text = (
            f"defaults: [fgsm]\nname: {name.lower()}\ntitle: {name}\nchain:\n"
            f"  smooth:\n    _target_: ones_own.{name}\n"
        )
        (tmp_path / "my" / "attack" / f"{name.lower()}.yaml").write_text(text)
    return [f"hydra.searchpath=[{tmp_path / 'my'}]", "allow=[ones_own]"]


@pytest.mark.slow
@pytest.mark.xdist_group("slurm")
def test_errors_are_shown_and_the_others_finish(
    cluster: Slurm,
    submit: Callable[..., Submitted],
    tmp_path: Path,
    parts_of_ones_own: list[str],
) -> None:
    """In two shards each; and a command that was stopped finds its jobs again."""
    words = [*parts_of_ones_own, "attack=fails,fgsm", "shards=2", "n_images=12"]
    nodes = ("scontrol", "update", "nodename=n1,n2")
    # jobs wait until both commands have been here
    cluster.say(*nodes, "state=drain", "reason=test")
    try:
        first = submit(*words)
        until(lambda: len(first.jobs()) == 4, "four jobs")
        first.process.send_signal(signal.SIGINT)
        code, said = first.end(60)
        assert code == 130, said
        assert "the jobs go on: scancel " in said
        second = submit(*words)
        assert second.process.stdout is not None
        begun = [second.process.stdout.readline()]
        while begun[-1] and "Ctrl-C leaves the jobs running" not in begun[-1]:
            begun.append(second.process.stdout.readline())
    finally:
        cluster.say(*nodes, "state=resume")
    code, said = second.end(150)
    said = "".join(begun) + said
    assert code == 1, said
    assert "of an earlier submission on their way" in said
    assert not second.jobs()
    assert said.count("ZeroDivisionError: a part of one's own") == 2
    assert 'ones_own.py", line 9, in update' in said
    assert "fails linf 10 vgg16 shard 0/2, job " in said
    assert said.count("] done: fgsm linf 10 vgg16 shard ") == 2
    cells = expand([f"outputs={tmp_path / 'out'}", *SMALL, *parts_of_ones_own, "attack=fgsm"])
    assert len(rows_of(cells[0])) == 12 * 3


@pytest.mark.slow
@pytest.mark.xdist_group("slurm")
def test_a_job_out_of_time_goes_on(
    submit: Callable[..., Submitted], tmp_path: Path, parts_of_ones_own: list[str]
) -> None:
    """After Slurm's own limit, with nothing written but what the signal made it write."""
    limits = ["hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=10"]
    words = [*limits, *parts_of_ones_own, "attack=slow", "n_images=320", "part_seconds=999"]
    sweep = submit(*words)
    (job_id,) = until(sweep.jobs, "the job")
    until(lambda: sweep.restarts(job_id), "a restart", 120)
    cell = sweep.cell(job_id)
    early = len(Records(cell.folder).positions("rows"))
    assert 0 < early < 320
    code, said = sweep.end(200)
    assert code == 0, said
    assert len(rows_of(cell)) == 320 * 3
