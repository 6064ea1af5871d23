"""Notes below tables, and the table that ends a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from tabulate import tabulate

from agr.config.cell import Cell
from agr.config.schema import Tuning
from agr.records.precision import compared
from agr.records.run_info import NumericIdentity, RunInfo
from agr.records.store import Records
from agr.report.frames import Noted, noted, selected
from agr.report.numbers import NO_RUN
from agr.report.rates import APPEARANCE, perceptual_means, rate
from agr.utils.pixels import LEVELS
from agr.utils.text import came_back, plural, printable, zero_gradients


def alternatives(values: Iterable[str | int]) -> str:
    """Return the values of a setting in a sweep's order, "always/end"; numbers rising."""
    each = dict.fromkeys(values)
    numbers = all(isinstance(value, int) for value in each)
    return "/".join(map(str, sorted(each) if numbers else each))


def setting_notes(cells: Sequence[Cell]) -> list[str]:
    """Return the notes that belong below any table of these cells."""
    cell = cells[0]
    runs = [run for x in cells if (run := Records(x.folder).run())]
    notes = [cell.suite.notice] if cell.suite.notice else []
    seeds = sorted({x.config.seed for x in cells})
    one_seed = len(seeds) == 1
    seed = f"seed {seeds[0]}" if one_seed else f"mean ± standard deviation over seeds {seeds}"
    notes.append(
        f"{alternatives(x.config.n_images for x in cells)} images at most per cell, "
        f"select={alternatives(x.config.select for x in cells)}, "
        f"T={alternatives(x.config.steps for x in cells)}, "
        f"quantize={alternatives(x.config.quantize for x in cells)}, {seed}"
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
    comparisons = [run.against_fp32 for run in runs if run.against_fp32]
    rates = [rate for comparison in comparisons for rate in comparison.targets.values()]
    if rates:
        images = max(comparison.images for comparison in comparisons)
        lower = alternatives(run.config["precision"] for run in runs if run.against_fp32)
        gap = max(abs(rate.asr - rate.asr_fp32) for rate in rates)
        notes.append(
            f"precision={lower}: on {images} images of a cell, ASR is at "
            f"most {gap:.1f} points from that in fp32"
        )
    return notes


def _numeric_notes(identities: Sequence[NumericIdentity]) -> list[str]:
    """Return a line if cells differ in their numeric identities, or in a network's tuning."""
    # Slots are a matter of the attack: one that stops early has fewer.
    without_networks = {repr(replace(i, networks={}, slots=0, width=0)) for i in identities}
    tunings: dict[str, set[Tuning]] = {}
    for identity in identities:
        for name, tuning in identity.networks.items():
            tunings.setdefault(name, set()).add(tuning)
    if len(without_networks) < 2 and all(len(of_one) == 1 for of_one in tunings.values()):
        return []
    return ["the cells were run under different numeric identities (see their run.json)"]


def clean_accuracy_notes(cells: Sequence[Cell], frame: pd.DataFrame) -> list[str]:
    """Return a line that names the targets with a clean accuracy below 100 %, if there are."""
    lowest = frame[frame["clean"] < 100].groupby("target")["clean"].min()
    if lowest.empty:
        return []
    titles = _target_titles(cells)
    named = ", ".join(f"{titles[str(t)]} {accuracy:.1f} %" for t, accuracy in lowest.items())
    return [
        f"clean accuracy on these images below 100 %: {named} (the lowest of any source); "
        "denominator=target-correct leaves the misclassified ones out"
    ]


def _target_titles(cells: Sequence[Cell]) -> dict[str, str]:
    return {target: cell.title(target) for cell in cells for target in cell.targets}


def nonfinite_note(title: str, nonfinite: int, n: int) -> list[str]:
    """Return a line if a network gave no finite logits for `nonfinite` of `n` images."""
    line = (
        f"{title} gave no finite answer (NaN) for {nonfinite} of {n} adversarial images: they "
        "count as not fooled"
    )
    return [line] if nonfinite else []


def abstained_note(title: str, row: Mapping[Any, Any]) -> list[str]:
    """Return a line if a network abstained from an answer to some of the images of a rate."""
    line = (
        f"{title} abstained from {row['abstained_clean']} of {row['n']} clean images and "
        f"{row['abstained']} adversarial ones: abstentions are neither right nor fooled"
    )
    return [line] if row["abstained"] or row["abstained_clean"] else []


def nonfinite_notes(cells: Sequence[Cell], frame: pd.DataFrame) -> list[str]:
    """Return the lines of `nonfinite_note` and `abstained_note` for all targets of some rates."""
    titles = _target_titles(cells)
    sums = frame.groupby("target")[["silent", "abstained", "abstained_clean", "n"]].sum()
    lines = []
    for target, row in sums.astype(int).to_dict("index").items():
        lines += nonfinite_note(titles[str(target)], row["silent"], row["n"])
        lines += abstained_note(titles[str(target)], row)
    return lines


def missing_notes(frame: pd.DataFrame) -> list[str]:
    """Return the commands that run the cells that a frame lacks."""
    return [f"missing: {command}" for command in frame[~frame["run"]]["command"].unique()]


def closing(cell: Cell) -> str:
    """Return the table that ends a run: every target of one cell."""
    frame = selected(cell)
    if frame is None or frame.empty:
        i, k = cell.shard
        if not any(map(cell.mine, range(cell.config.n_images))):
            return (
                f"shard={i}/{k} has none of the {cell.config.n_images} images: they are attacked "
                f"{cell.chunk} at a time, so use fewer shards"
            )
        return "no finished images yet"
    rates = [rate(cell, target, frame) for target in cell.targets]
    header = ["target", "ASR %", "95 % interval", "clean accuracy, %", "images"]
    rows = [_closing_row(cell, row) for row in rates]
    table = tabulate(rows, header, tablefmt="simple", disable_numparse=True)
    star = "* white-box · " if any(map(cell.white_box, cell.targets)) else ""
    images = frame.drop_duplicates("image_id")
    mean_steps = images["steps_used"].mean()
    steps = "" if pd.isna(mean_steps) else f"mean steps {mean_steps:.2f} · "  # a library has none
    mean_abs = images["mean_abs"].mean() / LEVELS
    means = (
        f"{star}{steps}‖v‖₂/‖x‖₂ {images['rel_l2'].mean():.4f} · mean |v| {mean_abs:.4f} · "
        f"cosine {images['cosine'].mean():.5f}"
    )
    return "\n".join([table, means, *map(printable, _closing_notes(cell, frame, rates))])


def closing_line(cell: Cell) -> str:
    """Return the line that ends one cell of a sweep, with what must be said of it below."""
    frame = selected(cell)
    if frame is None or frame.empty:
        return closing(cell)
    rates = [rate(cell, target, frame) for target in cell.targets]
    shown = ", ".join(
        f"{cell.title(row['target'])}{'*' * row['white_box']} {row['asr']:.1f} %"
        if row["n"]
        else f"{cell.title(row['target'])} {NO_RUN}"
        for row in rates
    )
    notes = map(printable, _closing_notes(cell, frame, rates))
    images = plural(frame["image_id"].nunique(), "image")
    return "\n".join([f"ASR of {images}: {printable(shown)}", *notes])


def _closing_row(cell: Cell, row: dict[str, Any]) -> list[Any]:
    star = " *" if row["white_box"] else ""
    numbers = [f"{row['asr']:.1f}", f"[{row['low']:.1f}, {row['high']:.1f}]", f"{row['clean']:.1f}"]
    numbers = numbers if row["n"] else [NO_RUN] * len(numbers)
    return [cell.title(row["target"]) + star, *numbers, row["n"]]


def idle_notes(cells: Iterable[Cell]) -> list[str]:
    """Say of how many images an attack had no gradient, or gave them back as they were.

    Parts and defenses that changed nothing are named, with the images that they saw.

    The finished ones of the cells count, those of one attack together.
    """
    by_attack: dict[str, list[tuple[Cell, Noted]]] = {}
    for cell in cells:
        if (found := noted(cell)) and found.images:
            by_attack.setdefault(cell.config.attack.title, []).append((cell, found))
    notes = []
    for title, known in by_attack.items():
        before = f"{title}: " if len(by_attack) > 1 else ""
        n, flat, unchanged = (
            sum(numbers) for numbers in zip(*(f[:3] for _, f in known), strict=True)
        )
        if flat:
            notes.append(before + zero_gradients(flat, n))
        if unchanged:
            notes.append(before + came_back(unchanged, n))
        runs = [Records(cell.folder).run() or RunInfo() for cell, _ in known]
        for part in dict.fromkeys(part for run in runs for part in run.idle):
            notes.append(f"{before}{part} changed nothing, of {plural(n, 'image')}")
    return notes


def _closing_notes(cell: Cell, frame: pd.DataFrame, rates: Sequence[dict[str, Any]]) -> list[str]:
    run, n = Records(cell.folder).run() or RunInfo(), cell.config.n_images
    notes = []
    if run.eligible is not None and run.eligible < n:
        notes.append(f"{run.eligible} of {n} images: no more are eligible")
    if cell.smallest and (found := noted(cell)):
        notes.append(found.smallest)
    means = {k: v for k, v in perceptual_means([frame]).items() if v == v}
    if means:
        shown = (f"{APPEARANCE[k][0]} {v:{APPEARANCE[k][1]}}" for k, v in means.items())
        notes.append(f"means over images: {'; '.join(shown)}")
    notes += idle_notes([cell])
    for row in rates:
        notes += nonfinite_note(cell.title(row["target"]), row["silent"], row["n"])
        notes += abstained_note(cell.title(row["target"]), row)
    if run.bad_images:
        bad = run.bad_images
        notes.append(f"{len(bad)} missing or corrupt images left out: {', '.join(bad)}")
    if run.against_fp32:
        notes.append(compared(cell, run.against_fp32))
    return notes


def perceptual_notes(shown: Iterable[str]) -> list[str]:
    """Return the note on perceptual sizes, where a table shows some."""
    names = [APPEARANCE[name][0].removesuffix(", dB") for name in shown]
    text = (
        f"{', '.join(names)}: means over images, of PSNR those that changed; an attack shows less "
        "where PSNR and SSIM are larger, CIEDE2000 and LPIPS smaller"
    )
    return [text] if names else []
