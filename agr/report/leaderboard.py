"""Leaderboards: every attack of a sweep, best mean transfer first, as Markdown, LaTeX and CSV.

An attack's images are those of all its sources. An image attacked from two sources is two results
on one image, so intervals are over images, not over results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from agr.config.cell import Cell
from agr.records.run_info import RunInfo
from agr.records.store import Records
from agr.report.families import TITLES, families_of, family_notes
from agr.report.formats import Block, Sheet, write_sheets
from agr.report.frames import selected
from agr.report.hyperparameters import TUNED, whose, whose_note
from agr.report.notes import (
    clean_accuracy_notes,
    idle_notes,
    missing_notes,
    nonfinite_notes,
    perceptual_notes,
    setting_notes,
)
from agr.report.numbers import Number, TableCell, over_seeds_cell
from agr.report.published import Published, published_sheet
from agr.report.rates import APPEARANCE, NAN, budget_title, identity, perceptual_means, rate
from agr.report.transfer import ENDS, mean_rates, spread_over_seeds
from agr.report.unfinished import rest_of
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
    *("images", "n", "hyperparameters"),
)
NO_ATTACK, NO_ATTACK_TITLE = "none", "no attack"
OVER_SEEDS = ("seed_sd", "seed_low", "seed_high")
INTERVALS = ("white_box_low", "white_box_high", "transfer_low", "transfer_high")


def write_leaderboards(
    cells: Sequence[Cell],
    folder: Path,
    tuned: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    published: Mapping[str, Published] | None = None,
) -> list[Path]:
    """Write the `leaderboard_sheets`, each also beside the `published`; return the paths."""
    boards = leaderboard_sheets(cells, tuned, notes)
    beside = [published_sheet(b, cells, p, n) for b in boards for n, p in (published or {}).items()]
    return write_sheets([*boards, *beside], folder, "leaderboard-*")


def leaderboard_sheets(
    cells: Sequence[Cell], tuned: Mapping[str, str] | None = None, notes: Sequence[str] = ()
) -> list[Sheet]:
    """Return a leaderboard for every norm, eps and budget of gradients. Raises ConfigError.

    `tuned` says of some cells, by their ids, what their hyperparameters are.
    """
    settings: dict[tuple[str, float, int | None], list[Cell]] = {}
    for cell in check_leaderboard(cells):
        c = cell.config
        settings.setdefault((c.norm.name, c.eps, c.gradients), []).append(cell)
    sheets = [_sheet(of_setting, cells, tuned or {}) for of_setting in settings.values()]
    return [sheet._replace(notes=[*sheet.notes, *notes]) for sheet in sheets]


def _sheet(shown: Sequence[Cell], cells: Sequence[Cell], tuned: Mapping[str, str]) -> Sheet:
    """Return the leaderboard of the cells of one setting, among all `cells`."""
    c = shown[0].config
    board, rates = leaderboard(shown)
    caption = f"Leaderboard: mean transfer of {len(board)} attacks, {budget_title(shown[0])}"
    name = f"leaderboard-{c.norm.name}-{c.eps:g}"
    if c.gradients is not None:
        caption += f", at most {c.gradients} gradients per image"
        name += f"-{c.gradients}-gradients"
    kinds = {x.config.attack.name: tuned.get(x.id) or whose(x) for x in shown}
    board["hyperparameters"] = board["attack"].map(kinds)
    by_title = dict(zip(board["title"], board["hyperparameters"], strict=True))
    notes = [*_notes(shown, board, rates), whose_note(by_title)]
    if left_out := [x.config.attack.title for x in cells if x.config.attack.targeted]:
        notes.append(f"left out, since they are targeted: {', '.join(dict.fromkeys(left_out))}")
    notes += missing_notes(board)
    if floor := no_attack(shown):
        board = pd.concat([board, pd.DataFrame([floor], columns=board.columns)], ignore_index=True)
    return Sheet(name, caption, board, [_block(board)], notes)


def check_leaderboard(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells that a leaderboard shows: those of untargeted attacks.

    Raises ConfigError if there are none, or several that differ in other keys than attack, norm,
    eps, gradients, source and seed.
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
        place = (c.attack.name, c.norm.name, c.eps, c.gradients, cell.source, c.seed)
        if place in seen:
            raise ConfigError(
                f"a leaderboard holds one cell for {c.attack.name} {c.norm.name} {c.eps:g} on "
                f"{cell.source}, the sweep has several: give one value of steps, … and each "
                "attack a name of its own"
            )
        seen.add(place)
    return untargeted


def leaderboard(cells: Sequence[Cell]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the numbers of a leaderboard, and the rates that they are made from.

    Returns:
        The board, a row per attack, best mean transfer first, with the columns NAMED, the keys of
        COLUMNS (perceptual sizes only if a row has them), INTERVALS and OVER_SEEDS
        (percent), and for `families_of` transfer_cnn, transfer_cnn_low, ...
        images counts different images, n an image once for each source and seed. A row whose cells
        aren't all finished has NaN, and the commands of those.
        The rates of every cell and target, as of `rates.rate`.
    """
    attacks: dict[str, list[Cell]] = {}
    for cell in cells:
        attacks.setdefault(cell.config.attack.name, []).append(cell)
    families = families_of(cells)
    rows, rates = [], []
    for of_attack in attacks.values():  # one attack at a time: all rows would fill the memory
        frames = [selected(cell, in_passing=True) for cell in of_attack]
        rows.append(_row(of_attack, frames, families))
        for cell, frame in zip(of_attack, frames, strict=True):
            rates += [rate(cell, target, frame) for target in cell.targets]
    apart = [f"transfer_{family}{end}" for family in families for end in ENDS]
    board = pd.DataFrame(rows, columns=[*NAMED, *COLUMNS, *INTERVALS, *OVER_SEEDS, *apart])
    board = board.drop(columns=[name for name in APPEARANCE if board[name].isna().all()])
    by = ["transfer", "white_box", "attack"]
    board = board.sort_values(by, ascending=[False, False, True], na_position="last")
    return board.reset_index(drop=True), pd.DataFrame(rates)


