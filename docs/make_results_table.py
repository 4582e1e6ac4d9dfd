"""Write the results table of README.md from results/benchmark.

python docs/make_results_table.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from recbole_lite.experiments.reproduce.benchmark import SUMMARY
from recbole_lite.experiments.reproduce.benchmark_table import results_table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "benchmark" / SUMMARY
BEGIN, END = "<!-- results: python docs/make_results_table.py -->", "<!-- end of results -->"


def with_table(text: str, summary: Path = RESULTS) -> str:
    """Text of a page, with the table between the marks (which it must have)."""
    table = results_table(json.loads(summary.read_text(encoding="utf-8"))["datasets"])
    marked = re.compile(re.escape(BEGIN) + ".*" + re.escape(END), re.DOTALL)
    if not marked.search(text):
        raise SystemExit(f"no place for the table: write the lines {BEGIN} and {END}")
    return marked.sub(lambda _: f"{BEGIN}\n\n{table}\n\n{END}", text)


if __name__ == "__main__":
    page = ROOT / "README.md"
    page.write_text(with_table(page.read_text(encoding="utf-8")), encoding="utf-8")
    print(page)
