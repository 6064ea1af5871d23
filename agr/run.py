"""The command: one config is one cell, and a sweep of configs is many.

For example:

    python -m agr.run attack=agr norm=linf source=inc_v3
    python -m agr.run -m attack=ifgsm,mifgsm,agr norm=linf,l2 eps=2,4,8,16
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from agr.compose import expand
from agr.config import Cell, to_cell
from agr.errors import ConfigError, first_line
from agr.schema import Config, conf_dir
from agr.validation import explain

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h

# How many cells this process was started for. None in a job on a cluster, which unpickles `job`
# without `main`; 0 where command-line flags keep `main` from knowing.
_cells_in_sweep: int | None = None


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="config")
def job(config: DictConfig) -> None:
    """Run one cell and show its table."""
    if _cells_in_sweep is None:
        _set_up_process()
        keep_freed_memory()
        run(config)  # the launcher carries an error home
    else:
        guard(lambda: run(config))  # here, before Hydra adds lines of its own


def run(config: DictConfig) -> None:
    """Run one cell and show its table. Raises ConfigError."""
    from agr.precision import compare, twin
    from agr.records import Records
    from agr.todo import finished

    cell = to_cell(config, HydraConfig.get().overrides.task)
    _greet(cell)
    records = Records(cell.folder)
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


def main() -> None:
    """The entry point: wrong input ends with one line and exit code 2."""
    shown_whole = "HYDRA_FULL_ERROR" in os.environ
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises, and we say it in one line
    guard(_main, traceback=shown_whole)


def _main() -> None:
    global _cells_in_sweep
    _cells_in_sweep = 0
    if "hydra/launcher=slurm" in sys.argv and "--cfg" not in sys.argv and not shutil.which("srun"):
        raise ConfigError(
            "hydra/launcher=slurm: there is no srun here: go to a machine of the cluster, or use "
            "hydra/launcher=local"
        )
    flags = ("-m", "--multirun", "--config-dir", "-cd")
    if all(not word.startswith("-") or word.startswith(flags) for word in sys.argv[1:]):
        cells = expand(sys.argv[1:])
        check_all(cells)
        _cells_in_sweep = len(cells)
    job()


def check_all(cells: Sequence[Cell]) -> None:
    """Check every cell of a sweep before the first one runs. Raises ConfigError."""
    from agr.inputs import check_inputs
    from agr.records import Records
    from agr.todo import finished

    for cell in cells:
        if not finished(cell, Records(cell.folder)):
            from agr.crafting import attack_of, check_defenses

            check_inputs(cell)
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


def guard(work: Callable[[], None], *, traceback: bool = False, keep_memory: bool = True) -> None:
    """Run `work`; what a user can mend ends with one line on stderr and exit code 2."""
    _set_up_process()
    if keep_memory:
        keep_freed_memory()
    try:
        work()
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ConfigError, HydraException, OmegaConfBaseException, OSError) as e:
        if traceback:
            raise
        wrong = e.__cause__ if isinstance(e.__cause__, ConfigError) else e
        text = first_line(wrong) if isinstance(wrong, ConfigError | OSError) else explain(wrong)
        print(f"error: {text}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped: what was finished is kept, the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None


def _greet(cell: Cell) -> None:
    c = cell.config
    place = ""
    if (_cells_in_sweep or 0) > 1:
        place = f"[{HydraConfig.get().job.num + 1}/{_cells_in_sweep}] "
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
        probe = outputs / f".probe-{os.getpid()}"
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


if __name__ == "__main__":
    # Not `main()` of this module, which is called __main__ here: what a cluster job unpickles
    # must be found under its real name.
    from agr.run import main as entry

    entry()