def _row(
    cells: Sequence[Cell], frames: Sequence[pd.DataFrame | None], families: Sequence[str]
) -> dict[str, Any]:
    """Return the row of one attack, from the `selected` rows of its cells."""
    pairs = list(zip(cells, frames, strict=True))
    finished = [(cell, frame) for cell, frame in pairs if frame is not None]
    row: dict[str, Any] = identity(cells[0]) | {
        "title": cells[0].config.attack.title,
        "sources": ",".join(dict.fromkeys(cell.source for cell in cells)),
        "run": len(finished) == len(cells),
        "command": rest_of(*left) if (left := [c for c, frame in pairs if frame is None]) else "",
        "images": 0,
        "n": 0,
    }
    if not row["run"]:
        return row
    attacked = pd.concat([frame.drop_duplicates("image_id") for _, frame in finished])
    return (
        row
        | mean_rates(finished)
        | _apart(finished, families)
        | dict(zip(OVER_SEEDS, spread_over_seeds(finished), strict=True))
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
        own = [cell for cell in cells if cell.config.attack.name == attack]
        pairs = [(cell, selected(cell, in_passing=True)) for cell in own]
        wrong = [(_of_all(c), _clean_errors(f)) for c, f in pairs if f is not None]
        if len(wrong) == len(pairs):
            names = {"attack": NO_ATTACK, "title": NO_ATTACK_TITLE, "run": True}
            sizes = dict.fromkeys(("gradients", "linf", "rel_l2", "ciede2000", "lpips"), 0.0)
            sizes |= {"ssim": 1.0}  # and no PSNR, which would be infinite
            rates = mean_rates(wrong) | _apart(wrong, families_of(cells))
            return identity(cells[0]) | names | rates | sizes
    return {}


def _apart(
    finished: Sequence[tuple[Cell, pd.DataFrame]], families: Sequence[str]
) -> dict[str, float]:
    """Return the mean transfer to each family, as `mean_rates` does that to all targets."""
    each = {family: mean_rates(finished, family) for family in families}
    return {f"transfer_{f}{end}": each[f][f"transfer{end}"] for f in families for end in ENDS}


def _of_all(cell: Cell) -> Cell:
    return replace(cell, config=replace(cell.config, denominator="all"))


def _clean_errors(frame: pd.DataFrame) -> pd.DataFrame:
    """Return rows in which every clean error is a success, to be counted for all images.

    Of an attack no answer and an abstention aren't one either.
    """
    answered = frame["clean_pred"] >= 0
    return frame.assign(success=answered & (frame["clean_pred"] != frame["label"]))


def _images_per_second(cells: Sequence[Cell]) -> float:
    """Return images crafted per second in all sessions; NaN where a cell has none."""
    sessions = [(Records(cell.folder).run() or RunInfo()).sessions for cell in cells]
    seconds = sum(s.crafting_seconds for of_cell in sessions for s in of_cell)
    images = sum(s.images for of_cell in sessions for s in of_cell)
    return images / seconds if all(sessions) and seconds else NAN


def _block(board: pd.DataFrame) -> Block:
    """Return a row per attack: its title, its name, numbers, n."""
    columns: dict[str, tuple[str, str]] = {}
    apart = {f"transfer_{family}": title for family, title in TITLES.items()}
    for key, column in COLUMNS.items():
        more = {k: (f"{t} % [95 %]", ".1f") for k, t in apart.items() if key == "transfer"}
        columns |= {k: shown for k, shown in ({key: column} | more).items() if k in board}
        if key == "transfer" and board["seed_sd"].notna().any():
            columns["seeds"] = ("95 % over seeds", ".1f")
    kinds = board["hyperparameters"].dropna()  # no attack has none
    shown = any(kind.startswith(TUNED) for kind in kinds)
    headings = ["hyperparameters"] * shown + [heading for heading, _ in columns.values()]
    rows: list[list[TableCell]] = []
    for i, row in enumerate(board.to_dict("records")):
        numbers = {key: Number(row.get(key, NAN), form) for key, (_, form) in columns.items()}
        for key in (key for key in columns if key.startswith("transfer")):
            interval = row[f"{key}_low"], row[f"{key}_high"]
            numbers[key] = numbers[key]._replace(interval=interval)
        if row["seed_sd"] == row["seed_sd"]:
            numbers["transfer"] = numbers["transfer"]._replace(spread=row["seed_sd"])
        if "seeds" in columns:
            numbers["seeds"] = over_seeds_cell(row["transfer"], row["seed_low"], row["seed_high"])
        names = [row["title"], row["attack"], *[kinds.get(i, "")] * shown]
        rows.append([*names, *numbers.values(), Number(row["n"], "d")])
    return Block(["Attack", "name", *headings, "n"], rows)


def _notes(cells: Sequence[Cell], board: pd.DataFrame, rates: pd.DataFrame) -> list[str]:
    """Return the notes below a leaderboard."""
    sources = {cell.source: cell.title(cell.source) for cell in cells}
    targets = {t: cell.title(t) for cell in cells for t in cell.targets}
    notes = [
        *setting_notes(cells),
        f"crafted on {', '.join(sources.values())}; targets {', '.join(targets.values())}; "
        f"denominator={cells[0].config.denominator}, success={cells[0].success}",
        "n: attacked images, counted once for each source and seed; all columns are means over "
        "them; transfer: the share of its black-box targets that an image fools; brackets: 95 % "
        "bootstrap interval over images, which are drawn with all their results. All attacks had "
        "the same images, so intervals that overlap don't say that two attacks are equal",
        f"{NO_ATTACK_TITLE}: errors on the clean images, all of them; they are part of every rate "
        "with denominator=all, and of none with target-correct",
        "gradients: of the source, as the image needed them; L∞ of v on the 0-255 scale",
        "images / s: crafted, without scoring; of this machine and its load, not the attack alone",
        *family_notes(cells),
        *perceptual_notes(name for name in APPEARANCE if name in board),
        *idle_notes(cells),
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
