"""The command: one config is one cell, and a sweep of configs is many.

For example:

    python -m agr.run attack=agr norm=linf source=inc_v3
    python -m agr.run -m attack=ifgsm,mifgsm,agr norm=linf,l2 eps=2,4,8,16
"""

from __future__ import annotations

import ctypes
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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agr.compose import check_words, expand, split_shards
from agr.config import Cell, to_cell
from agr.errors import ConfigError, first_line, one_line
from agr.explain import explain
from agr.locks import Busy
from agr.schema import Config, conf_dir
from agr.signals import Terminated, stoppable
from agr.trust import COMPOSED, flags_first

if TYPE_CHECKING:
    from agr.records import Records

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


@dataclass
class Sweep:
    """What this process was started for, and what of it isn't done."""

    cells: int  # 0 where command-line flags keep `main` from knowing
    undone: list[str] = field(default_factory=list)


# None in a process of a launcher, which gets `job` without `main`.
_sweep: Sweep | None = None


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="config")
def job(config: DictConfig) -> None:
    """Run one cell and show its table."""

    def work() -> None:
        cell = to_cell(config, HydraConfig.get().overrides.task)
        if _sweep is None or _sweep.cells < 2:
            run(cell)
        else:
            _run_one_of(_sweep, cell)

    if _sweep is None:
        _set_up_process()
        keep_freed_memory()
        work()  # the launcher carries an error home
    else:
        guard(work)  # here, before Hydra adds lines of its own


def run_words(words: Sequence[str]) -> None:
    """Run the one cell that `words` mean, as a job on a cluster does.

    Another process that runs it is waited for. Raises what goes wrong, which is noted beside the
    records.
    """
    _set_up_process()
    keep_freed_memory()
    (cell,) = expand(words)
    run(replace(cell, config=replace(cell.config, wait=True, progress=False)))


def run(cell: Cell, place: str = "") -> None:
    """Run one cell and show its table; `place` says which of a sweep it is.

    What goes wrong is noted beside the records, for `agr.status`. Raises ConfigError, Busy if
    another process is at work on it, and whatever a part of one's own raises.
    """
    from agr.records import Records
    from agr.todo import finished

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
    from agr.precision import compare, twin
    from agr.todo import finished

    _greet(cell, place)
    _check_writable(cell)
    done = finished(cell, records)
    if done:
        print("finished before: nothing to run")
        _compare(cell)
    else:
        from agr.cell import run_cell  # torch and timm: seconds that a finished cell needn't wait

        run_cell(cell)
    exact = twin(cell)
    if exact and not (done and "against_fp32" in (records.run() or {})):
        from agr.cell import run_cell

        run_cell(exact, lambda _: None)
        compare(cell, exact)
    from agr.report.tables import closing

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


def _run_one_of(sweep: Sweep, cell: Cell) -> None:
    """Run a cell of a sweep, which goes on if this one can't be done."""
    try:
        run(cell, f"[{HydraConfig.get().job.num + 1}/{sweep.cells}] ")
        return
    except ConfigError as e:
        print(f"error: {one_line(f'{cell.name}: {first_line(e)}')}", file=sys.stderr)
    except Exception as e:
        if isinstance(e, OSError) and e.errno in (*NO_SPACE, errno.EROFS):
            raise  # such a disk won't do for the others either
        print(f"error: {cell.name}\n{traceback.format_exc()}", file=sys.stderr)
    sweep.undone.append(cell.name)


def main() -> None:
    """The entry point: wrong input ends with one line and exit code 2."""
    shown_whole = "HYDRA_FULL_ERROR" in os.environ
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises, and we say it in one line
    guard(_main, full=shown_whole)


