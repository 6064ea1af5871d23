"""Every attack of a sweep on one line, best mean transfer first: Markdown, LaTeX and CSV.

An attack's images are those of all its sources. An image attacked from two sources is two results
on one image, so images and not results are what intervals are about. Needs neither torch nor timm.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from agr.config.cell import Cell
from agr.records.run_info import RunInfo
from agr.records.store import Records
from agr.report.formats import Block, Sheet, write_sheets
from agr.report.notes import all_unanswered, missing, setting, clean_accuracy_notes
from agr.report.numbers import Number, TableCell
from agr.report.rates import NAN, count, norm_title, rate, selected
from agr.report.statistics import bootstrap, effective_number, wilson
from agr.utils.errors import ConfigError
from agr.utils.pixels import LEVELS

NUMBERS = {  # in the table's order: heading and format
    "white_box": ("white-box ASR %", ".1f"),
    "transfer": ("mean transfer ASR % [95 %]", ".1f"),
    "gradients": ("gradients / image", ".2f"),
    "images_per_second": ("images / s", ".1f"),
    "linf": ("L∞ of v", ".2f"),
    "rel_l2": ("‖v‖₂/‖x‖₂", ".4f"),
}
INTERVALS = ("white_box_low", "white_box_high", "transfer_low", "transfer_high")


def write_leaderboards(cells: Sequence[Cell], folder: Path) -> list[Path]:
    """One leaderboard per norm and eps of `cells`, in place of older ones; their paths.

    Raises ConfigError as `check_leaderboard` does.
    """
    return write_sheets(sheets_of(cells), folder, "leaderboard-*")


def sheets_of(cells: Sequence[Cell]) -> list[Sheet]:
    """A leaderboard for every norm and eps of `cells`. Raises ConfigError."""
    untargeted = check_leaderboard(cells)
    settings: dict[tuple[str, float], list[Cell]] = {}
    for cell in untargeted:
        settings.setdefault((cell.config.norm.name, cell.config.eps), []).append(cell)
    return [_sheet(mine, cells) for mine in settings.values()]


def _sheet(mine: Sequence[Cell], cells: Sequence[Cell]) -> Sheet:
    """The leaderboard of the cells of one norm and eps, among all `cells`."""
    c = mine[0].config
    board, rates = leaderboard(mine)
    budget = f"{norm_title(c.norm.name)} = {c.eps:g}"
    caption = f"Leaderboard: mean transfer of {len(board)} attacks, {budget}"
    notes = [*_notes(mine, board, rates), *_left_out(cells), *missing(mine, board)]
    return Sheet(f"leaderboard-{c.norm.name}-{c.eps:g}", caption, board, _blocks(board), notes)


def check_leaderboard(cells: Sequence[Cell]) -> list[Cell]:
    """The cells that a leaderboard shows: those of untargeted attacks.

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
    """A row per attack, best mean transfer first, and the rates of every finished cell.

    Columns: suite notice norm eps attack title sources run command images n, the keys of NUMBERS,
    and the ends of two intervals (percent). `images` are different ones; `n` counts an image once
    for each source. A row whose cells aren't all finished has NaN, and the commands of those.
    `rates` is as results.rates gives it.
    """
    attacks: dict[str, list[Cell]] = {}
    for cell in cells:
        attacks.setdefault(cell.config.attack.name, []).append(cell)
    rows, rates = [], []
    for mine in attacks.values():  # one attack at a time: all rows would fill the memory
        frames = [selected(cell) for cell in mine]
        rows.append(_row(mine, frames))
        for cell, frame in zip(mine, frames, strict=True):
            rates += [rate(cell, target, frame) for target in cell.targets]
    board = pd.DataFrame(rows)
    by = ["transfer", "white_box", "attack"]
    board = board.sort_values(by, ascending=[False, False, True], na_position="last")
    return board.reset_index(drop=True), pd.DataFrame(rates)


def _row(cells: Sequence[Cell], frames: Sequence[pd.DataFrame | None]) -> dict[str, Any]:
    """One attack, from the `selected` rows of its cells."""
    c, suite = cells[0].config, cells[0].suite
    pairs = list(zip(cells, frames, strict=True))
    row: dict[str, Any] = {"suite": suite.name, "notice": suite.notice}
    row |= {"norm": c.norm.name, "eps": c.eps, "attack": c.attack.name, "title": c.attack.title}
    row |= {"sources": ",".join(cell.source for cell in cells)}
    row |= {"run": all(frame is not None for frame in frames)}
    row |= {"command": " && ".join(cell.command() for cell, frame in pairs if frame is None)}
    row |= {"images": 0, "n": 0} | dict.fromkeys([*NUMBERS, *INTERVALS], NAN)
    finished = [(cell, frame) for cell, frame in pairs if frame is not None]
    if not row["run"]:
        return row
    transfer = pd.concat([shares_of(cell, frame, white_box=False) for cell, frame in finished])
    row |= {"images": transfer.index.nunique(), "n": len(transfer), **transfer_of(transfer)}
    row |= white_box_of(
        pd.concat([shares_of(cell, frame, white_box=True) for cell, frame in finished])
    )
    attacked = pd.concat([frame.drop_duplicates("image_id") for _, frame in finished])
    row |= {"gradients": attacked["backwards"].mean(), "rel_l2": attacked["rel_l2"].mean()}
    row |= {"linf": LEVELS * attacked["linf"].mean()}
    return row | {"images_per_second": _images_per_second(cells)}


