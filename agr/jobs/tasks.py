"""The cells of a sweep that need a job, and the outcome of each job."""

from __future__ import annotations

import pickle
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import agr.jobs.slurm_job
from agr.config.cell import Cell
from agr.config.overrides import shell_command
from agr.jobs.launcher import of_launcher
from agr.records.precision import twin
from agr.records.progress import Wanted, complete
from agr.records.run_info import RunInfo
from agr.records.store import Records
from agr.utils.errors import ConfigError
from agr.utils.text import plural

if TYPE_CHECKING:
    from submitit.core.utils import JobPaths


@dataclass(eq=False)
class Task:
    """A cell's shard, and the job that does it."""

    cell: Cell
    id: str = ""  # of the job: Slurm's "12", "12_3" in an array, or a process
    paths: JobPaths | None = None  # submitit's, of the job's log files and result
    process: Any = None  # submitit's, of a job on this machine
    state: str = ""  # what was said of the job last
    waits: bool = False  # in the queue
    polls: int = 0  # that found the job over, in a row
    over: bool = False
    failure: str | None = None  # why it wasn't done

    @property
    def name(self) -> str:
        """Name on screen: what differs in most sweeps."""
        c = self.cell.config
        shard = f" shard {c.shard}" if self.cell.shard[1] > 1 else ""
        return f"{c.attack.name} {c.norm.name} {c.eps:g} {self.cell.source}{shard}"

    @property
    def overrides(self) -> list[str]:
        """Overrides of its command line, without those for the launcher."""
        return [word for word in self.cell.overrides if not of_launcher(word)]

    @property
    def log(self) -> str:
        """Path of the log file with the job's errors."""
        if self.paths is None:
            return "none"
        return str(self.paths.stderr if self.paths.stderr.exists() else self.paths.stdout)

    def has_result(self) -> bool:
        """Return whether submitit has left the job's result."""
        if self.paths is None:
            return False
        refresh(self.paths.folder)
        return self.paths.result_pickle.exists()


def different(cells: Iterable[Cell]) -> list[Cell]:
    """Drop cells that are there twice, and shards without images."""
    once = {(str(cell.folder), repr(cell.config)): cell for cell in cells}
    return [cell for cell in once.values() if len(Wanted(cell, Records(cell.folder).run()))]


def undone(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells (and shards) that lack something, a comparison with fp32 included.

    A cell's records are read once for all of its shards. Raises ConfigError for a run.json that
    can't be read.
    """
    known: dict[str, tuple[RunInfo | None, set[int]]] = {}
    found = []
    for cell in cells:
        whole = cell.whole
        key = f"{whole.folder} {whole.config}"
        if key not in known:
            run = Records(whole.folder).run()
            known[key] = run, _done(whole, run)
        if _missing(cell, *known[key]):
            found.append(cell)
    return found


def _done(cell: Cell, run: RunInfo | None) -> set[int]:
    """Positions of a cell that lack nothing; none where a run has to do more than images."""
    if run is None or (twin(cell) and not run.against_fp32):
        return set()
    return (
        complete(cell, Records(cell.folder), run) or set()
    )  # of a damaged part a run does the images again


def _missing(cell: Cell, run: RunInfo | None, done: Collection[int]) -> int:
    """Count the positions of a cell's shard that are not among the `done` ones."""
    wanted = Wanted(cell, run)
    return len(wanted) - len(wanted.of(done))


def failure_of(task: Task) -> str | None:
    """Return why the ended job of a task did not finish its cell; None if it did."""
    outcome, text = _result(task.paths.result_pickle) if task.paths else ("", "")
    if outcome == "error":
        return shortened(text)
    try:
        refresh(task.cell.folder)
        run = Records(task.cell.folder).run()
        lost = run.lost if run else ()  # files that went bad
        if not _missing(task.cell, run, _done(task.cell, run) | {*lost}):
            return None
    except ConfigError as e:
        return str(e)
    if outcome == "success":
        return "the job ended well, but rows are missing"
    return task.state or "the job is gone, and left no result"


def _result(path: Path) -> tuple[str, str]:
    """Read submitit's ("success", …) or ("error", traceback); ("", "") if the job left none."""
    refresh(path.parent)
    try:
        outcome, value = pickle.loads(path.read_bytes())
        return outcome, str(value)
    except Exception:  # there is none, or half of one; the records say what is done
        return "", ""


def refresh(folder: Path) -> None:
    """Make a shared file system show what is in `folder` now, rather than a minute ago."""
    try:
        folder.chmod(folder.stat().st_mode & 0o7777)
    except OSError:  # not ours, or not there
        return


def shortened(traceback: str) -> str:
    """Cut a traceback to our part; of an error of ours or submitit's, keep only its text."""
    lines = traceback.strip().splitlines()
    if lines and re.match(r"(agr|submitit)(\.\w+)+: ", lines[-1]):
        return lines[-1].partition(": ")[2]
    ours = [i for i, line in enumerate(lines) if f'"{agr.jobs.slurm_job.__file__}"' in line]
    return "\n".join([*lines[:1], *lines[ours[0] :]]) if ours else traceback.strip()


def report(tasks: Sequence[Task]) -> str:
    """Summarise the ended tasks; failed ones with the reason, the command and the log file."""
    failed = [task for task in tasks if task.failure]
    if not failed:
        return f"{plural(len(tasks), 'job')} done"
    first = {task.failure: task for task in reversed(failed)}
    failures = [_about(task, first[task.failure]) for task in failed]
    jobs = plural(len(tasks), "job")
    end = f"{len(failed)} of {jobs} failed; the same command does what is missing"
    return "\n\n".join(["", *failures, end])


def _about(task: Task, first: Task) -> str:
    """Describe a failed task; a reason that several share is told once, of the `first`."""
    why = (task.failure or "").splitlines()
    lines = [
        f"{task.name}, job {task.id or 'none'}:",
        *(why if task is first or len(why) == 1 else [f"{why[-1]} (as {first.name})"]),
        f"its command: {shell_command('-m', 'agr.run', *task.overrides)}",
        f"its log: {task.log}",
    ]
    return "\n  ".join(lines)
