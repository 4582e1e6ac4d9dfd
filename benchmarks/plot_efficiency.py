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

COLORS = {"POD": "#c1440e", "LiteLLM4Rec": "#1f5fa8", "LiteLLM4Rec (prefix)": "#2a9d8f"}
OTHER = "#8a8f98"


def bars(axes, times: dict[str, dict]) -> None:
    """Time per batch of each side, logarithmic."""
    shown = sorted(times, key=lambda name: -times[name]["ms"])
    values = [times[name]["ms"] for name in shown]
    axes.barh(shown, values, color=[COLORS.get(name, OTHER) for name in shown])
    axes.set_xscale("log")
    axes.set_xlim(right=max(values) * 6)
    for row, value in enumerate(values):
        axes.text(value * 1.1, row, f"{value:,.0f} ms", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.set_title("Time per batch")


def shares(axes, parts: dict[str, dict]) -> None:
    """Share of each component (Figure 2 of the paper)."""
    left = dict.fromkeys(parts, 0.0)
    tones = ("#d9d4c7", "#1f5fa8", "#c1440e", "#2a9d8f")
    for part, tone in zip(next(iter(parts.values())), tones, strict=True):
        for name, times in parts.items():
            share = times[part]["ms"] / sum(t["ms"] for t in times.values())
            axes.barh(name, share, left=left[name], color=tone, label=part)
            left[name] += share
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes.legend(unique.values(), unique, fontsize=8, loc="upper center", ncols=2, frameon=False)
    axes.set_ylim(len(parts) - 0.4, -1.3)
    axes.set_title("Share of the time")


def line(axes, name: str, points: dict[str, dict]) -> None:
    """Time against one thing."""
    for side in next(iter(points.values())):
        x = [int(value) for value in points]
        y = [points[value][side]["ms"] for value in points]
        axes.plot(x, y, "o-", color=COLORS.get(side, OTHER), label=side)
    axes.set_yscale("log")
    if name == "batch size":
        axes.set_xscale("log", base=2)
    axes.set_xticks(x, [str(value) for value in x])
    axes.set_xlabel(name)
    axes.set_ylabel("ms per batch")
    axes.legend(fontsize=8, frameon=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path)
    path = parser.parse_args().result
    result = json.loads(path.read_text(encoding="utf-8"))
    plt.rcParams |= {"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}
    # Same file from the same figures.
    plt.rcParams |= {"svg.hashsalt": "recbole-lite", "svg.fonttype": "none"}
    sweeps = result["sweeps"]
    figure, grid = plt.subplots(2 if sweeps else 1, 6, figsize=(12, 7 if sweeps else 3.5))
    spec = grid.flat[0].get_gridspec()
    for axes in grid.flat:
        axes.remove()
    bars(figure.add_subplot(spec[0, :3]), result["times"])
    shares(figure.add_subplot(spec[0, 3:]), result["parts"])
    for number, (name, points) in enumerate(sweeps.items()):
        line(figure.add_subplot(spec[1, 2 * number : 2 * number + 2]), name, points)
    env = result["environment"]
    about = f"{path.stem}, batch of {result['batch']} users; torch {env.get('torch', '')}"
    figure.suptitle(about, fontsize=10)
    figure.tight_layout()
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
