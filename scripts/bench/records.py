"""Seconds and memory of the commands that read records, on a sweep that never was."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from agr.config.cell import Cell
from agr.config.compose import expand
from agr.records.held import held_by
from agr.records.run_info import NumericIdentity, RunInfo, Session
from agr.records.schema import PERCEPTUAL, ROWS
from agr.records.store import Records
from scripts.bench.memory import PEAK, cost
from scripts.bench.options import Options
from scripts.bench.timing import Measurement

SWEEP = ("experiment=paper",)
IMAGES_IN_PART = 512
STATUS, TABLES, VERIFY = "agr.status", "make_tables", "agr.verify"


def records(options: Options) -> Iterator[list[Measurement]]:
    """Yield the rows of the commands, on the cells of the paper's tables, all of them finished."""
    outputs = options.cells / "records"
    words = [*SWEEP, f"outputs={outputs}"]
    cells = expand(words)
    rows_of_an_image = sum(len(cell.targets) for cell in cells)
    n = max(1, options.rows // rows_of_an_image)
    words.append(f"n_images={n}")
    for cell in expand(words):
        fill(cell, n)
    commands = {
        STATUS: ["agr.status", *words],
        TABLES: ["scripts.make_tables", *words],
        VERIFY: ["agr.verify", f"outputs={outputs}"],
    }
    setting = f"{n * rows_of_an_image:,} rows of {len(cells)} cells"
    rows = []
    for number in range(1, options.rounds + 1):
        for name, command in commands.items():
            seconds, peak = cost(*command)
            rows.append(Measurement("records", setting, name, number, seconds, n, 0, 0, peak, PEAK))
    yield rows


# ---- records of runs that never were -------------------------------------------------------------


def fill(cell: Cell, n: int) -> None:
    """Write the records of a finished cell of `n` images, in which `agr.verify` finds no fault."""
    found = Records(cell.folder)
    found.update_run(lambda run: _begin(run, cell, n))
    for first in range(0, n, IMAGES_IN_PART):
        frame = _rows(cell, np.arange(first, min(n, first + IMAGES_IN_PART)))
        table = pa.Table.from_pandas(frame, ROWS, preserve_index=False)
        found.write_part("0/1", {"rows": table}, {"slots": 32, "width": 32})
    found.update_run(lambda run: setattr(run, "held", held_by(found)))


def _begin(run: RunInfo, cell: Cell, n: int) -> None:
    run.cell, run.name, run.attack_hash = cell.id, cell.name, cell.attack_hash
    run.config, run.command, run.eps_effective = (
        asdict(cell.config),
        cell.command(),
        cell.eps_effective,
    )
    run.numeric = NumericIdentity(32, 32, "fp32", 1, "cpu", "made up")
    run.networks = dict.fromkeys(cell.targets, "made up")
    run.sessions = [Session("2026-01-01", "0/1", n, 1.0, 1.0, n, n)]


def _rows(cell: Cell, positions: np.ndarray[Any, Any]) -> pd.DataFrame:
    """Return the rows of some positions, the same ones at every call."""
    c, n, k = cell.config, len(positions), len(cell.targets)
    draw = np.random.default_rng([int(cell.id, 16), int(positions[0])])
    label = draw.integers(0, cell.classes, n)
    other = (label + draw.integers(1, cell.classes, n)) % cell.classes
    fooled = draw.random(n) < 0.9
    first = pd.array(np.where(fooled, draw.integers(1, c.steps + 1, n), -1), dtype="Int32")
    first[~fooled] = pd.NA
    image = pd.DataFrame(
        {
            "suite": cell.suite.name, "cell": cell.id, "attack": c.attack.name,
            "attack_hash": cell.attack_hash, "norm": c.norm.name, "eps": c.eps,
            "eps_effective": cell.eps_effective, "steps": c.steps, "seed": c.seed,
            "source": cell.source, "position": positions,
            "image_id": [f"ILSVRC2012_val_{p:08d}" for p in positions],
            "label": label, "target_label": None,
            "adv_sha256": [hashlib.sha256(f"{cell.id}{p}".encode()).hexdigest() for p in positions],
            "source_clean_pred": label, "source_clean_conf": draw.random(n),
            "source_adv_pred": np.where(fooled, other, label), "source_adv_conf": draw.random(n),
            "first_success_step": first,
            "steps_used": first.fillna(c.steps) if c.attack.stop else c.steps,
            "forwards": c.steps + 1, "backwards": c.steps, "flat": False,
            "linf": np.minimum(draw.integers(1, 11, n), int(cell.eps_effective)),
            "l2": cell.eps_effective * draw.random(n), "mean_abs": draw.random(n),
            "rel_l2": draw.random(n), "cosine": draw.random(n),
            "found_linf": None, "found_l2": None, **dict.fromkeys(PERCEPTUAL),
        }
    )  # fmt: skip
    if c.norm.name == "linf":
        image["l2"] = 100 * draw.random(n)
    rows = image.loc[image.index.repeat(k)].reset_index(drop=True)
    target = np.tile(cell.targets, n)
    own = target == cell.source
    moved = draw.random(n * k) < 0.2
    pred = np.where(moved, (rows["label"] + 1) % cell.classes, rows["label"])
    pred = np.where(own, rows["source_adv_pred"], pred)
    conf, clean = (
        np.where(own, rows[f"source_{name}"], draw.random(n * k).astype("float32"))
        for name in ("adv_conf", "clean_conf")
    )
    more = {"target": target, "white_box": own, "clean_pred": rows["label"], "clean_conf": clean}
    more |= {"adv_pred": pred, "adv_conf": conf, "success": pred != rows["label"]}
    return rows.assign(**more)[ROWS.names]