def shares_of(cell: Cell, frame: pd.DataFrame, *, white_box: bool) -> pd.Series[float]:
    """Return the share of targets that each image fools, by id, of those that count it."""
    targets = [t for t in cell.targets if cell.white_box(t) is white_box]
    counted = [count(frame, target, cell.config.denominator) for target in targets]
    rows = pd.concat(counted) if counted else frame.iloc[:0]
    return rows["success"].astype(float).groupby(rows["image_id"]).mean()


def transfer_of(shares: pd.Series[float]) -> dict[str, float]:
    """The mean over images with its bootstrap interval, percent."""
    low, high, _ = bootstrap(shares, shares.index)
    return {
        "transfer": 100 * shares.mean(),
        "transfer_low": 100 * low,
        "transfer_high": 100 * high,
    }


def white_box_of(shares: pd.Series[float]) -> dict[str, float]:
    """The mean over images with its Wilson interval, percent.

    White-box rates are often 100 %, of which a bootstrap has nothing to say. The results of one
    image count as if they were all alike, so that the interval is never too narrow.
    """
    if shares.empty:
        return {}
    n = effective_number(shares.index)
    low, high = wilson(shares.mean() * n, n)
    return {
        "white_box": 100 * shares.mean(),
        "white_box_low": 100 * low,
        "white_box_high": 100 * high,
    }


def _images_per_second(cells: Sequence[Cell]) -> float:
    """Crafted in all sessions of these cells together; NaN where a cell has none."""
    sessions = [(Records(cell.folder).run() or RunInfo()).sessions for cell in cells]
    seconds = sum(s.crafting_seconds for mine in sessions for s in mine)
    images = sum(s.images for mine in sessions for s in mine)
    return images / seconds if all(sessions) and seconds else NAN


def _blocks(board: pd.DataFrame) -> list[Block]:
    """Make a row per attack: its title, its name, numbers, n."""
    header = ["Attack", "name", *(heading for heading, _ in NUMBERS.values()), "n"]
    rows: list[list[TableCell]] = []
    for row in board.to_dict("records"):
        numbers = {key: Number(row[key], form) for key, (_, form) in NUMBERS.items()}
        interval = row["transfer_low"], row["transfer_high"]
        numbers["transfer"] = numbers["transfer"]._replace(interval=interval)
        rows.append([row["title"], row["attack"], *numbers.values(), Number(row["n"], "d")])
    return [Block(header, rows)]


def _notes(cells: Sequence[Cell], board: pd.DataFrame, rates: pd.DataFrame) -> list[str]:
    """Return the notes below a leaderboard."""
    c = cells[0].config
    sources = {cell.source: cell.title(cell.source) for cell in cells}
    targets = {t: cell.title(t) for cell in cells for t in cell.targets}
    notes = [
        *setting(cells),
        f"crafted on {', '.join(sources.values())}; targets {', '.join(targets.values())}; "
        f"denominator={c.denominator}, success={cells[0].success}",
        "n: attacked images, counted once for each source; all columns are means over them; "
        "transfer: the share of its black-box targets that an image fools; brackets: 95 % "
        "bootstrap interval over images, which are drawn with all their sources. All attacks had "
        "the same images, so intervals that overlap don't say that two attacks are equal",
        "gradients: of the source, as the image needed them; L∞ of v on the 0-255 scale",
        "images / s: crafted, without scoring; of this machine and its load, not the attack alone",
        *clean_accuracy_notes(cells, rates),
        *all_unanswered(cells, rates),
    ]
    alike = board[(board["transfer_low"] == board["transfer_high"]) & board["run"]]
    if len(alike):
        notes.append(
            f"all images came out alike, which leaves the interval no width: "
            f"{', '.join(alike['title'])}"
        )
    return notes


def _left_out(cells: Sequence[Cell]) -> list[str]:
    """A line that names the targeted attacks."""
    titles = dict.fromkeys(c.config.attack.title for c in cells if c.config.attack.targeted)
    return [f"left out, since they are targeted: {', '.join(titles)}"] if titles else []
