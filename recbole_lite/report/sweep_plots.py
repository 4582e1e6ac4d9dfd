"""Plots of a sweep: parallel coordinates, and validation against epoch."""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go
from plotly.io import to_html

_MARKS = {"stopped": "x", "failed": "triangle-down", "died": "triangle-down"}


def plots_html(result: dict[str, Any]) -> str:
    """One page, with Plotly's own code in it: it opens without a network.

    Parameters
    ----------
    result : dict
        As :func:`recbole_lite.experiments.tune.sweep` returns it.
    """
    title = f"Sweep: {result['model']} on {result['dataset']}"
    figures = [curves(result)]
    if any(record["valid_score"] is not None for record in result["trials"]):
        figures.insert(0, coordinates(result))
    parts = [
        to_html(figure, include_plotlyjs=number == 0, full_html=False)
        for number, figure in enumerate(figures)
    ]
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    return f"{head}</head><body><h1>{title}</h1>{''.join(parts)}</body></html>\n"


def coordinates(result: dict[str, Any]) -> go.Figure:
    """A line per trial through its parameters to its best validation."""
    records = [record for record in result["trials"] if record["valid_score"] is not None]
    scores = [record["valid_score"] for record in records]
    space = result["sweep"]["space"]
    dimensions = [
        _dimension(key, next(iter(space[key])), [record["params"][key] for record in records])
        for key in space
    ]
    dimensions.append({"label": "epochs", "values": [record["epochs"] for record in records]})
    dimensions.append({"label": f"valid {result['metric']}", "values": scores})
    line = {"color": scores, "colorscale": "Viridis", "showscale": True}
    line["reversescale"] = not result["bigger"]
    figure = go.Figure(go.Parcoords(dimensions=dimensions, line=line))
    return figure.update_layout(title="Parameters and best validation", margin={"t": 110, "l": 90})


def _dimension(key: str, kind: str, values: list[Any]) -> dict[str, Any]:
    """Axis of a parameter: its numbers, their logarithms, or places for words."""
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    if not numbers:
        names = sorted({str(value) for value in values})
        places = [names.index(str(value)) for value in values]
        ticks = list(range(len(names)))
        return {"label": key, "values": places, "tickvals": ticks, "ticktext": names}
    if kind == "loguniform":
        logs = [math.log10(value) for value in values]
        low, high = math.floor(min(logs)), math.ceil(max(logs))
        marks = [f * 10.0**power for power in range(low, high + 1) for f in (1, 2, 5)]
        marks = [mark for mark in marks if min(logs) <= math.log10(mark) <= max(logs)]
        return {
            "label": f"{key} (log)",
            "values": logs,
            "tickvals": [math.log10(mark) for mark in marks],
            "ticktext": [f"{mark:g}" for mark in marks],
        }
    return {"label": key, "values": values}


def curves(result: dict[str, Any]) -> go.Figure:
    """Validation against epoch; a cross where the scheduler stopped a trial."""
    figure = go.Figure()
    for record in result["trials"]:
        history = record["history"]
        if not history:
            continue
        about = "<br>".join(f"{key} {_short(value)}" for key, value in record["params"].items())
        symbols = ["circle"] * (len(history) - 1) + [_MARKS.get(record["status"], "circle")]
        sizes = [4] * (len(history) - 1) + [12 if record["status"] in _MARKS else 8]
        figure.add_scatter(
            x=[entry["epoch"] for entry in history],
            y=[entry["valid_score"] for entry in history],
            name=f"{record['trial']} ({record['status']})",
            mode="lines+markers",
            marker={"symbol": symbols, "size": sizes},
            hovertemplate=f"epoch %{{x}}: %{{y:.4f}}<br>{about}<extra>{record['trial']}</extra>",
        )
    figure.update_xaxes(title="epoch", dtick=1 if _longest(result) <= 20 else None)
    figure.update_yaxes(title=f"valid {result['metric']}")
    stopped = any(record["status"] == "stopped" for record in result["trials"])
    title = "Validation against epoch" + (" (x: stopped by the scheduler)" if stopped else "")
    return figure.update_layout(title=title, height=600)


def _longest(result) -> int:
    return max((record["epochs"] for record in result["trials"]), default=0)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
