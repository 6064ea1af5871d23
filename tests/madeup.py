"""Records of runs that never were, whose numbers can be worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agr.config.cell import Cell
from agr.records.run_info import NumericIdentity, RunInfo, Session
from agr.records.schema import PERCEPTUAL, ROWS
from agr.records.store import Records


def began(run: RunInfo, cell: Cell, sessions: Sequence[tuple[int, float]] = ()) -> None:
    """Begin a run.json; `sessions` are (images, seconds of crafting)."""
    run.name = cell.name
    run.numeric = NumericIdentity(1, 1, "fp32", 1, "cpu", "2.15")
    run.sessions = [Session("2026-01-01", "0/1", n, s, s, n, n) for n, s in sessions]


def record(
    cell: Cell,
    successes: Mapping[str, Sequence[int]],
    *,
    traces: Sequence[Sequence[tuple[int, float]]] = (),
    images: Sequence[tuple[Any, Any]] = (),
    **columns: Any,
) -> None:
    """Records of a finished cell: per target 1 or 0 for each image, and columns, one per image.

    `traces` are, per image, (fooled, cosine) after each step; `images` are, per image, the clean
    and the adversarial one, (H, W, 3) uint8.
    """
    c = cell.config
    n = len(next(iter(successes.values())))
    blank: dict[str, Any] = dict.fromkeys(ROWS.names, 0)
    blank |= {"suite": cell.suite.name, "cell": cell.id, "attack": c.attack.name}
    blank |= {"attack_hash": "x", "norm": c.norm.name, "source": cell.source, "adv_sha256": "x"}
    blank |= {"target_label": None, "first_success_step": None, "flat": False}
    blank |= dict.fromkeys(PERCEPTUAL)
    rows = [
        blank
        | {"target": target, "white_box": cell.white_box(target), "position": p}
        | {"image_id": f"image{p}", "success": bool(successes.get(target, [0] * n)[p])}
        | {name: v[p] if isinstance(v, list) else v for name, v in columns.items()}
        for target in cell.targets
        for p in range(n)
    ]
    trace = [
        {"position": p, "image_id": f"image{p}", "step": step, "fooled": bool(fooled)}
        | {"l2": 0.0, "cosine": cosine}
        for p, steps in enumerate(traces)
        for step, (fooled, cosine) in enumerate(steps)
    ]
    adversarials = [
        {"position": p, "image_id": f"image{p}", "label": 0, "target_label": None}
        | {"adv_sha256": "x", "height": clean.shape[0], "width": clean.shape[1]}
        | {"pixels": np.asarray(adversarial).tobytes(), "clean_pixels": np.asarray(clean).tobytes()}
        | {"steps_used": 1, "first_success_step": 1, "forwards": 1, "backwards": 1}
        | {"flat": False}
        for p, (clean, adversarial) in enumerate(images)
    ]
    records = Records(cell.folder)
    records.update_run(lambda run: began(run, cell))
    tables = {"rows": rows, "trace": trace, "adversarials": adversarials}
    records.write_part("0/1", tables)
