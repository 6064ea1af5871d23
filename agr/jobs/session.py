"""Running the cells of a command: checks before, errors and signals, the closing table."""

from __future__ import annotations

import datetime
import errno
import os
import secrets
import shlex
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from agr.config.cell import Cell
from agr.config.compose import expand
from agr.config.messages import explain
from agr.config.schema import Config
from agr.utils.errors import ConfigError, first_line, one_line
from agr.utils.locks import Busy
from agr.utils.signals import Terminated, stoppable

if TYPE_CHECKING:
    from agr.records.store import Records
from agr.utils.process import NO_SPACE, keep_freed_memory, set_up_process


def run_words(words: Sequence[str]) -> None:
    """Run the one cell that `words` mean, as a job on a cluster does.

    Another process that runs it is waited for. Raises what goes wrong, which is noted beside the
    records.
    """
    set_up_process()
    keep_freed_memory()
    (cell,) = expand(words)
    run(replace(cell, config=replace(cell.config, wait=True, progress=False)))


def run(cell: Cell, place: str = "") -> None:
    """Run one cell and show its table; `place` says which of a sweep it is.

    What goes wrong is noted beside the records, for `agr.status`. Raises ConfigError, Busy if
    another process is at work on it, and whatever a part of one's own raises.
    """
    from agr.records.progress import finished
    from agr.records.store import Records

    shard, records = cell.config.shard, Records(cell.folder)
    try:
        _run(cell, records, place)
    except Busy:
        raise
    except Exception as e:
        with suppress(OSError):  # a full disk keeps no note either
            records.note_failure(shard, _failure(e))
        raise
    records.note_failure(shard, None)
    others = records.failures()  # of shards that the work was divided into before
    if others and finished(cell.whole, records):
        for other in others:
            records.note_failure(other, None)


def _run(cell: Cell, records: Records, place: str) -> None:
    from agr.records.precision import compare, twin
    from agr.records.progress import finished

    _greet(cell, place)
    _check_writable(cell)
    done = finished(cell, records)
    if done:
        print("finished before: nothing to run")
        _compare(cell)
    else:
        from agr.evaluation.runner import (
            run_cell,  # torch and timm: seconds that a finished cell needn't wait
        )

        run_cell(cell)
    exact = twin(cell)
    if exact and not (done and "against_fp32" in (records.run() or {})):
        from agr.evaluation.runner import run_cell

        run_cell(exact, lambda _: None)
        compare(cell, exact)
    from agr.report.notes import closing

    print(f"\n{closing(cell)}\nrecords: {cell.folder}")


def _failure(e: Exception) -> dict[str, Any]:
    """What is kept of an error: its line, and where and in which job it was."""
    job_id = os.environ.get("SLURM_JOB_ID")
    lines = traceback.format_exception(e)
    return {
        "error": f"{type(e).__name__}: {first_line(e)}"[:1000],
        "traceback": [] if isinstance(e, ConfigError) else "".join(lines)[-20_000:].splitlines(),
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "where": f"process {os.getpid()} on {socket.gethostname()}",
        "job": job_id,
    }


def check_all(cells: Sequence[Cell]) -> None:
    """Check every cell of a sweep before the first one runs, once for all its shards.

    Raises ConfigError.
    """
    from agr.attacks.build import build_attack
    from agr.evaluation.inputs import check_inputs
    from agr.records.progress import finished
    from agr.records.store import Records

    different = {repr(cell.config): cell for cell in (cell.whole for cell in cells)}.values()
    missing = [cell for cell in different if not finished(cell, Records(cell.folder))]
    for cell in missing:
        check_inputs(cell)  # before torch and timm are loaded, which takes seconds
    for cell in missing:
        if cell.library is None:
            build_attack(cell.config, cell.eps_scale)  # needs torch, but not timm
    for cell in missing:
        from agr.evaluation.crafting import attack_of, check_defenses

        attack_of(cell)
        check_defenses(cell)


