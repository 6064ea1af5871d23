"""A real Slurm of two nodes on this machine, for as long as a test needs it. Nothing is faked.

Needs the programs slurmctld, slurmd and those of slurm-client, and root, since Slurm starts jobs as
whoever they belong to. All its traffic stays on the loopback.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

NODES = ("n1", "n2")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
# One core and one job per node. `urgent` takes nodes away from `main`, whose jobs are requeued, to
# begin again cred_expire seconds later (5 at least, 120 if not set).
CONF = """
ClusterName=evaluator
SlurmctldHost=localhost
SlurmUser=root
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=6
SlurmctldPort={ports[0]}
SlurmdParameters=config_overrides
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/%n
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/%n.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
KillWait=3
MinJobAge=3600
SlurmdTimeout=6
MaxArraySize=4
SchedulerParameters=batch_sched_delay=1,sched_interval=5,bf_interval=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=4000
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=4000
PartitionName=main Nodes=ALL Default=YES PriorityTier=1
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""


class NoSlurm(RuntimeError):
    """Slurm can't be started here; the text says why."""


def why_not() -> str | None:
    """Why Slurm can't be started here, as far as that shows beforehand."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    absent = [p for p in PROGRAMS if not shutil.which(p, path=path)]
    if absent:
        return (
            f"Slurm isn't installed (no {', '.join(absent)}): "
            "apt-get install slurmctld slurmd slurm-client"
        )
    return None if os.geteuid() == 0 else "Slurm needs root"


class Slurm:
    """The running cluster; its programs find it by `env`."""

    def __init__(self, place: Path):
        self.place = place
        self.conf = place / "slurm.conf"
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))}
        self.env |= {"SLURM_CONF": str(self.conf)}
        self.env["PATH"] = f"{self.env['PATH']}:/usr/sbin:/sbin"
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start it, and wait until it takes jobs. Raises NoSlurm."""
        for name in ("state", *NODES):
            (self.place / name).mkdir(parents=True)
        self.conf.write_text(CONF.format(place=self.place, ports=_free_ports(3)))
        self._start("slurmctld", "slurmctld", "-D", "-f", str(self.conf))
        for node in NODES:
            self.start_node(node)
        try:
            for node in NODES:
                self.wait_for_node(node, "idle", 20)
        except TimeoutError as e:
            logs = [f"{p.name}: {p.read_text()[-500:]}" for p in self.place.glob("*.out")]
            raise NoSlurm(f"Slurm doesn't start: {e}; {'; '.join(logs)}") from e

    def start_node(self, node: str) -> None:
        self._start(node, "slurmd", "-D", "-f", str(self.conf), "-N", node)

    def _start(self, name: str, *command: str) -> None:
        # A session of their own, away from Ctrl-C; they die with the thread that starts them.
        orphans = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
        with (self.place / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                [*orphans, *command],
                env=self.env, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip

    def say(self, *command: str) -> str:
        """What one of Slurm's programs says."""
        done = subprocess.run(
            command, env=self.env, check=True, capture_output=True, text=True, timeout=30
        )
        return done.stdout

    def states(self) -> dict[str, str]:
        """The state of every job, by id ("3_0" in an array)."""
        lines = self.say("squeue", "-h", "-r", "-t", "all", "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)

    def running_on(self, node: str) -> list[str]:
        """The ids of the jobs that run there."""
        return self.say("squeue", "-h", "-r", "-t", "R", "-w", node, "-o", "%i").split()

    def wait_for_node(self, node: str, state: str, seconds: float) -> None:
        """Wait until a node's state begins with `state`. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        seen = "?"
        while not seen.startswith(state):
            if time.monotonic() > deadline:
                raise TimeoutError(f"node {node} is {seen} and not {state} after {seconds} s")
            time.sleep(0.2)
            with suppress(subprocess.SubprocessError):
                seen = self.say("sinfo", "-h", "-n", node, "-N", "-o", "%T").split()[0]

    def kill_node(self, node: str) -> None:
        """As when a machine loses its power: its daemon, its steps and their processes are gone."""
        self.daemons[node].kill()
        self.daemons[node].wait()
        jobs = [p for p in self._processes() if p.environ().get("SLURMD_NODENAME") == node]
        # Steps first: they would report what became of the others.
        _kill([step for job in jobs for step in job.parents() if _is_step(step)])
        _kill(jobs)

    def _processes(self) -> list[psutil.Process]:
        """The steps, and the processes of jobs; not the test's own, which has the same cluster."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                env = process.environ()
                of_job = "SLURM_JOB_ID" in env or _is_step(process)
                if env.get("SLURM_CONF") == str(self.conf) and of_job:
                    found.append(process)
        return found

    def stop(self) -> None:
        """Stop all that was started, however far that came."""
        for node in NODES:
            if node in self.daemons:
                self.daemons[node].kill()  # on SIGTERM it would wait for its steps
        _kill(self._processes())
        if "slurmctld" in self.daemons:
            self.daemons["slurmctld"].terminate()
        for daemon in self.daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _is_step(process: psutil.Process) -> bool:
    return process.name().startswith("slurmstepd")


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


def _free_ports(n: int) -> list[int]:
    """Ports of the loopback that nobody has now; other test sessions get others."""
    sockets = [socket.socket() for _ in range(n)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


@contextmanager
def slurm(place: Path) -> Iterator[Slurm]:
    """A running Slurm that keeps its files in `place`. Raises NoSlurm."""
    if reason := why_not():
        raise NoSlurm(reason)
    cluster = Slurm(place)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
