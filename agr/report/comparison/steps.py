"""Transfer of iterates: after each scored step, against the gradients spent until then."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cache
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from agr.config.cell import Cell
from agr.records.store import Records
from agr.report.comparison.axes import POOLED
from agr.report.comparison.figure import line_styles
from agr.report.comparison.numbers import Comparison
from agr.report.figures.style import AttackStyle, legend, styled
from agr.report.formats import Block, Sheet
from agr.report.numbers import Number, TableCell
from agr.report.transfer import mean_rates

COLUMNS = ("step", "n", "spent", "transfer", "transfer_low", "transfer_high")
WIDE = 20  # ratio of the most gradients to the fewest from which their axis is logarithmic


def after_steps(cells: Sequence[tuple[Cell, pd.DataFrame]]) -> pd.DataFrame:
    """Return the mean transfer after each scored step, of some cells as one (COLUMNS, percent).

    Only steps count that all cells scored, on all their images and targets. An image whose attack
    stopped before stays as it is.

    Args:
        cells: cells with their `selected` rows, which say what images count.
    """
    found: dict[int, list[tuple[Cell, pd.DataFrame]]] = {}
    for cell, frame in cells:
        steps = Records(cell.folder).read("steps")
        mine = steps["position"].isin(frame["position"]) & steps["target"].isin(cell.targets)
        for step, rows in steps[mine].groupby("step"):
            if len(rows) == len(frame):  # else a run that scored it had fewer images or targets
                found.setdefault(int(str(step)), []).append((cell, rows))
    measured = []
    for step in sorted(step for step, there in found.items() if len(there) == len(cells)):
        images = pd.concat([rows.drop_duplicates("image_id") for _, rows in found[step]])
        known = mean_rates(found[step]) | {"spent": images["backwards"].mean()}
        measured.append({"step": step} | {key: known[key] for key in COLUMNS[1:]})
    return pd.DataFrame(measured, columns=list(COLUMNS))


@cache  # a command prints it and writes it, and its intervals take time
def by_steps(comparison: Comparison) -> pd.DataFrame:
    """Return `after_steps` of every line of a comparison: over all its sources and seeds.

    Only cells count that were asked for it: records may hold the steps of another comparison.
    The columns before COLUMNS are the keys that vary and "line", their titles.
    """
    keys = [key for key in comparison.axes if key not in POOLED] or ["attack"]
    lines: dict[tuple[str, ...], list[Cell]] = {}
    for cell in comparison.cells:
        lines.setdefault(comparison.titles_of(cell, keys), []).append(cell)
    frames = []
    for titles, cells in lines.items():
        known = [(cell, comparison.frame_of(cell)) for cell in cells]
        finished = [(cell, frame) for cell, frame in known if frame is not None]
        asked = all(cell.score_steps for cell in cells)
        if asked and len(finished) == len(known) and len(frame := after_steps(finished)):
            named = dict(zip(keys, titles, strict=True)) | {"line": ", ".join(titles)}
            frames.append(pd.DataFrame(named, index=frame.index).join(frame))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def steps_sheet(frame: pd.DataFrame) -> Sheet:
    """Return the table of `by_steps`: a row per line, a column per step, and gradients below."""
    keys = list(frame.columns[: list(frame.columns).index("line")])
    steps = sorted(frame["step"].unique())
    rates: list[list[TableCell]] = []
    costs: list[list[TableCell]] = []
    for _, mine in frame.groupby("line", sort=False):
        at = {row["step"]: row for row in mine.to_dict("records")}
        labels = [str(mine[key].iloc[0]) for key in keys]
        none = Number(float("nan"))
        rates.append([*labels, *(_rate(at[s]) if s in at else none for s in steps)])
        cost = (Number(at[s]["spent"]) if s in at else none for s in steps)
        costs.append([*labels, *cost])
    blocks = [
        Block([*keys, *(f"step {s}" for s in steps)], rates),
        Block([*keys, *(f"gradients, step {s}" for s in steps)], costs),
    ]
    notes = [
        "mean transfer (%) of the iterates after these steps of one run, with 95 % bootstrap "
        "intervals over images; the step size is that of the whole run. An image whose attack "
        "stopped before stays as it is",
        "gradients: per image, spent until then",
    ]
    return Sheet("compare-steps", "Mean transfer by step", frame, blocks, notes)


def _rate(row: dict[Hashable, Any]) -> Number:
    return Number(row["transfer"], interval=(row["transfer_low"], row["transfer_high"]))


def draw_steps(comparison: Comparison, frame: pd.DataFrame) -> tuple[Figure, str]:
    """Draw mean transfer against gradients spent, a line per attack; the figure and its caption."""
    styles: dict[str, AttackStyle] = line_styles(comparison, list(dict.fromkeys(frame["line"])))
    with styled():
        figure = Figure(figsize=(5.5, 3.6))
        panel = figure.subplots()
        for line, style in styles.items():
            mine = frame[frame["line"] == line]
            low, high = mine["transfer_low"], mine["transfer_high"]
            panel.fill_between(mine["spent"], low, high, color=style.colour, alpha=0.12, lw=0)
            panel.plot(mine["spent"], mine["transfer"], **style.line())
        if frame["spent"].max() > WIDE * frame["spent"].min():
            panel.set_xscale("log")
            panel.xaxis.set_major_formatter("{x:g}")
        panel.set_xlabel("gradients per image")
        panel.set_ylabel("mean transfer, %")
        panel.set_ylim(bottom=0)
        legend(figure, list(styles.values()))
    steps = ", ".join(map(str, sorted(frame["step"].unique())))
    return figure, (
        f"Mean transfer of the iterates after steps {steps} against the gradients spent until "
        "then; bands are 95 % intervals over images."
    )
