"""Comparison of a lower precision with fp32 on some images of a cell."""

from __future__ import annotations

from dataclasses import replace

from agr.config.cell import Cell
from agr.records.run_info import PrecisionComparison, PrecisionRates
from agr.records.store import Records

LOWER = ("tf32", "bf16")


def twin(cell: Cell) -> Cell | None:
    """Return the fp32 cell that `cell` is compared with, a few images in a folder of its own.

    None where there is nothing to compare. Of several shards each does its share of the images.
    """
    c = cell.config
    n = min(c.fp32_images, c.n_images)
    if c.precision not in LOWER or n == 0:
        return None
    place = str(cell.suite_folder / "fp32")
    alone = replace(c, trace=False, score_steps=None, save_adversarials=False)
    config = replace(alone, outputs=place, precision="fp32", n_images=n)
    return replace(cell, config=config)


def compare(cell: Cell, exact: Cell) -> PrecisionComparison:
    """Compare the success rates of both on the images that both have; run.json keeps them."""
    columns = ["image_id", "target", "success"]
    records = Records(cell.folder)
    ours, theirs = (r.read("rows", columns) for r in (records, Records(exact.folder)))
    both = ours.merge(theirs, on=["image_id", "target"], suffixes=("", "_fp32"))
    both["same"] = both["success"] == both["success_fp32"]
    rates = 100 * both.groupby("target")[["success", "success_fp32", "same"]].mean()
    by_target = {str(target): PrecisionRates(*row) for target, *row in rates.itertuples()}
    found = PrecisionComparison(both["image_id"].nunique(), by_target)
    records.update_run(lambda run: setattr(run, "against_fp32", found))
    return found


def compared(cell: Cell, found: PrecisionComparison) -> str:
    """Return the comparison in a line."""
    said = (
        f"{cell.title(target)} {r.asr - r.asr_fp32:+.1f} ({r.same:.0f} % the same)"
        for target, r in found.targets.items()
        if target in cell.targets
    )
    return (
        f"{cell.config.precision} against fp32 on {found.images} images, ASR in points: "
        f"{', '.join(said)}"
    )