def guard(work: Callable[[], None], *, full: bool = False, keep_memory: bool = True) -> None:
    """Run `work`; what a user can mend ends with one line on stderr and exit code 2.

    SIGTERM and Ctrl-C end it with what is finished written, and with the way to go on. `full`:
    with Python's traceback instead.
    """
    set_up_process()
    if keep_memory:
        keep_freed_memory()
    try:
        with stoppable():
            work()
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ConfigError, HydraException, OmegaConfBaseException, OSError) as e:
        if full:
            raise
        print(f"error: {one_line(_said(e))}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt as e:
        by, code = ("SIGTERM", 143) if isinstance(e, Terminated) else ("Ctrl-C", 130)
        print(
            f"stopped by {by}: what was finished is kept; the same command goes on: {_command()}",
            file=sys.stderr,
        )
        raise SystemExit(code) from None


def _said(e: BaseException) -> str:
    wrong = e.__cause__ if isinstance(e.__cause__, ConfigError) else e
    if isinstance(wrong, ConfigError):
        return str(wrong)  # whole: a line break in it is a name's, and written out
    return _of_system(wrong) if isinstance(wrong, OSError) else explain(wrong)


def _of_system(e: OSError) -> str:
    """What the system refused, and the way out where it is known."""
    place = Path(str(e.filename)).parent if e.filename else "a disk"
    if e.errno in NO_SPACE:
        return (
            f"no space is left in {place}: what was finished is kept; make room, and the same "
            f"command goes on: {_command()}"
        )
    if e.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return (
            f"{e.filename or place} cannot be read or written ({e.strerror}): what was finished is "
            f"kept; once it can, the same command goes on: {_command()}"
        )
    where = e.filename2 or e.filename
    if where:
        return (
            f"{where}: {e.strerror}: move what is in the way, or name another place (outputs=…, "
            "data.root=…)"
        )
    return first_line(e)


def _command() -> str:
    """The command that this process was started with."""
    return shlex.join(["python", *sys.orig_argv[1:]])


def _greet(cell: Cell, place: str) -> None:
    c = cell.config
    eps = f"{c.eps:g}"
    if cell.eps_effective != c.eps:
        eps += f" ({cell.eps_effective:.1f} at {cell.geometry.size} px)"
    targets = ", ".join(map(cell.title, cell.targets))
    print(
        f"\n{place}{c.attack.title} on {cell.title(cell.source)}, {c.norm.name} eps {eps}, "
        f"T = {c.steps}, {c.n_images} images, targets {targets}"
    )
    if unusual := _unusual(cell):
        print(unusual)
    if cell.suite.notice:
        print(cell.suite.notice)


def _compare(cell: Cell) -> None:
    """Compare what is there with what a finished cell was made from. Raises ConfigError."""
    from agr.evaluation.inputs import check_inputs, check_unchanged
    from agr.records.store import Records

    try:
        inputs = check_inputs(cell)
    except ConfigError as e:  # the records are worth showing without images and weights
        print(f"not compared with its images and weights: {e}")
    else:
        check_unchanged(cell, Records(cell.folder).run() or {}, inputs)


def _unusual(cell: Cell) -> str:
    """What else tells this cell from others on screen, where it isn't as by default."""
    c, plain = cell.config, Config()
    said = ["targeted: success is the wanted label"] if c.attack.targeted else []
    said += [f"mean of {c.ensemble}"] if len(cell.sources) > 1 else []
    said += [w for w in cell.attack_words if not w.startswith("attack.targeted=")]
    keys = ("select", "seed", "shard", "success", "quantize", "denominator")
    said += [f"{k}={getattr(c, k)}" for k in keys if getattr(c, k) != getattr(plain, k)]
    return ", ".join(said)


def _check_writable(cell: Cell) -> None:
    try:
        outputs = Path(cell.config.outputs)
        outputs.mkdir(parents=True, exist_ok=True)
        probe = outputs / f".probe-{os.getpid()}-{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()
    except OSError as e:
        raise ConfigError(
            f"outputs={cell.config.outputs} cannot be written ({e.strerror}): name another folder"
        ) from e


def script(work: Callable[[], None], text: str | None) -> None:
    """Run a script's `work`, or print its text where the user asks for help."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print((text or "").strip())
    else:
        guard(work)


def run_first(asked: Sequence[str]) -> None:
    """Run the sweep `asked` in a process of its own, whose error ends this one too."""
    code = subprocess.run([sys.executable, "-m", "agr.run", *asked]).returncode
    if code:
        raise SystemExit(code)
