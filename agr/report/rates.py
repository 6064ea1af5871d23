"""Rates and sizes from records, cell by cell: the numbers behind the tables.

Cells are found by their identity, so numbers of another eps, seed, step count or attack can't slip
in, and a cell counts once it is finished. Needs neither torch nor timm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from agr.config.cell import Cell
from agr.config.schema import PACKAGE
from agr.records.progress import wanted_positions
from agr.records.store import Records
from agr.report.statistics import wilson
from agr.utils.errors import ConfigError
from agr.utils.pixels import LEVELS

NAN = float("nan")
NUMBER_OF = {"linf": 1, "l2": 2}  # the paper's tables of rates
# What numbers are made from; reading all columns would take several times longer.
COLUMNS = [
    *("target", "position", "image_id", "label", "clean_pred", "adv_pred", "source_clean_pred"),
    *(
        "source_adv_pred",
        "success",
        "first_success_step",
        "steps_used",
        "backwards",
        "linf",
        "l2",
        "mean_abs",
        "rel_l2",
        "cosine",
    ),
]
PAPER_EPS, PAPER_STEPS = {"linf": 10, "l2": 1500}, 10


def rates(cells: Sequence[Cell]) -> pd.DataFrame:
    """The first frame of `rates_and_sizes`: ASR of every cell and target."""
    return rates_and_sizes(cells)[0]


def sizes(cells: Sequence[Cell]) -> pd.DataFrame:
    """The second frame of `rates_and_sizes`: mean size of the perturbations of every cell."""
    return rates_and_sizes(cells)[1]


def rates_and_sizes(cells: Sequence[Cell]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """ASR of every cell and target (Tables 1 and 2), and mean sizes of every cell (Table 3).

    Rates are long, one row per (norm, source, attack, target, seed). Columns: suite notice norm eps
    source attack seed table target white_box run command n successes silent asr low high clean
    paper difference (percent). `clean` is how many of the counted images the target has right when
    clean, `silent` how many adversarial ones it gave no finite answer to.
    Sizes have one row per cell. Numbers are NaN where there is no finished run.
    Raises ConfigError if the cells differ in more than these and the seed.
    """
    keys = ["norm", "source", "attack", "target"]
    paper_rates = _printed("asr", keys, "asr_percent")
    paper_sizes = _printed("amp", keys[:3], "amp")
    found, means = [], []
    for cell in cells:
        frame = selected(cell)  # one cell at a time: all of a large run's would fill the memory
        shown = as_in_paper(cell)
        size = _size(cell, frame)
        means.append(size | {"paper": _of(paper_sizes, size, keys[:3]) if shown else NAN})
        for target in cell.targets:
            row = rate(cell, target, frame)
            found.append(row | {"paper": _of(paper_rates, row, keys) if shown else NAN})
    asr = pd.DataFrame(found)
    asr["difference"] = asr["asr"] - asr["paper"]
    if asr.duplicated([*keys, "seed"]).any():
        twice = asr[asr.duplicated([*keys, "seed"])].iloc[0]
        raise ConfigError(
            f"a table holds one cell for {twice['attack']} {twice['norm']} on {twice['source']}, "
            "the sweep has several: give one eps, steps, … (only seeds may be several)"
        )
    return asr, pd.DataFrame(means)


def _printed(table: str, keys: list[str], value: str) -> dict[Any, float]:
    """Read the paper's printed values, by `keys`."""
    printed = pd.read_csv(PACKAGE / "assets" / "paper" / f"{table}.csv")
    return dict(printed.set_index(keys)[value].items())


def _of(printed: dict[Any, float], row: dict[str, Any], keys: list[str]) -> float:
    return printed.get(tuple(row[k] for k in keys), NAN)


def as_in_paper(cell: Cell) -> bool:
    """Return whether the paper's values belong beside this cell: same eps, T and goal."""
    c = cell.config
    as_printed = c.eps == PAPER_EPS[c.norm.name] and c.steps == PAPER_STEPS
    return as_printed and not cell.attack_overrides


