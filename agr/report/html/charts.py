"""Plotly's figures as plain JSON, and as tables for those who read rather than see."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agr.report.html.contract import Chart, Table

MOST_ROWS = 500  # of a chart's table: more numbers than that are not read but searched


def plain(value: Any) -> Any:
    """A value as JSON has it: arrays as lists, and null for what is not finite."""
    if isinstance(value, Mapping):
        decoded = _decoded(value)
        return decoded if decoded is not None else {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _decoded(value: Mapping[str, Any]) -> Any:
    """Plotly's own way to write an array, {"dtype": "f8", "bdata": base64}, as a list."""
    if not {"dtype", "bdata"} <= value.keys():
        return None
    array = np.frombuffer(base64.b64decode(value["bdata"]), np.dtype(value["dtype"]))
    shape = [int(n) for n in str(value.get("shape", array.size)).split(",")]
    return plain(array.reshape(shape))


def table(chart: Chart) -> Table | None:
    """The numbers of a chart, one row for each point of each trace; None if there are none."""
    traces = plain(chart.plotly.get("data", []))
    layout = plain(chart.plotly.get("layout", {}))
    rows = [row for trace in traces for row in _points(trace)]
    if not rows:
        return None
    header = ["series", _axis(layout, "x"), _axis(layout, "y"), "value", "note"]
    used = [i for i in range(len(header)) if i in (1, 2) or any(row[i] for row in rows)]
    return Table(
        name=f"{chart.name}-numbers",
        caption=f"Numbers of the chart “{chart.title}”",
        header=[header[i] for i in used],
        rows=[[row[i] for i in used] for row in rows[:MOST_ROWS]],
        notes=_shortened(len(rows)),
    )


def _shortened(n: int) -> list[str]:
    return [f"the first {MOST_ROWS} of {n:,} points"] if n > MOST_ROWS else []


def _axis(layout: Mapping[str, Any], which: str) -> str:
    """An axis's title, which Plotly takes as a text or as {"text": …}."""
    title = (layout.get(f"{which}axis") or {}).get("title") or which
    return str(title.get("text") or which) if isinstance(title, Mapping) else str(title)


def _points(trace: Mapping[str, Any]) -> list[list[str]]:
    """Rows of (series, x, y, value, note)."""
    name = str(trace.get("name") or "")
    x, y, z = (trace.get(axis) for axis in "xyz")
    if isinstance(z, list):
        return _grid(name, x, y, z)
    n = max(len(values) for values in (x or [], y or []))
    notes = _texts(trace.get("text"), n)
    xs, ys = _texts(x, n, count=True), _texts(y, n, count=True)
    spread = _spread(trace.get("error_y") or {}, y or [])
    return [[name, xs[i], ys[i] + spread.get(i, ""), "", notes[i]] for i in range(n)]


def _spread(error: Mapping[str, Any], y: Sequence[Any]) -> dict[int, str]:
    """The intervals of points, by their number: " [low, high]"."""
    up = error.get("array") or []
    down = error.get("arrayminus") or up
    return {
        i: f" [{text(y[i] - down[i])}, {text(y[i] + up[i])}]"
        for i in range(min(len(up), len(down), len(y)))
        if None not in (up[i], down[i], y[i])
    }


def _grid(name: str, x: Any, y: Any, z: Sequence[Sequence[Any]]) -> list[list[str]]:
    """The cells of a heatmap."""
    width = max((len(line) for line in z), default=0)
    xs, ys = _texts(x, width, count=True), _texts(y, len(z), count=True)
    return [
        [name, xs[i], ys[j], text(value), ""]
        for j, row in enumerate(z)
        for i, value in enumerate(row)
    ]


def _texts(values: Any, n: int, count: bool = False) -> list[str]:
    """`n` texts; what Plotly fills in where there are none is a count from 0."""
    if isinstance(values, list):
        return [text(v) for v in values[:n]] + [""] * (n - len(values))
    if isinstance(values, str) and not count:
        return [values] * n
    return [str(i) if count else "" for i in range(n)]


def text(value: Any) -> str:
    """A number with as many digits as are read."""
    if value is None:
        return "—"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
