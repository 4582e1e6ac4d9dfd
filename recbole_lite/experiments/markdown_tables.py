"""Tables of experiments as text: figures, intervals, grids."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from tabulate import tabulate


def short(metrics) -> list[str]:
    """Names of metrics, ``R@10``."""
    return [name.replace("recall", "R").replace("ndcg", "N") for name in metrics]


def figure(value: float | None, how: str = ".4f") -> str:
    """Four digits; a dash where there is none."""
    return "-" if value is None or math.isnan(value) else format(value, how)


def interval(ends: Iterable[float] | None, how: str = ".4f") -> str:
    """Both ends of an interval."""
    return "-" if ends is None else " to ".join(format(end, how) for end in ends)


def grid(rows, head: Sequence[str], style: str = "github") -> str:
    """Table in one of tabulate's styles, figures to the right."""
    right = ("left", *("right",) * (len(head) - 1))
    return tabulate(rows, head, tablefmt=style, colalign=right, disable_numparse=True)
