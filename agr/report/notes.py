"""Notes below tables, and the table that ends a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
from tabulate import tabulate

from agr.config.cell import Cell
from agr.config.schema import Tuning
from agr.records.precision import compared
from agr.records.run_info import NumericIdentity, RunInfo
from agr.records.store import Records
from agr.report.numbers import NO_RUN
from agr.report.rates import needed, rate, selected
from agr.utils.text import printable


def setting(cells: Sequence[Cell]) -> list[str]:
    """Return the notes that belong below any table of these cells."""
    c, cell = cells[0].config, cells[0]
    runs = [run for x in cells if (run := Records(x.folder).run())]
    notes = [cell.suite.notice] if cell.suite.notice else []
    steps = "/".join(map(str, sorted({x.config.steps for x in cells})))
    seeds = sorted({x.config.seed for x in cells})
    seed = (
        f"seed {seeds[0]}" if len(seeds) == 1 else f"mean ± standard deviation over seeds {seeds}"
    )
    notes.append(
        f"{c.n_images} images at most per cell, select={c.select}, T={steps}, "
        f"quantize={c.quantize}, {seed}"
    )
    modes = {x.config.ensemble for x in cells if len(x.sources) > 1}
    if modes:
        notes.append(f"ensembles average their members' {' or '.join(sorted(modes))}")
    changed = {word for x in cells for word in x.attack_overrides}
    if changed:
        notes.append(f"attacks changed by {' '.join(sorted(changed))}")
    scaled = {
        f"{x.config.eps:g} → {x.eps_effective:.1f} at {x.geometry.size} px"
        for x in cells
        if x.eps_scale != 1
    }
    if scaled:
        notes.append(f"L2 budgets are scaled to the image's size: {', '.join(sorted(scaled))}")
    bad = {image for run in runs for image in run.bad_images}
    if bad:
        notes.append(f"{len(bad)} missing or corrupt images left out: {', '.join(sorted(bad)[:5])}")
    notes += _numeric_notes([run.numeric for run in runs if run.numeric])
    narrowed = [run.name for run in runs if run.narrowed]
    if narrowed:
        notes.append(f"memory ran out and slots were halved in {', '.join(narrowed)}")
    compared_runs = [run.against_fp32 for run in runs if run.against_fp32]
    gaps = [abs(r.asr - r.asr_fp32) for found in compared_runs for r in found.targets.values()]
    if gaps:
        n = max(found.images for found in compared_runs)
        notes.append(
            f"precision={c.precision}: on {n} images of a cell, ASR is at most {max(gaps):.1f} "
            "points from that in fp32"
        )
    return notes


def _numeric_notes(identities: Sequence[NumericIdentity]) -> list[str]:
    """Return a line if cells differ in their numeric identities, or in a network's tuning."""
    own = {repr(replace(identity, networks={})) for identity in identities}
    tunings: dict[str, set[Tuning]] = {}
    for identity in identities:
        for name, tuning in identity.networks.items():
            tunings.setdefault(name, set()).add(tuning)
    if len(own) < 2 and all(len(found) == 1 for found in tunings.values()):
        return []
    return ["the cells were run under different numeric identities (see their run.json)"]


def clean_accuracy_notes(cells: Sequence[Cell], frame: pd.DataFrame) -> list[str]:
    """Return a line that names the targets with a clean accuracy below 100 %, if there are."""
    wrong = frame[frame["clean"] < 100].groupby("target")["clean"].min()
    if wrong.empty:
        return []
    titles = {t: cell.title(t) for cell in cells for t in cell.targets}
    said = ", ".join(f"{titles[str(t)]} {least:.1f} %" for t, least in wrong.items())
    return [
        f"clean accuracy on these images below 100 %: {said} (the lowest of any source); "
        "denominator=target-correct leaves the misclassified ones out"
    ]


def unanswered(title: str, silent: int, n: int) -> list[str]:
    """A line that says of how many adversarial images a network said nothing, if there are any."""
    if not silent:
        return []
    return [
        f"{title} gave no finite answer (NaN) for {silent} of {n} adversarial images: they count "
        "as not fooled"
    ]


def all_unanswered(cells: Sequence[Cell], frame: pd.DataFrame) -> list[str]:
    """The lines of `unanswered` for all targets of a table."""
    titles = {t: cell.title(t) for cell in cells for t in cell.targets}
    sums = frame.groupby("target")[["silent", "n"]].sum()
    said = [unanswered(titles[str(t)], int(r["silent"]), int(r["n"])) for t, r in sums.iterrows()]
    return [line for lines in said for line in lines]


def missing(cells: Sequence[Cell], frame: pd.DataFrame) -> list[str]:
    """The commands that fill the gaps."""
    return [f"missing: {command}" for command in frame[~frame["run"]]["command"].unique()]


def closing(cell: Cell) -> str:
    """The table that ends a run: every target of one cell."""
    frame = selected(cell)
    if frame is None or frame.empty:
        i, k = cell.shard
        if not any(map(cell.mine, range(cell.config.n_images))):
            return (
                f"shard={i}/{k} has none of the {cell.config.n_images} images: they are attacked "
                f"{cell.chunk} at a time, so use fewer shards"
            )
        return "no finished images yet"
    rows, silent = [], []
    for target in cell.targets:
        r = rate(cell, target, frame)
        silent += unanswered(cell.title(target), r["silent"], r["n"])
        star = " *" if r["white_box"] else ""
        told = [f"{r['asr']:.1f}", f"[{r['low']:.1f}, {r['high']:.1f}]", f"{r['clean']:.1f}"]
        told = told if r["n"] else [NO_RUN] * 3
        rows.append([cell.title(target) + star, *told, r["n"]])
    images = frame.drop_duplicates("image_id")
    header = ["target", "ASR %", "95 % interval", "clean accuracy, %", "images"]
    table = tabulate(rows, header, tablefmt="simple", disable_numparse=True)
    star = "* white-box · " if any(map(cell.white_box, cell.targets)) else ""
    taken = images["steps_used"].mean()  # another library doesn't say
    steps = "" if pd.isna(taken) else f"mean steps {taken:.2f} · "
    sums = (
        f"{star}{steps}"
        f"‖v‖₂/‖x‖₂ {images['rel_l2'].mean():.4f} · mean |v| {images['mean_abs'].mean():.4f} · "
        f"cosine {images['cosine'].mean():.5f}"
    )
    run, n = Records(cell.folder).run() or RunInfo(), cell.config.n_images
    eligible = n if run.eligible is None else min(n, run.eligible)
    extra = [f"{eligible} of {n} images: no more are eligible"] if eligible < n else []
    extra += [needed(cell, frame)] if cell.smallest else []
    extra += silent
    bad = run.bad_images
    extra += [f"{len(bad)} missing or corrupt images left out: {', '.join(bad)}"] if bad else []
    extra += [compared(cell, run.against_fp32)] if run.against_fp32 else []
    return "\n".join([table, sums, *map(printable, extra)])
