"""Mean transfer of cells that are seen as one: over sources, targets and seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from agr.config.cell import Cell
from agr.report.frames import counted_rows
from agr.report.rates import NAN
from agr.report.statistics import bootstrap, effective_number, over_seeds, wilson

ENDS = ("", "_low", "_high")  # of a rate's columns: itself and its interval


def success_shares(
    cell: Cell, frame: pd.DataFrame, *, white_box: bool, family: str | None = None
) -> pd.Series[float]:
    """Return the share of targets that each image fools, by image id, of those that count it.

    Args:
        cell: a finished cell.
        frame: its `selected` rows.
        white_box: whether the targets are the white-box ones or the others.
        family: of the targets; None: all of them.
    """
    targets = [t for t in cell.targets if cell.white_box(t) is white_box]
    targets = [t for t in targets if family in (None, cell.family(t))]
    counted = [counted_rows(frame, target, cell.config.denominator) for target in targets]
    rows = pd.concat(counted) if counted else frame.iloc[:0]
    return rows["success"].astype(float).groupby(rows["image_id"]).mean()


def mean_rates(
    finished: Sequence[tuple[Cell, pd.DataFrame]], family: str | None = None
) -> dict[str, float]:
    """Return the mean transfer and white-box ASR over images, percent, with their intervals.

    Transfer has a bootstrap interval. White-box rates are often 100 %, for which a bootstrap has
    none, so theirs is Wilson's; the results of one image count as if they were all alike, so that
    it is never too narrow. What has no images is NaN. `images` counts different images of the
    transfer, `n` an image once for each cell.

    Args:
        finished: cells with their `selected` rows.
        family: of the targets; None: all of them.
    """
    shares = [success_shares(*each, white_box=False, family=family) for each in finished]
    transfer = pd.concat(shares)
    rates = {
        "transfer": (transfer.mean(), *bootstrap(transfer, transfer.index)[:2]),
        "white_box": white_box_rate(finished, family),
    }
    counts = {"images": transfer.index.nunique(), "n": len(transfer)}
    return counts | {
        f"{name}{end}": 100 * value
        for name, values in rates.items()
        for end, value in zip(ENDS, values, strict=True)
    }


def white_box_rate(
    finished: Sequence[tuple[Cell, pd.DataFrame]], family: str | None = None
) -> tuple[float, float, float]:
    """Return the mean white-box ASR, 0 to 1, and the ends of its interval, as `mean_rates` does."""
    shares = [success_shares(*each, white_box=True, family=family) for each in finished]
    white_box = pd.concat(shares)
    n, mean = effective_number(white_box.index), float(white_box.mean())
    return mean, *(wilson(mean * n, n) if n else (NAN, NAN))


def spread_over_seeds(finished: Sequence[tuple[Cell, pd.DataFrame]]) -> tuple[float, float, float]:
    """Return the deviation of the mean transfer between seeds, and its interval over them.

    In percent, as `statistics.over_seeds` says; NaN where there is one seed.
    """
    seeds: dict[int, list[tuple[Cell, pd.DataFrame]]] = {}
    for cell, frame in finished:
        seeds.setdefault(cell.config.seed, []).append((cell, frame))
    shares = (
        pd.concat([success_shares(*each, white_box=False) for each in of_seed])
        for of_seed in seeds.values()
    )
    sd, low, high = over_seeds([100 * float(of_seed.mean()) for of_seed in shares])
    return sd, float(np.clip(low, 0, 100)), float(np.clip(high, 0, 100))
