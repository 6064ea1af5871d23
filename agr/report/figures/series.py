"""The numbers behind the figures, from records: one frame each, with intervals.

Rates are percent with Wilson's intervals, means have bootstrap intervals over images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from agr.config.cell import Cell
from agr.records.store import Records
from agr.report.frames import selected
from agr.report.leaderboard import leaderboard
from agr.report.outcomes import Outcomes, Place, in_group
from agr.report.rates import NAN, identity, perceptual_values, rate
from agr.report.statistics import bootstrap, wilson
from agr.report.transfer import mean_rates


def by_step(outcomes: Outcomes) -> pd.DataFrame:
    """White-box ASR and cosine similarity after every step, of the cells that kept a trace.

    Columns: norm source attack step n asr low high cosine cosine_low cosine_high. An image whose
    attack stopped stays as it is.
    """
    rows = [row for place in with_images(outcomes) for row in _steps(outcomes, place)]
    return pd.DataFrame(rows, columns=[*PLACE, "step", "n", *RATE, *COSINE])


PLACE = ("norm", "source", "attack")
RATE = ("asr", "low", "high")
COSINE = ("cosine", "cosine_low", "cosine_high")


def _steps(outcomes: Outcomes, place: Place) -> Iterator[dict[str, Any]]:
    trace = Records(outcomes.cell(place).folder).read("trace", ["position", "step", *SEEN])
    trace = trace[trace["position"].isin(outcomes.frame(place)["position"])]
    if trace.empty:
        return
    steps = range(outcomes.cell(place).config.steps + 1)
    wide = {}
    for name in SEEN:
        table = trace.pivot(index="position", columns="step", values=name).astype(float)
        wide[name] = table.reindex(columns=steps).ffill(axis=1)
    for step in steps:
        fooled, cosine = wide["fooled"][step], wide["cosine"][step]
        low, high = wilson(fooled.sum(), len(fooled))
        near = bootstrap(cosine)
        yield (
            _named(place)
            | {"step": step, "n": len(fooled)}
            | {"asr": 100 * fooled.mean(), "low": 100 * low, "high": 100 * high}
            | {"cosine": cosine.mean(), "cosine_low": near.low, "cosine_high": near.high}
        )


SEEN = ("fooled", "cosine")


def matrix(outcomes: Outcomes) -> pd.DataFrame:
    """ASR of every attack, source and target: norm source attack target white_box n asr low high.

    `clean` says how many of the images counted the target has right when clean, percent.
    """
    rows = [
        _named(place) | {key: known[key] for key in ("target", "white_box", "n", *RATE, "clean")}
        for place in with_images(outcomes)
        for target in outcomes.cell(place).targets
        if (known := rate(outcomes.cell(place), target, outcomes.frame(place)))
    ]
    return pd.DataFrame(rows, columns=[*PLACE, "target", "white_box", "n", *RATE, "clean"])


def frontier(outcomes: Outcomes) -> pd.DataFrame:
    """Transfer and sizes of every attack, over all its sources.

    Columns: norm attack n transfer transfer_low transfer_high white_box, and for rel_l2 and ssim
    the mean, …_low and …_high; ssim is NaN where an image lacks it. An image's transfer is the
    share of its black-box targets that it fools.
    """
    rows = []
    for norm in dict.fromkeys(norm for norm, _, _ in outcomes.cells):
        cells = [cell for key, cell in outcomes.cells.items() if key[0] == norm]
        cells = [cell for cell in cells if not cell.config.attack.targeted]
        if not cells:
            continue
        board, _ = leaderboard(cells)
        for known in board[board["run"]].to_dict("records"):
            attack = known["attack"]
            places = [p for p in with_images(outcomes) if (p.norm, p.attack) == (norm, attack)]
            if not places:  # cells without any image
                continue
            row = {"norm": norm} | {k: known[k] for k in BOARD}
            row |= _mean("rel_l2", [outcomes.values(p, "rel_l2") for p in places])
            row |= _mean("ssim", [perceptual_values(outcomes.frame(p), "ssim") for p in places])
            rows.append(row)
    return pd.DataFrame(rows, columns=["norm", *BOARD, *ends("rel_l2"), *ends("ssim")])


def ends(name: str) -> tuple[str, str, str]:
    """Return the names of a mean and of its interval's ends."""
    return name, f"{name}_low", f"{name}_high"


