"""Markdown of the efficiency study, the paper's figures beside the measured ones."""

from __future__ import annotations

from typing import Any

from recbole_lite.experiments.reproduce.paper_figures import DATASETS, TABLE_5, TABLE_6
from recbole_lite.report.format import grid


def render(result: dict[str, Any]) -> str:
    """Tables of what :func:`recbole_lite.experiments.reproduce.efficiency.measure` found."""
    text = [times(result)]
    text += [_shares(name, shares) for name, shares in result["parts"].items()]
    text += [_sweep(name, points) for name, points in result["sweeps"].items()]
    problems = result.get("problems", {}).items()
    text.append("\n".join(f"- {name}: not run: {why}" for name, why in problems))
    return "\n\n".join(filter(None, text))


def times(result: dict[str, Any]) -> str:
    """Tables 1, 5 and 6: a line a model."""
    lite, lengths = result["times"]["LiteLLM4Rec"]["ms"], result["input_lengths"]
    paper = DATASETS.get(result.get("dataset"))
    milliseconds, tokens = TABLE_5.get(paper, {}), TABLE_6.get(paper, {})
    rows = [
        [
            name,
            f"{result['parameters'].get(name, 0) / 1e6:.1f}" if name in lengths else "",
            f"{t['ms']:,.1f}",
            f"{t['least']:,.1f} .. {t['most']:,.1f}",
            f"{t['ms'] / lite:,.2f}x",
            f"{milliseconds[name]:,}" if name in milliseconds else "",
            f"{lengths[name]['tokens']:.1f}" if name in lengths else "",
            tokens.get(name, ""),
        ]
        for name, t in result["times"].items()
    ]
    head = ["", "M parameters", "ms per batch", "range", "to LiteLLM4Rec"]
    head += ["paper: ms", "input length", "paper: length"]
    return grid(rows, head)


def _shares(name: str, shares: dict[str, dict]) -> str:
    total = sum(part["ms"] for part in shares.values())
    cells = [[part, f"{t['ms']:,.1f}", f"{t['ms'] / total:.1%}"] for part, t in shares.items()]
    return grid(cells, [name, "ms", "share"])


def _sweep(name: str, points: dict[Any, dict]) -> str:
    models = list(next(iter(points.values())))
    cells = [[x, *(f"{points[x][model]['ms']:,.1f}" for model in models)] for x in points]
    return grid(cells, [name, *(f"{model}, ms" for model in models)])
