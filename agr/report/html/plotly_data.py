"""Figures as interactive charts, in Plotly's JSON: the same numbers, to be pointed at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape  # Plotly reads texts as a kind of HTML, links included
from typing import Any

from agr.report.figures import ASR_FIGURE, FRONTIERS, Drawing
from agr.report.figures.style import AttackStyle

Trace = dict[str, Any]
SYMBOLS = {
    "o": "circle", "s": "square", "D": "diamond", "^": "triangle-up", "v": "triangle-down",
    "<": "triangle-left", ">": "triangle-right", "p": "pentagon", "h": "hexagon",
}  # fmt: skip


def charts_of(drawing: Drawing) -> dict[str, Trace]:
    """Charts by the name of the figure whose numbers they show.

    Transfer against size, ASR against step, and transfer between networks.
    """
    found = {known.name: _frontier(drawing, size) for size, known in FRONTIERS.items()}
    for norm in drawing.norms:
        found[f"figure{ASR_FIGURE[norm]}"] = _steps(drawing, norm)
        found[f"transfer-{norm}"] = _matrix(drawing, norm)
    return {name: chart for name, chart in found.items() if chart["data"]}


def _frontier(drawing: Drawing, size: str) -> Trace:
    frame = drawing.frontier[drawing.frontier[size].notna()]
    norms = list(dict.fromkeys(frame["norm"]))
    traces = []
    order = {attack: i for i, attack in enumerate(drawing.styles)}
    for row in sorted(frame.to_dict("records"), key=lambda row: order[row["attack"]]):
        style, panel = drawing.styles[row["attack"]], norms.index(row["norm"])
        trace: Trace = {"x": [row[size]], "y": [row["transfer"]], "mode": "markers"}
        for axis, name in (("x", size), ("y", "transfer")):
            ends = row[f"{name}_high"] - row[name], row[name] - row[f"{name}_low"]
            trace[f"error_{axis}"] = {"array": [ends[0]], "arrayminus": [ends[1]], "thickness": 1}
        traces.append(trace | _styled(style, panel, first=panel == 0))
    titles = [drawing.names[norm] for norm in norms]
    return {"data": traces, "layout": _layout(titles, FRONTIERS[size].axis, "mean transfer, %")}


def _steps(drawing: Drawing, norm: str) -> Trace:
    frame = drawing.steps[drawing.steps["norm"] == norm]
    sources = list(dict.fromkeys(frame["source"]))
    traces = []
    for (source, attack), mine in frame.groupby(["source", "attack"], sort=False):
        style, panel = drawing.styles[str(attack)], sources.index(str(source))
        trace: Trace = {"x": mine["step"].tolist(), "y": mine["asr"].round(2).tolist()}
        trace |= {"mode": "lines+markers", "line": {"dash": "dash" if style.stopped else "solid"}}
        traces.append(trace | _styled(style, panel, first=panel == 0))
    titles = [drawing.names[source] for source in sources]
    return {"data": traces, "layout": _layout(titles, "step", "white-box ASR, %")}


def _matrix(drawing: Drawing, norm: str) -> Trace:
    frame, names = drawing.matrix, drawing.names
    frame = frame[frame["norm"] == norm]
    attacks = list(dict.fromkeys(frame["attack"]))
    targets = list(dict.fromkeys(frame["target"]))
    sources = list(dict.fromkeys(frame["source"]))
    traces = []
    for panel, attack in enumerate(attacks):
        mine = frame[frame["attack"] == attack].set_index(["source", "target"])
        known = mine.to_dict("index")
        places = [[(s, t) for t in targets] for s in sources]
        trace: Trace = {
            "z": [[_rounded(known.get(place)) for place in row] for row in places],
            "text": [[_said(place, known.get(place), names) for place in row] for row in places],
            "texttemplate": "%{z:.0f}",  # the number in each square
            "type": "heatmap",
            "hoverinfo": "text",
            "name": escape(drawing.styles[attack].title),
            "x": [escape(names[t]) for t in targets],
            "y": [escape(names[s]) for s in sources],
        }
        trace |= {"zmin": 0, "zmax": 100, "colorscale": "Cividis", "showscale": panel == 0}
        traces.append(trace | _axes(panel))
    return {"data": traces, "layout": _heat_layout([drawing.styles[a].title for a in attacks])}


def _rounded(row: Any) -> float | None:
    return None if row is None or row["asr"] != row["asr"] else round(float(row["asr"]), 2)


def _said(place: tuple[str, str], row: Any, names: Mapping[str, str]) -> str:
    """Return the text that is shown when the pointer is on a square."""
    pair = escape(f"{names[place[0]]} → {names[place[1]]}")
    if _rounded(row) is None:
        return f"{pair}: no images"
    return f"{pair}: {row['asr']:.1f} % [{row['low']:.1f}, {row['high']:.1f}], n = {row['n']}"


def _styled(style: AttackStyle, panel: int, *, first: bool) -> Trace:
    """An attack's colour and marker, its place, and one entry of the legend for all panels."""
    symbol = SYMBOLS.get(style.marker, "circle") + ("-open" if style.stopped else "")
    return {
        "type": "scatter",
        "name": escape(style.title),
        "legendgroup": escape(style.title),
        "showlegend": first,
        "marker": {"color": style.colour, "symbol": symbol, "size": 8},
        **_axes(panel),
    }


