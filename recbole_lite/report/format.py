"""Figures, intervals, names of metrics and tables as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from tabulate import tabulate


def figure(value: float | None, how: str = ".4f") -> str:
    """Four digits; a dash where there is none."""
    return "-" if value is None or math.isnan(value) else format(value, how)


def interval(ends: Iterable[float] | None, how: str = ".4f") -> str:
    """Both ends of an interval."""
    return "-" if ends is None else " to ".join(format(end, how) for end in ends)


def metric_label(metric: str) -> str:
    """Name of a metric for people: ``recall@10`` -> ``Recall@10``."""
    name, at, k = metric.partition("@")
    return (name.upper() if name in ("ndcg", "mrr", "map") else name.capitalize()) + at + k


def short_metrics(metrics: Iterable[str]) -> list[str]:
    """Names of metrics for heads of tables: ``recall@10`` -> ``R@10``."""
    return [name.replace("recall", "R").replace("ndcg", "N") for name in metrics]


def grid(
    rows: Iterable[Sequence], head: Sequence[str], style: str = "github", text: Sequence[int] = (0,)
) -> str:
    """Table in one of tabulate's styles: columns whose places are in `text` left, others right."""
    if style in ("github", "pipe"):
        rows = [[c.replace("|", "\\|") if isinstance(c, str) else c for c in row] for row in rows]
    align = ["left" if i in text else "right" for i in range(len(head))]
    return tabulate(rows, head, tablefmt=style, colalign=align, disable_numparse=True)
