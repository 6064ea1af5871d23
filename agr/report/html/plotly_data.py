"""The interactive charts, as Plotly's JSON: the numbers of three figures, to be pointed at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape  # Plotly reads texts as a kind of HTML, links included
from typing import Any

from agr.report.figures import FRONTIERS, Drawing
from agr.report.figures.style import AttackStyle
from agr.report.html.contract import Chart, HtmlTable
from agr.report.numbers import Number, TableCell

Trace = dict[str, Any]
MOST_ROWS = 500  # of a chart's table: more numbers than that are not read but searched
SYMBOLS = {
    "o": "circle", "s": "square", "D": "diamond", "^": "triangle-up", "v": "triangle-down",
    "<": "triangle-left", ">": "triangle-right", "p": "pentagon", "h": "hexagon",
}  # fmt: skip


def charts_of(drawing: Drawing) -> list[Chart]:
    """Transfer against size, ASR against step, and transfer between networks."""
    found = [_frontier(drawing, size) for size in FRONTIERS]
    for norm in drawing.norms:
        found += [_steps(drawing, norm), _matrix(drawing, norm)]
    return [chart for chart in found if chart.plotly["data"]]


def _frontier(drawing: Drawing, size: str) -> Chart:
    known, frame = FRONTIERS[size], drawing.frontier[drawing.frontier[size].notna()]
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
    rows: list[list[TableCell]] = [
        [
            *(drawing.names[row["norm"]], drawing.styles[row["attack"]].title),
            *(_with_interval(row, size, ".4g"), _with_interval(row, "transfer", ".1f")),
        ]
        for row in frame.to_dict("records")
    ]
    return _chart(
        f"chart-{known.name}",
        known.title,
        f"One point per attack: {known.axis} across, mean transfer upwards, with 95 % intervals. "
        f"{known.reading}Hollow: attacks with a stop.",
        {"data": traces, "layout": _layout(titles, known.axis, "mean transfer, %")},
        ["norm", "attack", known.axis, "mean transfer, %"],
        rows,
    )


def _steps(drawing: Drawing, norm: str) -> Chart:
    frame = drawing.steps[drawing.steps["norm"] == norm]
    sources = list(dict.fromkeys(frame["source"]))
    traces = []
    for (source, attack), mine in frame.groupby(["source", "attack"], sort=False):
        style, panel = drawing.styles[str(attack)], sources.index(str(source))
        trace: Trace = {"x": mine["step"].tolist(), "y": mine["asr"].round(2).tolist()}
        trace |= {"mode": "lines+markers", "line": {"dash": "dash" if style.stopped else "solid"}}
        traces.append(trace | _styled(style, panel, first=panel == 0))
    titles = [drawing.names[source] for source in sources]
    rows: list[list[TableCell]] = [
        [
            *(drawing.names[row["source"]], drawing.styles[row["attack"]].title),
            *(Number(row["step"], "d"), Number(row["asr"])),
        ]
        for row in frame.to_dict("records")
    ]
    return _chart(
        f"chart-steps-{norm}",
        f"White-box ASR against step, {drawing.names[norm]}",
        "One panel per source, one line per attack. Dashed: attacks with a stop.",
        {"data": traces, "layout": _layout(titles, "step", "white-box ASR, %")},
        ["source", "attack", "step", "white-box ASR, %"],
        rows,
    )


def _matrix(drawing: Drawing, norm: str) -> Chart:
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
            "type": "heatmap",
            "hoverinfo": "text",
            "name": escape(drawing.styles[attack].title),
            "x": [escape(names[t]) for t in targets],
            "y": [escape(names[s]) for s in sources],
        }
        trace |= {"zmin": 0, "zmax": 100, "colorscale": "Cividis", "showscale": panel == 0}
        traces.append(trace | _axes(panel))
    layout = _layout([drawing.styles[a].title for a in attacks], "", "", reverse=True)
    rows: list[list[TableCell]] = [
        [
            *(drawing.styles[row["attack"]].title, names[row["source"]], names[row["target"]]),
            *(Number(row["asr"], interval=(row["low"], row["high"])), Number(row["n"], "d")),
        ]
        for row in frame.to_dict("records")
    ]
    return _chart(
        f"chart-transfer-{norm}",
        f"Transfer between networks, {names[norm]}",
        "ASR in percent, a panel per attack: sources down, targets across.",
        {"data": traces, "layout": layout},
        ["attack", "source", "target", "ASR, %", "n"],
        rows,
    )


def _chart(
    name: str, title: str, caption: str, plotly: Trace, header: list[str], rows: list[Any]
) -> Chart:
    """Return a chart with the table below it."""
    notes = [f"the first {MOST_ROWS} of {len(rows):,} points"] if len(rows) > MOST_ROWS else []
    below = f"Numbers of the chart “{title}”"
    numbers = HtmlTable(f"{name}-numbers", below, header, rows[:MOST_ROWS], notes)
    return Chart(name, title, caption, plotly, numbers)


def _with_interval(row: Mapping[Any, Any], name: str, form: str) -> Number:
    return Number(row[name], form, (row[f"{name}_low"], row[f"{name}_high"]))


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
    number = "" if panel == 0 else str(panel + 1)
    return {"xaxis": f"x{number}", "yaxis": f"y{number}"}


def _layout(titles: Sequence[str], x: str, y: str, *, reverse: bool = False) -> Trace:
    """Panels of three in a row, each with its title."""
    across = min(3, max(1, len(titles)))
    down = -(-len(titles) // across)
    layout: Trace = {
        "grid": {"rows": down, "columns": across, "pattern": "independent", "ygap": 0.35},
        "height": max(340, 260 * down + 80),
        "margin": {"t": 40, "r": 20, "b": 110},
        # At the very bottom, whatever the height: below the titles of the axes.
        "legend": {"orientation": "h", "yref": "container", "yanchor": "bottom", "y": 0},
        "annotations": [],
    }
    for panel, title in enumerate(titles):
        axes = _axes(panel)
        number = axes["xaxis"].removeprefix("x")
        layout[f"xaxis{number}"] = {"title": {"text": x}}
        left = {"title": {"text": y if panel % across == 0 else ""}}
        layout[f"yaxis{number}"] = left | ({"autorange": "reversed"} if reverse else {})
        layout["annotations"].append(
            {"text": escape(title), "showarrow": False, "x": 0.5, "y": 1.02, "yanchor": "bottom"}
            | {"xref": f"{axes['xaxis']} domain", "yref": f"{axes['yaxis']} domain"}
        )
    return layout
