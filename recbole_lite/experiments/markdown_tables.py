"""Parts of the Markdown of ``recbole-lite reproduce``."""

from __future__ import annotations

import math

from tabulate import tabulate


def budget(results, problems, request) -> list[str]:
    """What each row had: a table, the machine, and why rows are missing."""
    rows = [
        [
            name,
            f"{r['parameters']:,}",
            f"{r['steps']:,}",
            f"{r['steps'] / r['steps_per_epoch']:.2f}",
            f"{r['minutes']:g}" if r["step_seconds"] else "-",
            next((f"{name} {figure(value)}" for name, value in r["valid"].items()), "-"),
            r["beams"] and f"{r['beams']['no_item'] / max(r['beams']['beams'], 1):.1%}",
        ]
        for name, r in results.items()
    ]
    head = ["", "trained parameters", "steps", "passes", "minutes of training", "validation"]
    head.append("beams of no item")
    environments = next(iter(results.values()))["environment"]
    parts = [grid(rows, head), "Language models begin with " + request.weights + " weights."]
    parts.append(
        f"{environments['threads']} thread(s) of {environments['processor']}, "
        f"GPU: {environments['gpu'] or 'none'}, torch {environments['torch']}."
    )
    if problems:
        parts.append("\n".join(f"- {name}: not run: {why}" for name, why in problems.items()))
    return parts


def short(metrics) -> list[str]:
    """Names of metrics, ``R@10``."""
    return [name.replace("recall", "R").replace("ndcg", "N") for name in metrics]


def figure(value) -> str:
    """Four digits; a dash where there is none."""
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"


def grid(rows, head) -> str:
    """Table, figures to the right."""
    right = ("left", *("right",) * (len(head) - 1))
    return tabulate(rows, head, tablefmt="github", colalign=right, disable_numparse=True)
