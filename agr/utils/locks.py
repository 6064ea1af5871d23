"""Locks between processes, also of several machines on a shared file system.

A lock is a file that its holder touches every `BEAT` seconds (filelock's SoftFileLease), since on
some shared file systems the system's own locks are known to one machine only. A holder that died on
this machine is known by its process. One that died elsewhere is known by a file that nobody has
touched for `LEASE` seconds *of the watcher's own clock*: no two clocks are ever compared.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import psutil
from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from agr.utils.errors import ConfigError
from agr.utils.text import printable

BEATS = 12  # per lease
DEFAULT_LEASE = "120"  # s: file systems may show changes of other machines up to a minute late


def _lease_seconds() -> float:
    try:
        return float(os.environ.get("AGR_LEASE_SECONDS", DEFAULT_LEASE))
    except ValueError:
        return 0.0


LEASE = _lease_seconds()
BEAT = LEASE / BEATS
LONGEST = 600.0  # s, of the leases that `alive` watches: a lock can name any
GLANCE = 0.5  # seconds in which the lock of a process that died on this machine is taken over


class Busy(ConfigError):
    """A lock is held by another living process."""


class Holder(NamedTuple):
    """The process that made a lock."""

    host: str
    pid: int
    lease: float = LEASE  # s

    @property
    def here(self) -> bool:
        """True if it is, or was, a process of this machine (and of this container)."""
        return self.host == this_host()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[SoftFileLease]:
    """Hold the lock `path`, which may be that of a dead process.

    Its folder must be there. With `wait` a living holder is waited for, instead of raising Busy;
    one on another machine is watched until it stirs or `LEASE` seconds are over. The lock is lost,
    and `lease.compromise` says so, if this process itself stands still for longer. Raises Busy and
    ConfigError.
    """
    if not 0 < LEASE < float("inf"):
        raise ConfigError(
            f"AGR_LEASE_SECONDS={os.environ['AGR_LEASE_SECONDS']} is not a number of seconds: give "
            f"one above 0, or none, which is {DEFAULT_LEASE}"
        )
    lease = SoftFileLease(path, lease_duration=LEASE, heartbeat_interval=BEAT)
    try:
        _acquire(lease, path, wait)
    except LeaseSettingsMismatch as e:
        raise ConfigError(
            f"{path} was made with another AGR_LEASE_SECONDS than {LEASE:g}: give all processes "
            "the same"
        ) from e
    try:
        yield lease
    finally:
        lease.release()


def _acquire(lease: SoftFileLease, path: Path, wait: bool) -> None:
    touched, since, noted = beat(path), time.monotonic(), False
    while True:
        with suppress(Timeout):
            lease.acquire(timeout=GLANCE, poll_interval=GLANCE / 10)
            return
        owner, now = holder(path), beat(path)
        # One that names no holder is being made, or its maker was killed in between.
        if owner is None and now is None and os.path.lexists(path):
            raise ConfigError(f"{path} can't be read: remove it if whoever made it is gone")
        if owner is None and now != touched:
            touched, since = now, time.monotonic()
        elif owner and not wait and (owner.here or now != touched):
            raise Busy(f"{owner} is at work")
        elif owner is None and touched and time.monotonic() - since > LEASE:
            path.unlink(missing_ok=True)
        if not noted and time.monotonic() - since > 5:
            noted = True
            whom = printable(str(owner or f"whoever made {path}"))
            print(f"note: waiting for {whom}, or {LEASE:g} s if it is dead", file=sys.stderr)


def check_ours(lease: SoftFileLease, what: str) -> None:
    """Raise ConfigError, of `what`, if another process has taken the lock over.

    filelock itself (`lease.compromise`) notices it up to two beats late.
    """
    owner = lease.owner
    if owner is None or owner.token != lease.token:
        raise ConfigError(
            f"{what}: this process stood still so long that another one took over: it goes on there"
        )


@cache
def this_host() -> str:
    """Return the name of this machine in locks; a container has its own."""
    with TemporaryDirectory() as folder, SoftFileLease(Path(folder) / "lock") as lease:
        owner = lease.owner
        assert owner is not None
        return str(owner.hostname)


def holder(path: Path) -> Holder | None:
    """Return the holder of a lock, perhaps dead (see `alive`); None where there is no lock."""
    owner = SoftFileLease(path, lease_duration=LEASE).owner
    return owner and Holder(owner.hostname, owner.pid, owner.lease_duration or LEASE)


def beat(path: Path) -> int | None:
    """Return the lock's last touch (ns), by its file system's clock; None: there is no lock."""
    try:
        # Opened, since a shared file system may give an old time of a file that isn't.
        with open(path, "rb", opener=_unwaiting) as f:
            found = os.fstat(f.fileno())
            return found.st_mtime_ns if stat.S_ISREG(found.st_mode) else None
    except OSError:
        return None


def _unwaiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe would be waited for


def alive(paths: list[Path]) -> dict[Path, Holder]:
    """Return the locks that living processes hold.

    A process of this machine is looked up. The locks of others are watched for a little more than
    one beat, all at once; there is no wait where there are none.
    """
    held = {path: owner for path in paths if (owner := holder(path))}
    living = {path: owner for path, owner in held.items() if owner.here and _runs(owner.pid)}
    elsewhere = {path: beat(path) for path, owner in held.items() if not owner.here}
    if elsewhere:
        time.sleep(1.5 / BEATS * min(LONGEST, max(held[path].lease for path in elsewhere)))
    for path, before in elsewhere.items():
        if beat(path) not in (None, before):
            living[path] = held[path]
    return living


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
