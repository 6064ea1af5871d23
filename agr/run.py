"""The command: one config is one cell, and a sweep of configs is many.

For example:

    python -m agr.run attack=agr norm=linf source=inc_v3
    python -m agr.run -m attack=ifgsm,mifgsm,agr norm=linf,l2 eps=2,4,8,16
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from dataclasses import dataclass, field

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from agr.config.cell import Cell
from agr.config.compose import check_words, expand
from agr.config.load import to_cell
from agr.config.overrides import (
    COMPOSED,
    flags_first,
    split_shards,
)
from agr.config.schema import conf_dir
from agr.jobs.session import (
    check_all,
    guard,
    run,
)
from agr.utils.errors import ConfigError, first_line, one_line
from agr.utils.process import (
    NO_SPACE,
    keep_freed_memory,
    set_up_process,
)


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
        set_up_process()
        keep_freed_memory()
        work()  # the launcher carries an error home
    else:
        guard(work)  # here, before Hydra adds lines of its own


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
        from agr.jobs.sweep import launcher_of, sweep  # what --help can do without

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


if __name__ == "__main__":
    # Not `main()` of this module, which is called __main__ here: what a cluster job unpickles
    # must be found under its real name.
    from agr.run import main as entry

    entry()
