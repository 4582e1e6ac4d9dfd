"""Time to recommend: LITE-LLM4Rec, its rivals, beam search against a projection head.

    python benchmarks/efficiency.py --dataset=ml-1m --data_path=DIR --tokenizer=T5 --out=FOLDER

What is measured, and how: ``recbole_lite/reproduce/efficiency.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from recbole_lite.experiments.reproduce.efficiency import SIDES, measure
from recbole_lite.experiments.reproduce.efficiency_table import render


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="ml-1m")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--tokenizer", required=True, help="folder (or hub name) of T5's tokenizer")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--autocast", choices=["bfloat16", "float16"], help="else float32")
    parser.add_argument("--sides", default=",".join(SIDES), help="names, comma-separated")
    parser.add_argument("--no_sweeps", action="store_true")
    parser.add_argument("--out", type=Path, help="folder for efficiency-<dataset>.json and .md")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = measure(
        args.dataset,
        {"data_path": args.data_path},
        args.tokenizer,
        args.sides.split(","),
        args.batch,
        args.repeats,
        not args.no_sweeps,
        args.autocast,
        " ".join(["python", *sys.argv]),
    )
    text = render(result)
    print(text)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        name = [args.dataset, *([args.autocast] if args.autocast else [])]
        stem = args.out / "-".join(["efficiency", *name])
        stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        stem.with_suffix(".md").write_text(text + "\n")


if __name__ == "__main__":
    main()