def _main() -> None:
    global _sweep
    _sweep = Sweep(0)
    given = flags_first(sys.argv[1:])
    flags = {word.partition("=")[0] for word in given if word.startswith("-")}
    sys.argv[1:] = split_shards(given)  # Hydra reads them again
    if flags <= {*COMPOSED}:
        cells = expand(sys.argv[1:])
        check_all(cells)
        from agr.cluster import launcher_of, sweep  # what --help can do without

        if launcher := launcher_of(given):
            raise SystemExit(sweep(launcher, given, cells))
        _sweep.cells = len(cells)
    else:  # help, or a config that is shown
        check_words(given)
    job()
    if _sweep.undone:
        print(
            f"{len(_sweep.undone)} of {_sweep.cells} cells are not done, and why stands above; the "
            f"same command does what is missing: {', '.join(_sweep.undone)}",
            file=sys.stderr,
        )
        raise SystemExit(1)


def check_all(cells: Sequence[Cell]) -> None:
    """Check every cell of a sweep before the first one runs, once for all its shards.

    Raises ConfigError.
    """
    from agr.build import build_attack
    from agr.inputs import check_inputs
    from agr.records import Records
    from agr.todo import finished

    different = {repr(cell.config): cell for cell in (cell.whole for cell in cells)}.values()
    missing = [cell for cell in different if not finished(cell, Records(cell.folder))]
    for cell in missing:
        check_inputs(cell)  # before torch and timm are loaded, which takes seconds
    for cell in missing:
        if cell.library is None:
            build_attack(cell.config, cell.eps_scale)  # needs torch, but not timm
    for cell in missing:
        from agr.crafting import attack_of, check_defenses

        attack_of(cell)
        check_defenses(cell)


def _set_up_process() -> None:
    """What has to be set before torch is loaded."""
    # OpenMP's threads wait by spinning, by default for so long that a busy machine runs many
    # times slower. A short spin costs an idle machine nothing.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    # Without it matrix products on a GPU are not deterministic.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def keep_freed_memory() -> None:
    """Have this process keep the memory that it frees, for all that runs in it.

    glibc gives it back at once, and each step asks for the same amount again: new pages cost a
    tenth of a step and more. Elsewhere there is no mallopt.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        # Older ones take 32 MB at most. To keep the heap alone would be worse than nothing.
        if mallopt(M_MMAP_THRESHOLD, 1 << 30) or mallopt(M_MMAP_THRESHOLD, 32 << 20):
            mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def guard(work: Callable[[], None], *, full: bool = False, keep_memory: bool = True) -> None:
    """Run `work`; what a user can mend ends with one line on stderr and exit code 2.

    SIGTERM and Ctrl-C end it with what is finished written, and with the way to go on. `full`:
    with Python's traceback instead.
    """
    _set_up_process()
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
    from agr.inputs import check_inputs, check_unchanged
    from agr.records import Records

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


def words(arguments: Sequence[str], default: str) -> list[str]:
    """Hydra words for a script, with a default experiment where none is named."""
    named = any(word.startswith("experiment=") for word in arguments)
    return list(arguments) if named else [default, *arguments]


def pairs(arguments: Sequence[str]) -> dict[str, Any]:
    """The key=value words of a command that isn't Hydra's. Raises ConfigError."""
    try:
        given: Any = OmegaConf.to_container(OmegaConf.from_dotlist(list(arguments)))
    except Exception as e:
        raise ConfigError(f"{' '.join(arguments)} cannot be read: {first_line(e)}") from e
    return dict(given)


def sweep_words(arguments: Sequence[str]) -> list[str]:
    """The words of a sweep: with -m exactly those given, as to `agr.run`, else the paper's."""
    whole = {"-m", "--multirun"} & {*arguments}
    return list(arguments) if whole else words(arguments, "experiment=paper")


def without_shards(words: Sequence[str]) -> list[str]:
    """Words that mean whole cells, however the work on them was divided."""
    return [word for word in words if not word.startswith(("shard=", "shards="))]


def run_first(asked: Sequence[str]) -> None:
    """Run the sweep `asked` in a process of its own, whose error ends this one too."""
    code = subprocess.run([sys.executable, "-m", "agr.run", *asked]).returncode
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    # Not `main()` of this module, which is called __main__ here: what a cluster job unpickles
    # must be found under its real name.
    from agr.run import main as entry

    entry()
