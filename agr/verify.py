"""Check records again: files, rows and rates, and on request images that are crafted once more.

python -m agr.verify [outputs=outputs] [cells=agr-linf-*] [images=20] [seed=0] [allow=[my_parts]]

Of every cell below `outputs`: run.json and part files are as they were written, every image and
target has its row and none has two, rows agree with each other, with traces and saved images and
with the cell's config, success and rates are computed again from predictions, saved images have
their size and hashes. With images=n, n random images of each cell are crafted and scored again,
from the stored numeric identity, and must give the same `adv_sha256` and rows, bit by bit. Exits
with 1 if anything is wrong. For example:

    python -m agr.verify images=20
"""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agr.config.overrides import parse_pairs
from agr.jobs.console import script
from agr.records.audit import CellReport, check_records
from agr.records.folders import cell_folders
from agr.records.store import Records
from agr.utils.errors import ConfigError, one_line
from agr.utils.text import plural

DEFAULTS: dict[str, Any] = {"outputs": "outputs", "cells": "*", "images": 0, "seed": 0, "allow": []}


def main(arguments: Sequence[str]) -> None:
    """Check, print a line per cell and its problems, and exit with 1 if there are any."""
    asked = _parse(arguments)
    folders = _folders(Path(asked["outputs"]), asked["cells"])
    reports = []
    for folder in folders:
        report = check_records(Records(folder))
        if asked["images"] and not report.problems:
            from agr.evaluation.replay import recraft  # torch and timm

            report.again, problems = recraft(
                Records(folder), asked["images"], asked["seed"], asked["allow"]
            )
            report.add(problems)
        _show(report)
        reports.append(report)
    wrong = sum(bool(report.problems) for report in reports)
    again = sum(report.again for report in reports)
    print(
        f"\n{plural(len(reports), 'cell')}, {plural(sum(r.parts for r in reports), 'part file')}, "
        f"{plural(sum(r.rows for r in reports), 'row')}"
        + (f", {plural(again, 'image')} crafted and scored again" if asked["images"] else "")
        + (f": {plural(wrong, 'cell is', 'cells are')} wrong" if wrong else ": nothing is wrong")
    )
    if wrong:
        raise SystemExit(1)


def _parse(arguments: Sequence[str]) -> dict[str, Any]:
    asked = DEFAULTS | parse_pairs(arguments, DEFAULTS)
    for key in ("images", "seed"):
        if type(asked[key]) is not int or asked[key] < 0:
            raise ConfigError(f"{key}={asked[key]} is not a whole number, 0 or more")
    if not isinstance(asked["allow"], list):
        raise ConfigError(f"allow={asked['allow']} is not a list: write allow=[package]")
    return asked | {"outputs": str(asked["outputs"]), "cells": str(asked["cells"])}


def _folders(outputs: Path, pattern: str) -> list[Path]:
    """Folders of cells below `outputs`, those of fp32 comparisons included."""
    if not outputs.is_dir():
        raise ConfigError(f"outputs={outputs} is not a folder: give the root of the records")
    found = cell_folders(outputs, "**")
    folders = [path for path in found if fnmatch.fnmatch(path.name, pattern)]
    if not folders:
        raise ConfigError(
            f"outputs={outputs} cells={pattern}: there are no records: check the path"
        )
    return folders


def _show(report: CellReport) -> None:
    rates = ", ".join(f"{target} {rate:.1f}" for target, rate in report.rates.items())
    again = f", {report.again} crafted again" if report.again else ""
    counts = f"{plural(report.images, 'image')}, {plural(report.parts, 'part')}{again}"
    print(one_line(f"{report.name}: {counts}; ASR % {rates}"))
    for note in report.notes:
        print(f"  note: {one_line(note)}")
    for problem in report.problems:
        print(f"  problem: {one_line(problem)}")


if __name__ == "__main__":
    script(lambda: main(sys.argv[1:]), __doc__)