def _axes(panel: int) -> Trace:
    return {"xaxis": f"x{_number(panel)}", "yaxis": f"y{_number(panel)}"}


def _number(panel: int) -> str:
    """The number of a panel's axes, as Plotly counts them."""
    return "" if panel == 0 else str(panel + 1)


def _layout(titles: Sequence[str], x: str, y: str) -> Trace:
    """Panels of three in a row, each with its title, and a legend for all of them."""
    layout = _panels(titles, across=3, height=260, gap=0.35)
    for panel in range(len(titles)):
        number = _number(panel)
        layout[f"xaxis{number}"] = {"title": {"text": x}}
        layout[f"yaxis{number}"] = {"title": {"text": y if panel % 3 == 0 else ""}}
    layout["margin"] = {"t": 40, "r": 20, "b": 110}
    # At the very bottom, whatever the height: below the titles of the axes.
    layout["legend"] = {"orientation": "h", "yref": "container", "yanchor": "bottom", "y": 0}
    return layout


def _heat_layout(titles: Sequence[str]) -> Trace:
    """Heat maps of five in a row, of which the outer ones alone name the networks."""
    layout = _panels(titles, across=5, height=220, gap=0.2)
    for panel in range(len(titles)):
        number, lowest = _number(panel), panel + 5 >= len(titles)
        layout[f"xaxis{number}"] = {"showticklabels": lowest, "tickangle": -90, "ticks": ""}
        left = {"showticklabels": panel % 5 == 0, "ticks": ""}
        layout[f"yaxis{number}"] = left | {"autorange": "reversed"}
    layout["margin"] = {"t": 40, "r": 20, "b": 70, "l": 70}
    return layout


def _panels(titles: Sequence[str], *, across: int, height: int, gap: float) -> Trace:
    """Panels with their titles; `height` is that of a row, in pixels."""
    columns = max(1, min(across, len(titles)))
    down = -(-len(titles) // columns)
    return {
        "grid": {"rows": down, "columns": columns, "pattern": "independent", "ygap": gap},
        "height": max(340, height * down + 80),
        "annotations": [
            {"text": escape(title), "showarrow": False, "x": 0.5, "y": 1.02, "yanchor": "bottom"}
            | {"xref": f"x{_number(panel)} domain", "yref": f"y{_number(panel)} domain"}
            for panel, title in enumerate(titles)
        ],
    }
