"""A sweep as jobs, one per cell and shard: on a Slurm cluster, or as processes of this machine.

submitit submits; what to submit, and when a job is over, is decided here. hydra-submitit-launcher
gives the schema of `hydra.launcher` and no more: its own launch() runs finished cells again, raises
the first failure only, and waits for ever for a cancelled job where Slurm keeps no accounts.

What counts is what the records hold: not what Slurm or Python say of a job.
"""

from __future__ import annotations

from collections.abc import Sequence

from agr.config.cell import Cell
from agr.config.overrides import shell_command, without_flags
from agr.jobs.launcher import Launcher, of_launcher
from agr.jobs.pools import JobPool, LocalJobPool, SlurmJobPool
from agr.jobs.tasks import Task, different, failure_of, report, undone
from agr.utils.text import plural


def sweep(launcher: Launcher, arguments: Sequence[str], cells: Sequence[Cell]) -> int:
    """Submit what is missing of a sweep, wait for it, and return the command's exit code.

    Args:
        launcher: of the jobs.
        arguments: of the command line.
        cells: the checked cells and shards that it means.

    Returns:
        1 if anything failed or is missing, else 0.

    Raises:
        ConfigError: for what is refused before it is submitted.
        KeyboardInterrupt: the user stops waiting.
    """
    cells = different(cells)
    tasks = [Task(cell) for cell in undone(cells)]
    before = f"{len(cells) - len(tasks)} finished before"
    if not tasks:
        print(f"{plural(len(cells), 'job')}: {before}, nothing is missing, none submitted")
        return 0
    pool: JobPool = SlurmJobPool(launcher) if launcher.kind == "slurm" else LocalJobPool(launcher)
    shown = [word for word in without_flags(arguments) if not of_launcher(word)]
    print(f"{plural(len(cells), 'job')}: {before}, {len(tasks)} to do; all of them on one page:")
    print(shell_command("-m", "agr.status", "-m", *shown), flush=True)
    try:
        pool.begin(tasks)
        _wait(pool, tasks)
    except KeyboardInterrupt:
        pool.leave(tasks)
        raise
    print(report(tasks), flush=True)
    return int(any(task.failure for task in tasks))


def _wait(pool: JobPool, tasks: Sequence[Task]) -> None:
    """Wait for all jobs, and say of each how it ended."""
    left = list(tasks)
    while left:
        for task in pool.ended(left):
            left.remove(task)
            task.over, task.failure = True, failure_of(task)
            word = "failed" if task.failure else "done"
            print(f"[{len(tasks) - len(left)}/{len(tasks)}] {word}: {task.name}", flush=True)
