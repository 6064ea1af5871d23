"""A comparison as files: the table, its figure, and a page with both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agr.records.store import Records
from agr.report.comparison.figure import draw_comparison
from agr.report.comparison.numbers import Comparison
from agr.report.comparison.sheet import comparison_sheet
from agr.report.comparison.steps import by_steps, draw_steps, steps_sheet
from agr.report.figures import encoded
from agr.report.formats import csv_text, latex, markdown
from agr.report.html.contract import Figure, Page
from agr.report.html.render import render
from agr.report.page import provenance
from agr.report.page_tables import cells_table, tables_of
from agr.utils.files import write_all

NAME = "compare"


def write_comparison(comparison: Comparison, folder: Path, command: str) -> list[Path]:
    """Write compare.md, .tex, .csv, .png, .pdf and .html, which `command` makes; their paths.

    Where iterates were scored, compare.steps.* have their transfer by step and by gradients.
    """
    sheet = comparison_sheet(comparison)
    shown = [("", sheet, draw_comparison(comparison) if sheet.frame["asr"].notna().any() else None)]
    if len(steps := by_steps(comparison)):
        shown.append(("steps.", steps_sheet(steps), draw_steps(comparison, steps)))
    contents: dict[str, bytes] = {}
    figures = []
    for prefix, each, drawing in shown:
        contents |= {
            f"{prefix}md": markdown(each).encode(),
            f"{prefix}tex": latex(each).encode(),
            f"{prefix}csv": csv_text(each.frame).encode(),
        }
        if drawing:
            drawn, caption = drawing
            contents |= {f"{prefix}{kind}": encoded(drawn, kind) for kind in ("png", "pdf")}
            png = contents[f"{prefix}png"]
            figures.append(Figure(each.name, each.caption, caption, png, command))
    runs = [run for cell in comparison.cells if (run := Records(cell.folder).run())]
    page = Page(
        title=sheet.caption,
        notice=comparison.cells[0].suite.notice or "",
        summary=list(_answers(comparison)),
        tables=[table for _, each, _ in shown for table in tables_of(each)],
        provenance=provenance(runs),
        cells=cells_table(comparison.cells, runs, ()),
        figures=figures,
        commands=[command],
    )
    contents["html"] = render(page).encode()
    paths = {folder / f"{NAME}.{kind}": content for kind, content in contents.items()}
    return write_all(paths, folder.glob(f"{NAME}.*"))


def _answers(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """Return the baseline and each row's verdict."""
    if comparison.baseline:
        yield "baseline", comparison.baseline
    for row in comparison.rows:
        if verdict := comparison.verdict(row):
            yield ", ".join(comparison.labels(row)), verdict
