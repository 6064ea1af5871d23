"""Score saved adversarial images on further targets, without crafting them again.

python -m agr.score outputs=outputs 'targets=[res152]' [data.root=where/they/moved]

Every cell below `outputs` that was run with save_adversarials=true gets rows for the targets.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agr.config.cell import Cell
from agr.config.compose import expand
from agr.config.load import stored_cell
from agr.config.overrides import parse_pairs
from agr.config.schema import Config
from agr.jobs.console import script
from agr.records.run_info import RunInfo
from agr.records.store import Records
from agr.utils.errors import ConfigError


def saved_cells(
    outputs: str, targets: list[str], moved: dict[str, Any] | None = None
) -> list[Cell]:
    """Find the cells below `outputs` with saved adversarial images, and give them `targets`.

    `moved` holds keys of `data` whose values have changed since the cells were run.

    Networks and defenses are the cell's own, and beyond them those of today's configs, so that a
    target can be newer than the cell; targets may also be any of timm's tags.
    Raises ConfigError if there is no such cell, or if a target is unknown.
    """
    if not Path(outputs).is_dir():
        raise ConfigError(f"outputs={outputs} is no folder: give the root of the records")
    cells = []
    for path in sorted(Path(outputs).glob("*/*/run.json")):
        records = Records(path.parent)
        saved = records.positions("adversarials")
        if not saved:
            continue
        stored = (records.run() or RunInfo()).config
        if "name" not in stored.get("suite", {}):
            raise ConfigError(f"{path} has no config of a cell: restore it, or move it away")
        now = _current(stored["suite"]["name"])
        cell = stored_cell(
            stored,
            path.parent,
            networks=now.suite.networks if now else {},
            defenses=now.defenses if now else {},
            data=moved,
            targets=targets,
            n_images=max(saved) + 1,  # scoring is for all that is saved
        )
        cells.append(Cell(replace(cell.config, save_adversarials=False, trace=False)))
    if not cells:
        raise ConfigError(
            f"outputs={outputs} has no saved adversarial images below SUITE/CELL: give the root of "
            "the records, of a run with save_adversarials=true"
        )
    return cells


def _current(suite: str) -> Config | None:
    """Today's config of a suite, or None where only a user's folder has it."""
    try:
        return expand([f"suite={suite}"])[0].config
    except ConfigError:  # a suite of --config-dir: the cell's own copy of it serves
        return None


def main(arguments: Sequence[str]) -> None:
    """Parse the arguments, score, and show each cell's table."""
    given = parse_pairs(arguments)
    if set(given) - {"outputs", "targets", "data"} or not given.get("targets"):
        raise ConfigError(
            "give targets=[name,...], outputs=folder if it isn't outputs, data.root=… if the "
            "images have moved, and nothing else"
        )
    targets = given["targets"] if isinstance(given["targets"], list) else [given["targets"]]
    cells = saved_cells(str(given.get("outputs", "outputs")), targets, given.get("data"))

    from agr.evaluation.runner import run_cell
    from agr.report.notes import closing

    for cell in _able(cells):
        print(f"\n{cell.name}\n{cell.suite.notice or ''}")
        run_cell(cell, crafting=False)
        print(closing(cell))


def _able(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells that can be scored, and name the others. Raises ConfigError if none can."""
    from agr.evaluation.inputs import check_inputs

    able, errors = [], []
    for cell in cells:
        try:
            check_inputs(cell)
            able.append(cell)
        except ConfigError as e:
            errors.append(e)
            print(f"left out: {cell.name}: {e}")
    if errors and not able:
        raise errors[0]
    return able


if __name__ == "__main__":
    script(lambda: main(sys.argv[1:]), __doc__)
