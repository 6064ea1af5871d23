"""Content of the page: texts, pictures and numbers, all made elsewhere and all untrusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from agr.report.numbers import TableCell


@dataclass(frozen=True)
class HtmlTable:
    """A table of numbers and plain texts, which the page escapes."""

    name: str  # for anchors: "table1"
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[TableCell]]
    notes: Sequence[str] = ()
    links: Sequence[str] = ()  # addresses of the rows' first cells, if these lead anywhere


@dataclass(frozen=True)
class Figure:
    """A picture made by matplotlib, with what it was made from.

    With `plotly`, {"data": […], "layout": {…}}, the page shows the same numbers as a chart that can
    be pointed at; without a script and in print it is the picture.
    """

    name: str  # "figure3"
    title: str
    caption: str  # what is to be seen; also for those who can't
    png: bytes
    command: str  # what makes it again
    data: HtmlTable | None = None  # its numbers, where they are few enough to be read
    plotly: Mapping[str, Any] | None = None
    unfolded: bool = True  # shown at once, or a line that opens


@dataclass(frozen=True)
class Answer:
    """One sentence that answers a question about a run, and what on the page shows it."""

    title: str
    text: str
    # Tables and figures of the page, or the name of a section, each with the words of its link.
    evidence: Sequence[tuple[str, HtmlTable | Figure | str]]


class TargetPrediction(NamedTuple):
    """A target's predictions before and after: classes and softmax probabilities."""

    clean_pred: int
    clean_conf: float
    adv_pred: int
    adv_conf: float
    success: bool


@dataclass(frozen=True)
class Example:
    """One attacked image, (H, W, 3) uint8; `clean` is shared by all examples of an image."""

    image_id: str
    label: int
    group: str  # of networks, which decides the images' geometry
    norm: str  # as shown: "L∞ = 10"
    attack: str  # titles, as shown
    source: str
    clean: Any
    adversarial: Any
    facts: Mapping[str, str]  # "steps": "3", "‖v‖₂/‖x‖₂": "0.0188" …
    answers: Mapping[str, TargetPrediction]  # by the target's title


@dataclass(frozen=True)
class ClaimView:
    """One claim of a paper and how it was judged."""

    name: str
    says: str  # the paper's words
    where: str  # in the paper
    # By column of the grid, the paper's own tables first: "supported", "contradicted" …
    verdicts: Mapping[str, str]
    why: Mapping[str, str]  # by the same columns: one sentence with numbers
    details: HtmlTable | None = None  # every comparison


@dataclass(frozen=True)
class Page:
    """All that a page shows, in its order."""

    title: str
    notice: str  # what a reader must know first, or ""
    summary: Sequence[tuple[str, str]]  # what was run and on what: term and text
    tables: Sequence[HtmlTable]
    provenance: Sequence[tuple[str, str]]
    cells: HtmlTable  # every cell, with its command
    commands: Sequence[str]  # what makes this page again
    answers: Sequence[Answer] = ()
    claims: Sequence[ClaimView] = ()
    claims_about: Sequence[str] = ()  # how to read the verdicts
    figures: Sequence[Figure] = ()
    examples: Sequence[Example] = ()
    leaderboards: Sequence[HtmlTable] = ()
    checklist: Sequence[tuple[str, Sequence[str]]] = ()  # questions and their answers
    further: Sequence[HtmlTable] = ()  # differences between attacks and the like, long ones
    classes: Mapping[int, str] = field(default_factory=dict)  # names of labels, where there are any


@dataclass(frozen=True)
class SiteSection:
    """A section of a page of a site: paragraphs, then terms, tables and a text as it stands."""

    title: str
    texts: Sequence[str] = ()
    terms: Sequence[tuple[str, str]] = ()
    tables: Sequence[HtmlTable] = ()
    code: str = ""


@dataclass(frozen=True)
class SitePage:
    """One page of a site: texts and numbers, made elsewhere and all untrusted."""

    title: str
    sections: Sequence[SiteSection]
    texts: Sequence[str] = ()  # below the title
    links: Sequence[tuple[str, str]] = ()  # words and address: the way back, files, a paper
    sortable: bool = False  # its tables get DataTables, which is a quarter of a megabyte
