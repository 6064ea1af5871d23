"""The card of an entry: what was claimed, on which targets, at what cost, against the others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from agr.records.claim import Claim, Protocol
from agr.report.comparison.paired import Paired, transfer_pair
from agr.report.html.contract import HtmlTable, SitePage, SiteSection
from agr.report.numbers import Number, TableCell
from agr.report.rates import NAN, NORM_TITLES
from agr.submission.boards import Result, Submitted, Task

TARGETS = ["target", "source", "budget", "ASR % [95 %]", "fooled", "images", "clean %", "seed"]
CELLS = ["cell", "gradients / image", "forwards / image", "steps", "s / image", "device"]
AGAINST = ["against", "board", "images", "difference, points [95 %]", "p"]
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})", re.IGNORECASE)
# On each board, by an entry's folder: the others, and how it differs from them.
Differences = dict[Task, dict[Path, list[tuple[Result, Paired]]]]


def differences_of(boards: Mapping[Task, Sequence[Result]]) -> Differences:
    """Compare every two results of a board, once for the cards of both."""
    found: Differences = {}
    for task, results in boards.items():
        rows = found[task] = {result.entry.folder: [] for result in results}
        for left, right in combinations(results, 2):
            pair = transfer_pair([left.shares], [right.shares])
            rows[left.entry.folder].append((right, pair))
            rows[right.entry.folder].append((left, pair.exchanged()))
    return found


def card(entry: Submitted, differences: Differences, links: Sequence[tuple[str, str]]) -> SitePage:
    """Return the card of an entry; `links` lead back to its board."""
    claim = entry.claim
    titles = {n: one.cell.title(n) for one in entry.cells for n in one.cell.targets}
    titles |= {one.cell.source: one.cell.title(one.cell.source) for one in entry.cells}
    about = [("attack", claim.attack.title), ("by", claim.by), ("paper", claim.paper)]
    about += [("code", claim.code), *protocol_terms(claim.protocol)]
    about += [("steps", str(claim.protocol.steps)), ("rounded to 8 bits", claim.protocol.quantize)]
    about += [("numbers", claim.protocol.precision), ("agr at", claim.git or "")]
    versions = ", ".join(f"{package} {version}" for package, version in claim.versions.items())
    about += [("versions", versions)]
    sections = [
        SiteSection("About", terms=[(term, text) for term, text in about if text]),
        SiteSection("Targets", tables=[_rates(claim, titles)]),
        SiteSection("Cost", tables=[_cost(claim)]),
    ]
    if against := _against(entry, differences):
        words = (
            "On the images that both attacked. p is of one test each, without a correction, and "
            "never below what a sign test on as many images could give."
        )
        sections.append(SiteSection("Against the other entries", [words], tables=[against]))
    said = [f"sha256 of its images: {claim.attack.images}"] if claim.attack.images else []
    sections.append(SiteSection("The attack, with every value", said, code=claim.attack.yaml))
    out = [(w, a) for w, a in (("Paper", address(claim.paper)), ("Code", address(claim.code))) if a]
    return SitePage(claim.name, sections, [], [*links, *out])


def _rates(claim: Claim, titles: dict[str, str]) -> HtmlTable:
    rows: list[list[TableCell]] = []
    for cell in claim.cells:
        for rate in cell.rates:
            known = rate.asr is not None and rate.low is not None and rate.high is not None
            interval = (rate.low or 0.0, rate.high or 0.0) if known else None
            asr = Number(_known(rate.asr), ".1f", interval, star=rate.white_box)
            rows.append([
                titles[rate.target], titles[cell.source], _budget(cell.norm, cell.eps), asr,
                Number(rate.successes, "d"), Number(rate.images, "d"),
                Number(_known(rate.clean), ".1f"), Number(cell.seed, "d"),
            ])  # fmt: skip
    notes = ["* white-box", "brackets: 95 % Wilson interval; clean: accuracy on these images"]
    return HtmlTable("targets", "Success on every target", TARGETS, rows, notes)


def _cost(claim: Claim) -> HtmlTable:
    rows: list[list[TableCell]] = [
        [
            cell.folder,
            Number(_known(cell.cost.backwards), ".2f"),
            Number(_known(cell.cost.forwards), ".2f"),
            Number(_known(cell.cost.steps), ".2f"),
            Number(_known(cell.cost.seconds), ".3f"),
            cell.device,
        ]
        for cell in claim.cells
    ]
    notes = ["means over images; seconds are of crafting, on that machine, busy or not"]
    return HtmlTable("cost", "What its images cost", CELLS, rows, notes)


def _against(entry: Submitted, differences: Differences) -> HtmlTable | None:
    """Return the paired differences of an entry from every other one of its boards."""
    rows: list[list[TableCell]] = []
    for task, by_folder in differences.items():
        for other, pair in by_folder.get(entry.folder, []):
            if pair.n:
                gap = Number(pair.difference, "+.1f", (pair.low, pair.high))
                p = Number(pair.p, ".4f", text="< 0.0001" if pair.p < 1e-4 else "")
                board = f"{source_of([other])}, {budget(task)}"
                rows.append([other.entry.claim.name, board, Number(pair.n, "d"), gap, p])
    if not rows:
        return None
    return HtmlTable("against", "Mean transfer, this entry minus another", AGAINST, rows)


def address(text: str) -> str:
    """Return what a paper or a program may link to: an address of the web, or "" if it is none."""
    if match := ARXIV.search(text):
        return f"https://arxiv.org/abs/{match[1]}"
    return text if re.fullmatch(r"https?://[^\s<>\"']+", text) else ""


def budget(task: Task) -> str:
    """Return the budget of a board, such as "L∞ = 10"."""
    return _budget(task.norm, task.eps)


def _budget(norm: str, eps: float) -> str:
    return f"{NORM_TITLES.get(norm, norm)} = {eps:g}"


def source_of(results: Sequence[Result]) -> str:
    """Return the title of the source of some results."""
    cell = results[0].cells[0].cell
    return cell.title(cell.source)


def protocol_terms(protocol: Protocol) -> list[tuple[str, str]]:
    """Return a protocol as terms and texts."""
    return [
        ("suite", protocol.suite),
        ("images", f"list and labels with hash {protocol.data[:16]}…"),
        ("select", f"{protocol.select}, split={protocol.split}"),
        ("success", protocol.success),
        ("denominator", protocol.denominator),
    ]


def _known(value: float | None) -> float:
    return NAN if value is None else value
