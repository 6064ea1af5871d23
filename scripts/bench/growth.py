"""Growth of time and memory with images, targets and slots.

python -m scripts.bench.growth n_images=250 …    # the cost of one cell, as JSON: used from here
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from agr.attacks import Attack
from agr.attacks.engine import craft
from agr.config.cell import Cell
from agr.config.compose import expand
from agr.jobs.console import guard
from agr.records.run_info import RunInfo
from scripts.bench.demo import Bench, opened, ours, run_quietly, suite_cell
from scripts.bench.memory import PEAK, peak_megabytes
from scripts.bench.options import DEMO_SOURCES, Options
from scripts.bench.timing import Contender, Measurement, interleave

IMAGES, TARGETS, SLOTS = "images", "targets", "slots"  # the settings
TIMES = (1, 2, 4, 8)
MOST_IMAGES = 1000  # that the demo suite has
MOST_SLOTS = 64
FEW = 128  # images where their number doesn't grow


def growth(options: Options) -> Iterator[list[Measurement]]:
    """Yield the rows of the three settings, one after the other."""
    yield _images(options)
    yield _targets(options)
    yield _slots(options)


def _images(options: Options) -> list[Measurement]:
    """Run I-FGSM on more and more images, each time in a new process."""
    # Of all that the suite has at the default; the smallest number still fills the slots.
    base = max(1, min(MOST_IMAGES, options.demo_images * 5 // 2) // TIMES[-1])
    rows = []
    with tqdm(total=options.rounds * len(TIMES), desc="growth: images", leave=False) as bar:
        for number in range(1, options.rounds + 1):
            for n in (base * times for times in TIMES):
                cost = _in_new_process(options, n)
                rows.append(Measurement("growth", IMAGES, f"{n} images", number, **cost, unit=PEAK))
                bar.update()
    return rows


def _in_new_process(options: Options, n: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        cell = suite_cell(
            options,
            f"source={DEMO_SOURCES[0]}",
            f"targets=[{DEMO_SOURCES[0]}]",
            "select=none",
            "attack=ifgsm",
            f"n_images={n}",
            outputs=Path(folder),
        )
        command = [sys.executable, "-m", "scripts.bench.growth", *cell.overrides]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def _targets(options: Options) -> list[Measurement]:
    """Score AGR on one to six networks; clean predictions are there already."""
    n = min(options.demo_images, FEW)
    own = f"source={DEMO_SOURCES[0]}", "attack=agr", f"n_images={n}"
    numbers = range(1, len(DEMO_SOURCES) + 1)
    cells = {
        f"{k} targets": suite_cell(options, *own, f"targets=[{','.join(DEMO_SOURCES[:k])}]")
        for k in numbers
    }
    run_quietly(cells[f"{numbers[-1]} targets"])
    contenders = [Contender(name, partial(_anew, cell), n) for name, cell in cells.items()]
    return interleave("growth", TARGETS, contenders, options.rounds, **options.how)[0]


def _anew(cell: Cell) -> None:
    shutil.rmtree(cell.folder)
    run_quietly(cell)


def _slots(options: Options) -> list[Measurement]:
    """Run AGR and I-FGSM with 1, 2, 4 … 64 images in flight; fewer images where that is slow."""
    n = min(options.demo_images, FEW)
    numbers = [2**i for i in range(MOST_SLOTS.bit_length()) if 2**i <= n]
    b = opened(options, DEMO_SOURCES[0], n)
    attacks = {name: ours(name) for name in ("agr", "ifgsm")}
    contenders = [
        Contender(
            f"{name}, {slots} slots",
            partial(_crafted, attack, b, slots),
            min(len(b.items), 16 * slots),
            b.evaluator.source,
        )
        for name, attack in attacks.items()
        for slots in numbers
    ]
    return interleave("growth", SLOTS, contenders, options.rounds, **options.how)[0]


def _crafted(attack: Attack, b: Bench, slots: int) -> None:
    for _ in craft(attack, b.evaluator.source, b.items[: 16 * slots], slots):
        pass


# ---- in the new process --------------------------------------------------------------------------


def cost_of(cell: Cell) -> dict[str, Any]:
    """Run a cell, and return fields of its Measurement; the value is the process's peak, MB."""
    session = (run_quietly(cell).run() or RunInfo()).sessions[-1]
    return {
        "seconds": session.seconds,
        "images": session.images,
        "forwards": session.batch_forwards,
        "backwards": session.batch_backwards,
        "value": peak_megabytes(),
    }


if __name__ == "__main__":
    guard(lambda: print(json.dumps(cost_of(expand(sys.argv[1:])[0]))))
