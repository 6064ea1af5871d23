"""The cells of a command, run one after another in this process."""

from __future__ import annotations

import datetime
import errno
import os
import secrets
import socket
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agr.config.cell import Cell
from agr.config.compose import expand
from agr.config.overrides import shell_command, without_flags, without_shards
from agr.config.schema import Config
from agr.records.claim import refuse_entry
from agr.records.precision import compare, twin
from agr.records.progress import finished
from agr.records.run_info import RunInfo
from agr.records.store import Records
from agr.utils.errors import ConfigError, first_line, one_line
from agr.utils.locks import Busy
from agr.utils.process import NO_SPACE, keep_freed_memory, set_up_process
from agr.utils.text import plural

if TYPE_CHECKING:
    from agr.evaluation.crafting import AnyAttack


Place = tuple[int, int]  # of a cell in its sweep: 1 of 1 stands alone
ALONE = (1, 1)
MOST_ROWS = 40  # of the table that ends a sweep


def check_all(cells: Sequence[Cell]) -> list[AnyAttack | None]:
    """Check every cell before the first one runs, and prepare it; None for a finished one.

    Shards of a cell are checked once. Raises ConfigError.
    """
    from agr.evaluation.inputs import check_inputs

    for outputs in {cell.config.outputs for cell in cells}:
        refuse_entry(outputs)
    wholes = {repr(cell.whole.config): cell.whole for cell in cells}
    missing = {
        key: cell for key, cell in wholes.items() if not finished(cell, Records(cell.folder))
    }
    for cell in missing.values():
        check_inputs(cell)  # before torch and timm are loaded, which takes seconds
    if not missing:
        return [None] * len(cells)
    from agr.evaluation.crafting import prepare

    built = {key: prepare(cell) for key, cell in missing.items()}
    return [
        None
        if cell.shard[1] > 1 and finished(cell, Records(cell.folder))
        else built.get(repr(cell.whole.config))
        for cell in cells
    ]


def run_all(cells: Sequence[Cell], prepared: Sequence[AnyAttack | None]) -> int:
    """Run the cells of a sweep as they were `prepared`, and return the command's exit code.

    A cell that can't be run doesn't keep the others from running: the code is then 1. A single
    cell's error is raised as `run` raises it.
    """
    if len(cells) == 1:
        run(cells[0], prepared[0])
        return 0
    undone = []
    for i, cell in enumerate(cells, 1):
        try:
            run(cell, prepared[i - 1], place=(i, len(cells)))
        except ConfigError as e:
            print(f"error: {one_line(f'{cell.name}: {first_line(e)}')}", file=sys.stderr)
            undone.append(cell.name)
        except Exception as e:
            if isinstance(e, OSError) and e.errno in (*NO_SPACE, errno.EROFS):
                raise  # such a disk won't do for the others either
            print(f"error: {cell.name}\n{traceback.format_exc()}", file=sys.stderr)
            undone.append(cell.name)
    if undone:
        print(
            f"{len(undone)} of {len(cells)} cells are not done, and why stands above; the "
            f"same command does what is missing: {', '.join(undone)}",
            file=sys.stderr,
        )
    return int(bool(undone))


def run_overrides(overrides: Sequence[str]) -> None:
    """Run the one cell that `overrides` mean, as a job on a cluster does.

    Waits for another process that runs it. Raises what goes wrong, which is noted beside the
    records.
    """
    set_up_process()
    keep_freed_memory()
    (cell,) = expand(overrides)
    cell = replace(cell, config=replace(cell.config, wait=True, progress=False))
    run(cell, *check_all([cell]))


def run(cell: Cell, prepared: AnyAttack | None, *, place: Place = ALONE) -> None:
    """Run one cell and show its table; one that isn't `prepared` is finished, and only shown.

    In a sweep its `place` is said, and one line stands for the table.

    What goes wrong is noted beside the records, for `agr.status`. Raises ConfigError, Busy if
    another process is at work on it, and whatever a user's own part raises.
    """
    shard, records = cell.config.shard, Records(cell.folder)
    try:
        _run(cell, records, prepared, place)
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


