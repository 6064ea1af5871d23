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


@dataclass(frozen=True)
class Figure:
    """A picture made by matplotlib, with what it was made from."""

    name: str  # "figure3"
    title: str
    caption: str  # what is to be seen; also for those who can't
    png: bytes
    command: str  # what makes it again
    data: HtmlTable | None = None  # its numbers, where they are few enough to be read


@dataclass(frozen=True)
class Chart:
    """An interactive chart: a figure of Plotly as JSON, {"data": […], "layout": {…}}."""

    name: str
    title: str
    caption: str
    plotly: Mapping[str, Any]
    numbers: HtmlTable | None = None  # of its points, for those who read rather than see


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
    verdicts: Mapping[str, str]  # by column of the grid: "supported", "contradicted", "undecided" …
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
    claims: Sequence[ClaimView] = ()
    claims_about: Sequence[str] = ()  # how to read the verdicts
    figures: Sequence[Figure] = ()
    charts: Sequence[Chart] = ()
    examples: Sequence[Example] = ()
    leaderboards: Sequence[HtmlTable] = ()
    further: Sequence[HtmlTable] = ()  # differences between attacks and the like, long ones
    classes: Mapping[int, str] = field(default_factory=dict)  # names of labels, where there are any
