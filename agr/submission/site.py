"""Pages of a leaderboard's site: one of all protocols, one for each, and a card for each entry."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from agr.records.claim import Protocol
from agr.report.formats import csv_text
from agr.report.html.contract import HtmlTable, SitePage, SiteSection
from agr.report.html.render import render_site
from agr.report.numbers import Number, TableCell
from agr.submission.boards import (
    Placed,
    Result,
    Submitted,
    Task,
    boards_of,
    budgets_of,
    frame_of,
    leads,
    placements,
    protocol_of,
    ranked,
)
from agr.submission.card import budget, card, differences_of, protocol_terms, source_of
from agr.utils.hashing import digest, slug
from agr.utils.text import plural

INDEX = "index.html"
BOARD = ["entry", "source", "place", "mean transfer % [95 %]", "against the best"]
BOARD += ["white-box %", "gradients / image", "steps", "images", "by", "day"]
LEADS = ["entry", "since (UTC)", "board", "mean transfer % [95 %]", "led before"]
NOTES = (
    "mean transfer: the share of its black-box targets that an image fools; brackets: 95 % "
    "bootstrap interval over images",
    "place: among the results with the same source in this table",
    "against the best: of the same source in this table, on the images of both, by McNemar's test "
    "where there is one target, otherwise by a bootstrap over images, with Holm's correction",
    "gradients: of the source, as the image needed them; steps: at most",
)


class Group(NamedTuple):
    """The entries of one protocol, the files about them, and their places."""

    protocol: Protocol
    name: str  # of its page and its table, without an ending
    entries: list[Submitted]
    boards: dict[Task, list[Result]]
    places: dict[tuple[Task, float], list[Placed]]  # `placements`


def site(entries: Sequence[Submitted], title: str) -> dict[str, str]:
    """Return the files of a site, texts by their paths in it."""
    cards = _cards(entries)
    groups = _groups(entries)
    files = {INDEX: render_site(_index(groups, title))}
    for group in groups:
        files[f"{group.name}.html"] = render_site(_protocol_page(group, cards))
        files[f"{group.name}.csv"] = csv_text(frame_of(group.boards, group.places))
        differences = differences_of(group.boards)
        back = [("Leaderboard", f"../{group.name}.html"), ("All boards", f"../{INDEX}")]
        for entry in group.entries:
            files[cards[entry.folder]] = render_site(card(entry, differences, back))
    return files


def _cards(entries: Sequence[Submitted]) -> dict[Path, str]:
    """Return the path of each entry's card, by the entry's folder."""
    found: dict[Path, str] = {}
    taken = set[str]()
    for folder, claim, _ in entries:
        name = f"{claim.protocol.suite}-{claim.name}"
        short = re.sub(r"[^\w-]+", "_", slug(name), flags=re.ASCII).strip("_")
        if short.lower() in taken:  # on some file systems names that differ in case are one
            short = f"{short}-{digest([name, str(claim)])}"
        taken.add(short.lower())
        found[folder] = f"entries/{short}.html"
    return found


def _groups(entries: Sequence[Submitted]) -> list[Group]:
    """Return the entries by protocol, the one with the most of them first."""
    by: dict[Protocol, list[Submitted]] = {}
    for entry in entries:
        by.setdefault(protocol_of(entry), []).append(entry)
    order = sorted(by.items(), key=lambda item: (-len(item[1]), str(item[0])))
    names: list[str] = []
    for protocol, _ in order:
        name, again = slug(protocol.suite), sum(p.suite == protocol.suite for p, _ in order)
        names.append(f"{name}-{digest(str(protocol))}" if again > 1 else name)
    boards = [boards_of(of) for _, of in order]
    return [
        Group(protocol, name, of, each, placements(each))
        for (protocol, of), name, each in zip(order, names, boards, strict=True)
    ]


def _index(groups: Sequence[Group], title: str) -> SitePage:
    rows: list[list[TableCell]] = []
    links = list[str]()
    for group in groups:
        for task, results in group.boards.items():
            best, _ = ranked(results)[0]
            rows.append([
                group.protocol.suite, _conditions(group.protocol), budget(task),
                source_of(results), Number(len(results), "d"), best.entry.claim.name,
                _transfer(best),
            ])  # fmt: skip
            links.append(
                f"{group.name}.html#section-{1 + [*budgets_of(group.boards)].index(task[:2])}"
            )
    header = ["suite", "protocol", "budget", "source", "entries", "best", "mean transfer % [95 %]"]
    table = HtmlTable("boards", "Every board, and who leads it", header, rows, (), links)
    texts = [
        "Which attack, crafted on which network, fools which other networks, and is the difference "
        "real? Every number here was made from the rows that an entry brings: one for each image "
        "and target.",
    ]
    texts += dict.fromkeys(notice for group in groups for notice in _notices(group))
    return SitePage(title, [SiteSection("Boards", tables=[table])], texts, sortable=True)


def _protocol_page(group: Group, cards: dict[Path, str]) -> SitePage:
    sections = [
        SiteSection(budget(tasks[0]), _targets(tasks, group), tables=_tables(tasks, group, cards))
        for tasks in budgets_of(group.boards).values()
    ]
    history = _history(group, cards)
    words = "By when an entry's last image was crafted."
    sections.append(SiteSection("History", [words], tables=[history]))
    terms = SiteSection("Protocol", terms=protocol_terms(group.protocol))
    return SitePage(
        f"Leaderboard: {group.protocol.suite}",
        [*sections, terms],
        [
            f"{plural(len(group.entries), 'entry', 'entries')}; {_conditions(group.protocol)}",
            *_notices(group),
        ],
        [("All boards", INDEX), ("These numbers as CSV", f"{group.name}.csv")],
        sortable=True,
    )


def _notices(group: Group) -> list[str]:
    """Return what the suite says about its results, such as that its networks are stand-ins."""
    said = (one.cell.suite.notice for entry in group.entries for one in entry.cells)
    return [*dict.fromkeys(filter(None, said))]


def _tables(tasks: Sequence[Task], group: Group, cards: dict[Path, str]) -> list[HtmlTable]:
    """Return the tables of one budget: of all results, and of those below smaller costs."""
    tables = list[HtmlTable]()
    spent = [result.gradients for task in tasks for result in group.boards[task]]
    for most in dict.fromkeys(most for task, most in group.places if task in tasks):
        rows = [p for task in tasks for p in group.places[task, most]]
        rows.sort(key=lambda p: (p.place, -p.result.rates["transfer"]))
        cost = f"at most {most:g} gradients per image"
        if most == math.inf and any(map(math.isnan, spent)):
            cost = "any cost"
        elif most == math.inf:
            cost = f"any cost (up to {math.ceil(10 * max(spent)) / 10} gradients)"
        tables.append(
            HtmlTable(
                f"{group.name}-{budget(tasks[0])}-{cost}",
                f"{budget(tasks[0])}, {cost}",
                BOARD,
                [_board_row(p) for p in rows],
                NOTES if most == math.inf else (),
                [cards[p.result.entry.folder] for p in rows],
            )
        )
    return tables


def _board_row(p: Placed) -> list[TableCell]:
    result, claim = p.result, p.result.entry.claim
    return [
        claim.name,
        source_of([result]),
        Number(p.place, "d"),
        _transfer(result),
        p.against_best,
        Number(result.rates["white_box"], ".1f"),
        Number(result.gradients, ".1f"),
        Number(claim.protocol.steps, "d"),
        Number(result.rates["images"], ".0f"),
        claim.by,
        result.ended[:10],
    ]


def _history(group: Group, cards: dict[Path, str]) -> HtmlTable:
    rows: list[list[TableCell]] = []
    links = []
    for task, results in group.boards.items():
        for lead in leads(results):
            before = lead.before.entry.claim.name if lead.before else ""
            board = f"{source_of(results)}, {budget(task)}"
            name = lead.result.entry.claim.name
            rows.append([name, lead.result.ended, board, _transfer(lead.result), before])
            links.append(cards[lead.result.entry.folder])
    return HtmlTable("history", "Entries that led when they came", LEADS, rows, (), links)


def _transfer(result: Result) -> Number:
    rates = result.rates
    return Number(rates["transfer"], ".1f", (rates["transfer_low"], rates["transfer_high"]))


def _targets(tasks: Sequence[Task], group: Group) -> list[str]:
    """Say on which targets the boards of some tasks are."""
    lines = []
    for task in tasks:
        cell = group.boards[task][0].cells[0].cell
        names = ", ".join(cell.title(name) for name in task.targets) or "none"
        counts = sorted(int(result.rates["images"]) for result in group.boards[task])
        few, many = counts[0], counts[-1]
        unequal = f" Entries have {few:,} to {many:,} images." if few < many else ""
        lines.append(f"From {cell.title(task.source)}, black-box targets: {names}.{unequal}")
    return lines


def _conditions(protocol: Protocol) -> str:
    return f"success={protocol.success}, denominator={protocol.denominator}"
