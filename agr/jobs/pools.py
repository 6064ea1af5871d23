"""Pools of jobs: on a Slurm cluster, or on this machine."""

from __future__ import annotations

import io
import os
import pickle
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from agr.jobs.launcher import Launcher, executor_of
from agr.jobs.slurm_job import Job
from agr.jobs.tasks import Task
from agr.utils.errors import ConfigError
from agr.utils.signals import unbroken
from agr.utils.text import plural

if TYPE_CHECKING:
    from submitit import AutoExecutor

ARRAY_SIZE = 1000  # of a cluster that doesn't say: its MaxArraySize is 1001 unless set
# A job in another state goes on or will: it waits, is requeued or suspended, or is cleared away.
OVER = re.compile(
    "BOOT_FAIL|CANCELLED|COMPLETED|DEADLINE|FAILED|NODE_FAIL|OUT_OF_MEMORY|PREEMPTED|REVOKED"
    "|TIMEOUT"
)
ORDINARY = ("None", "Priority", "Resources", "BeginTime", "JobArrayTaskLimit", "Dependency")
HINTS = {
    "OUT_OF_MEMORY": ": give a larger hydra.launcher.mem_gb",
    "TIMEOUT": ": give a larger hydra.launcher.timeout_min",
}
POLLS = 2  # in a row that must find a job over: one that is requeued may seem so for a moment
GLANCE = 2.0  # seconds between checks for results, which cost the cluster nothing
AGAIN, OFTEN, SELDOM = 3.0, 5.0, 30.0  # seconds between questions to Slurm
GRACE = 20.0  # seconds for processes of this machine to write what is finished


class SlurmJobPool:
    """Jobs of a Slurm cluster, in arrays."""

    def __init__(self, launcher: Launcher):
        p = launcher.params
        # From Slurm 22.05 on, srun does not take this over from sbatch.
        setup = [f"export SRUN_CPUS_PER_TASK={p['cpus_per_task']}"] if p["cpus_per_task"] else []
        more = {k: v for k, v in p["additional_parameters"].items() if v not in (None, False)}
        p = p | {"setup": setup + (p["setup"] or []), "additional_parameters": more}
        self.launcher = launcher._replace(params=p)
        self.next, self.pause = 0.0, OFTEN
        self._noted: set[str] = set()

    def begin(self, tasks: Sequence[Task]) -> None:
        """Submit what no earlier submission has on its way, in as few arrays as Slurm takes.

        Raises ConfigError if Slurm refuses; what it took before goes on.
        """
        executor = executor_of(self.launcher)
        self._find_earlier(tasks)
        new = [task for task in tasks if not task.id]
        if earlier := len(tasks) - len(new):
            print(
                f"{plural(earlier, 'job')} of an earlier submission on their way: waiting for them"
            )
        for batch in batches(new, _array_size()):
            self._submit(executor, batch)
        print("Ctrl-C leaves the jobs running; the same command again does only what is missing")

    def _find_earlier(self, tasks: Sequence[Task]) -> None:
        from submitit.core.utils import JobPaths

        listed = poll_slurm()
        if listed is None:
            raise ConfigError("Slurm doesn't answer (squeue fails): try again when it does")
        by_overrides = {tuple(task.overrides): task for task in tasks}
        for job_id, (state, _) in listed.items():
            paths = JobPaths(self.launcher.params["submitit_folder"], job_id=job_id)
            task = by_overrides.get(overrides_of(paths.submitted_pickle))
            if task and not OVER.fullmatch(state):
                task.id, task.paths = job_id, paths

    def _submit(self, executor: AutoExecutor, tasks: Sequence[Task]) -> None:
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        try:
            # submitit prints what it raises; who stops here must know what was submitted
            with unbroken(), _outside_a_job(), redirect_stderr(io.StringIO()):
                jobs = executor.submit_array(_jobs(tasks, self.launcher))
                for task, job in zip(tasks, jobs, strict=True):
                    _give(task, job)
        except (FailedJobError, FailedSubmissionError) as e:
            lines = [line.removeprefix("sbatch: error: ") for line in str(e).splitlines()]
            raise ConfigError(
                f"Slurm refuses the jobs: {'; '.join(filter(str.strip, lines))}: change "
                "hydra.launcher.… (conf/hydra/launcher/slurm.yaml has the keys)"
            ) from e
        number = tasks[0].id.partition("_")[0]
        folder = self.launcher.params["submitit_folder"].replace("%j", f"{number}*")
        print(f"job {number}: {plural(len(tasks), 'job')} submitted, logs in {folder}", flush=True)

    def ended(self, tasks: Sequence[Task]) -> list[Task]:
        """Return tasks with a result, and those that Slurm twice called over or didn't list."""
        time.sleep(GLANCE)
        if time.monotonic() >= self.next:
            self._ask(tasks)
            self.next = time.monotonic() + (AGAIN if any(t.polls for t in tasks) else self.pause)
        return [t for t in tasks if t.polls >= POLLS or (not t.waits and t.has_result())]

    def _ask(self, tasks: Sequence[Task]) -> None:
        self.pause = min(1.5 * self.pause, SELDOM)
        listed = poll_slurm()
        if listed is None:
            self._note_once("Slurm doesn't answer", "waiting for it")
            return
        for task in tasks:
            state, reason = listed.get(task.id, ("", ""))
            task.polls = task.polls + 1 if not state or OVER.fullmatch(state) else 0
            task.state = f"Slurm says {state}{HINTS.get(state, '')}" if state else task.state
            task.waits = state == "PENDING"
            if task.waits and reason not in ORDINARY:
                self._note_once(reason, f"Slurm has job {task.id}, if not others, wait: {reason}")

    def _note_once(self, about: str, text: str) -> None:
        if about not in self._noted:
            self._noted.add(about)
            print(f"note: {text}", flush=True)

    def leave(self, tasks: Sequence[Task]) -> None:
        """Say that the jobs go on, and what stops them."""
        ids = dict.fromkeys(
            task.id.partition("_")[0] for task in tasks if task.id and not task.over
        )
        if ids:
            print(f"the jobs go on: scancel {' '.join(ids)} stops them", flush=True)


