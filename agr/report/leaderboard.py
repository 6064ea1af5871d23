"""Leaderboards: every attack of a sweep, best mean transfer first, as Markdown, LaTeX and CSV.

An attack's images are those of all its sources. An image attacked from two sources is two results
on one image, so intervals are over images, not over results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from agr.config.cell import Cell
from agr.records.run_info import RunInfo
from agr.records.store import Records
from agr.report.formats import Block, Sheet, write_sheets
from agr.report.notes import (
    clean_accuracy_notes,
    idle_notes,
    missing_notes,
    nonfinite_notes,
    perceptual_notes,
    setting_notes,
)
from agr.report.numbers import Number, TableCell
from agr.report.rates import (
    APPEARANCE,
    NAN,
    budget_title,
    counted_rows,
    identity,
    perceptual_means,
    rate,
    selected,
)
from agr.report.statistics import bootstrap, effective_number, wilson
from agr.utils.errors import ConfigError

COLUMNS = {  # of numbers, in the table's order: heading and format
    "white_box": ("white-box ASR %", ".1f"),
    "transfer": ("mean transfer ASR % [95 %]", ".1f"),
    "gradients": ("gradients / image", ".2f"),
    "images_per_second": ("images / s", ".1f"),
    "linf": ("L∞ of v", ".2f"),
    "rel_l2": ("‖v‖₂/‖x‖₂", ".4f"),
    **APPEARANCE,  # where the records have them
}
NAMED = (  # what tells rows apart, and what they are made from
    *("suite", "notice", "norm", "eps", "attack", "title", "sources", "run", "command"),
    *("images", "n"),
)
NO_ATTACK, NO_ATTACK_TITLE = "none", "no attack"
INTERVALS = ("white_box_low", "white_box_high", "transfer_low", "transfer_high")


def write_leaderboards(cells: Sequence[Cell], folder: Path) -> list[Path]:
    """Write the `leaderboard_sheets` in place of older ones; return the paths."""
    return write_sheets(leaderboard_sheets(cells), folder, "leaderboard-*")


def leaderboard_sheets(cells: Sequence[Cell]) -> list[Sheet]:
    """Return a leaderboard for every norm and eps of `cells`. Raises ConfigError."""
    settings: dict[tuple[str, float], list[Cell]] = {}
    for cell in check_leaderboard(cells):
        settings.setdefault((cell.config.norm.name, cell.config.eps), []).append(cell)
    return [_sheet(of_setting, cells) for of_setting in settings.values()]


def _sheet(shown: Sequence[Cell], cells: Sequence[Cell]) -> Sheet:
    """Return the leaderboard of the cells of one norm and eps, among all `cells`."""
    c = shown[0].config
    board, rates = leaderboard(shown)
    caption = f"Leaderboard: mean transfer of {len(board)} attacks, {budget_title(shown[0])}"
    notes = _notes(shown, board, rates)
    if left_out := [x.config.attack.title for x in cells if x.config.attack.targeted]:
        notes.append(f"left out, since they are targeted: {', '.join(dict.fromkeys(left_out))}")
    notes += missing_notes(board)
    if floor := no_attack(shown):
        board = pd.concat([board, pd.DataFrame([floor], columns=board.columns)], ignore_index=True)
    return Sheet(f"leaderboard-{c.norm.name}-{c.eps:g}", caption, board, [_block(board)], notes)


def check_leaderboard(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells that a leaderboard shows: those of untargeted attacks.

    Raises ConfigError if there are none, or several of one attack, norm, eps and source.
    """
    untargeted = [cell for cell in cells if not cell.config.attack.targeted]
    if not untargeted:
        raise ConfigError(
            "attack.targeted=true for every attack of the sweep: a leaderboard compares untargeted "
            "ones, leave the word out"
        )
    seen = set()
    for cell in untargeted:
        c = cell.config
        place = (c.attack.name, c.norm.name, c.eps, cell.source)
        if place in seen:
            raise ConfigError(
                f"a leaderboard holds one cell for {c.attack.name} {c.norm.name} {c.eps:g} on "
                f"{cell.source}, the sweep has several: give one seed, steps, … and each attack a "
                "name of its own"
            )
        seen.add(place)
    return untargeted


