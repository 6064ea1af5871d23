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
from agr.records.progress import Wanted
from agr.records.schema import PERCEPTUAL
from agr.records.store import Records
from agr.records.values import ABSTAINED
from agr.report.statistics import wilson
from agr.utils.errors import ConfigError
from agr.utils.pixels import LEVELS

NAN = float("nan")
COUNTS_KEPT = 2_000  # of targets' rows
ROWS_KEPT = 2_000_000  # in memory, of cells that tables have read: some 200 bytes each
NORM_TITLES = {"linf": "L∞", "l2": "L2"}
TABLE_NUMBERS = {"linf": 1, "l2": 2}  # the paper's tables of rates
PAPER_EPS = {"linf": 10, "l2": 1500}
PAPER = {"suite": "imagenet", "T": 10, "select": "group", "quantize": "always", "success": "label"}
# Columns that numbers are made from; reading all of them would take several times longer.
COLUMNS = [
    "target", "position", "image_id", "label", "clean_pred", "adv_pred", "source_clean_pred",
    "source_adv_pred", "success", "first_success_step", "steps_used", "backwards", "flat", "linf",
    "found_linf", "found_l2", "l2", "mean_abs", "rel_l2", "cosine", *PERCEPTUAL,
]  # fmt: skip
APPEARANCE = {  # of perceptual sizes: heading and format
    "psnr": ("PSNR, dB", ".2f"),
    "ssim": ("SSIM", ".4f"),
    "ciede2000": ("CIEDE2000", ".3f"),
    "lpips": ("LPIPS", ".4f"),
}

_kept: dict[tuple[Any, ...], pd.DataFrame | None] = {}

# By frame, which is held, so that no other can have its id.
_counted: dict[tuple[int, str, str], tuple[pd.DataFrame, pd.DataFrame]] = {}


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
        frame = selected(cell)  # one cell at a time: all of a large run's would fill the memory
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


def selected(cell: Cell) -> pd.DataFrame | None:
    """Return the rows (COLUMNS) that a finished cell's config selects; None if it isn't finished.

    Not to be changed: it is kept, as tables and figures share it, until a file of the cell changes.
    Raises ConfigError for damaged records.
    """
    records = Records(cell.folder)
    files = [records.run_file, *(part.path for part in records.part_files("rows"))]
    stats = [path.stat() for path in files if path.exists()]
    asked = cell.config.n_images, cell.shard, cell.chunk, *cell.targets
    key = str(cell.folder), asked, *((s.st_ino, s.st_mtime_ns, s.st_size) for s in stats)
    if key not in _kept:
        _kept[key] = _selected(cell, records)
        while len(_kept) > 1 and sum(len(f) for f in _kept.values() if f is not None) > ROWS_KEPT:
            del _kept[next(iter(_kept))]  # the oldest
    return _kept[key]


def _selected(cell: Cell, records: Records) -> pd.DataFrame | None:
    run = records.run()
    if run is None:
        return None
    wanted = Wanted(cell, run)
    rows = records.read("rows", COLUMNS)
    mine = wanted.of(rows["position"].unique().tolist())
    rows = rows[rows["position"].isin(mine) & rows["target"].isin(cell.targets)]
    lost = wanted.of(run.lost)
    for target in cell.targets:
        if len(lost.union(rows["position"][rows["target"] == target])) < len(wanted):
            return None
    return rows


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
        "command": cell.command(),
        "n": 0,
        "successes": 0,
        "silent": 0,
        "abstained": 0,
        "abstained_clean": 0,
    }
    row |= dict.fromkeys(("asr", "low", "high", "clean"), NAN)
    if frame is None:
        return row
    counted = counted_rows(frame, target, c.denominator)
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


def smallest_sizes(cell: Cell, frame: pd.DataFrame) -> str:
    """Return a line on the sizes that an attack without a budget needed, from `selected` rows."""
    images = frame.drop_duplicates("image_id")
    attacked = images[images["l2"] > 0]
    line = f"smallest perturbations, found for {len(attacked)} of {len(images)} images"
    if len(attacked):
        linf, l2 = (_median(attacked, norm) for norm in ("linf", "l2"))
        line += f"; median L∞ {linf}, L2 {l2} (0-255 scale; in brackets before rounding to 8 bits)"
    return f"{line}; a success is one within eps"


def _median(images: pd.DataFrame, norm: str) -> str:
    """Return the median of a norm, and in brackets before images were rounded to 8 bits."""
    rounded, found = (float(images[name].median()) for name in (norm, f"found_{norm}"))
    return f"{rounded:.1f} ({found:.2f})" if found == found else f"{rounded:.1f}"


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


def counted_rows(frame: pd.DataFrame, target: str, denominator: str) -> pd.DataFrame:
    """Return the rows of a target that a denominator counts; not to be changed.

    "all": every image. "target-correct": those that the target classifies correctly when clean.
    "all-correct": those that the source and all targets of the frame classify correctly.
    """
    key = id(frame), target, denominator
    if key not in _counted or _counted[key][0] is not frame:
        if len(_counted) >= COUNTS_KEPT:
            _counted.clear()
        _counted[key] = frame, _counted_rows(frame, target, denominator)
    return _counted[key][1]


def _counted_rows(frame: pd.DataFrame, target: str, denominator: str) -> pd.DataFrame:
    rows = frame[frame["target"] == target]
    if denominator == "target-correct":
        return rows[rows["clean_pred"] == rows["label"]]
    if denominator == "all-correct":
        by_target = frame["clean_pred"] == frame["label"]
        by_source = frame["source_clean_pred"] == frame["label"]
        by_all = (by_target & by_source).groupby(frame["image_id"]).all()
        return rows[rows["image_id"].map(by_all)]
    return rows


def _size(cell: Cell, frame: pd.DataFrame | None) -> dict[str, Any]:
    """Return one row of the sizes, from the `selected` rows of a cell."""
    row = identity(cell) | {"run": frame is not None, "n": 0, "command": cell.command()}
    row |= dict.fromkeys(("l2", "rel_l2", "mean_abs", "mean_abs_sym", "cosine", "steps_used"), NAN)
    row |= dict.fromkeys(PERCEPTUAL, NAN)
    row["eps_effective"] = cell.eps_effective
    if frame is not None:
        images = frame.drop_duplicates("image_id")
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
