"""What the same training time buys: accuracy of models and training strategies, side by side.

    python benchmarks/budget.py --dataset=ml-1m --data_path=DIR --minutes=6 --out=results/budget

Each side trains on one thread for so many minutes of processor time, which does not depend on
what else the machine does; validation comes on top. All sides have the same split, ranking and
metrics, and each has the weights of its best validation (models that search beams: the last).
Language models begin with random weights, MiniLM reads the items' text. A side that has a result
in ``--out`` is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import torch
from tabulate import tabulate

from recbole_lite.experiments.reproduce.baselines import all_sides
from recbole_lite.experiments.reproduce.protocol import Request, Rows

METRICS = ("recall@10", "ndcg@10")


def table(results: list[dict]) -> str:
    """One line a side."""
    rows = [
        [
            r["side"],
            f"{r['parameters']:,}",
            f"{r['steps']:,}",
            f"{r['steps'] / r['steps_per_epoch']:.2f}",
            f"{r['steps'] * r['step_seconds'] / 60:.1f}",
            *(f"{r[part].get(m, math.nan):.4f}" for part in ("valid", "test") for m in METRICS),
        ]
        for r in results
    ]
    head = ["side", "trained", "steps", "passes", "minutes"]
    head += [f"{part} {m}" for part in ("valid", "test") for m in ("R@10", "N@10")]
    return tabulate(
        rows, head, tablefmt="github", colalign=("left", *("right",) * 8), disable_numparse=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sides = all_sides()
    parser.add_argument("--dataset", default="ml-1m")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--tokenizer", help="T5's, for P5 and POD: folder or hub name")
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--seed", type=int, default=2020)
    parser.add_argument("--sides", default=";".join(sides), help="names, with ; between")
    parser.add_argument("--out", type=Path, default=Path("results", "budget"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = args.sides.split(";")
    unknown = [name for name in names if name not in sides]
    if unknown:
        parser.error(f"unknown: {'; '.join(unknown)}. There are {'; '.join(sides)}")
    request = Request(
        dataset=args.dataset,
        data_path=args.data_path,
        minutes=args.minutes,
        weights="scratch",
        tokenizer=args.tokenizer,
        seed=args.seed,
        out=args.out,
        command=" ".join(["python", *sys.argv]),
        say=print,
    )
    folder = args.out / args.dataset
    rows = Rows(request, folder)
    for name in names:
        rows.train(sides[name])
    if not rows.results:
        sys.exit(1)  # why has been said
    print(table(list(rows.results.values())))
    # The file has all that was measured with this budget, also by earlier calls.
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    found = [result for result in found if result["minutes"] == args.minutes]
    found.sort(key=lambda result: -result["test"]["recall@10"])
    (folder / "budget.md").write_text(table(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
