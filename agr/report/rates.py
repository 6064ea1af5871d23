"""Rates and sizes from records, cell by cell: the numbers behind the tables.

Cells are found by their identity, so numbers of another eps, seed, step count or attack can't slip
in, and a cell counts once it is finished.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from agr.config.cell import Cell
from agr.config.schema import PACKAGE
from agr.records.schema import PERCEPTUAL
from agr.records.values import ABSTAINED
from agr.report.frames import rows_counted, selected
from agr.report.statistics import wilson
from agr.report.unfinished import rest_of
from agr.utils.errors import ConfigError
from agr.utils.pixels import LEVELS

NAN = float("nan")
NORM_TITLES = {"linf": "L∞", "l2": "L2"}
TABLE_NUMBERS = {"linf": 1, "l2": 2}  # the paper's tables of rates
PAPER_EPS = {"linf": 10, "l2": 1500}
PAPER = {"suite": "imagenet", "T": 10, "select": "group", "quantize": "always", "success": "label"}
# What rates are counted from, and sizes are means of.
COUNTED = ["target", "image_id", "label", "clean_pred", "source_clean_pred", "adv_pred", "success"]
SIZES = ["l2", "rel_l2", "cosine", "steps_used", "mean_abs"]
APPEARANCE = {  # of perceptual sizes: heading and format
    "psnr": ("PSNR, dB", ".2f"),
    "ssim": ("SSIM", ".4f"),
    "ciede2000": ("CIEDE2000", ".3f"),
    "lpips": ("LPIPS", ".4f"),
}


def rates_and_sizes(cells: Sequence[Cell]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return ASR by cell and target (Tables 1 and 2), and mean sizes by cell (Table 3).

    Numbers are NaN where there is no finished run.

    Returns:
        Rates, one row per norm, source, attack, target and seed, with the columns suite notice norm
        eps source attack seed table target white_box run command n successes silent abstained
        abstained_clean asr low high clean paper difference. asr, low, high, clean, paper and
        difference are percent; clean is the target's clean accuracy on the images counted, silent
        the number of adversarial images for which it gave no finite answer, abstained those that
        its vote was too close for (abstained_clean: of the clean ones).
        Sizes, one row per norm, source, attack and seed.

    Raises:
        ConfigError: if the cells differ in more than these and the seed.
    """
    keys = ["norm", "source", "attack", "target"]
    paper_rates = _printed("asr", keys, "asr_percent")
    paper_sizes = _printed("amp", keys[:3], "amp")
    rates, sizes = [], []
    for cell in cells:
        frame = selected(cell, in_passing=True)  # all of a large run's would fill the memory
        as_in_paper = shows_paper(cell)
        place = (cell.config.norm.name, cell.source, cell.config.attack.name)
        paper = paper_sizes.get(place, NAN) if as_in_paper else NAN
        sizes.append(_size(cell, frame) | {"paper": paper})
        for target in cell.targets:
            paper = paper_rates.get((*place, target), NAN) if as_in_paper else NAN
            rates.append(rate(cell, target, frame) | {"paper": paper})
    asr = pd.DataFrame(rates)
    asr["difference"] = asr["asr"] - asr["paper"]
    if asr.duplicated([*keys, "seed"]).any():
        twice = asr[asr.duplicated([*keys, "seed"])].iloc[0]
        raise ConfigError(
            f"a table holds one cell for {twice['attack']} {twice['norm']} on {twice['source']}, "
            "the sweep has several: give one eps, steps, … (only seeds may be several)"
        )
    return asr, pd.DataFrame(sizes)


def _printed(table: str, keys: list[str], value: str) -> dict[Any, float]:
    """Read the paper's printed values, by `keys`."""
    frame = pd.read_csv(PACKAGE / "assets" / "paper" / f"{table}.csv")
    return dict(frame.set_index(keys)[value].items())


def shows_paper(cell: Cell) -> bool:
    """Return whether the paper's values belong beside this cell's."""
    shown = cell.config.paper
    return not unlike_paper(cell) if shown is None else shown


def unlike_paper(cell: Cell) -> list[str]:
    """Return in which ways a cell's setting isn't the paper's, such as "eps 8"."""
    c = cell.config
    ours = {"suite": cell.suite.name, "T": c.steps, "select": c.select, "quantize": c.quantize}
    ours |= {"success": cell.success}
    unlike = [f"{key} {value}" for key, value in ours.items() if value != PAPER[key]]
    unlike += [f"eps {c.eps:g}"] if c.eps != PAPER_EPS[c.norm.name] else []
    # Networks and attacks go by names, which overrides and files of one's own may give to others.
    own = ("hydra.searchpath=", "suite.")
    changed = [w for w in cell.overrides if w.lstrip("+~").startswith(own)]
    return [*unlike, *cell.attack_overrides, *changed]