def _run(cell: Cell, records: Records, prepared: AnyAttack | None, place: Place) -> None:
    i, n = place
    greet(cell, f"[{i}/{n}] " if n > 1 else "", notice=i == 1)
    _check_writable(cell)
    if prepared is None:
        print("finished before: nothing to run")
        _check_unchanged(cell, records)
    else:
        from agr.evaluation.runner import run_cell

        run_cell(cell, attack=prepared)
    exact = twin(cell)
    if exact and not (prepared is None and (records.run() or RunInfo()).against_fp32):
        from agr.evaluation.runner import run_cell

        run_cell(exact, lambda _: None)
        compare(cell, exact)
    from agr.report.notes import closing, closing_line

    shown = f"\n{closing(cell)}" if place == ALONE else closing_line(cell)
    print(f"{shown}\nrecords: {cell.folder}")


def show_sweep(
    cells: Sequence[Cell], arguments: Sequence[str], left_out: Sequence[str] = ()
) -> None:
    """Print the comparison that ends a sweep, if anything varies in it."""
    from agr.report.comparison.axes import Options
    from agr.report.comparison.numbers import Comparison
    from agr.report.comparison.sheet import comparison_sheet
    from agr.report.formats import plain

    wholes = list({(str(c.folder), repr(c.whole.config)): c.whole for c in cells}.values())
    try:
        sheet = comparison_sheet(Comparison(wholes, Options(), left_out))
    except ConfigError as e:
        if len(wholes) > 1:
            print(f"no table of the sweep: {e}")
        return
    command = shell_command("-m", "agr.compare", *without_shards(without_flags(arguments)))
    print(f"\n{plain(sheet, most=MOST_ROWS)}\nwith its figure, as files: {command}")


def _failure(e: Exception) -> dict[str, Any]:
    """Note of an error: its line, and where and in which job it was."""
    lines = traceback.format_exception(e)
    return {
        "error": f"{type(e).__name__}: {first_line(e)}"[:1000],
        "traceback": [] if isinstance(e, ConfigError) else "".join(lines)[-20_000:].splitlines(),
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "where": f"process {os.getpid()} on {socket.gethostname()}",
        "job": os.environ.get("SLURM_JOB_ID"),
    }


def _check_unchanged(cell: Cell, records: Records) -> None:
    """Compare a finished cell's records with what it would read now. Raises ConfigError."""
    from agr.evaluation.inputs import check_inputs, check_unchanged

    try:
        inputs = check_inputs(cell)
    except ConfigError as e:  # the records are worth showing without images and weights
        print(f"not compared with its images and weights: {e}")
    else:
        check_unchanged(cell, records.run() or RunInfo(), inputs)


def greet(cell: Cell, before: str = "", *, notice: bool = True) -> None:
    """Print what a cell is, with `before` in front, and its suite's notice."""
    c = cell.config
    eps = f"{c.eps:g}"
    if cell.eps_effective != c.eps:
        eps += f" ({cell.eps_effective:.1f} at {cell.geometry.size} px)"
    targets = ", ".join(map(cell.title, cell.targets))
    print(
        f"\n{before}{c.attack.title} on {cell.title(cell.source)}, {c.norm.name} eps {eps}, "
        f"T = {c.steps}, {plural(c.n_images, 'image')}, targets {targets}"
    )
    if settings := _unusual_settings(cell):
        print(settings)
    if cell.suite.notice and notice:
        print(cell.suite.notice)


def _unusual_settings(cell: Cell) -> str:
    """Settings that aren't the default, for the header line."""
    c, default = cell.config, Config()
    settings = ["targeted: success is the wanted label"] if c.attack.targeted else []
    settings += [f"mean of {c.ensemble}"] if len(cell.sources) > 1 else []
    settings += [o for o in cell.attack_overrides if not o.startswith("attack.targeted=")]
    keys = ("eot", "select", "split", "seed", "shard", "success", "quantize", "denominator")
    settings += [f"{k}={getattr(c, k)}" for k in keys if getattr(c, k) != getattr(default, k)]
    return ", ".join(settings)


def _check_writable(cell: Cell) -> None:
    outputs = Path(cell.config.outputs)
    try:
        outputs.mkdir(parents=True, exist_ok=True)
        probe = outputs / f".probe-{os.getpid()}-{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()
    except OSError as e:
        raise ConfigError(
            f"outputs={cell.config.outputs} cannot be written ({e.strerror}): name another folder"
        ) from e
