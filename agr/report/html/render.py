"""From a `Page` to the text of one HTML file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from agr.report.html import escapes
from agr.report.html.browser import browser
from agr.report.html.contract import ClaimView, HtmlTable, Page, SitePage
from agr.report.numbers import Number, TableCell, printed
from agr.utils.errors import ConfigError

MOST_BYTES = 20_000_000
LARGEST = 1e308  # a key that JavaScript reads as a number
# Nothing is fetched from anywhere, and of scripts only the page's own runs; the two libraries that
# it unpacks are blobs.
POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; font-src data:; "
    "script-src '{digest}' blob:; base-uri 'none'; form-action 'none'"
)
SECTIONS = (
    *(("short", "In short"), ("summary", "What was run"), ("leaderboards", "Leaderboards")),
    *(("tables", "Tables"), ("claims", "Claims"), ("figures", "Figures"), ("browser", "Images")),
    *(("further", "Differences between attacks"), ("checklist", "Checklist")),
    ("provenance", "Provenance"),
)
# How a verdict begins, its sign and its style: never colour alone.
VERDICTS = (
    *(("supported", "✓", "yes"), ("contradicted", "✗", "no"), ("undecided", "?", "open")),
    ("incomplete", "…", "open"),
)
NOT_JUDGED = "not judged"


class Td(NamedTuple):
    """A cell: its text, what it is sorted by, and how it looks."""

    text: str
    order: str | None
    strong: bool


class Grid(NamedTuple):
    """A table's rows and columns, ready to be written."""

    columns: list[tuple[str, bool]]  # title, and whether it holds numbers
    rows: list[list[Td]]


class Anchors:
    """Ids for things that have a name: the same thing has the same id, and no two share one."""

    def __init__(self) -> None:
        self.taken: dict[str, Any] = {name: None for name, _ in SECTIONS}

    def of(self, thing: Any) -> str:
        """The id of a thing, or of a section by its name."""
        if isinstance(thing, str):
            return thing
        for anchor, known in self.taken.items():
            if known is thing:
                return anchor
        anchor = escapes.anchor(thing.name, self.taken)
        self.taken[anchor] = thing
        return anchor


def render(page: Page, most_bytes: int = MOST_BYTES) -> str:
    """One self-contained HTML file of at most `most_bytes` (in UTF-8)."""
    text = _filled(page, None)
    if page.examples:
        left = most_bytes - escapes.size(text)
        text = _filled(page, browser(page.examples, page.classes, left))
    if escapes.size(text) > most_bytes:
        raise ConfigError(
            f"the page is {escapes.size(text):,} bytes, more than the {most_bytes:,} that it may "
            "have, though its image browser is as small as it can be: allow more, or show fewer "
            "figures, charts or tables"
        )
    return text.encode("utf-8", "replace").decode()  # a lone surrogate can't be in a file


def _filled(page: Page, examples: dict[str, Any] | None) -> str:
    script = escapes.own("page.js") + escapes.own("reading.js")
    return _environment().get_template("page.html.j2").render(
        page=page,
        sections=[(name, title) for name, title in SECTIONS if _has(page, name)],
        columns=list(dict.fromkeys(c for claim in page.claims for c in claim.verdicts)),
        examples=examples,
        script=script,
        style=escapes.own("style.css"),
        policy=POLICY.format(digest=escapes.digest(script)),
    )  # fmt: skip


def render_site(page: SitePage) -> str:
    """One self-contained HTML file of a site."""
    script = (escapes.own("page.js") if page.sortable else "") + escapes.own("reading.js")
    text = _environment().get_template("site.html.j2").render(
        page=page,
        script=script,
        style=escapes.own("style.css"),
        policy=POLICY.format(digest=escapes.digest(script)),
    )  # fmt: skip
    return text.encode("utf-8", "replace").decode()


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("agr.report.html", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "anchor": Anchors().of, "grid": grid, "verdict": verdict, "json": escapes.data_block,
        "data_url": escapes.data_url, "tally": tally, "reasons": reasons,
    }  # fmt: skip
    environment.globals |= {"packed": escapes.packed, "shipped_style": _shipped_style}
    return environment


def _shipped_style(package: str, path: str) -> Markup:
    return Markup(escapes.shipped(package, path).replace("</", r"<\/"))


def _has(page: Page, section: str) -> bool:
    """Return whether a section has content."""
    content = {"short": page.answers, "browser": page.examples, "provenance": True}
    return bool(content.get(section) or getattr(page, section, ()))


def verdict(text: str | None) -> tuple[str, str, str]:
    """A verdict's text, sign and style."""
    said = text or NOT_JUDGED
    for begins, sign, style in VERDICTS:
        if said.lower().startswith(begins):
            return said, sign, style
    return said, "·", "none"


def tally(claim: ClaimView, columns: Sequence[str]) -> list[tuple[str, str | None, int]]:
    """A claim's verdicts in one line: the paper's own by its column, the others by their number."""
    first, *others = columns
    counts = Counter(claim.verdicts.get(column) for column in others)
    return [(first, claim.verdicts.get(first), 1), *(("", v, n) for v, n in counts.most_common())]


def reasons(claim: ClaimView, columns: Sequence[str]) -> list[tuple[str, str | None, str]]:
    """A claim's verdicts and why; columns that have both in common share a line."""
    found: dict[tuple[str | None, str], list[str]] = {}
    for column in columns:
        if column in claim.why:
            key = (claim.verdicts.get(column), claim.why[column])
            found.setdefault(key, []).append(column)
    return [(" / ".join(those), *key) for key, those in found.items()]


def grid(table: HtmlTable) -> Grid:
    """Return a table with the keys by which its columns of numbers are sorted."""
    width = len(table.header)
    for i, row in enumerate(table.rows):
        if len(row) != width:
            raise ValueError(
                f"table {table.name}: row {i} has {len(row)} cells and the header has {width}"
            )
    numeric = [_are_numbers([row[j] for row in table.rows]) for j in range(width)]
    return Grid(
        columns=list(zip(table.header, numeric, strict=True)),
        rows=[[_td(c, n) for c, n in zip(row, numeric, strict=True)] for row in table.rows],
    )


def _are_numbers(column: Sequence[TableCell]) -> bool:
    """Return whether a column holds numbers, and beside them at most empty cells."""
    return any(isinstance(c, Number) for c in column) and all(
        isinstance(c, Number) or not c for c in column
    )


def _td(cell: TableCell, numeric: bool) -> Td:
    """Return a cell with the key by which it is sorted: an unknown number goes below all others."""
    value = float(cell.value) if isinstance(cell, Number) else math.nan
    order = min(max(value, -LARGEST), LARGEST) if value == value else -LARGEST
    bold = isinstance(cell, Number) and cell.bold
    return Td(printed(cell), repr(order) if numeric else None, bold)
