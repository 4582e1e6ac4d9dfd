"""Page of a sweep: parallel coordinates, validation by epoch, the table of its trials."""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup

from recbole_lite.report import charts, sweep
from recbole_lite.report.html_page import render_template

SIGNS = {"stopped": "✕", "failed": "▾", "died": "▾"}  # at the end of a curve
WIDTH = 760  # of the curves


def plots_html(result: dict[str, Any]) -> str:
    """One page that opens without a network, of what a sweep returns."""
    metric = result["metric"]
    found = [
        (
            "Parameters and best validation",
            f"One line per trial; a stronger line means a better {metric}. Hover to see the trial.",
            coordinates(result),
        ),
        (
            "Validation by epoch",
            f"{metric} of each trial, the best {charts.COLOURS} in colour; ✕ stopped by the "
            "scheduler, ▾ failed.",
            curves(result),
        ),
    ]
    return render_template(
        "sweep.html",
        title=f"Sweep: {result['model']} on {result['dataset']}",
        headline=sweep.headline(result),
        charts=[entry for entry in found if entry[-1]],
        trials=Markup(sweep.table(result, "html")),
    )


def coordinates(result: dict[str, Any]) -> Markup | None:
    """A line per trial through its parameters to its best validation; None: none has one."""
    trials = [trial for trial in result["trials"] if _is_number(trial["valid_score"])]
    if not trials:
        return None
    space = result["sweep"]["space"]
    axes = [
        axis(key, [trial["params"][key] for trial in trials], "loguniform" in space[key])
        for key in space
    ]
    axes.append(axis("epochs", [trial["epochs"] for trial in trials]))
    axes.append(axis(f"valid {result['metric']}", [trial["valid_score"] for trial in trials]))
    return charts.parallel_coordinates(
        "Parameters and best validation", axes, [_tip(trial) for trial in trials]
    )


def axis(key: str, values: list[Any], is_log: bool = False) -> charts.Axis:
    """Axis of a parameter: its numbers, their logarithms, or places for words."""
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        names = sorted(set(map(str, values)))
        places = [names.index(str(value)) for value in values]
        return charts.Axis(key, places, list(enumerate(names)))
    if not is_log:
        marks = charts.ticks(min(values), max(values))
        return charts.Axis(key, values, [(mark, charts.figure(mark)) for mark in marks])
    logs = [math.log10(value) for value in values]
    powers = range(math.floor(min(logs)), math.ceil(max(logs)) + 1)
    steps = (1,) if len(powers) > 4 else (1, 2, 5)
    marks = [(math.log10(f) + power, f"{f * 10.0**power:g}") for power in powers for f in steps]
    inside = [(place, text) for place, text in marks if min(logs) <= place <= max(logs)]
    return charts.Axis(f"{key} (log)", logs, inside)


def curves(result: dict[str, Any]) -> Markup | None:
    """Validation by epoch, and how each trial ended; None: no epoch was validated."""
    series = []
    for trial in result["trials"]:
        points = [(entry["epoch"], entry["valid_score"]) for entry in trial["history"]]
        points = [(x, y) for x, y in points if _is_number(y)]
        if points:
            series.append(charts.Series(trial["trial"], points, SIGNS.get(trial["status"], "")))
    if not series:
        return None
    return charts.line_chart(f"Validation: {result['metric']}", series, "epoch", width=WIDTH)


def _is_number(score: float | None) -> bool:
    return score is not None and math.isfinite(score)


def _tip(trial: dict[str, Any]) -> str:
    params = ", ".join(f"{key} {sweep.value_text(v)}" for key, v in trial["params"].items())
    return f"{trial['trial']} ({trial['status']}): {trial['valid_score']:.4f}; {params}"
