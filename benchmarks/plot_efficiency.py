"""Draw what ``recbole-lite reproduce table5`` measured.

    pip install ".[bench]"
    python benchmarks/plot_efficiency.py results/reproduce/ml-1m/efficiency.json

writes an SVG beside the JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

COLORS = {"POD": "#c1440e", "LiteLLM4Rec": "#1f5fa8", "LiteLLM4Rec (prefix)": "#2a9d8f"}
OTHER = "#8a8f98"
PARTS = ("#d9d4c7", "#1f5fa8", "#c1440e", "#2a9d8f")


def milliseconds(times: dict[str, dict]) -> pd.Series:
    return pd.Series({name: found["ms"] for name, found in times.items()})


def draw(result: dict, name: str) -> plt.Figure:
    sweeps = result["sweeps"]
    figure = plt.figure(figsize=(12, 7 if sweeps else 3.5))
    grid = figure.add_gridspec(2 if sweeps else 1, 6)
    times = milliseconds(result["times"]).sort_values()
    axes = times.plot.barh(
        ax=figure.add_subplot(grid[0, :3]), logx=True, title="Time per batch",
        color=[COLORS.get(model, OTHER) for model in times.index],
        xlim=(times.min() / 2, times.max() * 6),
    )  # fmt: skip
    axes.bar_label(axes.containers[0], fmt="{:,.0f} ms", padding=3, fontsize=8)
    shares = pd.DataFrame({model: milliseconds(parts) for model, parts in result["parts"].items()})
    axes = (
        (shares / shares.sum())
        .T[::-1]
        .plot.barh(
            ax=figure.add_subplot(grid[0, 3:]), stacked=True, color=PARTS, title="Share of the time"
        )
    )
    axes.legend(fontsize=8, loc="upper center", ncols=2, frameon=False)
    axes.set_ylim(top=len(shares.columns) + 0.3)
    for number, (about, points) in enumerate(sweeps.items()):
        lines = pd.DataFrame({int(x): milliseconds(times) for x, times in points.items()}).T
        lines.plot(
            ax=figure.add_subplot(grid[1, 2 * number : 2 * number + 2]), style="o-", logy=True,
            logx=about == "batch size", xticks=lines.index, xlabel=about, ylabel="ms per batch",
            color=[COLORS.get(model, OTHER) for model in lines],
        ).xaxis.set_major_formatter("{x:.0f}")  # fmt: skip
    torch = result["environment"].get("torch", "")
    figure.suptitle(f"{name}, batch of {result['batch']} users; torch {torch}", fontsize=10)
    figure.tight_layout()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path)
    path = parser.parse_args().result
    plt.rcParams |= {"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}
    # Same file from the same figures.
    plt.rcParams |= {"svg.hashsalt": "recbole-lite", "svg.fonttype": "none"}
    figure = draw(json.loads(path.read_text(encoding="utf-8")), path.stem)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