def _mean(name: str, parts: Sequence[pd.Series[float]]) -> dict[str, float]:
    """Return the mean over images and its interval; NaN if a part has none."""
    if not all(map(len, parts)):
        return dict.fromkeys(ends(name), NAN)
    values = pd.concat(parts)
    low, high, _ = bootstrap(values, values.index)
    return dict(zip(ends(name), (float(values.mean()), low, high), strict=True))


BOARD = ("attack", "n", "transfer", "transfer_low", "transfer_high", "white_box")


def over_eps(cells: Sequence[Cell]) -> pd.DataFrame:
    """White-box ASR and mean transfer of cells that differ in eps.

    Columns: norm source attack eps n white_box white_box_low white_box_high transfer transfer_low
    transfer_high. Cells that aren't finished are left out.
    """
    rows = []
    for cell in map(in_group, cells):
        frame = selected(cell)
        if frame is None or frame.empty:
            continue
        row = identity(cell) | mean_rates([(cell, frame)])
        rows.append(row | {"n": frame["image_id"].nunique()})
    columns = [*PLACE, "eps", "n", "white_box", "white_box_low", "white_box_high"]
    columns += ["transfer", "transfer_low", "transfer_high"]
    frame = pd.DataFrame(rows, columns=columns).drop_duplicates([*PLACE, "eps"])
    return frame.sort_values([*PLACE, "eps"], kind="stable").reset_index(drop=True)


def steps_needed(outcomes: Outcomes) -> pd.DataFrame:
    """Count the steps that images needed: norm attack step n share (percent), over all sources.

    `step` is the first iterate seen to fool the source; -1: none was.
    """
    found: dict[tuple[str, str], list[pd.Series[float]]] = {}
    for place in with_images(outcomes):
        images = outcomes.frame(place).drop_duplicates("image_id")
        first = images["first_success_step"].astype(float)
        if first.notna().any() or not _fooled(outcomes.cell(place), images):
            found.setdefault((place.norm, place.attack), []).append(first.fillna(-1))
    rows = []
    for (norm, attack), parts in found.items():
        all_of_it = pd.concat(parts)
        for step, n in all_of_it.value_counts().sort_index().items():
            share = 100 * n / len(all_of_it)
            rows.append({"norm": norm, "attack": attack, "step": step, "n": n, "share": share})
    return pd.DataFrame(rows, columns=["norm", "attack", "step", "n", "share"])


def _fooled(cell: Cell, images: pd.DataFrame) -> bool:
    """Return whether the source was fooled at any step; if it never was, steps weren't observed."""
    if cell.config.attack.targeted:
        return True
    said = images["source_adv_pred"]
    return bool(((said >= 0) & (said != images["label"])).any())


def norms(outcomes: Outcomes) -> pd.DataFrame:
    """Quantiles of ‖v‖₂/‖x‖₂ over images: norm attack n and the keys of QUANTILES."""
    found: dict[tuple[str, str], list[pd.Series[float]]] = {}
    for place in with_images(outcomes):
        found.setdefault((place.norm, place.attack), []).append(outcomes.values(place, "rel_l2"))
    rows = []
    for (norm, attack), parts in found.items():
        values = pd.concat(parts)
        row: dict[str, Any] = {"norm": norm, "attack": attack, "n": len(values)}
        rows.append(row | {name: values.quantile(q) for name, q in QUANTILES.items()})
    return pd.DataFrame(rows, columns=["norm", "attack", "n", *QUANTILES])


QUANTILES = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}


def with_images(outcomes: Outcomes) -> list[Place]:
    """The places of finished cells that have images, without targets."""
    return [place for place in outcomes.finished_places() if len(outcomes.frame(place))]


def _named(place: Place) -> dict[str, Any]:
    return {key: getattr(place, key) for key in PLACE}


def line_of(cell: Cell) -> tuple[str, str, str]:
    """Return the columns that stay the same along a line over eps: norm, source, attack."""
    return cell.config.norm.name, cell.source, cell.config.attack.name
