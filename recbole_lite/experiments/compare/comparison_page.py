"""A comparison as a table, in words, and as a plot."""

from __future__ import annotations

from typing import Any

from recbole_lite.report import charts
from recbole_lite.report.format import figure, grid, interval, metric_label
from recbole_lite.report.html_page import TEMPLATES
from recbole_lite.report.intervals import SEED


def render(summary: dict[str, Any], style: str = "simple") -> str:
    """Table and what it says, as text or Markdown (`style`: tabulate's)."""
    data = ", ".join(f"{count:,} {name}" for name, count in summary["data"].items())
    name = metric_label(summary["metric"])
    percent = f"{summary['confidence']:.0%}"
    head = f"{summary['dataset']}: {data}; {summary['users']:,} test users"
    notes = [_verdict(row, summary) for row in summary["rows"][1:]]
    how = (
        f"Intervals: percentile bootstrap over users, {percent}, {summary['resamples']:,} draws, "
        f"seed {SEED}; differences are paired user by user. They measure the variation over users, "
        f"not over seeds."
    )
    parts = [head, _table(summary, name, percent, style), "\n".join(notes), how]
    if style != "simple":
        parts[0] = f"# {name} on {head}"
        parts[2] = "\n".join(f"- {note}" for note in notes)
        parts.append(f"![differences in {name}](compare.svg)")
    if "by_item" in summary:
        parts.append(_item_table(summary["by_item"], style))
    return "\n\n".join(parts) + "\n"


def _table(summary, name: str, percent: str, style: str) -> str:
    others = [m for m in summary["rows"][0]["test"] if m != summary["metric"]]
    head = ["run", *map(metric_label, others), name, f"{percent} interval"]
    head += [f"less {summary['base']}", f"{percent} interval", "epochs", "min"]
    lines = []
    for row in summary["rows"]:
        cells = [row["name"], *(figure(row["test"].get(m)) for m in others)]
        cells += [figure(row["mean"]), interval(row["interval"])]
        cells += [figure(row["difference"], "+.4f"), interval(row["difference_interval"], "+.4f")]
        lines.append([*cells, row["epochs"], f"{row['minutes']:.1f}"])
    if style == "simple":  # a terminal: shorter heads
        head[len(others) + 3] = "less the\nfirst"
    return grid(lines, head, style)


def _item_table(found: dict[str, Any], style: str) -> str:
    """Recall by how often the test item occurs in training."""
    groups = [f"{of['label']} times ({of['users']:,} users)" for of in found["groups"]]
    rows = [
        [name, *(f"{figure(mean)} ({figure(error)})" for mean, error in values)]
        for name, values in found["recall"].items()
    ]
    head = [f"Recall@{found['k']} (standard error)", *groups]
    return grid(rows, head, style)


def _verdict(row, summary) -> str:
    ends, base = row["difference_interval"], summary["base"]
    if ends is None:
        return f"{row['name']}: too few users for an interval"
    if ends[0] <= 0 <= ends[1]:
        return (
            f"{row['name']} and {base}: no significant difference on these users "
            "(0 is inside the interval)"
        )
    word = "better" if ends[0] > 0 else "worse"
    return f"{row['name']} is {word} than {base} on these users (0 is outside the interval)"


def plot(summary: dict[str, Any]) -> str:
    """SVG of the differences and their intervals."""
    rows = [
        charts.Interval(row["name"], row["difference"], *row["difference_interval"])
        for row in summary["rows"][1:]
        if row["difference_interval"] is not None
    ]
    name = metric_label(summary["metric"])
    title = f"{name} minus that of {summary['base']}"
    x_label = f"difference, {summary['confidence']:.0%} interval; right of 0: better"
    return str(charts.interval_chart(title, rows, x_label, chart_style())) + "\n"


def chart_style() -> str:
    """CSS of a chart in a file of its own."""
    style = (TEMPLATES / "colours.css").read_text(encoding="utf-8")
    return style + "svg { background: var(--card); }\n"
