"""One job of a sweep, and how it stops."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agr.utils.signals import stoppable

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

# SIGTERM comes where a job is cancelled or preempted, with SIGKILL some seconds later (KillWait);
# USR2 comes before its time is up, SIGHUP from a terminal or who asks for it (scancel -s HUP).
STOPPING = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)


class Stopped(BaseException):
    """A signal that ends a job. No Exception: nobody on the way up may take it for an error."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


@dataclass(frozen=True)
class Job:
    """One cell's shard, given by the overrides of its command line."""

    overrides: list[str]
    cpus: int | None = None  # its share of the machine

    def __call__(self) -> None:
        """Run the cell. Raises what goes wrong, and SystemExit if the job is stopped.

        What is finished is written first. Only then is it submitit's turn, whose handler of USR2
        puts the job back into the queue: Slurm kills a job as soon as it is requeued.
        """
        if self.cpus:  # torch asks here, and would else take every core of a shared machine
            os.environ.setdefault("OMP_NUM_THREADS", str(self.cpus))
        from agr.jobs.session import run_overrides

        requeue = signal.getsignal(signal.SIGUSR2)
        try:
            with stoppable(STOPPING, Stopped):
                run_overrides(self.overrides)
        except Stopped as e:
            for number in STOPPING:  # a later one may neither cut this short nor requeue again
                signal.signal(number, signal.SIG_IGN)
            if e.number == signal.SIGUSR2 and callable(requeue):
                requeue(e.number, None)  # raises SystemExit, or that it was once too often
            raise SystemExit(128 + e.number) from None

    def checkpoint(self) -> DelayedSubmission:
        """Return what submitit puts back into the queue: the records know what is done."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)