def selected(cell: Cell) -> pd.DataFrame | None:
    """The rows (COLUMNS) that a finished cell's config asks for, or None if it isn't finished."""
    records = Records(cell.folder)
    run = records.run()
    if run is None:
        return None
    wanted = wanted_positions(cell, records)
    rows = records.read("rows", COLUMNS)
    rows = rows[rows["position"].isin(wanted) & rows["target"].isin(cell.targets)]
    needed = wanted - set(run.lost)
    if any(needed - set(rows["position"][rows["target"] == t]) for t in cell.targets):
        return None
    return rows


def rate(cell: Cell, target: str, frame: pd.DataFrame | None) -> dict[str, Any]:
    """One row of `rates`, from the cell's `selected` rows."""
    row = _place(cell) | {"table": NUMBER_OF[cell.config.norm.name], "target": target}
    row |= {"white_box": cell.white_box(target), "run": frame is not None}
    row |= {"command": cell.command()}
    row |= {"n": 0, "successes": 0, "silent": 0}
    row |= {"asr": NAN, "low": NAN, "high": NAN, "clean": NAN}
    if frame is None:
        return row
    counted = count(frame, target, cell.config.denominator)
    n, successes = len(counted), int(counted["success"].sum())
    low, high = wilson(successes, n)
    if not n:
        return row
    clean = 100 * float((counted["clean_pred"] == counted["label"]).mean())
    rates = {"asr": 100 * successes / n, "low": 100 * low, "high": 100 * high, "clean": clean}
    silent = int((counted["adv_pred"] < 0).sum())
    return row | {"n": n, "successes": successes, "silent": silent} | rates


def needed(cell: Cell, frame: pd.DataFrame) -> str:
    """Describe the sizes that an attack without a budget needed, from `selected` rows."""
    images = frame.drop_duplicates("image_id")
    found = images[images["l2"] > 0]
    said = f"smallest perturbations, found for {len(found)} of {len(images)} images"
    if len(found):
        middle = {k: LEVELS * float(found[k].median()) for k in ("linf", "l2")}
        said += f"; median L∞ {middle['linf']:.1f}, L2 {middle['l2']:.1f} (0-255 scale)"
    return f"{said}; a success is one within eps"


def _place(cell: Cell) -> dict[str, Any]:
    """Return the columns that name a cell in a table."""
    c = cell.config
    suite = {"suite": cell.suite.name, "notice": cell.suite.notice}
    return suite | {
        "norm": c.norm.name,
        "eps": c.eps,
        "source": cell.source,
        "attack": c.attack.name,
        "seed": c.seed,
    }


def count(frame: pd.DataFrame, target: str, denominator: str) -> pd.DataFrame:
    """The rows of a target that a denominator counts.

    "all": every image. "target-correct": those that the target classifies correctly when clean.
    "all-correct": those that every target of the frame and the source have right.
    """
    rows = frame[frame["target"] == target]
    if denominator == "target-correct":
        return rows[rows["clean_pred"] == rows["label"]]
    if denominator == "all-correct":
        right = (frame["clean_pred"] == frame["label"]) & (
            frame["source_clean_pred"] == frame["label"]
        )
        everyone = right.groupby(frame["image_id"]).all()
        return rows[rows["image_id"].map(everyone)]
    return rows


def _size(cell: Cell, frame: pd.DataFrame | None) -> dict[str, Any]:
    """One row of the sizes, from the cell's `selected` rows."""
    row = _place(cell) | {"run": frame is not None, "n": 0, "command": cell.command()}
    row |= dict.fromkeys(("rel_l2", "mean_abs", "mean_abs_sym", "cosine", "steps_used"), NAN)
    if frame is not None:
        images = frame.drop_duplicates("image_id")
        row["n"] = len(images)
        row |= {k: images[k].mean() for k in ("rel_l2", "mean_abs", "cosine", "steps_used")}
        row["mean_abs_sym"] = 2 * images["mean_abs"].mean()  # [-1, 1] is twice as wide
    return row


def norm_title(norm: str) -> str:
    """A norm as tables write it."""
    return {"linf": "L∞", "l2": "L2"}[norm]
