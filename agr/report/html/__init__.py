"""The report as one HTML file that needs no network: what it shows, and how it is put together.

Everything here is text and bytes that are made elsewhere (`agr.report.report`); this room knows
nothing of cells or records.
"""

from __future__ import annotations

from agr.report.html.contract import (
    Chart,
    ClaimView,
    Example,
    Figure,
    HtmlTable,
    Page,
    TargetPrediction,
)
from agr.report.html.render import MOST_BYTES, render

__all__ = [
    "MOST_BYTES",
    "Chart",
    "ClaimView",
    "Example",
    "Figure",
    "HtmlTable",
    "Page",
    "TargetPrediction",
    "render",
]
