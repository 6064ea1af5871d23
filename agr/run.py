"""The command: one config is one cell, and a sweep of configs is many.

For example:

    python -m agr.run attack=agr norm=linf source=inc_v3
    python -m agr.run -m attack=ifgsm,mifgsm,agr norm=linf,l2 eps=2,4,8,16
"""

from __future__ import annotations

import os
import sys

import hydra
from omegaconf import DictConfig

from agr.config.compose import check_overrides, compose_cells
from agr.config.overrides import RUNNING_FLAGS, as_list, flags_first, without_shards
from agr.config.schema import conf_dir
from agr.jobs.console import INNER, guard
from agr.jobs.launcher import check_submitit, launcher_of
from agr.jobs.session import check_all, run_all, show_sweep
from agr.jobs.sweep import sweep


def main() -> None:
    """Run the command: wrong input ends with one line and exit code 2."""
    full = "HYDRA_FULL_ERROR" in os.environ
    # Hydra then raises, and we say it in one line; afterwards it is as it was.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        guard(_main, full=full)
    finally:
        if not full:
            os.environ.pop("HYDRA_FULL_ERROR", None)


def _main() -> None:
    arguments = flags_first(sys.argv[1:])
    flags = {word.partition("=")[0] for word in arguments if word.startswith("-")}
    if not flags <= {*RUNNING_FLAGS}:  # help, or a config that is shown
        check_overrides(arguments)
        words = [w for w in without_shards(arguments) if not w.startswith("seeds=")]
        sys.argv[1:] = [*map(as_list, words)]
        _show()
        return
    named = check_submitit(arguments)
    composition = compose_cells(arguments, multirun=named or bool(flags & {"-m", "--multirun"}))
    launcher = launcher_of(composition.config)
    for line in composition.left_out:
        print(f"left out: {line}")
    prepared = check_all(composition.cells)
    cells = composition.cells
    code = sweep(launcher, arguments, cells) if launcher else run_all(cells, prepared)
    if len(cells) > 1 and INNER not in os.environ:
        show_sweep(cells, arguments, composition.left_out)
    if code:
        raise SystemExit(code)


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="config")
def _show(config: DictConfig) -> None:
    """Have Hydra serve --help, --cfg, --info and completion, after which it calls nothing."""


if __name__ == "__main__":
    main()
