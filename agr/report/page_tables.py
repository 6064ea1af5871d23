"""Tables as the page shows them: what tells whether a difference is real stands first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from agr.config.cell import Cell
from agr.records.run_info import RunInfo
from agr.report.claims.wording import Compared, numbers_of
from agr.report.formats import Sheet
from agr.report.html.contract import HtmlTable
from agr.report.numbers import Number, TableCell
from agr.report.pairwise import best_and_equal
from agr.report.statistics import LEVEL

REAL = "significant"
GAP = ("difference", "95 % interval", "p (Holm)")


def tables_of(sheet: Sheet) -> list[HtmlTable]:
    """Return a table's blocks as tables of their own, each row with its source in full."""
    found = []
    for i, block in enumerate(sheet.blocks):
        caption = sheet.caption + (f", part {i + 1}" if len(sheet.blocks) > 1 else "")
        notes = sheet.notes if i == len(sheet.blocks) - 1 else ()
        name = f"{sheet.name}-{i + 1}" if i else sheet.name
        found.append(HtmlTable(name, caption, block.header, _filled(block.rows), notes))
    return found


def _filled(rows: Iterable[Sequence[TableCell]]) -> list[list[TableCell]]:
    """Fill a first column that is empty where it is as above: rows may be sorted."""
    found: list[list[TableCell]] = []
    for row in rows:
        first = row[0] or (found[-1][0] if found else "")
        found.append([first, *row[1:]])
    return found


def ranked(board: HtmlTable, transfers: Mapping[str, Sequence[Compared]]) -> HtmlTable:
    """Return a leaderboard with each attack's difference from the best; what matters stands first.

    `transfers` are the `transfer_differences` of each norm.
    """
    header = list(board.header)
    name = header.index("name")
    transfer = next(j for j, title in enumerate(header) if title.startswith("mean transfer"))
    rest = [j for j in range(1, len(header)) if j not in (name, transfer)]
    norm = next(n for n in transfers if board.name.startswith(f"leaderboard-{n}-"))
    best = board.rows[0][name]
    against = {c.right.attack: c for c in transfers[norm] if c.left.attack == best}
    rows: list[list[TableCell]] = []
    for row in board.rows:
        c = against.get(str(row[name]))
        gap = Number(0 - c.difference, "+.1f", (0 - c.high, 0 - c.low)) if c else ""
        told: list[TableCell] = [gap, _real(c) if c else ""]
        rows.append([row[0], row[transfer], *told, *(row[j] for j in rest), row[name]])
    titles = [header[0], header[transfer], "against the best, points", REAL]
    titles += [*(header[j] for j in rest), "name"]
    notes = [
        f"{REAL}: the difference in mean transfer from the first attack of the table, on the same "
        "images, by a bootstrap with Holm's correction over every two attacks, at 5 %",
        *board.notes,
    ]
    return replace(board, header=titles, rows=rows, notes=notes)


def _real(c: Compared) -> str:
    return "yes" if c.p_holm < LEVEL else "no"


def gap_first(c: Compared) -> list[TableCell]:
    """Return a comparison's cells, of which the difference (GAP) stands first."""
    left, right, gap, interval, n, p = numbers_of(c)
    return [gap, interval, p, left, right, n]


def transfers_of(compared: Sequence[Compared], norm: str, names: Mapping[str, str]) -> HtmlTable:
    """Return the comparisons of every two attacks by their mean transfer."""
    rows: list[list[TableCell]] = [
        [
            *(names[c.left.attack], names[c.right.attack], _real(c)),
            *gap_first(c),
        ]
        for c in compared
    ]
    header = ["attack", "against", REAL, "difference, points", *GAP[1:]]
    header += ["mean transfer %", "against %", "images"]
    notes = [
        "mean transfer: of every image, the share of its black-box targets that it fools; images "
        "are the same for both, and are drawn with all their sources; p by a bootstrap, with "
        f"Holm's correction over these {len(rows)} comparisons, at 5 %",
    ]
    caption = f"Mean transfer of every two attacks, {names[norm]}"
    return HtmlTable(f"transfer-{norm}", caption, header, rows, notes)


def equals_of(compared: Sequence[Compared], norm: str, names: Mapping[str, str]) -> HtmlTable:
    """Return the best attacks of each source and target, and those that can't be told from them."""
    frame = best_and_equal(compared)
    rows: list[list[TableCell]] = [
        [
            *(names[row["source"]], names[row["target"]]),
            "; ".join(names[attack] for attack in row["best"]),
            "; ".join(names[attack] for attack in row["equal"]) or "none",
            *(Number(row["asr"]), Number(row["n"], "d"), Number(row["smallest"])),
        ]
        for row in frame.to_dict("records")
    ]
    header = ["source", "target", "best attacks", "can't be told from them", "ASR %", "n"]
    header += ["smallest difference that n can show, points"]
    notes = [
        f"every two attacks on the same images of a source and target: {len(compared)} comparisons "
        "by McNemar's exact test with Holm's correction over all of them, at 5 %",
        "the smallest difference: if all images on which two attacks differ speak for one of them",
        "all comparisons: differences.csv beside this page",
    ]
    return HtmlTable(f"best-{norm}", f"Best attacks, {names[norm]}", header, rows, notes)


def cells_table(cells: Sequence[Cell], runs: Sequence[RunInfo], notes: Sequence[str]) -> HtmlTable:
    """Return every cell with its numbers of images and seconds, and the command that runs it."""
    by_name = {run.name: run for run in runs}
    rows: list[list[TableCell]] = []
    for cell in cells:
        sessions = by_name.get(cell.name, RunInfo()).sessions
        seconds = sum(session.seconds for session in sessions)
        images = sum(session.images for session in sessions)
        c = cell.config
        rows.append(
            [
                *(c.attack.title, c.norm.name, Number(c.eps, "g"), cell.title(cell.source)),
                *(Number(images, "d"), Number(seconds), cell.name, cell.command()),
            ]
        )
    header = ["attack", "norm", "eps", "source", "images crafted", "seconds", "folder", "command"]
    return HtmlTable("cells", "Cells", header, rows, notes)