def leaderboard(cells: Sequence[Cell]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the numbers of a leaderboard, and the rates that they are made from.

    Returns:
        The board, a row per attack, best mean transfer first, with the columns NAMED, the keys of
        COLUMNS (perceptual sizes only if a row has them), and INTERVALS (percent).
        images counts different images, n an image once for each source. A row whose cells aren't
        all finished has NaN, and the commands of those.
        The rates of every cell and target, as of `rates.rate`.
    """
    attacks: dict[str, list[Cell]] = {}
    for cell in cells:
        attacks.setdefault(cell.config.attack.name, []).append(cell)
    rows, rates = [], []
    for of_attack in attacks.values():  # one attack at a time: all rows would fill the memory
        frames = [selected(cell) for cell in of_attack]
        rows.append(_row(of_attack, frames))
        for cell, frame in zip(of_attack, frames, strict=True):
            rates += [rate(cell, target, frame) for target in cell.targets]
    board = pd.DataFrame(rows, columns=[*NAMED, *COLUMNS, *INTERVALS])
    board = board.drop(columns=[name for name in APPEARANCE if board[name].isna().all()])
    by = ["transfer", "white_box", "attack"]
    board = board.sort_values(by, ascending=[False, False, True], na_position="last")
    return board.reset_index(drop=True), pd.DataFrame(rates)


def _row(cells: Sequence[Cell], frames: Sequence[pd.DataFrame | None]) -> dict[str, Any]:
    """Return the row of one attack, from the `selected` rows of its cells."""
    pairs = list(zip(cells, frames, strict=True))
    finished = [(cell, frame) for cell, frame in pairs if frame is not None]
    row: dict[str, Any] = identity(cells[0]) | {
        "title": cells[0].config.attack.title,
        "sources": ",".join(cell.source for cell in cells),
        "run": len(finished) == len(cells),
        "command": " && ".join(cell.command() for cell, frame in pairs if frame is None),
        "images": 0,
        "n": 0,
    }
    if not row["run"]:
        return row
    attacked = pd.concat([frame.drop_duplicates("image_id") for _, frame in finished])
    return (
        row
        | mean_rates(finished)
        | {
            "gradients": attacked["backwards"].mean(),
            "images_per_second": _images_per_second(cells),
            "linf": attacked["linf"].mean(),
            "rel_l2": attacked["rel_l2"].mean(),
        }
        | perceptual_means([frame for _, frame in finished])
    )


def no_attack(cells: Sequence[Cell]) -> dict[str, Any]:
    """Return the row of no attack at all: the targets' errors on the clean images, all of them.

    With denominator=all they are part of every attack's rates. Empty until one attack is finished
    on all sources.
    """
    for attack in dict.fromkeys(cell.config.attack.name for cell in cells):
        pairs = [(cell, selected(cell)) for cell in cells if cell.config.attack.name == attack]
        wrong = [(_of_all(c), _clean_errors(f)) for c, f in pairs if f is not None]
        if len(wrong) == len(pairs):
            names = {"attack": NO_ATTACK, "title": NO_ATTACK_TITLE, "run": True}
            sizes = dict.fromkeys(("gradients", "linf", "rel_l2", "ciede2000", "lpips"), 0.0)
            sizes |= {"ssim": 1.0}  # and no PSNR, which would be infinite
            return identity(cells[0]) | names | mean_rates(wrong) | sizes
    return {}


def _of_all(cell: Cell) -> Cell:
    return replace(cell, config=replace(cell.config, denominator="all"))


def _clean_errors(frame: pd.DataFrame) -> pd.DataFrame:
    """Return rows in which every clean error is a success, to be counted for all images."""
    return frame.assign(success=frame["clean_pred"] != frame["label"])


def success_shares(cell: Cell, frame: pd.DataFrame, *, white_box: bool) -> pd.Series[float]:
    """Return the share of targets that each image fools, by image id, of those that count it.

    Args:
        cell: a finished cell.
        frame: its `selected` rows.
        white_box: whether the targets are the white-box ones or the others.
    """
    targets = [t for t in cell.targets if cell.white_box(t) is white_box]
    counted = [counted_rows(frame, target, cell.config.denominator) for target in targets]
    rows = pd.concat(counted) if counted else frame.iloc[:0]
    return rows["success"].astype(float).groupby(rows["image_id"]).mean()


def mean_rates(finished: Sequence[tuple[Cell, pd.DataFrame]]) -> dict[str, float]:
    """Return the mean transfer and white-box ASR over images, percent, with their intervals.

    Transfer has a bootstrap interval. White-box rates are often 100 %, for which a bootstrap has
    none, so theirs is Wilson's; the results of one image count as if they were all alike, so that
    it is never too narrow. What has no images is NaN. `images` counts different images of the
    transfer, `n` an image once for each cell.

    Args:
        finished: cells with their `selected` rows.
    """
    transfer, white_box = (
        pd.concat([success_shares(*each, white_box=white) for each in finished])
        for white in (False, True)
    )
    n = effective_number(white_box.index)
    rates = {
        "transfer": (transfer.mean(), *bootstrap(transfer, transfer.index)[:2]),
        "white_box": (white_box.mean(), *(wilson(white_box.mean() * n, n) if n else (NAN, NAN))),
    }
    ends = ("", "_low", "_high")
    counts = {"images": transfer.index.nunique(), "n": len(transfer)}
    return counts | {
        f"{name}{end}": 100 * value
        for name, values in rates.items()
        for end, value in zip(ends, values, strict=True)
    }


def _images_per_second(cells: Sequence[Cell]) -> float:
    """Return images crafted per second in all sessions; NaN where a cell has none."""
    sessions = [(Records(cell.folder).run() or RunInfo()).sessions for cell in cells]
    seconds = sum(s.crafting_seconds for of_cell in sessions for s in of_cell)
    images = sum(s.images for of_cell in sessions for s in of_cell)
    return images / seconds if all(sessions) and seconds else NAN


def _block(board: pd.DataFrame) -> Block:
    """Return a row per attack: its title, its name, numbers, n."""
    columns = {key: shown for key, shown in COLUMNS.items() if key in board}
    headings = [heading for heading, _ in columns.values()]
    rows: list[list[TableCell]] = []
    for row in board.to_dict("records"):
        numbers = {key: Number(row[key], form) for key, (_, form) in columns.items()}
        interval = row["transfer_low"], row["transfer_high"]
        numbers["transfer"] = numbers["transfer"]._replace(interval=interval)
        rows.append([row["title"], row["attack"], *numbers.values(), Number(row["n"], "d")])
    return Block(["Attack", "name", *headings, "n"], rows)


def _notes(cells: Sequence[Cell], board: pd.DataFrame, rates: pd.DataFrame) -> list[str]:
    """Return the notes below a leaderboard."""
    sources = {cell.source: cell.title(cell.source) for cell in cells}
    targets = {t: cell.title(t) for cell in cells for t in cell.targets}
    notes = [
        *setting_notes(cells),
        f"crafted on {', '.join(sources.values())}; targets {', '.join(targets.values())}; "
        f"denominator={cells[0].config.denominator}, success={cells[0].success}",
        "n: attacked images, counted once for each source; all columns are means over them; "
        "transfer: the share of its black-box targets that an image fools; brackets: 95 % "
        "bootstrap interval over images, which are drawn with all their sources. All attacks had "
        "the same images, so intervals that overlap don't say that two attacks are equal",
        f"{NO_ATTACK_TITLE}: errors on the clean images, all of them; they are part of every rate "
        "with denominator=all, and of none with target-correct",
        "gradients: of the source, as the image needed them; L∞ of v on the 0-255 scale",
        "images / s: crafted, without scoring; of this machine and its load, not the attack alone",
        *perceptual_notes(name for name in APPEARANCE if name in board),
        *idle_notes((cell, selected(cell)) for cell in cells),
        *clean_accuracy_notes(cells, rates),
        *nonfinite_notes(cells, rates),
    ]
    alike = board[(board["transfer_low"] == board["transfer_high"]) & board["run"]]
    if len(alike):
        notes.append(
            f"all images came out alike, which leaves the interval no width: "
            f"{', '.join(alike['title'])}"
        )
    return notes