def rate(cell: Cell, target: str, frame: pd.DataFrame | None) -> dict[str, Any]:
    """Return one row of the rates.

    Args:
        cell: the cell.
        target: one of its targets.
        frame: the `selected` rows of the cell.
    """
    c = cell.config
    row = identity(cell) | {
        "table": TABLE_NUMBERS[c.norm.name],
        "target": target,
        "white_box": cell.white_box(target),
        "run": frame is not None,
        "command": _command(cell, frame),
        "n": 0,
        "successes": 0,
        "silent": 0,
        "abstained": 0,
        "abstained_clean": 0,
    }
    row |= dict.fromkeys(("asr", "low", "high", "clean"), NAN)
    if frame is None:
        return row
    counted = rows_counted(frame[COUNTED], target, c.denominator)
    n, successes = len(counted), int(counted["success"].sum())
    if n:
        low, high = wilson(successes, n)
        adv, clean = counted["adv_pred"], counted["clean_pred"]
        row |= {"n": n, "successes": successes, "silent": int((adv == -1).sum())}
        row["abstained"] = int((adv == ABSTAINED).sum())
        row["abstained_clean"] = int((clean == ABSTAINED).sum())
        row |= {"asr": 100 * successes / n, "low": 100 * low, "high": 100 * high}
        row["clean"] = 100 * float((counted["clean_pred"] == counted["label"]).mean())
    return row


def identity(cell: Cell) -> dict[str, Any]:
    """Return the columns that name a cell in a table."""
    c = cell.config
    return {
        "suite": cell.suite.name,
        "notice": cell.suite.notice,
        "norm": c.norm.name,
        "eps": c.eps,
        "source": cell.source,
        "attack": c.attack.name,
        "seed": c.seed,
    }


def _command(cell: Cell, frame: pd.DataFrame | None) -> str:
    """Return the command that made a cell's rows, or makes what is missing of them."""
    return rest_of(cell) if frame is None else cell.command()


def _size(cell: Cell, frame: pd.DataFrame | None) -> dict[str, Any]:
    """Return one row of the sizes, from the `selected` rows of a cell."""
    row = identity(cell) | {"run": frame is not None, "n": 0, "command": _command(cell, frame)}
    row |= dict.fromkeys(("l2", "rel_l2", "mean_abs", "mean_abs_sym", "cosine", "steps_used"), NAN)
    row |= dict.fromkeys(PERCEPTUAL, NAN)
    row["eps_effective"] = cell.eps_effective
    if frame is not None:
        images = frame[["image_id", *SIZES]].drop_duplicates("image_id")
        row["n"] = len(images)
        row |= {k: images[k].mean() for k in ("l2", "rel_l2", "cosine", "steps_used")}
        row["mean_abs"] = images["mean_abs"].mean() / LEVELS
        row["mean_abs_sym"] = 2 * row["mean_abs"]  # [-1, 1] is twice as wide
        row |= perceptual_means([frame])
    return row


def perceptual_values(frame: pd.DataFrame, name: str) -> pd.Series[float]:
    """Return a perceptual size of every image, by image id; empty if some image lacks one.

    Unchanged images have no PSNR, and are left out of it. `frame` has `selected` rows.
    """
    if frame[name].isna().all():
        return pd.Series(dtype=float)
    images = frame.groupby("image_id", sort=False)[["linf", name]].first()  # that isn't null
    values = images[name][images["linf"] > 0] if name == "psnr" else images[name]
    return values.astype(float) if values.notna().all() else values.iloc[:0].astype(float)


def perceptual_means(frames: Sequence[pd.DataFrame]) -> dict[str, float]:
    """Return the mean of each perceptual size over the images of all frames, by column.

    NaN where an image lacks it: it is measured on request.
    """
    found = {}
    for name in PERCEPTUAL:
        values = [perceptual_values(frame, name) for frame in frames]
        found[name] = float(pd.concat(values).mean()) if all(map(len, values)) else NAN
    return found


def budget_title(cell: Cell) -> str:
    """Return a cell's norm and eps, such as "L∞ = 10"."""
    return f"{NORM_TITLES[cell.config.norm.name]} = {cell.config.eps:g}"