def poll_slurm() -> dict[str, tuple[str, str]] | None:
    """Ask Slurm for the (state, reason) of all jobs of this user, by id ("12", "12_3").

    Returns None if Slurm doesn't answer. Not through sacct, since many clusters keep no accounts,
    and not by id, since squeue fails for one that it has forgotten.
    """
    command = ["squeue", "-h", "-r", "-t", "all", "-u", str(os.getuid()), "-o", "%i|%T|%r"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if said.returncode:
        return None
    rows = (line.split("|", 2) for line in said.stdout.splitlines() if line.count("|") >= 2)
    return {job_id: (state, reason) for job_id, state, reason in rows}


def batches(tasks: Sequence[Task], most: int) -> list[Sequence[Task]]:
    """Split `tasks`, in their order, into lists of at most `most`."""
    return [tasks[i : i + most] for i in range(0, len(tasks), most)]


def _array_size() -> int:
    """Number of jobs that the cluster takes in one array."""
    try:
        answer = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True)
    except OSError:
        return ARRAY_SIZE
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer.stdout, re.MULTILINE)
    return max(1, int(match[1])) if match else ARRAY_SIZE


def overrides_of(pickled: Path) -> tuple[str, ...]:
    """Return the overrides of a job that submitit keeps in `pickled`; () if it is none of ours."""
    if not pickled.exists():
        return ()
    try:
        return tuple(pickle.loads(pickled.read_bytes()).function.overrides)
    except Exception:  # of another version of something: what pickle then raises is anyone's guess
        return ()


def _jobs(tasks: Sequence[Task], launcher: Launcher) -> list[Job]:
    return [Job(task.overrides, launcher.params["cpus_per_task"]) for task in tasks]


def _give(task: Task, job: object) -> None:
    """Give a task the job that submitit started for it."""
    task.id, task.paths = job.job_id, job.paths  # type: ignore[attr-defined]
    # Numbers come again, those of processes above all: an older job's result is not this one's,
    # which may be there already.
    with suppress(FileNotFoundError):
        result, submitted = task.paths.result_pickle, task.paths.submitted_pickle
        if result.stat().st_mtime_ns < submitted.stat().st_mtime_ns:
            result.unlink()


@contextmanager
def _outside_a_job() -> Iterator[None]:
    """Hide the job that this command itself may run in, whose options sbatch would take over."""
    from submitit.helpers import clean_env

    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    where = {k: v for k, v in os.environ.items() if k == "SLURM_CONF"}
    with clean_env():
        os.environ.update(where)
        yield


class LocalJobPool:
    """Processes of this machine, as many at once as it has cores for."""

    def __init__(self, launcher: Launcher):
        self.launcher = launcher
        self.at_once = max(1, _cores() // (launcher.params["cpus_per_task"] or 1))

    def begin(self, tasks: Sequence[Task]) -> None:
        """Say what will run: `ended` starts processes as others end."""
        self.executor = executor_of(self.launcher)
        folder = self.launcher.params["submitit_folder"].replace("%j", "*")
        print(f"{plural(len(tasks), 'job')}, {self.at_once} at once, logs in {folder}")
        print("Ctrl-C stops them; the same command again does only what is missing", flush=True)

    def ended(self, tasks: Sequence[Task]) -> list[Task]:
        """Return tasks whose process has ended, and start others in their places."""
        running = [task for task in tasks if task.process]
        waiting = [task for task in tasks if not task.process]
        for task in waiting[: max(0, self.at_once - len(running))]:
            with unbroken(), _deaf_children():  # `leave` must know of every process
                (task.process,) = self.executor.submit_array(_jobs([task], self.launcher))
                _give(task, task.process)
        time.sleep(GLANCE / 4)
        return [task for task in running if task.process.done()]

    def leave(self, tasks: Sequence[Task]) -> None:
        """Have the processes write what is finished, and end."""
        running = [task for task in tasks if task.process and not task.process.done()]
        for task in running:
            os.kill(int(task.id), signal.SIGTERM)  # submitit's process hands it on to the job's
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline and not all(task.process.done() for task in running):
            time.sleep(0.1)


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Block what a terminal sends to all, and leave processes started inside deaf to it.

    Submitit's own would die at once of SIGHUP, and give the job a second after Ctrl-C. The command
    gets the signal too, also one that comes in here, and has them end in order (`leave`).
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _cores() -> int:
    """Number of cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


JobPool: TypeAlias = SlurmJobPool | LocalJobPool
